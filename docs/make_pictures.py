"""Draws the pictures of docs/weighting.md from the library's own tables, so that they show what the code does.

``python docs/make_pictures.py`` draws all of them into docs/images; names after it draw only those. One function a
picture, one line each in `PICTURES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from eisbach.diffusion.noise_levels import NoiseLevelDensity, get_density
from eisbach.diffusion.paths import get_path
from eisbach.errors import UserError
from eisbach.report.allocation_figure import (
    Curve,
    allocation_picture,
    draw_curves,
    noise_level_axis,
    panels_over_log_snr,
    save,
)
from eisbach.weighting import NOISE_WEIGHTINGS
from eisbach.weighting.allocation import allocation, common_grid

IMAGES = Path(__file__).parent / "images"
LOG_SNR = torch.linspace(-9, 9, 541, dtype=torch.float64)
LIMIT = 150_000  # bytes a picture


def noise_weights(out: Path) -> None:
    """Every scheme with its default options: on u and x0 of the linear path, on eps and v of the vp path."""
    cells = (("linear", "u"), ("linear", "x0"), ("vp", "eps"), ("vp", "v"))
    figure, panels = panels_over_log_snr(2, columns=2, width=13.5, height=8.6)
    panels[0].set_xlim(float(LOG_SNR[0]), float(LOG_SNR[-1]))
    for panel, (path, target) in zip(panels, cells, strict=True):
        curves, undefined = _weights(path, target)
        missing = f" (not defined there: {', '.join(undefined)})" if undefined else ""
        draw_curves(panel, curves, f"{target} on the {path} path{missing}", log=True, limits=(1e-3, 50.0))
        noise_level_axis(panel, LOG_SNR.numpy(), get_path(path).t_from_log_snr(LOG_SNR).numpy())
    save(figure, "Weight on the squared error of the trained target", out)


def _weights(path_name: str, target: str) -> tuple[list[Curve], list[str]]:
    """A curve a scheme, and the names of those that are undefined for this path and target."""
    path = get_path(path_name)
    t = path.t_from_log_snr(LOG_SNR)
    curves, undefined = [], []
    for index, (name, factory) in enumerate(NOISE_WEIGHTINGS.items()):
        if name == "tabulated":  # a table of the user's own, without a default
            continue
        try:
            curves.append(Curve(name, LOG_SNR.numpy(), factory()(path, target, t).numpy(), index))
        except UserError:
            undefined.append(name)
    return curves, undefined


def densities(out: Path) -> None:
    """Training densities over log-SNR and over t, on the linear path."""
    path = get_path("linear")
    t = path.t_from_log_snr(LOG_SNR)
    drawn: list[tuple[str, NoiseLevelDensity, int | None]] = [
        ("uniform", get_density("uniform"), None),
        ("logit_normal", get_density("logit_normal"), None),
        ("mode s=1.29", get_density("mode"), None),
        ("cosmap", get_density("cosmap"), None),
        ("edm", get_density("edm", path=path), None),
        ("edm p_mean=-0.4 p_std=1", get_density("edm", path=path, p_mean=-0.4, p_std=1.0), None),
        ("log_snr_uniform -8 to 8", get_density("log_snr_uniform", path=path, low=-8.0, high=8.0), None),
        ("trunc_logit_normal, 256 frames", get_density("trunc_logit_normal"), 256),
        ("trunc_logit_normal, 4096 frames", get_density("trunc_logit_normal"), 4096),
    ]
    over_t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    slope = path.log_snr_slope(t).abs()
    figure, (first, second) = panels_over_log_snr(2, height=7.6, share_x=False)
    first.set_xlim(float(LOG_SNR[0]), float(LOG_SNR[-1]))
    second.set_xlim(0, 1)
    draw_curves(first, [
        Curve(label, LOG_SNR.numpy(), (density.pdf(t, frames) / slope).numpy(), index)
        for index, (label, density, frames) in enumerate(drawn)
    ], "over log-SNR (per nat)", limits=(0, 0.5))  # fmt: skip
    draw_curves(second, [
        Curve(label, over_t.numpy(), density.pdf(over_t, frames).numpy(), index)
        for index, (label, density, frames) in enumerate(drawn)
    ], "over t", limits=(0, 4.0))  # fmt: skip
    noise_level_axis(first, LOG_SNR.numpy(), t.numpy())
    first.set_xlabel(second.get_xlabel(), fontsize=second.xaxis.label.get_size())
    second.set_xlabel("noise level t      ← data · noise →")
    save(figure, "Training densities on the linear path", out)


def allocation_weights(out: Path) -> None:
    """What a rectified flow with logit-normal noise levels is trained on under four weightings."""
    names = ["constant", "min_snr", "debiased", "erd"]
    _allocations(out, [(name, name, get_density("logit_normal")) for name in names], None)


def allocation_stable_audio_3(out: Path) -> None:
    """Stable Audio 3's own density at two minutes, unweighted, and what weightings make of it."""
    density = get_density("trunc_logit_normal")
    _allocations(out, [(label, name, density) for label, name in (
        ("unweighted", None), ("soft_min_snr", "soft_min_snr"), ("cosmap", "cosmap"))], 1292)  # fmt: skip


def _allocations(out: Path, arms: list[tuple[str, Any, NoiseLevelDensity]], frames: int | None) -> None:
    def each(log_snr: torch.Tensor | None) -> list[Any]:
        return [
            allocation(weight, density, "linear", "u", log_snr=log_snr, num_frames=frames)
            for _, weight, density in arms
        ]

    made = each(common_grid(each(None)))
    allocation_picture(made, [label for label, _, _ in arms], out=out)


PICTURES: dict[str, Callable[[Path], None]] = {
    "noise-weights": noise_weights,
    "densities": densities,
    "allocation": allocation_weights,
    "allocation-stable-audio-3": allocation_stable_audio_3,
}
"""File name to function; a new picture is one function and one line here."""


def main() -> int:
    """Draws the named pictures, or all; 1 when one is larger than a page should load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="pictures to draw; all unless named")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for the PNG files")
    chosen = parser.parse_args()
    too_large = False
    for name in chosen.names or PICTURES:
        file = chosen.out / f"{name}.png"
        PICTURES[name](file)
        size = file.stat().st_size
        too_large |= size > LIMIT
        print(f"{file}: {size / 1000:.0f} kB" + (" (too large)" if size > LIMIT else ""))
    return int(too_large)


if __name__ == "__main__":
    sys.exit(main())
