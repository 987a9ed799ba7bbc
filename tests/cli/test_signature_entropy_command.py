"""`eisbach signature entropy`, `structure` and `gate` from the command line, and generation with a measured
schedule."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from eisbach.backbones import create_backbone, load_backbone
from eisbach.cli.main import app
from eisbach.errors import UserError
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import check_spec
from eisbach.generation.images import ImageSampling, sample_images

UNET = {
    "latent_channels": 1, "latent_size": 8, "channels": 8, "multipliers": [1], "blocks": 1, "attention": [],
    "groups": 4, "head_width": 8,
    "classes": 10, "path": "cosine", "target": "v",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("digits") / "model"
    create_backbone(UNET, kind="unet", seed=0).save(folder)
    return str(folder)


def run(*words: str):
    return CliRunner().invoke(app, ["signature", *words])


def test_a_digits_model_is_measured_and_then_sampled_by_its_curve(model, tmp_path) -> None:
    file = tmp_path / "curve.json"
    words = ["--model", model, "--data", "digits", "--samples", "6", "--levels", "6", "--out", str(file)]
    found = run("entropy", *words, "--json", "-q")
    assert found.exit_code == 0, found.output
    content = json.loads(file.read_text())
    assert content == json.loads(found.output)
    assert content["dims"] == 64
    assert content["path"] == "cosine"
    assert len(content["mse"]) == 6
    assert all(
        lo <= mid <= hi for lo, mid, hi in zip(content["mse_lo"], content["mse"], content["mse_hi"], strict=True)
    )
    backbone = load_backbone(model)
    shared = {"num_inference_steps": 3, "schedule": "rescaled-entropic", "schedule_options": {"curve": str(file)}}
    images = sample_images(backbone, ["0", "1"], ImageSampling(method="euler", **shared))
    assert images.shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="measured curve"):
        sample_images(backbone, ["0"], ImageSampling(schedule="rescaled_entropic", num_inference_steps=3))


def test_dry_runs_print_the_configuration_and_write_nothing(model, tmp_path) -> None:
    file = tmp_path / "curve.json"
    found = run("entropy", "--model", model, "--data", "digits", "--out", str(file), "--dry-run")
    assert found.exit_code == 0, found.output
    assert "samples: 64" in found.output
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", "digits", "--samples", "100000"], "ask for fewer"),
        (["--data", "digits", "--set", "coupling=optimal_transport"], "optimal transport"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, tmp_path, words, message) -> None:
    found = run("entropy", "--model", model, *words, "--out", str(tmp_path / "c.json"), "-q")
    assert isinstance(found.exception, UserError)
    assert message in str(found.exception)


def test_rows_of_a_probe_become_a_signature(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"clip": f"c{i}", "t": t, "label.flat": str(i % 2 == 0).lower(),
         "belief": 1 / (1 + math.exp(-(rng.normal() + (t < 0.7) * (4 if i % 2 == 0 else -4))))}
        for i in range(40) for t in (0.9, 0.5)
    ]  # fmt: skip
    file, out = tmp_path / "rows.jsonl", tmp_path / "s.json"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert run("structure", str(file), "--out", str(out)).exit_code == 0
    found = json.loads(out.read_text())
    (_, late), (_, early) = sorted(zip(found["t"], found["entropy"], strict=True))
    assert late < early


def test_generation_takes_the_curve_as_an_option_and_refuses_a_missing_one(tmp_path) -> None:
    words = [
        "generate",
        "strings",
        "--schedule",
        "rescaled_entropic",
        "--schedule-option",
        "curve=gone.json",
        "--out",
        str(tmp_path),
    ]
    found = CliRunner().invoke(app, [*words, "--dry-run"])
    assert "curve: gone.json" in found.output
    found = CliRunner().invoke(app, [*words, "-q"])
    assert isinstance(found.exception, UserError)
    assert "gone.json" in str(found.exception)
    assert not list(tmp_path.glob("*.json"))


def test_the_recipe_gated_differs_from_its_ungated_arm_by_the_gate_alone() -> None:
    for quick in (False, True):
        check_spec(load_spec("gated", quick=quick))
    arms = {name: arm.overrides["weighting"] for name, arm in load_spec("gated").arms.items()}
    gate = {key: arms["gated"]["options"].pop(key) for key in ("gate_below", "gate_width")}
    assert arms["gated"] == arms["clips"]
    assert arms["clips"] == load_spec("levels").arms["clips"].overrides["weighting"]  # their records are joined
    assert 0 < gate["gate_width"] < gate["gate_below"] < 1
