"""What a person's own material is: lengths, styles, kinds of flatness, what the recommended weighting makes of it, and
what the codec leaves of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, load_manifest
from eisbach.errors import AudioError
from eisbach.experiments.spec import ExperimentSpec, arm_training
from eisbach.files import read_json, write_json
from eisbach.structure.batch import Clip, sample_clips

FILE, CODEC_FILE = "material.json", "through-the-codec.flac"
_PROBED = 24  # clips that are looked at: an even sample of more
_LEVELS = [0.2, 0.5]  # noise levels at which the weighting's beliefs read best
_SHOWN = 3  # clips at either end of the weighting's order
_TAGS = ("no vocals", "no vocal", "no voice")  # tags that say what is not there
_HEARD_SECONDS = 10.0


@dataclass(frozen=True)
class WeighedClip:
    """One clip of the material.

    Attributes
    ----------
    name, path : str
        Its id, and where its audio lies.
    weight : float
        What the recommended weighting gives it, over the mean of the clips that were looked at: 2 counts double.
    flat_probability : float or None
    kind : str
        Which flatness the judge hears, or 'none'; "" where it could not judge.
    tags : list of str
        The three strongest of the tagger.
    """

    name: str
    path: str
    weight: float
    flat_probability: float | None
    kind: str
    tags: list[str]


def describe_material(spec: ExperimentSpec, root: Path) -> dict[str, Any]:
    """Looks at up to 24 training clips and writes `root/material.json`; what is there already is returned as it is.

    Returns
    -------
    dict
        `clips`, `train`, `held_out`, `minutes`, `seconds` (shortest, median, longest), `looked_at`, `flat`, `kinds`,
        `styles` (tag to number of clips), `weighed` (`WeighedClip`, the heaviest first) and `through_codec` (the
        original's path, start and seconds, and the decoded file's).
    """
    if (known := read_material(root)) is not None:
        return known
    manifest = load_manifest(str(Path(spec.training["data"]["manifest"])))
    train = manifest.select(split="train")
    seconds = sorted(row.duration for row in manifest)
    chosen = _sample(train)
    weighed = sorted(_weighed(spec, root, chosen), key=lambda clip: -clip.weight)
    made = {
        "clips": len(manifest),
        "train": len(train),
        "held_out": len(manifest.select(split="held_out")),
        "minutes": sum(seconds) / 60.0,
        "seconds": [seconds[0], float(np.median(seconds)), seconds[-1]],
        "looked_at": len(weighed),
        "flat": sum(clip.kind not in ("", "none") for clip in weighed),
        "kinds": dict(Counter(clip.kind for clip in weighed if clip.kind).most_common()),
        "styles": dict(Counter(tag for clip in weighed for tag in clip.tags).most_common(8)),
        "weighed": [asdict(clip) for clip in weighed],
        "through_codec": _through_codec(spec, root, weighed[0] if weighed else None),
    }
    write_json(root / FILE, made)
    return made


def read_material(root: Path) -> dict[str, Any] | None:
    """What `describe_material` wrote; None where nothing was described."""
    path = root / FILE
    return read_json(path, "description of the material") if path.is_file() else None


def shown_clips(material: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The clips that the weighting favours most, and least; no clip is in both."""
    weighed = list(material["weighed"])
    count = min(_SHOWN, len(weighed) // 2)
    return weighed[:count], weighed[len(weighed) - count :][::-1]


def _sample(train: Manifest) -> Manifest:
    by_path = {str(train.audio_path(row)): row for row in train}
    kept = sample_clips([Clip(Path(path)) for path in by_path], _PROBED)
    return train.with_rows([by_path[str(clip.path)] for clip in kept])


def _weighed(spec: ExperimentSpec, root: Path, chosen: Manifest) -> list[WeighedClip]:
    """The clips with their weight (the mean over two noise levels), judged and tagged."""
    from eisbach.data.manifest import save_manifest
    from eisbach.diagnostics.probe.result import ProbeConfig
    from eisbach.diagnostics.probe.run import run_probe

    folder = root / "material"
    save_manifest(Manifest(chosen.rows, folder, chosen.audio_root))
    training = arm_training(spec, spec.baseline, spec.train_seeds[0], out=str(folder), manifest=None, cache=None)
    values = training.model_dump(mode="json")
    values["data"] |= {"manifest": str(folder / MANIFEST_NAME), "select": {}}
    values |= {"weighting": {"sample": "recommended"}, "batch_size": 1}
    config = ProbeConfig.model_validate(
        {
            "train": values,
            "clips": len(chosen),
            "levels": _LEVELS,
            "gradient_batches": 0,
            "gain_clips": 0,
            "structure": False,
        }
    )
    rows = run_probe(config, quiet=True).rows
    weights: dict[str, list[float]] = {}
    for row in rows:
        if row["sample_weight"] is not None:
            weights.setdefault(str(row["clip"]), []).append(float(row["sample_weight"]))
    means = {name: float(np.mean(own)) for name, own in weights.items()}
    whole = float(np.mean(list(means.values()))) if means else 1.0
    by_id = {row.id: row for row in chosen}
    return [
        _clip(chosen, by_id[name], mean / whole if whole > 0 else 1.0, float(spec.generation.duration))
        for name, mean in means.items()
        if name in by_id
    ]


def _clip(manifest: Manifest, row: ManifestRow, weight: float, seconds: float) -> WeighedClip:
    """A clip with its weight, judged over as much of it as one training crop, and tagged."""
    from eisbach.audio import read_audio
    from eisbach.structure import analyze
    from eisbach.structure.flatness import flat_kind

    path = manifest.audio_path(row)
    try:
        kinds = analyze(read_audio(path, duration=seconds, allow_silent=True)).kinds
    except AudioError:
        kinds = {"none": float("nan")}
    known = not np.isnan(kinds["none"])
    return WeighedClip(
        row.id, str(path), weight, 1.0 - kinds["none"] if known else None, flat_kind(kinds) if known else "",
        _tags(path, row.duration),
    )  # fmt: skip


def _tags(path: Path, seconds: float) -> list[str]:
    """The three strongest tags of the clip's middle; none where it is silent."""
    from eisbach.audio import read_audio
    from eisbach.structure.embeddings.musicnn import TAGS, MusicnnEmbedding

    try:
        heard = read_audio(path, start=max(0.0, (seconds - _HEARD_SECONDS) / 2.0), duration=_HEARD_SECONDS)
        chances = MusicnnEmbedding().tags([heard])[0]
    except AudioError:
        return []
    order = [int(index) for index in np.argsort(-chances) if TAGS[int(index)] not in _TAGS]
    return [TAGS[index] for index in order[:3]]


def _through_codec(spec: ExperimentSpec, root: Path, clip: WeighedClip | None) -> dict[str, Any] | None:
    """One clip coded and decoded, in `material/`: what the best model could sound like here."""
    from eisbach.audio import read_audio, write_audio
    from eisbach.backbones import load_backbone, load_codec_of

    model = spec.training.get("model", "embedded")
    if clip is None or not isinstance(model, str):
        return None
    codec = load_codec_of(load_backbone(model))
    seconds = float(spec.generation.duration)
    try:
        heard = read_audio(clip.path, duration=seconds)
    except AudioError:
        return None
    decoded = codec.decode(codec.encode(heard))[0]
    file = root / "material" / CODEC_FILE
    write_audio(file, decoded)
    return {
        "name": clip.name, "path": clip.path, "seconds": min(seconds, heard.duration),
        "decoded": file.relative_to(root).as_posix(),
        "sample_rate": codec.sample_rate,
    }  # fmt: skip


def prompts_of(captions: Sequence[str], most: int = 8) -> list[dict[str, str]]:
    """Prompts in a person's own words: `most` different captions, evenly over those there are; empty without any."""
    different = list(dict.fromkeys(" ".join(caption.split()) for caption in captions if caption.strip()))
    step = max(1.0, len(different) / most)
    kept = [different[int(index * step)] for index in range(min(most, len(different)))]
    return [{"id": f"yours-{number}", "text": text} for number, text in enumerate(kept, 1)]
