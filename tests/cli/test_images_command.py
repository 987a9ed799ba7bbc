"""`eisbach images`: its two commands on tiny inputs."""

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from eisbach.cli.images import app
from eisbach.data.images import load_digits
from eisbach.image_quality.digits_classifier import pixels_and_labels, train_classifier


def test_quality_of_digits_against_digits(tmp_path):
    digits = load_digits()
    train, held = digits.split(0.25)
    train_classifier(type(train)(train.items[:300], train.classes), held).save(tmp_path / "features")
    pixels, _ = pixels_and_labels(held)
    for name, part in (("reference", pixels[:60]), ("samples", pixels[60:110])):
        (tmp_path / name).mkdir()
        for number, image in enumerate(part):
            Image.fromarray(image[..., 0]).save(tmp_path / name / f"{number}.png")
    arguments = [
        "quality",
        "--features",
        "digits",
        "--weights",
        str(tmp_path / "features"),
        "--samples",
        str(tmp_path / "samples"),
    ]
    saved = str(tmp_path / "reference.npz")
    first = CliRunner().invoke(app, [*arguments, "--reference", str(tmp_path / "reference"), "--save", saved, "--json"])
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    assert result["samples"] == 50
    assert result["fid"] > 0
    assert result["precision"] > 0.5
    second = CliRunner().invoke(app, [*arguments, "--reference", saved])
    assert "precision" in second.stdout
    assert format(result["fid"], ".4g") in second.stdout
    np.savez(tmp_path / "noise.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    dry = CliRunner().invoke(app, [*arguments, "--reference", saved, "--dry-run"])
    assert json.loads(dry.stdout)["features"] == "digits"


def test_sample_prints_its_configuration():
    result = CliRunner().invoke(app, ["sample", "embedded", "--guidance", "2", "--interval", "0", "0.8", "--dry-run"])
    assert result.exit_code == 0
    assert "guidance_scale: 2.0" in result.stdout
    assert "- 0.8" in result.stdout


def test_a_guidance_that_is_no_number_is_refused():
    result = CliRunner().invoke(app, ["sample", "nowhere", "--guidance", "nan", "--dry-run"])
    assert "'--guidance'" in str(result.exception)
    assert "finite number" in str(result.exception)
