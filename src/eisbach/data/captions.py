"""Captions written for rendered music.

They say what is heard (instruments, register, tempo, character), all computed from the notes played. One builder writes
those of developing and of flat material alike, with words that never speak about change over time, so that a caption
cannot reveal the label. Captions that people wrote are read by `caption_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOW_BELOW, HIGH_FROM = 53.0, 71.0
"""Median MIDI pitch under which music is called low, and from which it is called high."""

SLOW_BELOW, FAST_FROM = 2.0, 4.0
"""Onsets a second (distinct moments) under which music is called slow, and from which it is called fast."""

# Krumhansl & Kessler (1982), probe-tone profiles of the major and the minor key
_MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
_MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


@dataclass(frozen=True)
class Facts:
    """What a caption may speak about.

    Attributes
    ----------
    instruments : tuple of str
        Names, the most present first.
    family : str
        `scores.Piece.family`.
    pitch : float
        Median MIDI pitch, weighted by duration.
    density : float
        Distinct onsets a second.
    minor : bool
    loudness : float
        Mean velocity, 1 to 127.
    articulation : {"staccato", "detached", "legato"}
    ensemble : str or None
        A group's name when one ensemble plays throughout.
    """

    instruments: tuple[str, ...]
    family: str
    pitch: float
    density: float
    minor: bool
    loudness: float
    articulation: str
    ensemble: str | None = None

    @property
    def register(self) -> str:
        """low, middle or high."""
        return "low" if self.pitch < LOW_BELOW else "high" if self.pitch >= HIGH_FROM else "middle"

    @property
    def tempo(self) -> str:
        """slow, moderate or fast."""
        return "slow" if self.density < SLOW_BELOW else "fast" if self.density >= FAST_FROM else "moderate"


def is_minor(pitch: np.ndarray, weight: np.ndarray) -> bool:
    """Whether a minor key fits the pitches better than any major one (correlation with key profiles)."""
    profile = np.bincount(pitch.astype(int) % 12, weights=weight, minlength=12)
    if not profile.any() or np.allclose(profile, profile[0]):
        return False
    best = {
        name: max(float(np.corrcoef(profile, np.roll(keys, shift))[0, 1]) for shift in range(12))
        for name, keys in (("major", _MAJOR), ("minor", _MINOR))
    }
    return best["minor"] > best["major"]


_TEMPO = {
    "slow": ("slow", "very slow", "adagio", "unhurried"),
    "moderate": ("moderate", "andante", "walking", "medium tempo"),
    "fast": ("fast", "quick", "allegro", "lively"),
}
_REGISTER = {
    "low": ("low", "deep", "in the low register", "dark and low"),
    "middle": ("in the middle register", "mid-range", "warm middle register"),
    "high": ("high", "in the high register", "bright and high"),
}
_CHARACTER = {  # (minor, tempo) -> words
    (False, "slow"): ("gentle", "serene", "tender", "calm", "warm", "dreamy"),
    (False, "moderate"): ("graceful", "cheerful", "elegant", "noble", "friendly", "charming"),
    (False, "fast"): ("playful", "bright", "joyful", "sparkling", "nimble", "merry"),
    (True, "slow"): ("brooding", "sad", "solemn", "mysterious", "melancholy", "mournful"),
    (True, "moderate"): ("wistful", "pensive", "serious", "thoughtful", "dark", "shadowy"),
    (True, "fast"): ("restless", "urgent", "stormy", "agitated", "dramatic", "mischievous"),
}
_REGISTER_CHARACTER = {
    "low": ("heavy", "weighty", "dark", "grave", "lumbering"),
    "high": ("delicate", "light", "glittering", "tiny", "airy"),
}
_LOUD, _SOFT = ("majestic", "grand", "bold", "triumphant", "powerful"), ("quiet", "soft", "hushed", "intimate")
_GENRE = {
    "quartet": ("chamber music", "classical chamber music", "quartet movement"),
    "chorale": ("chorale", "hymn", "baroque chorale"),
    "mass": ("sacred polyphony", "renaissance polyphony", "motet"),
    "madrigal": ("madrigal", "renaissance music", "polyphony"),
    "tune": ("dance", "folk dance", "folk tune"),
    "rag": ("ragtime", "ragtime dance"),
    "song": ("song", "romantic miniature", "character piece"),
}
_UNCOUNTED = ("music", "polyphony", "ragtime")
_ARTICULATION = {
    "staccato": ("staccato", "short detached notes", "crisp"),
    "detached": ("light articulation", "clear articulation"),
    "legato": ("legato", "smooth lines", "singing lines"),
}
_TEMPLATES = (
    "{a_tempo_character_genre} for {instruments}, {register}",
    "{character} {genre}, {tempo}, {instruments}, {register}, {mode}",
    "{instruments}, {register}, {tempo} {genre}, {character} and {character2}",
    "{a_character_genre} with {instruments}, {tempo}, {articulation}",
    "{genre} in a {mode}, {tempo} and {character}, played by {instruments}",
    "{character}, {character2} {instruments}, {tempo}, {register}",
    "{instruments} playing {a_character_genre}, {articulation}, {tempo}",
    "{tempo} music for {instruments}, {character}, {register}, {articulation}",
)


def build_caption(facts: Facts, rng: np.random.Generator) -> str:
    """A sentence about `facts`; the template and the words are drawn from `rng`, nothing else varies."""

    def pick(words: Sequence[str]) -> str:
        return str(words[int(rng.integers(len(words)))])

    words = list(_CHARACTER[(facts.minor, facts.tempo)])
    words += _REGISTER_CHARACTER.get(facts.register, ())
    if facts.loudness > 92:
        words += _LOUD
    elif facts.loudness < 62:
        words += _SOFT
    character = pick(words)
    character2 = pick([word for word in words if word != character])
    tempo = pick(_TEMPO[facts.tempo])
    genre = pick(_GENRE[facts.family])
    filled = pick(_TEMPLATES).format(
        tempo=tempo,
        character=character,
        a_tempo_character_genre=_article(f"{tempo} {character} {genre}"),
        a_character_genre=_article(f"{character} {genre}"),
        character2=character2,
        register=pick(_REGISTER[facts.register]),
        genre=genre,
        mode="minor key" if facts.minor else "major key",
        articulation=pick(_ARTICULATION[facts.articulation]),
        instruments=_name_instruments(facts.instruments, facts.ensemble, rng),
    )
    return filled[0].upper() + filled[1:]


def _article(phrase: str) -> str:
    if phrase.endswith(_UNCOUNTED):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _name_instruments(instruments: Sequence[str], ensemble: str | None, rng: np.random.Generator) -> str:
    """The players in words: the group's name half of the time when there is one, else up to four instruments."""
    use_group = rng.random() < 0.5
    if ensemble is not None and use_group:
        return ensemble
    names = list(instruments[:4])
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def vocabulary() -> set[str]:
    """Every word that a caption can contain, lower case."""
    from eisbach.data.synth import ENSEMBLES, INSTRUMENTS

    phrases: list[str] = [*INSTRUMENTS, *ENSEMBLES, *_LOUD, *_SOFT, "minor key major key a an and"]
    for table in (_TEMPO, _REGISTER, _CHARACTER, _REGISTER_CHARACTER, _GENRE, _ARTICULATION):
        for options in table.values():
            phrases += options
    for template in _TEMPLATES:
        phrases.append(" ".join(part.split("}")[-1] for part in template.split("{")))
    return {word for phrase in phrases for word in phrase.lower().replace(",", " ").split()}
