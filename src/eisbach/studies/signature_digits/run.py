"""When are coarse and fine classes of digits decided, and what does guidance do to that?

    eisbach recoverability digits --out runs/digits
    python bench/signature_digits.py --digits runs/digits

Class-conditional entropy of networks that the digits experiment trained (one a training seed), along their own chains and along held-out digits that noise is
added to, and under guidance, everywhere and within t in [0.3, 0.7]. Coarse classes are Ward clusters of the digits' mean images, made before anything was measured: in
two (0 4 6 | the others) and in four (0 | 4 6 | 3 5 9 | 1 2 7 8).

What the paper leads one to expect: the coarser the partition, the higher the noise level at which half of its entropy is gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from eisbach.data.images_digits import load_digits
from eisbach.diagnostics.signature import load_curve
from eisbach.diagnostics.signature.config import SignatureConfig
from eisbach.diagnostics.signature.run import run_signature
from eisbach.files import write_json
from eisbach.image_quality.digits_classifier import pixels_and_labels

PARTITIONS = {
    "two": {"046": ["0", "4", "6"], "others": ["1", "2", "3", "5", "7", "8", "9"]},
    "four": {"0": ["0"], "46": ["4", "6"], "359": ["3", "5", "9"], "1278": ["1", "2", "7", "8"]},
}
GUIDANCE = ({"scale": 3.0}, {"scale": 3.0, "interval": (0.3, 0.7)})
HELD_OUT_SHARE = 0.25  # the experiment's own split


def held_out(path: Path, each: int) -> None:
    """`each` held-out digits of every class, as the networks see them."""
    images, labels = pixels_and_labels(load_digits().split(HELD_OUT_SHARE)[1])
    x = torch.from_numpy(np.asarray(images)).reshape(len(images), 1, 8, 8).float() / 127.5 - 1.0
    y = torch.from_numpy(np.asarray(labels)).long()
    chosen = torch.cat([torch.nonzero(y == digit).flatten()[:each] for digit in range(10)])
    save_file({"latents": x[chosen].contiguous(), "labels": y[chosen].contiguous()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=Path, default=Path("runs/digits"), help="folder of the digits experiment")
    parser.add_argument("--cell", default="unet-v-constant", help="backbone, target and arm of the networks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--trajectories", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("runs/signature-digits"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/signature_digits.json")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / "held_out.safetensors"
    held_out(data, args.trajectories)
    networks: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        config = SignatureConfig(
            model=str(args.digits / "cells" / f"{args.cell}-{seed}" / "model"),
            classes=[{"name": str(digit)} for digit in range(10)],  # type: ignore[list-item]
            partitions=PARTITIONS, sources=["reverse", "forward"], data=str(data), guidance=list(GUIDANCE),  # type: ignore[arg-type]
            steps=args.steps, trajectories=args.trajectories,
        )  # fmt: skip
        folder = args.work / f"seed-{seed}"
        run_signature(config, folder)
        readings = {}
        for file in sorted((folder / "curves").glob("*.json")):
            curve = load_curve(file)
            readings[file.stem] = {
                "half_t": curve.half.t,
                "half_t_95": [curve.half.t_lo, curve.half.t_hi],
                "half_log_snr": curve.half.log_snr,
                "at_the_end": curve.entropy[-1],
                "quantity": curve.quantity,
            }
        networks.append(readings)
    means = {
        name: round(float(np.mean([network[name]["half_t"] for network in networks])), 4)
        for name in networks[0]
        if all(network[name]["half_t"] is not None for network in networks)
    }
    settings = {"cell": args.cell, "steps": args.steps, "trajectories_a_class": args.trajectories}
    write_json(args.out, {"settings": settings, "mean_half_t": means, "networks": networks})
    for name, value in means.items():
        spread = [round(network[name]["half_t"], 3) for network in networks]
        print(f"{name:36s} half at t {value:.3f}   by network {spread}")


if __name__ == "__main__":
    main()
