"""Makes the sounds of docs/: what flat and developing music is, and what a low and a high value of each primary measure
sounds like.

``python docs/make_sounds.py`` writes docs/sounds/NAME.mp3 and prints what each measure reads there; the pages that play
them state these readings. The pieces of the measures are those of `studies/ground_truth`, whose truth is known.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eisbach.audio import read_audio, write_audio
from eisbach.data.flat_material import render_flat
from eisbach.data.render import RenderSpec, render
from eisbach.report.audio_embed import ENCODINGS, embed
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import METRICS
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_varied import shuffled
from eisbach.types import Waveform

SOUNDS = Path(__file__).parent / "sounds"
SECONDS = 16.0
LONGEST = 28.0
"""Continuation has no value under 24 s."""
_WHOLE = partial(synthetic.form, "ABACABD", LONGEST / 7)

MEASURES: dict[str, tuple[Callable[[], Waveform], Callable[[], Waveform]]] = {
    "block_strength": (
        lambda: synthetic.contrast(0.0, 3, 4.0, SECONDS),
        lambda: synthetic.contrast(18.0, 3, 4.0, SECONDS),
    ),
    "continuation": (lambda: shuffled(_WHOLE(4), 1.0, 4), lambda: _WHOLE(4)),
    "textural_vendi": (lambda: synthetic.states(1, 2, SECONDS, 2.0), lambda: synthetic.states(8, 2, SECONDS, 2.0)),
    "motif_coverage": (lambda: synthetic.motif_share(0.0, 4, 4.0, 4), lambda: synthetic.motif_share(1.0, 4, 4.0, 4)),
    "level_range": (lambda: synthetic.crescendo(3.0, 1, SECONDS), lambda: synthetic.crescendo(40.0, 1, SECONDS)),
    "flux_gini": (lambda: synthetic.onsets(8.0, 6, SECONDS), lambda: synthetic.onsets(0.5, 6, SECONDS)),
}
"""Pieces of a low and a high value, by the measure's name."""

KINDS = {"still": "drone", "loop": "loop", "texture": "texture"}
"""Kinds of flat music, as the judge names them and as the material does."""


def kinds(folder: Path) -> dict[str, Path]:
    """A rendered clip of every kind of flat music, and one that develops."""
    spec = RenderSpec(seed=12, seconds=(SECONDS, SECONDS), sample_rate=32_000)
    files = {}
    for name, kind in KINDS.items():
        manifest, _ = render_flat(folder / name, clips=1, spec=spec, kinds=(kind,), quiet=True)
        files[name] = manifest.audio_path(next(iter(manifest)))
    manifest, _ = render(folder / "developing", clips=1, spec=spec, quiet=True)
    return {"developing": manifest.audio_path(next(iter(manifest))), **files}


def write(source: Path, name: str, encoding: int) -> int:
    """Writes docs/sounds/NAME.mp3; how many bytes."""
    data = base64.b64decode(embed(source, ENCODINGS[encoding], LONGEST).uri.partition(",")[2])
    (SOUNDS / f"{name}.mp3").write_bytes(data)
    return len(data)


def main() -> None:
    """Makes all of them."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    SOUNDS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for measure, pieces in MEASURES.items():
            for end, piece in zip(("low", "high"), pieces, strict=True):
                file = folder / f"{measure}-{end}.wav"
                write_audio(file, piece())
                sound = read_audio(file)
                if sound.duration < METRICS[measure].min_seconds:
                    raise SystemExit(f"{measure} has no value under {METRICS[measure].min_seconds:g} s")
                value = METRICS[measure].function(extract_features(sound))
                print(f"{file.stem:24s} {value:8.2f}  {write(file, file.stem, -1) // 1024} kB", flush=True)
        for kind, file in kinds(folder).items():
            print(f"{kind:24s}           {write(file, kind, 2) // 1024} kB", flush=True)


if __name__ == "__main__":
    main()
