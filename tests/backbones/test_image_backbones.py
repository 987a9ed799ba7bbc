"""What every image backbone keeps: conditioning, shapes, time, saving, memory, adapters. One tiny network of each
kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach import adapters
from eisbach.backbones import Backbone, create_backbone, load_backbone, load_image_codec_of
from eisbach.diffusion.paths import get_path
from eisbach.errors import CheckpointError, ConfigError, UserError
from eisbach.training.devices import checkpoint_activations

COMMON: dict[str, Any] = {"latent_channels": 3, "latent_size": 8, "classes": ["robin", "red fox", "grey fox"]}
SHAPES: dict[str, dict[str, Any]] = {
    "dit": {"width": 32, "depth": 2, "heads": 2},
    "uvit": {"width": 32, "depth": 3, "heads": 2},
    "unet": {"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_width": 8, "groups": 8},
}
KINDS = sorted(SHAPES)


def tiny(kind: str, seed: int = 0, **changes: Any) -> Any:
    return create_backbone({**COMMON, **SHAPES[kind], **changes}, kind=kind, seed=seed)


def awake(kind: str, **changes: Any) -> Any:
    """A tiny backbone whose zero-initialised layers hold something, so that everything reaches the output."""
    backbone = tiny(kind, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    backbone.module.eval()
    return backbone


def inputs(batch: int = 3, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, size, size, generator=generator), torch.tensor([0.1, 0.5, 1.0])[:batch]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_is_a_backbone(self, kind: str) -> None:
        backbone = tiny(kind)
        assert isinstance(backbone, Backbone)
        assert (backbone.path, backbone.target, backbone.codec, backbone.latent_rate) == (
            get_path("cosine"),
            "eps",
            "pixels",
            1.0,
        )
        assert (backbone.latent_channels, backbone.latent_size, backbone.latent_shape) == (3, 8, (3, 8, 8))
        assert backbone.classes == COMMON["classes"]

    def test_predicts_images_of_its_shape(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind), inputs()
        output = backbone.predict(x_t, t, backbone.condition(["robin", "", "grey fox"], [1, 1, 1]))
        assert output.shape == x_t.shape
        assert bool(output.isfinite().all())

    def test_class_time_and_image_reach_the_output_row_by_row(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind), inputs()
        names = ["robin", "red fox", "grey fox"]
        base = backbone.predict(x_t, t, backbone.condition(names, [1] * 3))
        other = backbone.predict(x_t, t, backbone.condition(["red fox", *names[1:]], [1] * 3))
        assert not torch.allclose(other[0], base[0], atol=1e-5)
        torch.testing.assert_close(other[1:], base[1:])
        later = backbone.predict(x_t, torch.tensor([0.2, 0.5, 1.0]), backbone.condition(names, [1] * 3))
        assert not torch.allclose(later[0], base[0], atol=1e-6)
        torch.testing.assert_close(later[1:], base[1:])
        moved = backbone.predict(x_t.flip(0), t.flip(0), backbone.condition(names[::-1], [1] * 3))
        torch.testing.assert_close(moved.flip(0), base, atol=1e-5, rtol=1e-5)

    def test_null_condition_is_the_empty_name_and_is_learned(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind), inputs()
        conditioning = backbone.condition(["robin"] * 3, [1] * 3)
        null = backbone.null_condition(conditioning)
        assert null.tokens.tolist() == backbone.condition([""] * 3, [1] * 3).tokens.tolist() == [[3]] * 3
        assert (null.tokens.dtype, null.tokens.shape, null.global_embed.shape) == (torch.int64, (3, 1), (3, 1))
        backbone.predict(x_t, t, null).square().sum().backward()
        table = next(p for p in backbone.module.parameters() if p.shape[0] == 4 and p.ndim == 2)
        assert table.grad is not None
        assert table.grad[3].abs().sum() > 0
        assert table.grad[:3].abs().sum() == 0

    def test_training_mode_draws_nothing_at_random(self, kind: str) -> None:
        # Classes are dropped by the trainer, from its own generator.
        backbone, (x_t, t) = awake(kind), inputs()
        backbone.module.train()
        conditioning = backbone.condition(["robin"] * 3, [1] * 3)
        state = torch.get_rng_state()
        first = backbone.predict(x_t, t, conditioning)
        assert torch.equal(first, backbone.predict(x_t, t, conditioning))
        assert torch.equal(state, torch.get_rng_state())

    def test_an_unknown_class_is_named_with_its_neighbours(self, kind: str) -> None:
        with pytest.raises(UserError, match=r"no class 'Redd fox'; the nearest of its 3 classes: red fox"):
            tiny(kind).condition(["robin", "Redd fox"], [1, 1])

    def test_unconditional(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind, classes=[]), inputs()
        conditioning = backbone.condition(["", "", ""], [1] * 3)
        output = backbone.predict(x_t, t, conditioning)
        assert torch.equal(output, backbone.predict(x_t, t, backbone.null_condition(conditioning)))
        with pytest.raises(UserError, match="has no classes"):
            backbone.condition(["robin"], [1])

    def test_images_of_another_size_are_refused(self, kind: str) -> None:
        backbone, (x_t, t) = tiny(kind), inputs(size=16)
        with pytest.raises(UserError, match=r"images of 3 x 16 x 16 .* this model reads 3 x 8 x 8"):
            backbone.predict(x_t, t, backbone.condition(["robin"] * 3, [1] * 3))

    def test_saving_and_loading_is_exact(self, kind: str, tmp_path: Path) -> None:
        backbone, (x_t, t) = awake(kind, path="linear", target="u", time_scale=1.0), inputs()
        backbone.save(tmp_path)
        loaded: Any = load_backbone(tmp_path)
        loaded.module.eval()
        assert type(loaded) is type(backbone)
        assert loaded.config == backbone.config
        assert loaded.identity() == backbone.identity()
        conditioning = backbone.condition(["robin", "red fox", ""], [1] * 3)
        assert torch.equal(loaded.predict(x_t, t, conditioning), backbone.predict(x_t, t, conditioning))

    def test_a_file_of_another_shape_is_refused(self, kind: str, tmp_path: Path) -> None:
        tiny(kind).save(tmp_path)
        text = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(text.replace('"robin",', '"robin", "wren",'))
        with pytest.raises(CheckpointError, match="shape"):
            load_backbone(tmp_path)

    def test_identity_follows_weights_and_configuration(self, kind: str) -> None:
        names = {tiny(kind).identity(), tiny(kind, seed=1).identity(), tiny(kind, target="v").identity()}
        assert len(names) == 3
        assert tiny(kind).identity() in names
        assert all(name.startswith(f"{kind}-") for name in names)

    def test_the_global_generator_is_left_alone(self, kind: str) -> None:
        state = torch.get_rng_state()
        tiny(kind)
        assert torch.equal(state, torch.get_rng_state())

    def test_checkpointed_activations_give_the_same_gradients(self, kind: str) -> None:
        x_t, t = inputs()
        gradients = []
        for checkpointed in (False, True):
            backbone = awake(kind)
            backbone.module.train()
            if checkpointed:
                assert checkpoint_activations(backbone.module) == 1
            backbone.predict(x_t, t, backbone.condition(["robin", "", "red fox"], [1] * 3)).square().sum().backward()
            gradients.append({name: p.grad for name, p in backbone.module.named_parameters()})
        assert all(gradient is not None for gradient in gradients[0].values())
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, msg=name)

    def test_autocast_changes_little(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind), inputs()
        conditioning = backbone.condition(["robin", "", "red fox"], [1] * 3)
        whole = backbone.predict(x_t, t, conditioning)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone.predict(x_t, t, conditioning)
        assert (half.float() - whole).abs().max() < 0.05 * whole.abs().max()

    def test_adapters_go_in_and_train_alone(self, kind: str) -> None:
        backbone, (x_t, t) = awake(kind), inputs()
        conditioning = backbone.condition(["robin"] * 3, [1] * 3)
        before = backbone.predict(x_t, t, conditioning)
        adapters.inject(backbone, adapters.adapter_config(backbone, kind="dora", rank=2, alpha=2.0), seed=0)
        torch.testing.assert_close(backbone.predict(x_t, t, conditioning), before, atol=1e-5, rtol=1e-5)
        trained = adapters.trainable_parameters(backbone.module)
        blocks = {"dit": 2 * 6, "uvit": 3 * 6 + 1, "unet": 4 * 4}[kind]  # linear layers in attention and feed-forward
        assert sum("lora_A" in name for name in trained) == blocks
        with pytest.raises(CheckpointError, match="adapter"):
            backbone.identity()

    def test_counting_needs_no_storage_and_counts_right(self, kind: str) -> None:
        backbone = tiny(kind)
        counted = type(backbone).count_parameters({**COMMON, **SHAPES[kind]})
        assert counted == sum(parameter.numel() for parameter in backbone.module.parameters())


class TestTime:
    def test_the_cosine_path_shows_ddpms_index(self) -> None:
        steps = torch.arange(1000)
        t = (steps + 1) / 1000
        torch.testing.assert_close(tiny("dit").network_time(t), steps.float(), atol=1e-3, rtol=0)

    def test_other_paths_show_t_scaled(self) -> None:
        t = torch.tensor([0.0, 0.25, 1.0])
        assert tiny("dit", path="linear").network_time(t).tolist() == [0, 250, 1000]
        assert tiny("dit", path="linear", time_scale=1).network_time(t).tolist() == [0, 0.25, 1]

    def test_a_scale_on_the_cosine_path_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="time_scale means nothing on the cosine path"):
            tiny("dit", time_scale=1)

    def test_edm_inputs_are_brought_to_unit_variance(self) -> None:
        backbone, (x_t, t) = awake("dit", path="edm"), inputs()
        conditioning = backbone.condition(["robin"] * 3, [1] * 3)
        sigma = get_path("edm").sigma(t)[:, None, None, None]
        expected = backbone.module(x_t, t * 1000, conditioning.tokens[:, 0])
        torch.testing.assert_close(backbone.predict(x_t * (1 + sigma**2).sqrt(), t, conditioning), expected)


class TestClasses:
    def test_a_number_of_classes_is_named_later(self) -> None:
        backbone = tiny("uvit", classes=3)
        assert backbone.classes == ["0", "1", "2"]
        backbone.name_classes(["a", "b", "c"])
        assert backbone.condition(["c"], [1]).tokens.tolist() == [[2]]
        backbone.name_classes(["a", "b", "c"])  # the same again
        with pytest.raises(UserError, match="have names already"):
            backbone.name_classes(["a", "b", "d"])
        with pytest.raises(UserError, match="2 class names arrived for a model of 3 classes"):
            tiny("uvit", classes=3).name_classes(["a", "b"])

    @pytest.mark.parametrize("names", [["a", "a"], ["a", ""]])
    def test_names_must_be_unique_and_not_empty(self, names: list[str]) -> None:
        with pytest.raises(ConfigError, match="unique"):
            tiny("dit", classes=names)


class TestBadShapes:
    @pytest.mark.parametrize("kind", ["dit", "uvit"])
    def test_a_patch_that_does_not_divide(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="latent_size 8 is no multiple of patch 3"):
            tiny(kind, patch=3)

    @pytest.mark.parametrize("kind", ["dit", "uvit"])
    def test_heads_that_do_not_divide(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="width 32 is no multiple of heads 5"):
            tiny(kind, heads=5)

    @pytest.mark.parametrize(("kind", "known"), [("dit", "S, B, L, XL"), ("uvit", "S, M, L, H"), ("unet", "celeba-64")])
    def test_an_unknown_size(self, kind: str, known: str) -> None:
        with pytest.raises(ConfigError, match=f"there is no size 'Q'; choose one of {known}"):
            create_backbone({"size": "Q"}, kind=kind)

    def test_no_size_and_no_shape(self) -> None:
        with pytest.raises(ConfigError, match="'width' is required"):
            create_backbone({}, kind="dit")

    def test_an_even_depth_of_a_uvit(self) -> None:
        with pytest.raises(ConfigError, match="depth 4 is even"):
            tiny("uvit", depth=4)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"latent_size": 6, "multipliers": [1, 2, 2]}, "latent_size 6 cannot be halved 2 times"),
            ({"attention": [5]}, r"attention \[5\] must name sides among \[8, 4\]"),
            ({"groups": 12}, "must be multiples of groups 12"),
            ({"head_width": 12}, "must be multiples of head_width 12"),
        ],
    )
    def test_a_unet_that_cannot_be(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            tiny("unet", **changes)


class TestCodec:
    def test_pixels_have_the_models_channels(self) -> None:
        assert load_image_codec_of(tiny("dit", latent_channels=1)).channels == 1

    def test_a_codec_of_other_channels_is_refused(self) -> None:
        with pytest.raises(UserError, match="pixels with 4 channels"):
            load_image_codec_of(tiny("dit", latent_channels=4))

    def test_a_missing_codec_is_named(self) -> None:
        with pytest.raises(UserError, match="there is no image codec 'nowhere'"):
            load_image_codec_of(tiny("dit", codec="nowhere"))

    def test_a_model_of_audio_has_none(self) -> None:
        with pytest.raises(UserError, match="makes audio"):
            load_image_codec_of(create_backbone({"width": 16, "depth": 1, "heads": 2, "text_width": 8}))
