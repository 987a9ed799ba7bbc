"""Pretrained embeddings: the real loading code on tiny random models, against transformers called directly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from second_device import NAME, second_device

from eisbach.audio import resample, to_mono
from eisbach.errors import AudioError, CheckpointError, UserError
from eisbach.structure.embeddings import Embedding, embed_files, load_embedding
from eisbach.structure.embeddings.base import mean_over_windows, window_starts
from eisbach.types import Waveform


def _noise(seconds, seed, rate=16000, channels=1):
    samples = 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))
    return Waveform(samples.astype(np.float32), rate)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def clap_folder(request, tmp_path_factory):
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    fused = request.param
    torch.manual_seed(0)
    audio = {
        "num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4], "depths": [1,
        1],
        "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16, "projection_dim": 12,
        "enable_fusion": fused, "aff_block_r": 2, "num_hidden_layers": 2,
    }  # fmt: skip
    text = {
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    config = ClapConfig(audio_config=audio, text_config=text, projection_dim=12)
    folder = tmp_path_factory.mktemp("clap")
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=16000, hop_length=160, max_length_s=1, fft_window_size=256, frequency_max=7000,
        truncation="fusion" if fused else "rand_trunc",
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def hubert_folder(tmp_path_factory):
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8, 8],
        conv_stride=[5, 4, 4], conv_kernel=[10, 4, 4], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True).save_pretrained(folder)
    return folder


def _copy(folder, target, **changes):
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_clap_equals_transformers_window_by_window(clap_folder):
    from transformers import ClapFeatureExtractor, ClapModel

    embedding = load_embedding(f"clap:{clap_folder}", batch_size=2)
    assert isinstance(embedding, Embedding)
    assert (embedding.name, embedding.dim, embedding.sample_rate) == ("clap", 12, 16000)
    clips = [_noise(2.5, 0), _noise(0.7, 1), _noise(1.0, 2)]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    found = embedding.embed(clips)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    model, extractor = ClapModel.from_pretrained(clap_folder).eval(), ClapFeatureExtractor.from_pretrained(clap_folder)
    for clip, row in zip(clips, found, strict=True):
        samples = clip.samples[0]
        parts = [samples[s : s + 16000] for s in ([0, 16000, 24000] if len(samples) > 16000 else [0])]
        expected = []
        for part in parts:
            with torch.inference_mode():
                out = model.get_audio_features(**extractor(part, sampling_rate=16000, return_tensors="pt"))
            expected.append((out if isinstance(out, torch.Tensor) else out.pooler_output)[0].numpy())
        np.testing.assert_allclose(row, np.mean(expected, axis=0), atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("layer", [None, 1])
def test_hubert_equals_transformers_window_by_window(hubert_folder, layer):
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    clips = [_noise(12.0, 3, rate=8000), _noise(2.0, 4, rate=22050, channels=2)]
    found = load_embedding(f"mert:{hubert_folder}", layer=layer).embed(clips)
    model = HubertModel.from_pretrained(hubert_folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(hubert_folder)
    for clip, row, starts in zip(clips, found, ([0, 40000, 56000], [0]), strict=True):
        samples = resample(to_mono(clip), 8000).samples[0]
        expected = []
        for start in starts:
            inputs = extractor(samples[start : start + 40000], sampling_rate=8000, return_tensors="pt")
            with torch.inference_mode():
                out = model(**inputs, output_hidden_states=True)
            expected.append(out.hidden_states[3 if layer is None else layer][0].mean(0).numpy())
        np.testing.assert_allclose(row, np.mean(expected, axis=0), atol=1e-5)


def test_a_mert_whose_additions_are_off_is_the_hubert_with_its_weights(hubert_folder, tmp_path):
    mert = _copy(
        hubert_folder, tmp_path, model_type="mert_model", architectures=["MERTModel"], deepnorm=False,
        attention_relax=-1.0,
        feature_extractor_cqt=False, auto_map={"AutoModel": "modeling_MERT.MERTModel"},
    )  # fmt: skip
    # published checkpoints name weight-normed convolutions in the old way, and keep pretraining heads
    tensors = load_file(mert / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = {}
    for key, value in tensors.items():
        for new, legacy in names.items():
            key = key.replace(new, legacy)
        old[key] = value
    assert old.keys() != tensors.keys()
    save_file({**old, "final_proj.weight": torch.zeros(2, 2)}, mert / "model.safetensors", {"format": "pt"})
    clip = [_noise(1.5, 5, rate=8000)]
    expected = load_embedding(f"mert:{hubert_folder}").embed(clip)
    np.testing.assert_allclose(load_embedding(f"mert:{mert}").embed(clip), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mert_model", "feature_extractor_cqt": True}, "feature_extractor_cqt.*not run"),
        ({"model_type": "mert_model", "deepnorm": True, "attention_relax": 32.0}, "deepnorm, attention_relax"),
        ({"model_type": "music2latent", "auto_map": {"AutoModel": "x.Y"}}, "brings its own code, which is not run"),
        ({"num_hidden_layers": 4}, "weights are missing"),
        ({"num_hidden_layers": 2}, "unknown"),
    ],
)
def test_what_needs_other_code_or_lacks_weights_is_refused(hubert_folder, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_embedding(f"mert:{_copy(hubert_folder, tmp_path, **changes)}")


def test_broken_folders_are_named(hubert_folder, tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        load_embedding(f"clap:{tmp_path}/none")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_embedding(f"clap:{tmp_path}")
    folder = _copy(hubert_folder, tmp_path)
    with pytest.raises(CheckpointError, match="'hubert' checkpoint, not CLAP"):
        load_embedding(f"clap:{folder}")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded as HubertModel"):
        load_embedding(f"mert:{folder}")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle, which is not opened"):
        load_embedding(f"mert:{folder}")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_embedding(f"mert:{folder}")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_embedding(f"mert:{folder}")


def test_a_folder_without_feature_extractor_is_refused(hubert_folder, tmp_path):
    folder = _copy(hubert_folder, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        load_embedding(f"mert:{folder}")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("vggish", {}, "no embedding 'vggish'"),
        ("clap", {}, "needs a model folder"),
        ("texture:x", {}, "needs no folder"),
        ("texture", {"layer": 2}, "no choice of layer"),
        ("texture", {"batch_size": 0}, "at least 1"),
    ],
)
def test_specs_that_mean_nothing(spec, options, message):
    with pytest.raises(UserError, match=message):
        load_embedding(spec, **options)


def _hears_alike(spec):
    """A network on a second device embeds as it does on the CPU."""
    clips = [_noise(2.5, 0), _noise(3.5, 1)]
    expected = load_embedding(spec, device="cpu").embed(clips)
    with second_device():
        for device in (NAME, "auto"):
            np.testing.assert_allclose(load_embedding(spec, device=device).embed(clips), expected, atol=1e-4)


def test_clap_on_a_second_device(clap_folder):
    _hears_alike(f"clap:{clap_folder}")


def test_mert_on_a_second_device(hubert_folder):
    _hears_alike(f"mert:{hubert_folder}")


def test_musicnn_on_a_second_device():
    _hears_alike("musicnn")


def test_layers_and_devices_that_are_not_there(hubert_folder):
    with pytest.raises(UserError, match="hidden states 0 to 3"):
        load_embedding(f"mert:{hubert_folder}", layer=4)
    with pytest.raises(UserError, match="device 'tpu'"):
        load_embedding(f"mert:{hubert_folder}", device="tpu")


def test_windows_cover_a_clip_and_their_order_of_batches_does_not_matter():
    assert window_starts(10, 10) == [0]
    assert window_starts(20, 10) == [0, 10]
    assert window_starts(25, 10) == [0, 10, 15]
    seen = []

    def embed(batch):
        seen.append(batch.shape)
        return batch.mean(axis=1, keepdims=True)

    clips = [_noise(s, i, rate=100) for i, s in enumerate((2.5, 0.8, 1.0, 3.0))]
    results = [
        mean_over_windows(iter(clips), embed, sample_rate=100, window=100, dim=1, batch_size=size) for size in (1, 3)
    ]
    np.testing.assert_allclose(results[0], results[1])
    assert max(shape[0] for shape in seen) == 3
    assert results[0][1, 0] == pytest.approx(float(clips[1].samples.mean()), abs=1e-6)
    assert mean_over_windows([], embed, sample_rate=100, window=100, dim=1, batch_size=1).shape == (0, 1)


def test_silence_and_scraps_are_refused_and_files_named(tmp_path):
    def embed(batch):
        return batch[:, :1]

    for clip in (Waveform(np.zeros((1, 900), np.float32), 100), _noise(0.2, 0, rate=100)):
        with pytest.raises(AudioError):
            mean_over_windows([clip], embed, sample_rate=100, window=100, dim=1, batch_size=1)
    sf.write(tmp_path / "short.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    with pytest.raises(UserError, match=r"short\.wav cannot be embedded"):
        embed_files(load_embedding("texture"), [tmp_path / "short.wav"], quiet=True)
    with pytest.raises(UserError, match="no file to embed"):
        embed_files(load_embedding("texture"), [])


def test_the_texture_is_an_embedding(tmp_path):
    from eisbach.structure import texture_embedding
    from eisbach.studies.ground_truth import synthetic

    clip = synthetic.form("AB", 3.0, 1)
    sf.write(tmp_path / "a.wav", clip.samples.T, clip.sample_rate, subtype="FLOAT")
    embedding = load_embedding("texture")
    assert isinstance(embedding, Embedding)
    rows = embed_files(embedding, [tmp_path / "a.wav"], quiet=True)
    np.testing.assert_allclose(rows, embedding.embed([clip]), atol=1e-6)
    np.testing.assert_allclose(rows[0], texture_embedding(clip), atol=1e-6)
