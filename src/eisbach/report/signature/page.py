"""The signature's page: one self-contained `index.html` with the half times, pictures and the bias against step
count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eisbach.diagnostics.signature.curve import SignatureCurve
from eisbach.diagnostics.signature.run import SignatureResult, half_time_shifts
from eisbach.files import write_text
from eisbach.report.allocation_figure import DPI
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures
from eisbach.report.signature.figures import curves_picture

PAGE, PICTURES = "index.html", "pictures"
_SOURCES = {"reverse": "the model’s own trajectories", "forward": "noised samples"}
_READ = (
    "Above: the share of H[Z] that is still open, from noise on the left to data on the right; below: how fast it is "
    "decided. Bands are "
    "95% intervals over trajectories, a dot is the half time."
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
    for arm, found in result.arms.items():
        chains = [curve for curve in found if curve.estimator == "chain"]
        title = f"{arm}: {chains[0].quantity} by the chain"
        made.append(_picture(arm, title, [(one.partition, one) for one in chains]))
    for partition in [curve.partition for curve in next(iter(result.arms.values())) if curve.estimator == "chain"]:
        every = [
            (f"{arm}, {curve.estimator}", curve)
            for arm, found in result.arms.items()
            for curve in found
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
    for arm, found in result.arms.items():
        chains = [curve for curve in found if curve.estimator == "chain" and curve.quantity == "entropy"]
        if not chains:
            continue
        ordered = sorted(chains, key=lambda one: -1.0 if one.half.t is None else -one.half.t)
        said.append(
            f"Along {_SOURCES.get(arm, f'the trajectories {arm}')} half of each is decided (95% interval): "
            + "; ".join(f"{one.partition} {_half(one)}" for one in ordered)
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
    rows = [_cells(arm, curve) for arm, found in result.arms.items() for curve in found]
    return NumberTable("Half times", "Every arm, partition and estimator; entropies in nats.", head, rows)


def _cells(arm: str, curve: SignatureCurve) -> list[str]:
    half, at, loss = curve.half, curve.half.t, curve.meta.get("log_loss")
    bias = max((abs(a - b) for a, b in zip(curve.fine, curve.coarse, strict=True)), default=None)
    return [
        arm,
        curve.partition,
        curve.estimator,
        curve.quantity,
        f"{curve.prior_entropy:.3f}",
        f"{curve.entropy[-1]:.3f}",
        "never" if half.t is None else f"{half.t:.3f}",
        "–" if half.t_lo is None or half.t_hi is None else f"{half.t_lo:.3f} to {half.t_hi:.3f}",
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
