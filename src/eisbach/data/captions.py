"""Captions: read from the files beside a person's audio, and written for rendered music.

Written ones say what is heard (instruments, register, tempo, character), all computed from the notes played. One
builder writes those of developing and of flat material alike, with words that never speak about change over time, so
that a caption cannot reveal the label.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eisbach.audio_file import is_file
from eisbach.errors import UserError, one_line
from eisbach.files import JsonError, parse_json, read_text

_CAPTION_SUFFIXES = (".txt", ".json")
_JSON_KEYS = ("caption", "prompt")
_MOST_BYTES = 1 << 16  # a caption is a sentence; longer files are something else
_UNSEEN = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x200B, 0x200E, 0x200F, 0xFEFF])
"""Characters without a width, which no caption needs: they split words that look whole. Joiners of scripts and emoji
stay."""


def resolve_captions(paths: Sequence[Path], caption_from: str) -> str:
    """Where captions come from when that is ``auto``: the files beside the audio, or nowhere when there is not one.

    Raises
    ------
    UserError
        A mode that does not exist.
    """
    if caption_from == "auto":
        return "files" if any(_beside(path, ending) for path in paths for ending in _CAPTION_SUFFIXES) else "none"
    if caption_from not in ("files", "name", "none") and not caption_from.startswith("text:"):
        raise UserError(
            f"captions cannot come from '{one_line(caption_from)}'; choose auto, files, name, none or text:your words."
        )
    return caption_from


def read_caption(audio: Path, caption_from: str = "files") -> str | None:
    """The caption of an audio file, kept as it is written; None when there is none.

    Parameters
    ----------
    audio : Path
    caption_from : str
        ``files`` (the `.txt` or `.json` of the same name beside the audio), ``name`` (the file's name, with
        underscores and dashes as spaces), ``none`` (an empty caption, on purpose) or ``text:...`` (these words for
        all).

    Raises
    ------
    UserError
        A caption file that cannot be understood, a mode that does not exist, or both files with different words.
    """
    resolve_captions([], caption_from)
    if caption_from == "none":
        return ""
    if caption_from == "name":
        return " ".join(audio.stem.replace("_", " ").replace("-", " ").split())
    if caption_from.startswith("text:"):
        return caption_from.removeprefix("text:").strip()
    text, values = (_beside(audio, ending) for ending in _CAPTION_SUFFIXES)
    captions = []
    if text is not None:
        captions.append(_checked(_read(text).strip(), text))
    if values is not None:
        captions.append(_checked(_from_json(values), values))
    if len(captions) == 2 and captions[0] != captions[1]:
        raise UserError(f"{audio.stem}.txt and {audio.stem}.json say different things; keep one of them.")
    return captions[0] if captions else None


def clean_caption(caption: str) -> str:
    """The caption without characters that cannot be seen; controls and line breaks become spaces."""
    seen = caption.translate(_UNSEEN)
    return "".join(" " if unicodedata.category(item) == "Cc" else item for item in seen).strip()


def _beside(audio: Path, ending: str) -> Path | None:
    """The file of the same name, in whatever way the disk composes its accents."""
    path = audio.with_suffix(ending)
    if is_file(path):
        return path
    if path.name.isascii() or not audio.parent.is_dir():
        return None
    wanted = unicodedata.normalize("NFC", path.name)
    names = (item for item in audio.parent.iterdir() if item.suffix == ending)
    return next((item for item in names if unicodedata.normalize("NFC", item.name) == wanted), None)


def _read(path: Path) -> str:
    try:
        text = read_text(path, "caption", limit=_MOST_BYTES)
    except UserError as error:
        raise UserError(f"the caption {path.name} cannot be used ({error})") from error
    if "\0" in text:
        raise UserError(f"the caption {path.name} holds NUL bytes, so it is no text; write it again as UTF-8.")
    return text


def _from_json(path: Path) -> str:
    try:
        values = parse_json(_read(path))
    except JsonError as error:
        raise UserError(f'the caption {path.name} is not valid JSON ({error}); write {{"caption": "..."}}.') from error
    present = [key for key in _JSON_KEYS if isinstance(values, dict) and key in values]
    if len(present) != 1 or not isinstance(values[present[0]], str):
        raise UserError(
            f"the caption {path.name} must be an object with one text under 'caption' or 'prompt', "
            f'such as {{"caption": "slow cello"}}.'
        )
    return str(values[present[0]]).strip()


def _checked(caption: str, path: Path) -> str:
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the caption {path.name} holds half a character (a lone surrogate); write it again."
        ) from error
    return caption


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
