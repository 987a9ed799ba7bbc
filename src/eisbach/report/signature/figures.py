"""Pictures of class-conditional entropy: curves with intervals over noise levels, and scaling with dimension."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.diagnostics.signature.curve import SignatureCurve
from eisbach.files import atomic_write
from eisbach.report.allocation_figure import COLOURS, DPI, INK, LINE, SOFT, STYLES
from eisbach.report.fonts import save_figure


def curves_picture(curves: Sequence[tuple[str, SignatureCurve]], title: str, out: str | Path | None = None) -> bytes:
    """PNG: share of the prior entropy that is left (above) and the rate dH/dt (below) over t, noise on the left.

    Parameters
    ----------
    curves : sequence of (label, SignatureCurve)
        Bands are 95% intervals over trajectories; a dot marks the half time.
    """
    figure, axes = _figure(2, (7.2, 5.6))
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
    return _save(figure, out)


def mixture_picture(found: Mapping[str, Any], out: str | Path | None = None) -> bytes:
    """PNG of `mixture.json`: curves by dimension in OU time over its half point, and in ln sigma over its own; times
    against ln d."""
    figure, axes = _figure(3, (7.2, 9.6), share=False)
    times, dims = [], []
    for index, row in enumerate(found["rows"]):
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
    return _save(figure, out)


def _figure(rows: int, size: tuple[float, float], share: bool = True) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=share)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(LINE)
        axis.tick_params(colors=SOFT, labelsize=8)
        axis.yaxis.label.set_size(9)
        axis.xaxis.label.set_size(9)
    return figure, axes


def _save(figure: Any, out: str | Path | None) -> bytes:
    buffer = io.BytesIO()
    save_figure(figure, buffer, format="png")
    png = buffer.getvalue()
    if out is not None:
        atomic_write(out, lambda partial: _write(partial, png))
    return png


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
