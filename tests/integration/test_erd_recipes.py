"""Each recipe of recipes/erd against the columns of the paper's Tables 1-5, and its model counted on the meta
device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from eisbach.backbones.dit import DiTBackbone
from eisbach.backbones.unet import UNetBackbone
from eisbach.backbones.uvit import UViTBackbone
from eisbach.cli.main import app
from eisbach.codecs.weight_files import build_empty
from eisbach.config import apply_overrides, build_config, read_recipe
from eisbach.diffusion.paths import get_path
from eisbach.errors import ConfigError, UserError
from eisbach.training.assembly import build_objective
from eisbach.training.config import TrainConfig

FOLDER = Path(__file__).parents[2] / "recipes" / "erd"
KINDS = {"dit": DiTBackbone, "uvit": UViTBackbone, "unet": UNetBackbone}
IMAGENET, CELEBA = 256, 128  # global batches
ADAM, DIT, UVIT = (0.9, 0.999), (0.9, 0.95), (0.99, 0.99)


class Row(NamedTuple):
    """What the tables say of a row: model, parameters in millions, steps, batch, betas, path, target, weight."""

    kind: str
    millions: float
    steps: int
    batch: int
    betas: tuple[float, float]
    path: str = "cosine"
    target: str = "eps"
    weight: str = "none"


ROWS = {
    "table1/dit-s-2": Row("dit", 33, 400_000, IMAGENET, ADAM, path="vp"),
    "table1/dit-s-2-erd": Row("dit", 33, 400_000, IMAGENET, ADAM, path="vp", weight="erd"),
    "table1/dit-s-2-adam": Row("dit", 33, 400_000, IMAGENET, DIT, path="vp"),
    "table1/dit-s-2-adam-cosine": Row("dit", 33, 400_000, IMAGENET, DIT),
    "table1/dit-s-2-adam-cosine-erd": Row("dit", 33, 400_000, IMAGENET, DIT, weight="erd"),
    "table2/unet-erd": Row("unet", 50, 500_000, CELEBA, ADAM, weight="erd"),
    "table2/uvit-s": Row("uvit", 44, 500_000, CELEBA, UVIT),
    "table2/dit-s": Row("dit", 33, 500_000, CELEBA, DIT),
    "table2/dit-s-erd": Row("dit", 33, 500_000, CELEBA, DIT, weight="erd"),
    "table4/uvit-h-2-erd": Row("uvit", 501, 4_000_000, IMAGENET, UVIT, weight="erd"),
    "table4/uvit-h-2": Row("uvit", 501, 2_000_000, IMAGENET, UVIT),
    "table4/dit-xl-2": Row("dit", 675, 7_000_000, IMAGENET, ADAM, path="vp"),
    "table4/sit-xl-2": Row("dit", 675, 7_000_000, IMAGENET, ADAM, path="linear", target="u"),
    "table3/uvit-h-2-min-snr": Row("uvit", 501, 400_000, IMAGENET, UVIT, weight="min_snr"),
}
for _size, _millions in (("b", 130), ("l", 458), ("xl", 675)):
    ROWS[f"table3/dit-{_size}-2"] = Row("dit", _millions, 400_000, IMAGENET, ADAM, path="vp")
    ROWS[f"table3/sit-{_size}-2"] = Row("dit", _millions, 400_000, IMAGENET, ADAM, path="linear", target="u")
    ROWS[f"table3/dit-{_size}-2-erd"] = Row("dit", _millions, 400_000, IMAGENET, ADAM, weight="erd")
for _size, _millions in (("m", 131), ("l", 287), ("h", 501)):
    ROWS[f"table3/uvit-{_size}-2"] = Row("uvit", _millions, 400_000, IMAGENET, UVIT)
    ROWS[f"table3/uvit-{_size}-2-erd"] = Row("uvit", _millions, 400_000, IMAGENET, UVIT, weight="erd")

# Table 5's shapes: layers, hidden dimension, heads, convolution.
SHAPES = {
    "dit-b": (12, 768, 12, None),
    "dit-l": (24, 1024, 16, None),
    "dit-xl": (28, 1152, 16, None),
    "uvit-m": (17, 768, 12, True),
    "uvit-l": (21, 1024, 16, True),
    "uvit-h": (29, 1152, 16, False),
}


def configured(name: str, *overrides: str) -> TrainConfig:
    values = apply_overrides(read_recipe(FOLDER / f"{name}.yaml"), overrides)
    return build_config(TrainConfig, values, name)


def backbone_of(config: TrainConfig) -> Any:
    """The model without storage."""
    assert isinstance(config.model, dict)
    values = dict(config.model["create"])
    kind = KINDS[values.pop("kind")]
    shape = build_config(kind.config_class, values, "the backbone's configuration")
    return kind(shape, module=build_empty(lambda: kind.network(shape)))


def test_every_recipe_has_a_row() -> None:
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("table*/*.yaml")}
    assert files == set(ROWS)


def test_the_page_names_every_recipe() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in ROWS if f"{name.partition('/')[2]}.yaml" not in page] == []


@pytest.mark.parametrize("name", sorted(ROWS))
def test_recipe_is_the_tables_row(name: str) -> None:
    row, config = ROWS[name], configured(name)
    backbone = backbone_of(config)
    count = sum(parameter.numel() for parameter in backbone.module.parameters())
    assert backbone.name == row.kind
    assert count / 1e6 == pytest.approx(row.millions, rel=0.016 if row.millions < 100 else 0.003)
    assert (config.steps, config.batch_size * config.accumulation) == (row.steps, row.batch)
    assert (config.optimiser.lr, config.optimiser.betas, config.optimiser.weight_decay) == (1e-4, row.betas, 0)
    assert (config.schedule, config.warmup_steps, config.ema_decay) == ("constant", 0, 0.9999)
    assert (backbone.path, backbone.target) == (get_path(row.path), row.target)
    assert config.weighting.noise_level == row.weight
    assert config.condition_dropout == (0.1 if row.batch == IMAGENET else 0)
    assert config.adapter.type == "none"
    assert config.data.images is not None
    assert not config.data.images.flip
    if row.batch == IMAGENET:
        assert backbone.latent_shape == (4, 32, 32)
        assert backbone.config.patch == 2
        assert len(backbone.classes) == 1000
    else:
        assert (backbone.latent_shape, backbone.codec, backbone.classes) == ((3, 64, 64), "pixels", [])
    objective = build_objective(config, backbone)
    assert (objective.weighting.noise_level is None) == (row.weight == "none")


@pytest.mark.parametrize("name", sorted(name for name in ROWS if name.startswith("table3/") and "sit" not in name))
def test_shapes_are_those_of_table_5(name: str) -> None:
    shape = backbone_of(configured(name)).config
    depth, width, heads, convolution = SHAPES["-".join(name.removeprefix("table3/").split("-")[:2])]
    assert (shape.depth, shape.width, shape.heads) == (depth, width, heads)
    assert getattr(shape, "convolution", None) is convolution


def test_the_min_snr_row_has_its_authors_gamma() -> None:
    config = configured("table3/uvit-h-2-min-snr")
    assert build_objective(config, backbone_of(config)).weighting.noise_level.gamma == 5


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("weight", ["none", "min_snr", "p2", "erd"])
def test_figure_6_is_one_recipe_with_other_words(target: str, weight: str) -> None:
    config = configured(
        "table1/dit-s-2-adam-cosine-erd", f"model.create.target={target}", f"weighting.noise_level={weight}"
    )
    tiny = apply_overrides({"model": config.model}, ["model.create.depth=1"])
    config = config.model_copy(update=tiny)
    assert build_objective(config, backbone_of(config)).target == target


@pytest.mark.parametrize("name", ["table1/dit-s-2-adam-cosine-erd", "table2/unet-erd", "table4/uvit-h-2-erd"])
def test_dry_run_prints_the_whole_recipe(name: str) -> None:
    result = CliRunner().invoke(app, ["train", str(FOLDER / f"{name}.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    printed = yaml.safe_load(result.stdout)
    assert "extends" not in printed
    assert printed == configured(name).model_dump(mode="json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.create.size=Q", "there is no size 'Q'"),
        ("model.create.patch=3", "latent_size 32 is no multiple of patch 3"),
        ("model.create.sise=B", "unknown key 'sise'"),
        ("model.create.kind=vit", "there is no backbone 'vit'"),
    ],
)
def test_dry_run_finds_faults_in_the_model(change: str, words: str) -> None:
    recipe = str(FOLDER / "table1" / "dit-s-2.yaml")
    result = CliRunner().invoke(app, ["train", recipe, "--dry-run", "--set", change])
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


class TestExtends:
    def test_keys_are_laid_over_group_by_group(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("steps: 5\noptimiser: {lr: 1, eps: 2}\n")
        (tmp_path / "b.yaml").write_text("extends: a.yaml\noptimiser: {lr: 3}\n")
        assert read_recipe(tmp_path / "b.yaml") == {"steps": 5, "optimiser": {"lr": 3, "eps": 2}}

    def test_a_circle_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("extends: a.yaml\n")
        with pytest.raises(ConfigError, match="circle"):
            read_recipe(tmp_path / "a.yaml")

    def test_the_base_must_be_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("extends: [b.yaml]\n")
        with pytest.raises(ConfigError, match="name one recipe"):
            read_recipe(tmp_path / "a.yaml")

    def test_a_missing_base_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
        with pytest.raises(ConfigError, match=r"b\.yaml does not exist"):
            read_recipe(tmp_path / "a.yaml")
