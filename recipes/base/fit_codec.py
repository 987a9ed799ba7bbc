"""Fits the embedded codec to training clips of a rendered set and of recordings:
fit_codec.py RENDERED RECORDINGS… (folders with a manifest; bench/recordings.py makes the latter)."""

import sys
from pathlib import Path

from eisbach.data.manifest import load_manifest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from codec_fit import fit_codec

_FROM_EACH = 160
_OUT = Path("src/eisbach/assets/codec/wide_bands.safetensors")


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly spread over them."""
    return paths if len(paths) <= count else [paths[number * len(paths) // count] for number in range(count)]


def _training(folder: str) -> list[Path]:
    manifest = load_manifest(Path(folder))
    return [manifest.root / row.path for row in manifest.select(split="train").rows]


rendered, *recorded = [_training(folder) for folder in sys.argv[1:]]
paths = _spread(rendered, _FROM_EACH) + _spread([path for folder in recorded for path in folder], _FROM_EACH)
codec = fit_codec(paths)
codec.save(_OUT)
print(f"{codec.identity()}: {codec.channels} channels from {len(paths)} clips, {_OUT}")
