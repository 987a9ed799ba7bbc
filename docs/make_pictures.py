"""Draws the pictures of docs/weighting.md and docs/structure.md from the library's own tables, so that they show what
the code does.

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


RATE = 2.0  # frames per second of the synthetic latents below
KINDS = ("drone", "noise texture", "loop of 4 s", "developing")


def synthetic_latents(kind: str) -> torch.Tensor:
    """Latents [shape=(1, 24, 120)] of a minute of each kind, at 2 frames/s: what a perfect model would predict."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(24, 64, generator=generator)
    grain = torch.randn(24, 120, generator=generator)
    frames = torch.arange(120)
    if kind == "drone":
        music = states[:, :1].expand(-1, 120)
    elif kind == "noise texture":
        return (0.55 * states[:, :1] + 0.85 * grain)[None]
    elif kind == "loop of 4 s":
        levels = torch.tensor([1.35, 0.75, 1.1, 0.5, 1.25, 0.8, 0.9, 0.6])
        music = states[:, 1:9][:, frames % 8] * levels[frames % 8]
    else:  # a new state every two seconds, with phrases that swell and fade
        swell = 0.55 + 0.85 * torch.sin(torch.pi * (frames % 24) / 24)
        music = states[:, frames // 4 + 9] * swell
    return (music + 0.08 * grain)[None]


def entropy_barrier(out: Path) -> None:
    """Eqs. 1-4 step by step for four kinds of sound, beside what the statistics that look for return say."""
    import matplotlib.pyplot as plt

    from eisbach.weighting import SAMPLE_WEIGHTINGS

    others = {name: make for name, make in SAMPLE_WEIGHTINGS.items() if name != "entropy_barrier"}
    figure, panels = plt.subplots(2, len(KINDS), figsize=(13.5, 5.2), sharex=True, sharey="row", layout="constrained")
    seconds = (torch.arange(120) / RATE).numpy()
    for column, kind in enumerate(KINDS):
        latents = synthetic_latents(kind)
        energy = latents[0].square().mean(0)  # Eq. 1
        share = energy.softmax(0)  # Eq. 2
        top, bottom = panels[0, column], panels[1, column]
        top.plot(seconds, energy.numpy(), color="#0072b2", linewidth=1.4)
        bottom.fill_between(seconds, 120 * share.numpy(), color="#e69f00", linewidth=0)
        bottom.axhline(1.0, color="#555555", linewidth=0.8)
        entropy = SAMPLE_WEIGHTINGS["entropy_barrier"]()(latents)
        lines = [f"entropy: B = {float(entropy.belief):.3f}, w = {float(entropy.weight):.2f}"]
        context = {"x_t": latents, "t": torch.zeros(1), "path": "linear", "target": "x0"}
        for name, make in others.items():
            found = make(window_seconds=3.0, latent_rate=RATE)(latents, **context)
            lines.append(
                f"{name.removesuffix('_barrier')}: B = {float(found.belief):.3f}, w = {float(found.weight):.2f}"
            )
        top.set_title(kind, loc="left", fontsize=12)
        bottom.text(0.03, 0.95, "\n".join(lines), transform=bottom.transAxes, va="top", fontsize=9.5)
        bottom.set_xlabel("s")
        for panel in (top, bottom):
            panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("energy of a frame, e")
    panels[1, 0].set_ylabel("softmax of e, times T")
    panels[1, 0].set_ylim(0, 6)
    figure.savefig(out, dpi=90)
    plt.close(figure)


SHOWN = ("drone", "pad", "texture noise", "texture cloud", "loop 1.5-3 s", "loop 3-6 s", "loop 6-12 s")
COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#000000", "#cc79a7")


def sample_auc(out: Path) -> None:
    """AUC of each sample weight against each flat kind, by noise level, as the study `belief_auc` recorded it."""
    import json

    import matplotlib.pyplot as plt

    results = json.loads(
        (Path(__file__).parents[1] / "src/eisbach/studies/belief_auc/records/belief_auc.json").read_text()
    )
    name = next(key for key in reversed(results["sections"]) if key.endswith("30 s"))
    section = results["sections"][name]
    weightings = ("entropy (paper)", "recurrence R^4, 3 s", "development")
    figure, panels = plt.subplots(
        1, len(weightings), figsize=(4.2 * len(weightings), 4.4), sharey=True, layout="constrained"
    )
    for panel, weighting in zip(panels, weightings, strict=True):
        rows = [row for row in section["table"] if row["weighting"] == weighting and row["t"] > 0]
        levels = [row["t"] for row in rows]
        for kind, colour in zip(SHOWN, COLOURS, strict=True):
            cells = [row["cells"][kind] for row in rows]
            panel.plot(levels, [cell["auc"] for cell in cells], color=colour, linewidth=1.6, marker="o", markersize=3.5)
            low, high = zip(*(cell["interval"] for cell in cells), strict=True)
            panel.fill_between(levels, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.axhline(0.5, color="#777777", linewidth=0.8)
        panel.set_title(weighting, loc="left", fontsize=12)
        panel.set_xlabel("noise level t (1 = noise)")
        panel.set_ylim(0.2, 1.01)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUC, developing against")
    figure.legend(panels[0].lines[: len(SHOWN)], SHOWN, loc="outside lower center", ncols=len(SHOWN), frameon=False)
    figure.savefig(out, dpi=90)
    plt.close(figure)


PIECES = ("AABA", "ABCA", "loop of 3 s", "drone")


def structure_clips() -> list[Any]:
    """Pieces whose structure is known, half a minute each: two with sections, two without."""
    from eisbach.report.structure.style import PictureClip
    from eisbach.studies.ground_truth import synthetic

    made = (
        synthetic.form("AABA", 8.0, 5),
        synthetic.form("ABCA", 8.0, 6),
        synthetic.loop(3.0, 2, 32.0),
        synthetic.drone(1, 32.0),
    )
    return [PictureClip(name, piece, name) for name, piece in zip(PIECES, made, strict=True)]


def structure_figure(kind: str) -> Callable[[Path], None]:
    """What `eisbach figure KIND` draws of those pieces."""

    def draw(out: Path) -> None:
        from eisbach.report.structure.figures import KINDS

        shrink(KINDS[kind].draw(structure_clips(), form="png"), out)

    return draw


def shrink(png: bytes, out: Path, width: int = 1000) -> None:
    """A figure of 300 dots an inch as a page shows it: fewer pixels, 256 colours."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, optimize=True)


PICTURES: dict[str, Callable[[Path], None]] = {
    "noise-weights": noise_weights,
    "densities": densities,
    "allocation": allocation_weights,
    "allocation-stable-audio-3": allocation_stable_audio_3,
    "entropy-barrier": entropy_barrier,
    "sample-auc": sample_auc,
    "structure-ssm": structure_figure("ssm"),
    "structure-trajectory": structure_figure("trajectory"),
    "structure-motifs": structure_figure("motifs"),
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
