"""Two sets of clips side by side: every set metric and distance as one row with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.features import one_thread
from eisbach.structure.sets import distances
from eisbach.structure.sets.alignment import boundary_alignment
from eisbach.structure.sets.clips import SetClip
from eisbach.structure.sets.differentiation import distance_icc, mean_distance
from eisbach.structure.sets.excerpts import ExcerptFeatures
from eisbach.structure.sets.intervals import Estimate, jackknife
from eisbach.structure.sets.memorisation import Closeness, ExcerptCopies, clip_memorisation, excerpt_memorisation
from eisbach.structure.sets.onset_details import detail_diversity
from eisbach.structure.sets.pairs import distance_rows
from eisbach.structure.sets.table import SET_METRICS, TEXTURE, SetRow, make_row
from eisbach.structure.similarity import TAU_DB

_Embedded = Mapping[str, tuple[np.ndarray, np.ndarray | None]]
_VERBATIM = 0.98  # window score of the same recording


@dataclass(frozen=True)
class SetMemorisation:
    """Memorisation of one set: names beside the numbers of `clip_memorisation` and `excerpt_memorisation`."""

    names: list[str]
    training_names: list[str]
    clips: Closeness
    excerpts: ExcerptCopies

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row a generation: nearest training clip, p values, copied share and the matching excerpts."""
        out = []
        for i, name in enumerate(self.names):
            matches = [
                {**asdict(match), "training": self.training_names[match.training]} for match in self.excerpts.matches[i]
            ]
            out.append(
                {
                    "clip": name,
                    "nearest_training": self.training_names[int(self.clips.nearest[i])],
                    "distance": float(self.clips.value[i]),
                    "p_clip": float(self.clips.p_values[i]),
                    "excerpt_score": float(self.excerpts.closeness.value[i]),
                    "p_excerpt": float(self.excerpts.closeness.p_values[i]),
                    "copied_share": float(self.excerpts.copied_share[i]),
                    "excerpts": matches,
                }
            )
        return out


@dataclass(frozen=True)
class SetComparison:
    """What `compare_sets` returns.

    Attributes
    ----------
    names : tuple of str
    sizes : tuple of int
    rows : list of SetRow
    memorisation : dict of str to SetMemorisation
        By set; empty without training clips.
    notes : list of str
        Sentences that a reader must see.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    rows: list[SetRow]
    memorisation: dict[str, SetMemorisation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: NaN becomes None."""
        rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in self.rows]
        copies = {name: copied.rows() for name, copied in self.memorisation.items()}
        return {
            "sets": list(self.names),
            "clips": list(self.sizes),
            "rows": rows,
            "memorisation": copies,
            "notes": self.notes,
        }


def compare_sets(
    a: Sequence[SetClip],
    b: Sequence[SetClip] | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    embeddings: _Embedded | None = None,
    training: Sequence[SetClip] | None = None,
    held_out: Sequence[SetClip] | None = None,
    transpositions: bool = True,
    k: int = 5,
    level: float = 0.95,
    n_permutations: int = 199,
    seed: int = 0,
) -> SetComparison:
    """Every set metric of one or two sets, and every distance between two; the same on any number of threads.

    Parameters
    ----------
    a, b : sequence of SetClip
        Of `clips.read_clips`. Metrics across seeds need a prompt with two takes, and are skipped with a note otherwise.
        For precision, recall, density and coverage `a` is the reference.
    names : (str, str)
    embeddings : mapping of name to (rows of a, rows of b)
        Beside the texture, in the clips' order (`embeddings.embed_files`); b's rows are None without a second set.
    training, held_out : sequence of SetClip or None
        Given together: memorisation of both sets, on textures and on excerpts.
    transpositions : bool
        Whether copied excerpts are also looked for in other keys.
    k, level, n_permutations, seed
        Neighbours of precision, recall, density and coverage; coverage of the intervals; exchanges of labels for p
        values (0 leaves them out); of the exchanges and of the subsets that make sets of unequal size comparable.

    Raises
    ------
    UserError
        An empty set, one clip in a set where two are compared, embeddings that do not match the clips, training clips
        without held-out ones, k not smaller than the sets, or non-finite values.

    Examples
    --------
    >>> from pathlib import Path
    >>> from eisbach.structure.sets import compare_sets, read_clips
    >>> sets = [read_clips(sorted(Path(name).glob("*.wav"))) for name in ("music", "takes")]
    >>> comparison = compare_sets(*sets, names=("music", "takes"), k=1, n_permutations=19)
    >>> frechet = next(row for row in comparison.rows if row.metric == "frechet")
    >>> frechet.sets, frechet.value >= 0
    ('music vs takes', True)
    """
    sets = [list(a)] if b is None else [list(a), list(b)]
    used = names[: len(sets)]
    _check(sets, used, training, held_out, level)
    notes: list[str] = []
    memorised: dict[str, SetMemorisation] = {}
    with one_thread():  # a product split between threads differs in its last digits, and so would p values
        rows = [row for name, clips in zip(used, sets, strict=True) for row in _own(clips, name, level, notes)]
        if len(sets) == 2:
            options = {"k": k, "level": level, "n_permutations": n_permutations, "seed": seed}
            rows += _between(sets, used, embeddings or {}, options, notes)
        rows += _vendi_rows(sets, used, embeddings or {}, level)
        for name, clips in zip(used, sets, strict=True):
            if training is None or held_out is None:
                break
            memorised[name], more = _memorisation(clips, training, held_out, name, transpositions, level, notes)
            rows += more
    return SetComparison(tuple(used), tuple(len(clips) for clips in sets), rows, memorised, list(dict.fromkeys(notes)))


def _between(
    sets: list[list[SetClip]], names: Sequence[str], embeddings: _Embedded, options: dict[str, Any], notes: list[str]
) -> list[SetRow]:
    """Distances between two sets on their textures and on every embedding."""
    length = [float(np.median([clip.duration for clip in clips])) for clips in sets]
    if max(length) > 1.1 * min(length):
        notes.append(
            f"the sets' clips differ in length (median {length[0]:.1f} and {length[1]:.1f} s); structure compares "
            "only at equal length."
        )
    textures = tuple(np.stack([clip.texture for clip in clips]) for clips in sets)
    rows = []
    for embedding, pair in {TEXTURE: textures, **embeddings}.items():
        first, second = (_matching(part, clips, embedding) for part, clips in zip(pair, sets, strict=True))
        rows += distance_rows(first, second, _units(sets), embedding, names, notes=notes, **options)
    return rows


def _vendi_rows(sets: list[list[SetClip]], names: Sequence[str], embeddings: _Embedded, level: float) -> list[SetRow]:
    return [
        make_row("vendi", _vendi(_matching(part, clips, embedding), clips, level), name, embedding)
        for embedding, pair in embeddings.items()
        for name, clips, part in zip(names, sets, pair[: len(sets)], strict=True)
    ]


def _own(clips: list[SetClip], name: str, level: float, notes: list[str]) -> list[SetRow]:
    prompts = [clip.prompt for clip in clips]
    textures = np.stack([clip.texture for clip in clips])
    boundaries, durations = [clip.boundaries for clip in clips], [clip.duration for clip in clips]
    several = len({prompt for prompt in prompts if prompt is not None}) > 1 and None not in prompts
    units = prompts if several else [clip.name for clip in clips]
    unit = "prompt" if several else "clip"
    scale = TAU_DB * math.sqrt(textures.shape[1])
    wanted: list[tuple[str, str, Callable[[], Estimate]]] = [
        ("boundary_alignment_3s", "", lambda: boundary_alignment(boundaries, durations, prompts, window=3.0,
        level=level)),
        ("boundary_alignment_05s", "", lambda: boundary_alignment(boundaries, durations, prompts, window=0.5,
        level=level)),
        ("boundary_alignment_prompts_3s", "",
         lambda: boundary_alignment(boundaries, durations, prompts, window=3.0, chance="prompts", level=level)),
        ("detail_diversity", "", lambda: detail_diversity([clip.onsets for clip in clips], prompts, level=level)),
        ("differentiation", TEXTURE, lambda: mean_distance(textures, prompts if several else None, level=level)),
        ("distance_icc", TEXTURE, lambda: distance_icc(textures, prompts, level=level)),
        ("vendi", TEXTURE, lambda: jackknife(
            lambda keep: distances.vendi_score(textures[keep], "gaussian", bandwidth=scale),
            units, unit_name=unit, level=level, bounds=(1.0, math.inf))),
    ]  # fmt: skip
    notes_of = [clip.notes for clip in clips if clip.notes is not None]
    if len(notes_of) == len(clips):
        wanted.insert(4, ("note_diversity", "", lambda: detail_diversity(notes_of, prompts, level=level)))
    rows = []
    for metric, embedding, compute in wanted:
        try:
            rows.append(make_row(metric, compute(), name, embedding))
        except UserError as error:  # this set lacks what the metric needs: said, and the others go on
            notes.append(f"{name}: no {SET_METRICS[metric].label.lower()}: {error}")
    return rows


def _memorisation(
    clips: list[SetClip], training: Sequence[SetClip], held_out: Sequence[SetClip], name: str,
    transpositions: bool, level: float, notes: list[str],
) -> tuple[SetMemorisation, list[SetRow]]:  # fmt: skip
    def textures(rows: Sequence[SetClip]) -> np.ndarray:
        return np.stack([clip.texture for clip in rows])

    near = clip_memorisation(textures(clips), textures(training), textures(held_out), level=level)
    copies = excerpt_memorisation(
        _excerpts(clips), _excerpts(training), _excerpts(held_out),
        transpositions=transpositions, level=level,
    )  # fmt: skip
    if near.smallest_p > 0.05:
        notes.append(f"{len(held_out)} held-out clips allow no p value under {near.smallest_p:.3f}; give at least 19.")
    verbatim = int((copies.closeness.held_out >= _VERBATIM).sum())
    if verbatim:
        notes.append(
            f"{verbatim} held-out clip(s) hold a training excerpt note for note; while they do, copying of excerpts "
            "looks usual."
        )
    memorised = SetMemorisation([clip.name for clip in clips], [clip.name for clip in training], near, copies)
    return memorised, [
        make_row("memorised_clips", near.share, name, TEXTURE),
        make_row("memorised_clips_auc", near.auc, name, TEXTURE),
        make_row("memorised_excerpts", copies.closeness.share, name, ""),
        make_row("memorised_excerpts_auc", copies.closeness.auc, name, ""),
        make_row("copied_share", copies.mean_copied_share, name, ""),
    ]


def _excerpts(clips: Sequence[SetClip]) -> list[ExcerptFeatures]:
    lacking = next((clip.name for clip in clips if clip.excerpt is None), None)
    if lacking is not None:
        raise UserError(f"{lacking} was described without its audio, which memorisation needs; use read_clips for it.")
    return [clip.excerpt for clip in clips if clip.excerpt is not None]


def _vendi(rows: np.ndarray, clips: list[SetClip], level: float) -> Estimate:
    units = [clip.prompt if clip.prompt is not None else clip.name for clip in clips]
    unit = "prompt" if len(set(units)) < len(units) else "clip"
    return jackknife(
        lambda keep: distances.vendi_score(rows[keep]), units, unit_name=unit, level=level, bounds=(1.0, math.inf)
    )


def _units(sets: list[list[SetClip]]) -> list[str]:
    """The unit of every clip of both sets: its prompt where all have one (shared prompts pair the sets), else
    itself."""
    if all(clip.prompt is not None for clips in sets for clip in clips):
        return [f"prompt {clip.prompt}" for clips in sets for clip in clips]
    return [f"{index} {number}" for index, clips in enumerate(sets) for number in range(len(clips))]


def _matching(part: np.ndarray | None, clips: list[SetClip], embedding: str) -> np.ndarray:
    if part is None or len(part) != len(clips):
        raise UserError(
            f"the embedding {embedding!r} has {0 if part is None else len(part)} rows for {len(clips)} clips; embed "
            "exactly these clips, in this order."
        )
    return distances.as_rows(part, embedding, 1)


def _check(
    sets: list[list[SetClip]],
    names: Sequence[str],
    training: Sequence[SetClip] | None,
    held_out: Sequence[SetClip] | None,
    level: float,
) -> None:
    for name, clips in zip(names, sets, strict=True):
        if not clips:
            raise UserError(f"the set {name} holds no clip; give at least one.")
        if len(sets) == 2 and len(clips) < 2:
            raise UserError(f"the set {name} holds one clip; comparing two sets needs at least two in each.")
    if len(names) == 2 and names[0] == names[1]:
        raise UserError(f"both sets are called {names[0]!r}; give them different names.")
    if (training is None) != (held_out is None):
        lacking = "held-out" if held_out is None else "training"
        raise UserError(
            f"memorisation needs training and held-out clips, and the {lacking} ones are missing: without unseen "
            "clips, genre looks like copying."
        )
    if training is not None and not training:
        raise UserError("the training set holds no clip; give the clips that the model was trained on.")
    if not 0.0 < level < 1.0:
        raise UserError(f"the level of an interval must lie between 0 and 1, not {level}.")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
