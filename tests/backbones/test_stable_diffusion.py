"""A tiny random Stable Diffusion: the backbone gives what diffusers' own pipeline computes."""

import json

import pytest
import torch
from small_runs import same_on_a_second_device

from eisbach.backbones import load_backbone
from eisbach.diffusion.guidance import guided
from eisbach.errors import CheckpointError, UserError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd")
    words = root / "words"
    words.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=16, pad_token="<|endoftext|>"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=16,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
            )
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            latent_channels=4,
            norm_num_groups=8,
        )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(root / "model"), safe_serialization=True)
    return root / "model"


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


def test_predict_and_captions_are_diffusers_own(folder, backbone):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    captions = ["a cat", "the dog"]
    wanted, null = pipeline.encode_prompt(captions, "cpu", 1, True)
    conditioning = backbone.condition(captions)
    torch.testing.assert_close(conditioning.tokens, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(backbone.null_condition(conditioning).tokens, null, rtol=0, atol=1e-6)
    index = torch.tensor([981, 3])
    with torch.no_grad():
        theirs = pipeline.unet(x_t, index, encoder_hidden_states=wanted).sample
        ours = backbone.predict(x_t, backbone.path.timesteps_to_t(index).float(), conditioning)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_guided_prediction_is_the_pipelines_first_step(folder, backbone):
    # DDIM of one step from index 999 ends on the data estimate (set_alpha_to_one).
    scheduler = diffusers.DDIMScheduler.from_config(
        diffusers.PNDMScheduler.from_pretrained(str(folder), subfolder="scheduler").config,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), scheduler=scheduler, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    theirs = pipeline(
        "a cat", num_inference_steps=1, guidance_scale=4.0, latents=noise.clone(), output_type="latent"
    ).images
    conditioning = backbone.condition(["a cat"])
    t = torch.ones(1)
    with torch.no_grad():
        eps = guided(backbone.predict, conditioning, backbone.null_condition(conditioning), 4.0)(noise, t)
    ours = (noise - backbone.path.sigma(t) * eps) / backbone.path.alpha(t)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_path_and_target_are_the_schedulers(backbone):
    assert backbone.target == "eps"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(
        backbone.path.alpha(torch.ones(1, dtype=torch.float64)) ** 2, (1 - betas).prod()[None], rtol=1e-5, atol=0
    )


def test_saving_gives_an_equal_model(backbone, tmp_path):
    backbone.save(tmp_path / "copy")
    assert load_backbone(tmp_path / "copy").identity() == backbone.identity()


def test_bad_input(folder, backbone, tmp_path):
    with pytest.raises(UserError, match="reads \\(B, 4, H, W\\)"):
        backbone.predict(torch.zeros(1, 3, 8, 8), torch.ones(1), backbone.condition(["a"]))
    with pytest.warns(UserWarning, match="lose their end"):
        backbone.condition(["a very long text indeed, longer than sixteen"])
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_backbone(tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "vae")
    with pytest.raises(CheckpointError, match="vae is missing"):
        load_backbone(tmp_path / "broken")


@pytest.mark.whole
def test_computes_on_a_second_device(folder):
    same_on_a_second_device(folder, ("a cat", "the dog"))
