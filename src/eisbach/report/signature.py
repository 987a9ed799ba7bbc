"""The signature's page: one self-contained `index.html` with the half times, pictures and the bias against step
count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.diagnostics.signature.curve import SignatureCurve
from eisbach.diagnostics.signature.run import SignatureResult, half_time_shifts
from eisbach.files import write_text
from eisbach.report.allocation_figure import COLOURS, INK, LINE, SOFT, STYLES
from eisbach.report.fonts import DPI, figure_png, new_figure
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures

PAGE, PICTURES = "index.html", "pictures"
_SOURCES = {"reverse": "the model’s own trajectories", "forward": "noised samples"}
_READ = (
    "Above: the share of H[Z] that is still open, from noise on the left to data on the right; below: how fast it is "
    "decided. Bands are 95% intervals over trajectories, a dot is the half time."
)


def write_signature_page(result: SignatureResult, folder: str | Path) -> Path:
    """Writes `folder/index.html` and `folder/pictures/*.png`, each atomically; returns the page's path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    pictures = _pictures(result)
    save_pictures(pictures, folder / PICTURES)
    meta = result.meta
    first = next(iter(result.arms.values()))
    page = render_page(
        "signature.html.j2",
        title="When is it decided?",
        question="At which noise level do the samples of this model take on their class, their words, or groups of "
        "them?",
        facts=[
            ("classes", str(max(len(curve.groups) for curve in first))),
            ("steps", str(meta["steps"])),
            ("trajectories a class", str(meta["trajectories"])),
        ],
        headline=_headline(result),
        shifts=_shifts(result),
        table=_table(result),
        pictures=[picture.embedded(DPI) for picture in pictures],
        model=str(meta["model"]),
        identity=str(meta["model_identity"]),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _pictures(result: SignatureResult) -> list[PagePicture]:
    """One picture an arm (what is decided when), then one a partition (do arms and estimators agree?)."""
    made = []
    for arm, curves in result.arms.items():
        chains = [curve for curve in curves if curve.estimator == "chain"]
        title = f"{arm}: {chains[0].quantity} by the chain"
        made.append(_picture(arm, title, [(curve.partition, curve) for curve in chains]))
    for partition in [curve.partition for curve in next(iter(result.arms.values())) if curve.estimator == "chain"]:
        every = [
            (f"{arm}, {curve.estimator}", curve)
            for arm, curves in result.arms.items()
            for curve in curves
            if curve.partition == partition
        ]
        made.append(_picture(f"partition-{partition}", f"{partition}: arms and estimators", every))
    return made


def _picture(name: str, title: str, curves: Sequence[tuple[str, SignatureCurve]]) -> PagePicture:
    said = "; ".join(f"{label} {_half(curve)}" for label, curve in curves)
    return PagePicture(name, title, _READ, f"Half times: {said}.", curves_picture(curves, title))


def _half(curve: SignatureCurve) -> str:
    """'at t = 0.62 (0.60 to 0.64)', or that it never is."""
    half = curve.half
    if half.t is None:
        return "never by half"
    interval = "" if half.t_lo is None or half.t_hi is None else f" ({half.t_lo:.2f} to {half.t_hi:.2f})"
    return f"at t = {half.t:.2f}{interval}"


def _headline(result: SignatureResult) -> list[str]:
    """A sentence an unguided arm: what is decided in which order along generation, with 95% intervals."""
    said = []
    for arm, curves in result.arms.items():
        chains = [curve for curve in curves if curve.estimator == "chain" and curve.quantity == "entropy"]
        if not chains:
            continue
        ordered = sorted(chains, key=lambda curve: -1.0 if curve.half.t is None else -curve.half.t)
        said.append(
            f"Along {_SOURCES.get(arm, f'the trajectories {arm}')} half of each is decided (95% interval): "
            + "; ".join(f"{curve.partition} {_half(curve)}" for curve in ordered)
            + ". Noise is t = 1."
        )
    return said


def _table(result: SignatureResult) -> NumberTable:
    head = [
        "arm",
        "Z",
        "reading",
        "quantity",
        "H[Z], nats",
        "at the last level",
        "half at t",
        "95%",
        "log-SNR",
        "bias",
        "log loss",
    ]
    rows = [_cells(arm, curve) for arm, curves in result.arms.items() for curve in curves]
    return NumberTable("Half times", "Every arm, partition and estimator; entropies in nats.", head, rows)


def half_cells(curve: SignatureCurve) -> list[str]:
    """Entropy before and at the last level in nats, and the half time with its interval, as a table shows them."""
    half = curve.half
    return [
        f"{curve.prior_entropy:.3f}",
        f"{curve.entropy[-1]:.3f}",
        "never" if half.t is None else f"{half.t:.3f}",
        "–" if half.t_lo is None or half.t_hi is None else f"{half.t_lo:.3f} to {half.t_hi:.3f}",
    ]


def _cells(arm: str, curve: SignatureCurve) -> list[str]:
    half, at, loss = curve.half, curve.half.t, curve.meta.get("log_loss")
    bias = max((abs(a - b) for a, b in zip(curve.fine, curve.coarse, strict=True)), default=None)
    return [
        arm,
        curve.partition,
        curve.estimator,
        curve.quantity,
        *half_cells(curve),
        "–" if half.log_snr is None else f"{half.log_snr:.2f}",
        "–" if bias is None else f"{bias:.3f}",
        "–" if at is None or not loss else f"{float(np.interp(-at, [-t for t in curve.t], loss)):.3f}",
    ]


def _shifts(result: SignatureResult) -> str:
    rows = [row for row in half_time_shifts(result) if row["t"] is not None]
    if not rows:
        return ""
    said = "; ".join(f"{row['arm']}, {row['partition']}: {row['t']:+.3f}" for row in rows)
    return f"Guidance moves the half time in t (positive: decided nearer to noise) by: {said}."


# --- pictures: curves with intervals over noise levels, and scaling with dimension


def curves_picture(curves: Sequence[tuple[str, SignatureCurve]], title: str, out: str | Path | None = None) -> bytes:
    """PNG: share of the prior entropy that is left (above) and the rate dH/dt (below) over t, noise on the left.

    Parameters
    ----------
    curves : sequence of (label, SignatureCurve)
        Bands are 95% intervals over trajectories; a dot marks the half time.
    """
    figure, axes = _axes(2, (7.2, 5.6))
    for index, (label, curve) in enumerate(curves):
        line: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}
        whole = curve.prior_entropy
        axes[0].plot(curve.t, np.array(curve.entropy) / whole, label=label, linewidth=1.6, **line)
        low, high = (np.array(part) / whole for part in (curve.entropy_lo, curve.entropy_hi))
        axes[0].fill_between(curve.t, low, high, color=line["color"], alpha=0.13, linewidth=0)
        if curve.half.t is not None:
            axes[0].plot([curve.half.t], [0.5], "o", color=line["color"], markersize=5)
        axes[1].plot(curve.t, curve.rate, linewidth=1.6, **line)
        axes[1].fill_between(curve.t, curve.rate_lo, curve.rate_hi, color=line["color"], alpha=0.13, linewidth=0)
    quantity = "cross-entropy" if any(curve.quantity == "cross-entropy" for _, curve in curves) else "entropy"
    axes[0].set_ylabel(f"{quantity} left / H[Z]", color=INK)
    axes[1].set_ylabel("rate, nats per unit of t", color=INK)
    axes[1].set_xlabel("noise level t (1 is noise; generation goes to the right)", color=INK)
    axes[0].set_title(title, loc="left", fontsize=10, color=INK)
    axes[0].axhline(0.5, color=LINE, linewidth=0.8)
    for axis in axes:
        axis.set_xlim(1, 0)
        axis.axhline(0, color=LINE, linewidth=0.8)
    axes[0].legend(frameon=False, fontsize=8, loc="best")
    return figure_png(figure, out)


def mixture_picture(study: Mapping[str, Any], out: str | Path | None = None) -> bytes:
    """PNG of `mixture.json`: curves by dimension in OU time over its half point, and in ln sigma over its own; times
    against ln d."""
    figure, axes = _axes(3, (7.2, 9.6), share=False)
    times, dims = [], []
    for index, row in enumerate(study["rows"]):
        if row["half_log_snr"] is None:
            continue
        line: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}
        log_snr = np.array([np.nan if value is None else value for value in row["log_snr"]])
        share = np.array(row["entropy"]) / row["prior_entropy"]
        tau = 0.5 * np.logaddexp(0, -log_snr)
        axes[0].plot(tau / row["half_ou_time"], share, label=f"d = {row['dim']}", linewidth=1.5, **line)
        axes[1].plot(-log_snr / 2 + row["half_log_snr"] / 2, share, linewidth=1.5, **line)
        dims.append(row["dim"])
        times.append((row["half_ou_time"], row["predicted_ou_time"], -row["half_log_snr"] / 2))
    axes[0].set_xlim(0, 2)
    axes[0].set_xlabel("VP (Ornstein-Uhlenbeck) time over the time of half the entropy: sharpens with d", color=INK)
    axes[1].set_xlabel("ln sigma minus its half point (EDM): does not sharpen", color=INK)
    for axis in axes[:2]:
        axis.set_ylabel("entropy left / H[Z]", color=INK)
    if times:
        axes[0].legend(frameon=False, fontsize=8)
        half, predicted, sigma = (
            np.array([np.nan if v is None else v for v in column]) for column in zip(*times, strict=True)
        )
        x = 0.5 * np.log(dims)
        axes[2].plot(x, half, "o", color=COLOURS[0], label="VP time of half the entropy")
        axes[2].plot(x, predicted, "-", color=COLOURS[0], linewidth=1, label="predicted instability, r = 1")
        axes[2].plot(
            x,
            sigma,
            "s",
            color=COLOURS[1],
            markersize=9,
            markerfacecolor="none",
            label="ln sigma of half the entropy (EDM)",
        )
        axes[2].plot(x, x + half[-1] - x[-1], ":", color=SOFT, linewidth=1, label="slope 1")
        axes[2].set_xlabel("½ ln d", color=INK)
        axes[2].set_ylabel("time, or ln sigma", color=INK)
        axes[2].legend(frameon=False, fontsize=8)
    else:
        axes[0].set_title("no mixture here ever decides half of its classes", fontsize=9, color=SOFT)
    return figure_png(figure, out)


def _axes(rows: int, size: tuple[float, float], share: bool = True) -> tuple[Any, Any]:
    figure = new_figure(*size)
    axes = figure.subplots(rows, 1, sharex=share)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(LINE)
        axis.tick_params(colors=SOFT, labelsize=8)
        axis.yaxis.label.set_size(9)
        axis.xaxis.label.set_size(9)
    return figure, axes
