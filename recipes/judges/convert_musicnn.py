"""Writes musicnn's weights as safetensors from the package's TensorFlow checkpoint; run once, where TensorFlow and
musicnn 0.1.0 are.

    python recipes/judges/convert_musicnn.py PACKAGE/musicnn/MTT_musicnn --out
    src/eisbach/assets/judges/musicnn.safetensors

The package is under the ISC licence; its text goes with the weights (`assets/judges/LICENSE-musicnn.txt`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS = ["timbral.0", "timbral.1", "temporal.0", "temporal.1", "temporal.2", "middle.0", "middle.1", "middle.2"]
"""Ours, in the order in which the original makes its convolutions (conv2d, conv2d_1, ...)."""


def numbered(kind: str, number: int) -> str:
    """TensorFlow's name of the n-th layer of a kind."""
    return kind if number == 0 else f"{kind}_{number}"


def main() -> None:
    """Reads, renames, transposes, writes."""
    import tensorflow

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the folder with .index and .data-00000-of-00001")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reader = tensorflow.compat.v1.train.NewCheckpointReader(f"{options.checkpoint}/")
    tensors: dict[str, np.ndarray] = {}

    def norm(name: str, number: int) -> None:
        source = numbered("batch_normalization", number)
        for ours, theirs in {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }.items():
            tensors[f"{name}.{ours}"] = reader.get_tensor(f"{source}/{theirs}")
        tensors[f"{name}.num_batches_tracked"] = np.zeros((), np.int64)

    norm("norm", 0)
    for number, layer in enumerate(LAYERS):
        source = numbered("conv2d", number)
        # (height, width, in, out) → (out, in, height, width)
        tensors[f"{layer}.conv.weight"] = reader.get_tensor(f"{source}/kernel").transpose(3, 2, 0, 1)
        tensors[f"{layer}.conv.bias"] = reader.get_tensor(f"{source}/bias")
        norm(f"{layer}.norm", number + 1)
    norm("pool_norm", 9)
    norm("dense_norm", 10)
    for name, number in (("dense", 0), ("output", 1)):
        source = numbered("dense", number)
        tensors[f"{name}.weight"] = reader.get_tensor(f"{source}/kernel").T
        tensors[f"{name}.bias"] = reader.get_tensor(f"{source}/bias")
    save_file({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, options.out)


if __name__ == "__main__":
    main()
