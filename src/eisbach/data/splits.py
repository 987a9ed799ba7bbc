"""Which clips train and which are held out: by hash, so that a clip never changes sides, as far as a set affords it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from eisbach.data.manifest import ManifestRow, Split

HELD_OUT_SHARE = 0.1
"""Share of pieces (or of clips without a piece) that the hash puts into the held-out split."""
_SMALLEST_SHARE_OF = 5
"""A small set holds out at most one piece in this many."""


def assign_split(audio_hash: str, labels: Mapping[str, str] | None = None) -> Split:
    """The split of a clip: by hash of its piece when it has one, else of its audio, so that it never changes.

    About `HELD_OUT_SHARE` of the pieces are held out; a piece is never on both sides.
    """
    return "held_out" if int(_split_key(audio_hash, labels or {})[:12], 16) / 16**12 < HELD_OUT_SHARE else "train"


def _split_key(audio_hash: str, labels: Mapping[str, str]) -> str:
    piece = labels.get("piece")
    return hashlib.sha256(piece.encode("utf-8", "surrogatepass")).hexdigest() if piece else audio_hash


def afford_held_out(rows: Sequence[ManifestRow], settled: Collection[str] = ()) -> list[ManifestRow]:
    """The rows, of which at most every fifth piece (or clip without one) is held out, and from five pieces on at least
    one: without any, nothing says when a training begins to learn its clips by heart.

    The hash of a small set may hold out half of it, or nothing. Those with the lowest hashes stay held out. Where the
    hash holds nothing out, it is a piece with words (where any has them), not half of all music, and of no less than
    mean length. Rows whose ids are `settled` stay as they are, whatever that makes: what has trained is not held out
    later.
    """
    keys = {row.id: _split_key(row.audio_hash, row.labels) for row in rows}
    held_out = {keys[row.id] for row in rows if row.split == "held_out"}
    fixed = {keys[row.id] for row in rows if row.id in settled}
    room = len(set(keys.values())) // _SMALLEST_SHARE_OF - len(held_out & fixed)
    free = sorted(held_out - fixed)
    if not held_out and not fixed:
        free = _most_telling(rows, keys)[:1]
    allowed = set(free[: max(0, room)]) | held_out & fixed
    splits: dict[bool, Split] = {True: "held_out", False: "train"}
    return [replace(row, split=splits[keys[row.id] in allowed]) for row in rows]


def _most_telling(rows: Sequence[ManifestRow], keys: Mapping[str, str]) -> list[str]:
    """The pieces, by what to hold out first."""
    own: dict[str, list[ManifestRow]] = {}
    for row in rows:
        own.setdefault(keys[row.id], []).append(row)
    longest = {key: max(row.duration for row in clips) for key, clips in own.items()}
    usual = sum(longest.values()) / max(1, len(longest))
    total = sum(row.duration for row in rows)

    def order(key: str) -> tuple[bool, bool, bool, str]:
        worded = any(row.caption for row in own[key])
        large = 2 * sum(row.duration for row in own[key]) > total
        return not worded, large, longest[key] < usual, key

    return sorted(own, key=order)


def hold_out_more(rows: Sequence[ManifestRow], seconds: float) -> list[ManifestRow]:
    """The rows, of which clips of `seconds` or more are held out, by hash, until a fifth of the pieces (or clips
    without one) is; what is held out already stays, unless it is shorter and its place is needed.

    By chance a tenth of a small folder may be nothing, and then there is no music to hold a model against.
    """
    keys = {row.id: _split_key(row.audio_hash, row.labels) for row in rows}
    most = len(set(keys.values())) // _SMALLEST_SHARE_OF
    long = {keys[row.id] for row in rows if row.duration >= seconds}
    held_out = {keys[row.id] for row in rows if row.split == "held_out"}
    chosen = held_out & long
    chosen |= set(sorted(long - held_out)[: max(0, most - len(chosen))])
    short = sorted(held_out - long)
    chosen |= set(short[: max(0, most - len(chosen))] if most else short)
    splits: dict[bool, Split] = {True: "held_out", False: "train"}
    return [replace(row, split=splits[keys[row.id] in chosen]) for row in rows]
