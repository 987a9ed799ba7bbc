"""Names that no label may have: columns of the records that are made of clips.

A record holds a clip's labels beside what was measured of it, so a label that is called like a measurement would stand
in its place; `eisbach analyze` refuses it.
"""

from __future__ import annotations

from functools import cache

_CLIP_KEYS = ("arm", "prompt_id", "seed")
"""Keys of records that manifests of generated clips give as labels, with our own values."""
_RECORD_KEYS = ("train_seed", "unit", "cut_from", "cut_start")


@cache
def is_measured(name: str) -> bool:
    """Whether a record has a column or a key of this name that is never a label."""
    from eisbach.structure.analyze import RECORD_COLUMNS  # here: a folder without labels needs no analysis
    from eisbach.structure.record_files import FILE_COLUMNS

    return name in (*RECORD_COLUMNS, *FILE_COLUMNS, *_RECORD_KEYS)


def is_taken(name: str) -> bool:
    """Whether a person's own column of this name is no label."""
    return name in _CLIP_KEYS or is_measured(name)
