"""Fits the embedded codec to training clips of a rendered set and measures it on held-out ones: fit_codec.py FOLDER
[--keep]."""

import sys
from pathlib import Path

from eisbach.codecs.fit import main
from eisbach.data.manifest import load_manifest

manifest = load_manifest(Path(sys.argv[1]))
paths = {
    split: [str(manifest.root / row.path) for row in manifest.select(split=split).rows]
    for split in ("train", "held_out")
}
main(
    [
        *paths["train"][:300],
        *sys.argv[2:],
        "--out",
        "src/eisbach/assets/codec/bands.safetensors",
        "--report",
        "bench/results/codec.json",
        "--check",
        *paths["held_out"][:32],
    ]
)
