"""Pictures of the digits experiment: what they leave out, and that arms differ by more than colour."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from eisbach.report.digits_pictures import _STYLES, COLOURS, LABELS, samples_picture


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


def test_arms_differ_in_line_or_mark() -> None:
    assert set(_STYLES) == set(COLOURS) == set(LABELS)
    assert len({str(style) for style in _STYLES.values()}) == len(_STYLES)
