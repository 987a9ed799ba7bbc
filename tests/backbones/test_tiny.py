from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach.backbones import BACKBONES, Backbone, create_backbone, load_backbone, load_codec_of
from eisbach.backbones.tiny import NULL, PADDING, TinyMusicBackbone, words_of
from eisbach.errors import CheckpointError, ConfigError, UserError

WORDS = ["slow", "cello", "straße", "медленно", "琴", "bach"]
SMALL: dict[str, Any] = {
    "latent_channels": 8, "width": 32, "depth": 2, "heads": 2, "memory_tokens": 2, "text_width": 16, "max_words": 4,
    "vocabulary": WORDS,
}  # fmt: skip


@pytest.fixture(scope="module")
def backbone() -> TinyMusicBackbone:
    made = create_backbone(SMALL, seed=3)
    assert isinstance(made, TinyMusicBackbone)
    # A fresh network predicts nearly nothing: give every zero-initialised matrix something to say.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.module.eval()
    return made


def inputs(batch: int, frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 8, frames, generator=generator), torch.rand(batch, generator=generator)


def ids_of(backbone: TinyMusicBackbone, caption: str) -> list[int]:
    return backbone.condition([caption], [30.0]).tokens[0].tolist()


def test_it_is_a_backbone_with_names_that_exist(backbone: TinyMusicBackbone) -> None:
    from eisbach.diffusion.noise_levels import get_density
    from eisbach.diffusion.schedules import get_schedule

    assert isinstance(backbone, Backbone)
    assert (backbone.path.name, backbone.target, backbone.latent_channels) == ("linear", "u", 8)
    get_density(backbone.density)
    assert get_schedule(backbone.schedule, 4).shape == (5,)


@pytest.mark.parametrize("frames", [1, 2, 7, 80, 323])
@torch.no_grad()
def test_predictions_have_the_shape_of_any_input(backbone: TinyMusicBackbone, frames: int) -> None:
    x_t, t = inputs(2, frames)
    conditioning = backbone.condition(["slow cello", ""], [30.0, 119.0])
    output = backbone.predict(x_t, t, conditioning)
    assert output.shape == (2, 8, frames)
    assert bool(output.isfinite().all())


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(backbone: TinyMusicBackbone) -> None:
    x_t, t = inputs(8, 20)
    captions = ["slow cello", "", "bach", "cello", "琴", "slow", "slow slow slow slow", "unheard"]
    conditioning = backbone.condition(captions, [30.0 + 10 * n for n in range(8)])
    together = backbone.predict(x_t, t, conditioning)
    for row in range(8):
        alone = backbone.predict(x_t[row : row + 1], t[row : row + 1], conditioning.select([row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_text_duration_noise_level_and_input_all_matter(backbone: TinyMusicBackbone) -> None:
    x_t, t = inputs(1, 20)
    base = backbone.predict(x_t, t, backbone.condition(["slow cello"], [30.0]))
    others = {
        "text": backbone.predict(x_t, t, backbone.condition(["bach"], [30.0])),
        "order": backbone.predict(x_t, t, backbone.condition(["cello slow"], [30.0])),
        "empty": backbone.predict(x_t, t, backbone.condition([""], [30.0])),
        "duration": backbone.predict(x_t, t, backbone.condition(["slow cello"], [60.0])),
        "t": backbone.predict(x_t, 1 - t, backbone.condition(["slow cello"], [30.0])),
        "x_t": backbone.predict(x_t + 0.1, t, backbone.condition(["slow cello"], [30.0])),
    }
    same = [name for name, output in others.items() if torch.allclose(output, base, atol=1e-4)]
    assert same == []


def test_words_of_any_script() -> None:
    assert words_of("Slow, CELLO-solo (No. 2)!") == ["slow", "cello", "solo", "no", "2"]
    assert words_of("STRASSE straße Straẞe") == ["strasse"] * 3
    assert words_of("ｃｅｌｌｏ") == ["cello"]  # full-width letters
    assert words_of("Медленно 琴の音 بطيء") == ["медленно", "琴の音", "بطيء"]
    assert words_of("a_b\u2028c\n") == ["a", "b", "c"]
    assert words_of("") == words_of(" …!— ") == []


def test_captions_become_word_ids(backbone: TinyMusicBackbone) -> None:
    slow, cello, bach = (2 + WORDS.index(word) for word in ("slow", "cello", "bach"))
    assert ids_of(backbone, "SLOW cello") == [slow, cello, PADDING, PADDING]
    assert ids_of(backbone, "Медленно: 琴") == [2 + WORDS.index("медленно"), 2 + WORDS.index("琴"), PADDING, PADDING]
    assert ids_of(backbone, "a slow loud cello") == [slow, cello, PADDING, PADDING]  # unknown words leave no gap
    assert ids_of(backbone, "bach slow bach cello slow") == [bach, slow, bach, cello]  # cut at max_words
    assert ids_of(backbone, "") == [PADDING] * 4
    made = backbone.condition(["slow", ""], [30.0, 45.5])
    assert made.token_mask is not None
    assert made.token_mask.tolist() == [[True, False, False, False], [False] * 4]
    assert made.global_embed.tolist() == [[30.0], [45.5]]


def test_unknown_words_are_named_once_in_order(backbone: TinyMusicBackbone) -> None:
    assert backbone.unknown_words("A slow Tuba, a CELLO and another tuba") == ["a", "tuba", "and", "another"]
    assert backbone.unknown_words("slow cello") == backbone.unknown_words("") == []


@pytest.mark.parametrize("durations", [[30.0], [30.0, 30.0, 30.0], [30.0, float("nan")], [30.0, -1.0]])
def test_durations_that_do_not_fit_the_captions(backbone: TinyMusicBackbone, durations: list[float]) -> None:
    with pytest.raises(UserError, match="duration"):
        backbone.condition(["slow", "cello"], durations)


@torch.no_grad()
def test_the_null_condition_has_no_text_and_keeps_the_duration(backbone: TinyMusicBackbone) -> None:
    conditioning = backbone.condition(["slow cello", "", "bach"], [30.0, 30.0, 60.0])
    null = backbone.null_condition(conditioning)
    assert bool((null.tokens == NULL).all())
    assert torch.equal(null.global_embed, conditioning.global_embed)
    assert NULL not in conditioning.tokens
    x_t, t = inputs(1, 12)
    x_t, t = x_t.expand(3, -1, -1), t.expand(3)
    with_text, without = backbone.predict(x_t, t, conditioning), backbone.predict(x_t, t, null)
    assert float((with_text - without).abs().amax(dim=(1, 2)).min()) > 1e-3  # an empty caption is not the null
    torch.testing.assert_close(without[0], without[1])
    assert float((without[0] - without[2]).abs().max()) > 1e-3  # the duration still speaks


def test_conditioning_rows_are_chosen_mixed_and_moved(backbone: TinyMusicBackbone) -> None:
    mine = backbone.condition(["slow", "cello", "bach"], [10.0, 20.0, 30.0])
    null = backbone.null_condition(mine)
    chosen = mine.select([2, 0])
    assert len(chosen) == 2
    assert chosen.global_embed.tolist() == [[30.0], [10.0]]
    assert torch.equal(chosen.tokens, mine.tokens[[2, 0]])
    assert len(mine.select(slice(1, 3))) == 2
    mixed = mine.replace_rows(torch.tensor([False, True, False]), null)
    assert torch.equal(mixed.tokens, torch.stack([mine.tokens[0], null.tokens[1], mine.tokens[2]]))
    assert mixed.token_mask is not None
    assert mixed.token_mask.tolist()[1] == [True] * 4
    assert torch.equal(mine.tokens[1], backbone.condition(["cello"], [20.0]).tokens[0])  # the original is untouched
    moved = mine.to(dtype=torch.bfloat16)
    assert (moved.global_embed.dtype, moved.tokens.dtype) == (torch.bfloat16, torch.int64)
    assert moved.token_mask is not None
    assert moved.token_mask.dtype == torch.bool


def test_a_seed_decides_the_weights_and_global_randomness_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (create_backbone(SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert create_backbone(SMALL, seed=1).identity() == one.identity() == two.identity() != other.identity()


def test_saving_and_loading(backbone: TinyMusicBackbone, tmp_path: Path) -> None:
    backbone.save(tmp_path / "model")
    loaded = load_backbone(tmp_path / "model")
    assert loaded.identity() == backbone.identity()
    assert next(loaded.module.parameters()).dtype == torch.float32
    x_t, t = inputs(2, 10)
    conditioning = loaded.condition(["slow cello", ""], [30.0, 30.0])
    with torch.no_grad():
        first = loaded.predict(x_t, t, conditioning)
        loaded.save(tmp_path / "again")
        assert torch.equal(load_backbone(tmp_path / "again").predict(x_t, t, conditioning), first)
        torch.testing.assert_close(
            first, backbone.predict(x_t, t, conditioning), atol=0.05, rtol=0.05
        )  # half precision
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


def test_identity_follows_every_weight_and_the_configuration(tmp_path: Path) -> None:
    made = create_backbone(SMALL, seed=1)
    names = {made.identity()}
    with torch.no_grad():
        made.module.get_parameter("dit.proj_out.weight")[0, 0] += 0.5
    names.add(made.identity())
    names.add(create_backbone(SMALL | {"latent_rate": 3.0}, seed=1).identity())
    assert len(names) == 3


def test_adapters_go_into_the_blocks_and_nowhere_else(backbone: TinyMusicBackbone) -> None:
    linear = [name for name, module in backbone.module.named_modules() if isinstance(module, torch.nn.Linear)]
    matched = [name for name in linear if re.fullmatch(backbone.adapter_targets, name)]
    inside = (
        "self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_kv", "cross_attn.to_out",
        "ff.proj_in", "ff.proj_out",
    )  # fmt: skip
    assert matched == [f"dit.transformer_blocks.{block}.{name}" for block in range(2) for name in inside]
    # The same layers of the real model, whatever it is called inside its trainer
    for name in ("model.transformer_blocks.23.cross_attn.to_kv", "transformer_blocks.0.ff.proj_in"):
        assert re.fullmatch(backbone.adapter_targets, name)


def test_an_adapted_model_is_not_saved_as_a_base(tmp_path: Path) -> None:
    from eisbach import adapters

    made = create_backbone(SMALL)
    adapters.inject(made, adapters.adapter_config(made, kind="lora", rank=2, alpha=2.0), seed=0)
    for action in (made.identity, lambda: made.save(tmp_path)):
        with pytest.raises(CheckpointError, match="detach or merge"):
            action()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"))


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def refused(folder: Path, match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_backbone(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return str(caught.value)


def test_truncated_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, 200, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        refused(folder, "is truncated or not a safetensors file")


def test_every_key_counts(folder: Path) -> None:
    name = "duration.weight"
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert name in refused(folder, r"1 are missing and 0 unknown")


def test_a_key_too_many(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"extra": torch.zeros(1)}))
    assert "extra" in refused(folder, r"0 are missing and 1 unknown")


def test_another_shape(folder: Path) -> None:
    edit_config(folder, max_words=13)
    assert "word_order" in refused(folder, "does not fit the configuration beside it")


def test_weights_that_are_not_numbers(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors["duration.bias"].fill_(float("nan")))
    assert "duration.bias" in refused(folder, "NaN or infinite weights")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not valid JSON"),
        ("[]", "format 'None'"),
        ('{"format": "stable-audio-3"}', "format 'stable-audio-3'; known formats: .*eisbach-tiny-music"),
        ('{"format": "eisbach-tiny-music", "width": 0, "colour": 1}', "2 faults"),
        ('{"format": "eisbach-tiny-music", "width": 30, "heads": 4, "text_width": 15}', "width"),
    ],
)
def test_configurations_of_something_else(folder: Path, text: str, match: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, match)


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no model in")
    (folder / "model.safetensors").unlink()
    refused(folder, "is not a model folder")
    (folder / "model.safetensors").write_bytes(b"x")
    edit_config(folder, format="other")
    with pytest.raises(CheckpointError, match="does not hold an embedded music model"):
        TinyMusicBackbone.load(folder)


def test_kinds_and_configurations_that_do_not_exist() -> None:
    with pytest.raises(UserError, match=r"no backbone 'magic'; known: .*eisbach-tiny-music"):
        create_backbone(kind="magic")
    with pytest.raises(ConfigError, match=r"2 faults: 'width'.*; unknown key 'hue'"):
        create_backbone({"width": 2, "hue": 1})
    for bad in ({"width": 30, "heads": 4}, {"text_width": 15}, {"vocabulary": ["a", "a"]}):
        with pytest.raises(ConfigError):
            create_backbone(SMALL | bad)
    assert "eisbach-tiny-music" in BACKBONES


def test_the_codec_must_fit_the_model(folder: Path, tiny_model: Path) -> None:
    assert load_codec_of(load_backbone(tiny_model)).channels == 8
    edit_config(folder, codec="bands")
    with pytest.raises(CheckpointError, match=r"reads 8 channels .* its codec 'bands' gives 96 channels"):
        load_codec_of(load_backbone(folder))
    edit_config(folder, codec="nowhere.safetensors")
    with pytest.raises(UserError, match="there is no codec"):
        load_codec_of(load_backbone(folder))
