"""What the words of a prompt ask for, of what musicnn's tags and the captions of the training material name."""

from __future__ import annotations

import re

import numpy as np

from eisbach.data.captions import HIGH_FROM, LOW_BELOW
from eisbach.structure.embeddings.musicnn import TAGS

_WORDS = {
    "quick": "fast", "allegro": "fast", "lively": "fast", "adagio": "slow", "slowly": "slow", "string": "strings",
    "hushed": "quiet", "quietly": "quiet", "softly": "soft", "women": "woman", "men": "man", "choral": "choir",
}  # fmt: skip
"""Words of prompts that mean a tag of another name; a tag's own name always means it, and its plural."""
_END = r"[,;.:!?|()/\n–—]| - "  # of what is refused
_REFUSED = re.compile(
    r"\b(?:no(?![-.]| *\d)|not(?! only\b)|without(?! a doubt))\b"
    rf"((?:(?!{_END}).)*?)(?={_END}|\b(?:but|only|with|no|not|without)\b|$)"
)
_VOICE = {"no vocals": ("vocals", "singing"), "no vocal": ("vocal",), "no voice": ("voice",)}
"""Tags that are asked for where these are refused."""
_REGISTERS = {
    "low": (r"low register", r"\bdeep\b(?! (?:house|techno|dub|reverb))", r"\blow strings\b"),
    "high": (r"high register", r"\bbright and high\b"),
    "middle": (r"middle register", r"\bmid-range\b"),
}
BANDS = {"low": (-np.inf, LOW_BELOW), "middle": (LOW_BELOW, HIGH_FROM), "high": (HIGH_FROM, np.inf)}
"""MIDI numbers of the registers that `register_of` names."""


def tags_of(text: str) -> tuple[str, ...]:
    """The tags of musicnn that a prompt asks for; what "no", "not" or "without" stand before is not asked for.

    >>> tags_of("Solemn sacred polyphony with choirs and church organ, very slow, no drums or vocals")
    ('slow', 'no vocals', 'choir', 'choral')
    """
    refused = _named(";".join(_REFUSED.findall(text.lower())))
    asked = _named(_REFUSED.sub(";", text.lower()))
    asked |= {tag for tag, words in _VOICE.items() if refused & set(words)}
    asked |= {"choral"} if "choir" in asked else set()
    return tuple(tag for tag in TAGS if tag in asked)


def _named(left: str) -> set[str]:
    """The tags whose names stand in a text of small letters."""
    named = {tag for word, tag in _WORDS.items() if re.search(rf"\b{word}\b", left)}
    for tag in sorted(TAGS, key=len, reverse=True):  # a "male voice" is no "voice" besides
        left, found = re.subn(rf"\b{tag}(?:e?s)?\b", ";", left)
        named |= {tag} if found else set()
    return named


def register_of(text: str) -> str | None:
    """low, middle or high; None where a prompt names none, or two."""
    lower = text.lower()
    named = [name for name, patterns in _REGISTERS.items() if any(re.search(pattern, lower) for pattern in patterns)]
    return named[0] if len(named) == 1 else None
