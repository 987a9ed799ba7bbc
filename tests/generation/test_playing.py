"""What is played on: several adapters with intervals, from a text or a configuration to the record of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapter_files import make_adapter
from typer.testing import CliRunner

from eisbach.audio import audio_hash
from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.errors import CheckpointError, ConfigError, UserError
from eisbach.generation import GenerateConfig, generate
from eisbach.generation.config import parse_adapter

RUN = CliRunner()


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders as training leaves them."""
    root = tmp_path_factory.mktemp("runs")
    make_adapter(tiny_model, root / "form" / "adapter", 1, kind="lora", rank=2, alpha=2.0)
    make_adapter(tiny_model, root / "timbre" / "adapter", 2, rank=2, alpha=2.0)
    return root


def config_of(model: Path, out: Path, **changes: Any) -> GenerateConfig:
    values: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "prompts": [{"id": "calm", "text": "slow low cello"}],
        "num_inference_steps": 4,
        "duration": 2.0,
    }
    return build_config(GenerateConfig, values | changes)


def sound(folder: Path) -> str:
    return audio_hash(folder / "calm_seed-0.flac")


def made(model: Path, out: Path, **changes: Any) -> str:
    generate(config_of(model, out, **changes), quiet=True)
    return sound(out)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("runs/x", {"file": "runs/x"}),
        ("a=runs/x", {"file": "runs/x", "name": "a"}),
        ("runs/x:0.8", {"file": "runs/x", "strength": 0.8}),
        ("runs/x:-1", {"file": "runs/x", "strength": -1.0}),
        ("runs/x@0.3-1.0", {"file": "runs/x", "interval": (0.3, 1.0)}),
        ("a b=runs/x:0.8@.3-1", {"file": "runs/x", "name": "a b", "strength": 0.8, "interval": (0.3, 1.0)}),
        (r"C:\runs\x.safetensors", {"file": r"C:\runs\x.safetensors"}),
        (r"a=C:\runs\x.safetensors:2", {"file": r"C:\runs\x.safetensors", "name": "a", "strength": 2.0}),
        ("runs/lr=1e-4/x", {"file": "runs/lr=1e-4/x"}),
    ],
)
def test_what_a_text_names(text: str, values: dict[str, Any]) -> None:
    assert parse_adapter(text) == values


def test_a_file_whose_name_looks_like_more_is_that_file(tmp_path: Path) -> None:
    strange = tmp_path / "a=b:1@0-1"
    strange.mkdir()
    assert parse_adapter(str(strange)) == {"file": str(strange)}


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ("x:loud", "'loud' is no strength"),
        ("x:", "'' is no strength"),
        ("x@high", "'high' is no interval"),
        ("x@0.3-high", "'high' is no noise level"),
        ("x@0.3-1.5", "noise levels lie from 0"),
        ("x@0.8-0.2", "the lower one comes first"),
        ("x@0.5-0.5", "no noise level lies between"),
        ("x:9", "strength"),
        ({"file": "x", "interval": [0.2]}, "interval"),
        ({"file": "x", "weight": 1}, "unknown key"),
    ],
)
def test_faults_of_an_adapter_are_sentences(tmp_path: Path, adapter: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of(tmp_path, tmp_path, adapters=[adapter])


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two adapters are called 'x'"):
        config_of(tmp_path, tmp_path, adapters=["runs/x", "other/x"])
    with pytest.raises(ConfigError, match="both given"):
        config_of(tmp_path, tmp_path, adapters=["runs/x"], adapter="runs/y")


def test_a_single_adapter_that_acts_everywhere_is_recorded_as_ever(
    tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    generate(
        config_of(tiny_model, tmp_path / "old", adapter=str(runs / "form/adapter"), adapter_strength=0.5), quiet=True
    )
    generate(config_of(tiny_model, tmp_path / "new", adapters=[f"{runs / 'form'}:0.5@0-1"]), quiet=True)
    assert sound(tmp_path / "old") == sound(tmp_path / "new")
    old, new = (json.loads((tmp_path / name / "generation.json").read_text()) for name in ("old", "new"))
    assert old == new
    assert "adapters" not in old


def test_several_adapters_are_heard_and_recorded(tiny_model: Path, runs: Path, tmp_path: Path) -> None:
    form, timbre = f"{runs / 'form'}@0.6-1", f"t={runs / 'timbre'}:0.7@0-0.5"
    both = made(tiny_model, tmp_path / "both", adapters=[form, timbre])
    others = {
        made(tiny_model, tmp_path / "base"),
        made(tiny_model, tmp_path / "form", adapters=[form]),
        made(tiny_model, tmp_path / "timbre", adapters=[timbre]),
    }
    assert len(others | {both}) == 4
    stamp = json.loads((tmp_path / "both" / "generation.json").read_text())
    assert [(item["name"], item["strength"], item["interval"]) for item in stamp["adapters"]] == [
        ("form", 1.0, [0.6, 1.0]),
        ("t", 0.7, [0.0, 0.5]),
    ]
    assert stamp["adapter_files"] == [str(runs / "form/adapter"), str(runs / "timbre/adapter")]
    (row,) = load_manifest(tmp_path / "both")
    assert row.labels["adapters"] == "form:1@0.6-1 + t:0.7@0-0.5"


def test_an_interval_that_no_step_visits_and_strength_zero_are_the_base(
    tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    base = made(tiny_model, tmp_path / "base", schedule="uniform")
    form, timbre = runs / "form", runs / "timbre"
    between = made(tiny_model, tmp_path / "between", schedule="uniform", adapters=[f"{form}@0.8-0.9"])
    silent = made(tiny_model, tmp_path / "silent", schedule="uniform", adapters=[f"{form}:0", f"{timbre}:0@0-0.5"])
    assert base == between == silent


def test_a_folder_goes_on_with_the_same_adapters_elsewhere_and_refuses_others(
    tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    texts = [f"{runs / 'form'}@0.6-1", f"{runs / 'timbre'}:0.7"]
    made(tiny_model, out, adapters=texts)
    shutil.copytree(runs / "form" / "adapter", moved)
    made(tiny_model, out, adapters=[f"form={moved}@0.6-1", texts[1]], seeds=[0, 1])
    assert len(load_manifest(out)) == 2
    with pytest.raises(UserError, match="adapters"):
        made(tiny_model, out, adapters=[f"{runs / 'form'}@0.5-1", texts[1]])


def test_the_command_plays_several_and_says_what_is_wrong(tiny_model: Path, runs: Path, tmp_path: Path) -> None:
    command = ["generate", "slow cello", "--model", str(tiny_model), "--steps", "3", "--duration", "2", "--quiet"]
    both = ["--adapter", f"a={runs / 'form'}:0.8@0.3-1.0", "--adapter", str(runs / "timbre")]
    result = RUN.invoke(app, [*command, *both, "--strength", "0.4", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    stamp = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert stamp["arm"] == "a + timbre"
    assert [item["strength"] for item in stamp["adapters"]] == [0.8, 0.4]
    dry = RUN.invoke(app, [*command, *both, "--out", str(tmp_path / "out"), "--dry-run"])
    assert dry.exit_code == 0
    assert "name: timbre" in dry.output
    for text, told in (
        ("missing.safetensors", "missing.safetensors does not exist"),
        ("x:loud", "--adapter is 'x:loud': 'loud' is no strength"),
    ):
        with pytest.raises(UserError, match=told):
            RUN.invoke(app, [*command, "--adapter", text, "--out", str(tmp_path / "no")], catch_exceptions=False)
    assert not (tmp_path / "no").exists()


def test_an_adapter_of_another_base_is_refused_among_several(
    tiny_model: Path, make_tiny_model: Any, runs: Path, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "other", seed=9)
    foreign = make_adapter(model, tmp_path / "foreign", 3, kind="lora", rank=2, alpha=2.0)
    with pytest.raises(CheckpointError, match="foreign was trained on the base model"):
        made(tiny_model, tmp_path / "out", adapters=[str(runs / "form"), str(foreign)])
    assert not list((tmp_path / "out").glob("*.flac"))
    made(tiny_model, tmp_path / "out", adapters=[str(runs / "form"), str(foreign)], any_base=True)
