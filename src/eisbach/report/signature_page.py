"""The signature's page: one self-contained `index.html` with the half times, pictures and the bias against step count."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from eisbach.diagnostics.signature.curve import SignatureCurve
from eisbach.diagnostics.signature.run import SignatureResult, half_time_shifts
from eisbach.files import write_text
from eisbach.report.signature_figures import curves_picture

PAGE, PICTURES = "index.html", "pictures"


def write_signature_page(result: SignatureResult, folder: str | Path) -> Path:
    """Writes `folder/index.html` and `folder/pictures/*.png`, each atomically; returns the page's path."""
    folder = Path(folder)
    pictures = []
    for arm, found in result.arms.items():
        chains = [curve for curve in found if curve.estimator == "chain"]
        title = f"{arm}: {chains[0].quantity} by the chain, 95% over {chains[0].meta['trajectories']} trajectories"
        pictures.append((title, curves_picture([(one.partition, one) for one in chains], title, _file(folder, arm))))
    for partition in [curve.partition for curve in next(iter(result.arms.values())) if curve.estimator == "chain"]:
        title = f"{partition}: arms and estimators"
        every = [
            (f"{arm}, {curve.estimator}", curve)
            for arm, found in result.arms.items()
            for curve in found
            if curve.partition == partition
        ]
        pictures.append((title, curves_picture(every, title, _file(folder, f"partition-{partition}"))))
    style = resources.files("eisbach.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    figures = "".join(
        f'<figure><img style="max-width:100%" alt="{escape(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode("ascii")}"></figure>'
        for title, png in pictures
    )
    meta = result.meta
    body = (
        f"<h1>When is it decided?</h1><p>Class-conditional entropy H[Z | X<sub>t</sub>] of {escape(str(meta['model']))} "
        f"({escape(str(meta['model_identity']))}), {meta['steps']} steps, {meta['trajectories']} trajectories a class. "
        "The half time is the noise level at which half of what there is to decide is decided.</p>"
        f"{_table(result)}{_shifts(result)}{figures}"
        "<p>By the chain: stochastic trajectories, each step's likelihood ratio between classes. By the rate: the integrated "
        "distance between the classes' data estimates. Where trajectories were guided the reading is a cross-entropy, of what the "
        "unguided model would say of them. 'Bias' is entropy with every step less that with every second, at the "
        "level where it is largest; the chain's reading has it extrapolated away. 'Log loss' is the mean of -ln p(own group | x_t) at "
        "the half time: about half of H[Z] where the posterior is honest, more where it is overconfident.</p>"
    )
    write_text(
        folder / PAGE,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Signature</title><style>{style}</style></head><body><main>{body}</main></body></html>\n",
    )
    return folder / PAGE


def _file(folder: Path, name: str) -> Path:
    return folder / PICTURES / f"{name}.png"


def _table(result: SignatureResult) -> str:
    head = (
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
    )
    rows = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for arm, found in result.arms.items():
        for curve in found:
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(arm, curve)) + "</tr>")
    return f'<div style="overflow-x:auto"><table>{"".join(rows)}</table></div>'


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
    return f"<p>Guidance moves the half time in t (positive: decided nearer to noise) by: {escape(said)}.</p>"
