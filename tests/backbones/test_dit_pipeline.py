"""diffusers' `DiTPipeline` as a backbone, on a tiny random pipeline saved as diffusers saves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from small_runs import same_on_a_second_device

from eisbach import adapters
from eisbach.backbones import Backbone, load_backbone, load_image_codec_of
from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.errors import CheckpointError, UserError

LABELS = {0: "tench, Tinca tinca", 1: "crane", 2: "goldfish, Carassius auratus", 3: "crane"}
Make = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Make:
    """`saved(folder, learned=True, labels=LABELS, **scheduler options)`: the folder of a tiny pipeline."""

    def make(
        folder: str = "pipeline", *, learned: bool = True, labels: dict[int, str] | None = LABELS, **scheduler: Any
    ) -> Path:
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=2,
            out_channels=4 if learned else 2,
            num_layers=2,
            sample_size=8,
            num_embeds_ada_norm=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=2,
            norm_num_groups=4,
        )
        pipeline = DiTPipeline(transformer, vae, DDIMScheduler(**scheduler), id2label=labels)
        pipeline.save_pretrained(str(tmp_path / folder), safe_serialization=True)
        index = tmp_path / folder / "model_index.json"
        if labels is not None and "id2label" not in json.loads(index.read_text()):
            values = {**json.loads(index.read_text()), "id2label": {str(k): v for k, v in labels.items()}}
            index.write_text(json.dumps(values))
        return tmp_path / folder

    return make


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    x_t = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor([0, 421, 999])


@pytest.mark.parametrize("learned", [True, False])
def test_predicts_what_the_pipelines_transformer_does(saved: Make, learned: bool) -> None:
    backbone: Any = load_backbone(saved(learned=learned))
    assert isinstance(backbone, Backbone)
    pipeline: Any = DiTPipeline.from_pretrained(str(saved(learned=learned)))
    x_t, steps = inputs()
    with torch.no_grad():
        expected = pipeline.transformer.eval()(x_t, timestep=steps, class_labels=torch.tensor([0, 2, 4])).sample[:, :2]
        conditioning = backbone.condition(["tench", "goldfish", ""], [1] * 3)
        t = backbone.path.timesteps_to_t(steps).float()
        torch.testing.assert_close(backbone.predict(x_t, t, conditioning), expected, atol=1e-4, rtol=1e-4)
    assert backbone.latent_shape == (2, 8, 8)


def test_a_ddim_step_of_theirs_is_a_step_on_our_path(saved: Make) -> None:
    backbone: Any = load_backbone(saved())
    pipeline: Any = DiTPipeline.from_pretrained(str(saved()))
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(10)
    x_t, _ = inputs()
    step, following = scheduler.timesteps[3], scheduler.timesteps[4]
    t, s = (backbone.path.timesteps_to_t(torch.tensor([value])) for value in (step, following))
    with torch.no_grad():
        eps = backbone.predict(x_t, t.float().expand(3), backbone.condition(["crane (1)"] * 3, [1] * 3))
    x0 = (x_t - backbone.path.sigma(t).float() * eps) / backbone.path.alpha(t).float()
    x0 = x0.clamp(-1, 1)  # DDIM's clip_sample
    eps = (x_t - backbone.path.alpha(t).float() * x0) / backbone.path.sigma(t).float()
    ours = backbone.path.alpha(s).float() * x0 + backbone.path.sigma(s).float() * eps
    with torch.no_grad():
        output = pipeline.transformer.eval()(x_t, timestep=step.expand(3), class_labels=torch.tensor([1] * 3)).sample[
            :, :2
        ]
    theirs = scheduler.step(output, step, x_t, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_path_and_target_are_the_schedulers(saved: Make) -> None:
    backbone: Any = load_backbone(saved(beta_start=0.001, beta_end=0.03, prediction_type="v_prediction"))
    scheduler = DDIMScheduler(beta_start=0.001, beta_end=0.03)
    assert backbone.path == DiscretePath.from_scheduler(scheduler)
    assert backbone.target == "v"


def test_classes_go_by_their_labels(saved: Make) -> None:
    backbone: Any = load_backbone(saved())
    assert backbone.classes == ["tench, Tinca tinca", "crane (1)", "goldfish, Carassius auratus", "crane (3)"]
    names = ["Tinca tinca", "crane (3)", "goldfish, Carassius auratus", ""]
    assert backbone.condition(names, [1] * 4).tokens.flatten().tolist() == [0, 3, 2, 4]
    with pytest.raises(UserError, match=r"no class 'crane'; the nearest of its 4 classes: crane"):
        backbone.condition(["crane"], [1])
    assert load_backbone(saved("plain", labels=None)).condition(["3"], [1]).tokens.tolist() == [[3]]


def test_training_mode_draws_nothing_at_random(saved: Make) -> None:
    backbone: Any = load_backbone(saved())
    backbone.module.train()
    x_t, steps = inputs()
    t, conditioning = (steps + 1) / 1000, backbone.condition(["tench"] * 3, [1] * 3)
    state = torch.get_rng_state()
    assert torch.equal(backbone.predict(x_t, t, conditioning), backbone.predict(x_t, t, conditioning))
    assert torch.equal(state, torch.get_rng_state())


def test_saving_gives_a_pipeline_that_both_read(saved: Make, tmp_path: Path) -> None:
    backbone: Any = load_backbone(saved())
    with torch.no_grad():
        backbone.module.proj_out_2.bias.add_(1)
    backbone.save(tmp_path / "copy")
    again: Any = load_backbone(tmp_path / "copy")
    assert again.identity() == backbone.identity() != load_backbone(saved()).identity()
    assert again.classes == backbone.classes
    x_t, steps = inputs()
    conditioning = again.condition([""] * 3, [1] * 3)
    t = (steps + 1) / 1000
    assert torch.equal(again.predict(x_t, t, conditioning), backbone.predict(x_t, t, conditioning))
    pipeline: Any = DiTPipeline.from_pretrained(str(tmp_path / "copy"))
    assert torch.equal(pipeline.transformer.proj_out_2.bias, backbone.module.proj_out_2.bias)


def test_the_codec_is_the_pipelines(saved: Make) -> None:
    codec = load_image_codec_of(load_backbone(saved()))
    assert (codec.channels, codec.downsampling) == (2, 2)


def test_adapters_go_into_its_blocks(saved: Make) -> None:
    backbone: Any = load_backbone(saved())
    adapters.inject(backbone, adapters.adapter_config(backbone, kind="lora", rank=2, alpha=2.0), seed=0)
    assert sum("lora_A" in name for name in adapters.trainable_parameters(backbone.module)) == 2 * 6


class TestFolders:
    def test_the_published_configuration_is_read(self, saved: Make) -> None:
        # facebook/DiT-XL-2-256 names the class that DiT had then, with its unset options
        folder = saved()
        file = folder / "transformer" / "config.json"
        old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "only_cross_attention": False}
        file.write_text(json.dumps({**json.loads(file.read_text()), **old, "num_vector_embeds": None}))
        assert load_backbone(folder).latent_channels == 2

    def test_another_kind_of_transformer_is_refused(self, saved: Make) -> None:
        folder = saved()
        file = folder / "transformer" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "cross_attention_dim": 768}))
        with pytest.raises(CheckpointError, match="does not know: cross_attention_dim"):
            load_backbone(folder)

    def test_a_missing_part_is_named(self, saved: Make) -> None:
        folder = saved()
        (folder / "scheduler" / "scheduler_config.json").unlink()
        (folder / "scheduler").rmdir()
        with pytest.raises(CheckpointError, match="not complete: scheduler is missing"):
            load_backbone(folder)

    def test_labels_must_be_one_a_class(self, saved: Make) -> None:
        with pytest.raises(CheckpointError, match="names 2 classes in id2label and the transformer has 4"):
            load_backbone(saved(labels={0: "a", 1: "b"}))

    def test_a_scheduler_without_a_table_is_refused(self, saved: Make) -> None:
        folder = saved()
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
        with pytest.raises(UserError, match="has no alphas_cumprod"):
            load_backbone(folder)
        file.write_text(json.dumps({"_class_name": "NoSuchScheduler"}))
        with pytest.raises(CheckpointError, match="names the scheduler 'NoSuchScheduler'"):
            load_backbone(folder)


def test_computes_on_a_second_device(saved: Make) -> None:
    same_on_a_second_device(saved(), ("tench", "goldfish", ""))
