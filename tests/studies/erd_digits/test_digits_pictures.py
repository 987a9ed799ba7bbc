"""Pictures of the digits experiment: what they leave out, and that arms differ by more than colour."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from eisbach.studies.erd_digits.page import _STYLES, COLOURS, LABELS, samples_picture, setting_name, write_digits_page
from eisbach.studies.erd_digits.spec import DigitsConfig


def height(png: bytes | None) -> int:
    assert png is not None
    return struct.unpack(">II", png[16:24])[1]


def test_an_arm_that_was_not_trained_has_no_row(tmp_path: Path) -> None:
    for arm in ("constant", "erd"):
        folder = tmp_path / "cells" / f"dit-eps-{arm}-0"
        folder.mkdir(parents=True)
        np.save(folder / "samples.npy", np.zeros((20, 8, 8, 1), dtype=np.uint8))
    two = height(samples_picture(tmp_path, "dit", ["constant", "erd"], ["eps"]))
    assert height(samples_picture(tmp_path, "dit", ["constant", "erd", "entropy_barrier"], ["eps"])) == two
    assert height(samples_picture(tmp_path, "dit", ["erd"], ["eps"])) < two
    assert samples_picture(tmp_path, "unet", ["constant", "erd"], ["eps"]) is None


def test_a_replication_shows_the_digits_of_its_own_first_seed(tmp_path: Path) -> None:
    for backbone in ("dit", "unet"):
        folder = tmp_path / "cells" / f"{backbone}-eps-constant-3"
        folder.mkdir(parents=True)
        np.save(folder / "samples.npy", np.zeros((20, 8, 8, 1), dtype=np.uint8))
    config = DigitsConfig(out=str(tmp_path), backbones=["dit", "unet"], targets=["eps"], seeds=1, first_seed=3)
    rows = [
        {"backbone": "dit", "target": "eps", "arm": "constant", "seed": 3, "step": step, "frechet": 9.0}
        for step in (1, 2)
    ]
    summary = {
        "classifier_accuracy": 0.97, "floor": {"frechet": 8.0}, "comparisons": [], "means": [],
        "declared": {"metric": "Fréchet"},
    }  # fmt: skip
    page = write_digits_page(config, rows, summary).read_text("utf-8")
    assert "Digits of the DiT" in page
    assert "Digits of the UNet" in page
    assert "seed 3" in page


def test_settings_are_named_for_people() -> None:
    assert setting_name("uvit/eps") == "U-ViT, ε"
    assert setting_name("all settings") == "all settings"


def test_arms_differ_in_line_or_mark() -> None:
    assert set(_STYLES) == set(COLOURS) == set(LABELS)
    assert len({str(style) for style in _STYLES.values()}) == len(_STYLES)
