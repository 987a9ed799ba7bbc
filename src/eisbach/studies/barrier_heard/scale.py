"""Where music and flat clips lie by the second judge, before any model's piece is judged by it: `python -m
eisbach.studies.barrier_heard.scale FOLDER...` reads sets of an experiment (`data/draw-…`), plays their clips through
the embedded model's codec, as all that a model plays went through it, and prints `change` by kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone, load_codec_of
from eisbach.data.manifest import load_manifest
from eisbach.errors import UserError
from eisbach.structure.embeddings.musicnn import MusicnnEmbedding


def scale(folders: list[Path]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and number of clips by kind; under "flat", of all flat kinds, and `auc`: how often a
    developing clip changes more than a flat one."""
    codec, listener = load_codec_of(load_backbone("embedded")), MusicnnEmbedding()
    values: dict[str, list[float]] = {}
    for folder in folders:
        manifest = load_manifest(folder)
        for row in manifest:
            clip = codec.decode(codec.encode(read_audio(manifest.audio_path(row))))[0]
            change = float(listener.change([clip])[0])
            values.setdefault(row.labels.get("kind", ""), []).append(change)
            if row.labels.get("flat") == "true":
                values.setdefault("flat", []).append(change)
    if not {"developing", "flat"} <= values.keys():
        raise UserError("the scale needs sets with developing and with flat clips; name their folders, data/draw-….")
    developing, flat = np.array(values["developing"]), np.array(values["flat"])
    found = {kind: {"mean": float(np.mean(v)), "sd": float(np.std(v)), "n": len(v)} for kind, v in values.items()}
    return {**found, "auc": {"flat": float((developing[:, None] > flat).mean())}}


if __name__ == "__main__":
    try:
        print(json.dumps(scale([Path(folder) for folder in sys.argv[1:]]), indent=1))
    except UserError as error:
        sys.exit(f"eisbach: {error}")
