"""What a person's own material is: lengths, styles, kinds of flatness, what the recommended weighting makes of it, and
what the codec leaves of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio import audio_hash
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, load_manifest, save_manifest
from eisbach.errors import AudioError
from eisbach.experiments.cutting import cut_stretches
from eisbach.experiments.spec import ExperimentSpec, arm_training
from eisbach.files import read_json, write_json
from eisbach.structure.batch import Clip, sample_clips
from eisbach.types import SkipReport, Waveform

FILE, CODEC_FILE = "material.json", "through-the-codec.flac"
_PROBED = 32  # stretches that are looked at, as many of each clip as the others allow
_LEVELS = [0.2, 0.5]  # noise levels at which the weighting's beliefs read best
_SHOWN = 3  # stretches at either end of the weighting's order
_TAGS = ("no vocals", "no vocal", "no voice")  # tags that say what is not there
_HEARD_SECONDS = 10.0


@dataclass(frozen=True)
class WeighedClip:
    """One stretch of a clip of the material, heard and judged whole, weighed by a training crop within it.

    Attributes
    ----------
    name, path : str
        Its clip and where it begins, and where its audio lies, below the experiment's folder.
    weight : float
        What the recommended weighting gives it, over the mean of all that were looked at: 2 counts double.
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
    """Looks at up to 32 stretches of the training clips, each as long as what is played, and writes
    `root/material.json`; what is there already is returned as it is.

    Returns
    -------
    dict
        `clips`, `train`, `held_out`, `minutes`, `seconds` (shortest, median, longest), `looked_at` and `stretch` (how
        many stretches, and their seconds), `flat`, `kinds`, `styles` (tag to number of stretches), `weighed`
        (`WeighedClip`, the heaviest first) and `through_codec` (the original's path, start and seconds, and the decoded
        file's).
    """
    if (known := read_material(root)) is not None:
        return known
    manifest = load_manifest(str(Path(spec.training["data"]["manifest"])))
    seconds = sorted(row.duration for row in manifest)
    chosen = _stretches(manifest.select(split="train"), float(spec.generation.duration), root / "material")
    weighed = sorted(_weighed(spec, root, chosen), key=lambda clip: -clip.weight)
    made = {
        "clips": len(manifest),
        "train": len(manifest.select(split="train")),
        "held_out": len(manifest.select(split="held_out")),
        "minutes": sum(seconds) / 60.0,
        "seconds": [seconds[0], float(np.median(seconds)), seconds[-1]],
        "looked_at": len(weighed),
        "stretch": float(spec.generation.duration),
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


def _stretches(train: Manifest, seconds: float, folder: Path) -> Manifest:
    """Stretches of the clips in files of their own in `folder`: long clips are cut, shorter ones taken whole."""
    rows = {str(train.audio_path(row)): row for row in train}
    clips = sample_clips([Clip(Path(path), {"id": row.id}) for path, row in rows.items()], _PROBED)
    cut = cut_stretches(clips, seconds, _PROBED, folder / "cut", skips=SkipReport(), shorter=True)
    chosen = [
        replace(
            rows[str(clip.keys["unit"])],
            id=str(clip.keys["id"]),
            path=clip.path.relative_to(folder).as_posix(),
            duration=min(seconds, rows[str(clip.keys["unit"])].duration),
            audio_hash=audio_hash(clip.path),
        )
        for clip in cut
    ]
    return Manifest(chosen, folder)


def _weighed(spec: ExperimentSpec, root: Path, chosen: Manifest) -> list[WeighedClip]:
    """The stretches with their weight (the mean over two noise levels), judged and tagged."""
    from eisbach.diagnostics.probe.result import ProbeConfig
    from eisbach.diagnostics.probe.run import run_probe

    folder = chosen.root
    save_manifest(chosen)
    training = arm_training(spec, spec.baseline, spec.train_seeds[0], out=str(folder), manifest=None, cache=None)
    values = training.model_dump(mode="json")
    values["data"] |= {
        "manifest": str(folder / MANIFEST_NAME), "select": {}, "cache": str(folder / "latents"),
    }  # fmt: skip
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
        _clip(by_id[name], chosen.audio_path(by_id[name]), mean / whole if whole > 0 else 1.0, root)
        for name, mean in means.items()
        if name in by_id
    ]


def _clip(row: ManifestRow, path: Path, weight: float, root: Path) -> WeighedClip:
    """A stretch with its weight, judged and tagged."""
    from eisbach.structure import analyze
    from eisbach.structure.flatness import flat_kind

    kinds = analyze(path).kinds
    known = not np.isnan(kinds["none"])
    return WeighedClip(
        row.id, path.relative_to(root).as_posix(), weight, 1.0 - kinds["none"] if known else None,
        flat_kind(kinds) if known else "", _tags(path, row.duration),
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
        heard = read_audio(root / clip.path, duration=seconds)
    except AudioError:
        return None
    decoded = codec.decode(codec.encode(heard))[0]
    length = round(heard.duration * decoded.sample_rate)  # without what fills the last latent
    decoded = Waveform(decoded.samples[:, :length], decoded.sample_rate)
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
