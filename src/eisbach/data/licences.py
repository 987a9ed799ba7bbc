"""What a score file itself states about its licence, and whether that lets weights trained on it be passed on.

Nothing here is legal advice: the text is quoted from the file, and the rule is mechanical. A score marked
non-commercial, not to be redistributed, or with rights reserved is not redistributable; so is one whose rights
field names a copyright holder and grants nothing.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_BLOCK = re.compile(
    r"non[\s-]?commercial|not\s+(?:to\s+)?be\s+(?:re)?distributed|(?:do|may)\s+not\s+(?:re)?distribut|"
    r"not\s+for\s+(?:re)?distribution|rights\b.{0,60}\breserved|personal\s+use\s+only|educational\s+use\s+only|"
    r"no\s+commercial|\bCC[\s-]?BY[\s-]?NC\b|\bBY-NC|\bBY-ND|permission\s+(?:is\s+)?required",
    re.IGNORECASE | re.DOTALL,
)
_GRANT = re.compile(
    r"public\s+domain|\bCC0\b|creative\s+commons|\bCC[\s-](?:BY|SA)|P\.\s?D\.|freely\s+distributed|GNU\s+General\s+Public|"
    r"you\s+can\s+redistribute|released\s+to",
    re.IGNORECASE,
)
_MENTION = re.compile(
    r"copyright|©|\(c\)\s*\d{4}|licen[cs]|commercial|redistribut|reserved|public domain|creative commons|permission",
    re.I,
)
_NAMED = re.compile(
    r"(?:copyright|©|\(c\))[\W\d_]*[^\W\d_]{3,}|[A-Z]{4,}.*\b(?:19|20)\d\d\b", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class LicenceNote:
    """What a file states.

    Attributes
    ----------
    stated : str
        The words in the file (and in a licence file beside it), or "" when it states nothing.
    redistributable : bool
        False when the words restrict passing on, or claim a copyright and grant nothing.
    reason : str
        Which rule decided.
    """

    stated: str
    redistributable: bool
    reason: str


@lru_cache(maxsize=4096)
def piece_licence(path: str | Path) -> LicenceNote:
    """What the score file at `path`, and a `license.txt` in its own folder, state about their licence."""
    path = Path(path)
    rights, notices = _statements(path)
    beside = path.parent / "license.txt"
    if beside.is_file():
        notices.append(_squeeze(beside.read_text(encoding="utf-8", errors="replace")))
    stated = " | ".join(dict.fromkeys(rights + notices))
    if match := _BLOCK.search(stated):
        return LicenceNote(stated, False, f"restricted: '{_squeeze(match.group(0))}'")
    if match := _GRANT.search(stated):
        return LicenceNote(stated, True, f"granted: '{_squeeze(match.group(0))}'")
    if any(_NAMED.search(text) for text in rights):
        return LicenceNote(stated, False, "a copyright holder is named and nothing is granted")
    if stated:
        return LicenceNote(stated, True, "a notice without restriction on the encoding")
    return LicenceNote("", True, "the file states no licence")


def _statements(path: Path) -> tuple[list[str], list[str]]:
    """The file's rights statements (binding for the encoding) and its other notices."""
    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("xml") and not n.startswith("META-INF")]
            return _xml_statements("".join(archive.read(name).decode("utf-8", "replace") for name in names))
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".xml", ".musicxml"):
        return _xml_statements(text)
    if path.suffix == ".krn":
        records = re.findall(r"^!!!(?:YEC|YEM|YOO|ENC|EED|ONB|RWB|RNB)[^:\n]*:\s*(.*)$", text, re.MULTILINE)
        legal = re.findall(r"^!!!(?:YEC|YEM)[^:\n]*:\s*(.*)$", text, re.MULTILINE)
        return [_squeeze(item) for item in legal], [_squeeze(r) for r in records if r not in legal and _speaks(r)]
    if path.suffix == ".abc":
        head = re.findall(r"^%(?!%)\s*(.*)$", text, re.MULTILINE)
        block = _squeeze(" ".join(head)) if any(_speaks(line) for line in head) else ""
        # N: and Z: fields speak about the tune or its transcription
        fields = [_squeeze(f) for f in re.findall(r"^[NZSH]:\s*(.*)$", text, re.MULTILINE) if _speaks(f)]
        return ([block] if block else []), fields
    return [], []


def _xml_statements(text: str) -> tuple[list[str], list[str]]:
    rights = [_squeeze(_untag(item)) for item in re.findall(r"<rights[^>]*>(.*?)</rights>", text, re.DOTALL)]
    words = re.findall(
        r"<(?:credit-words|words|miscellaneous-field|encoding-description)[^>]*>(.*?)</", text, re.DOTALL
    )
    notices = [_squeeze(_untag(item)) for item in words if _speaks(item)]
    # "Copyright ©" with nothing behind it is an unfilled template of the notation program
    return [r for r in rights if r], [n for n in notices if n]


def _speaks(text: str) -> bool:
    """Whether a text is about rights at all."""
    return bool(_MENTION.search(text) or _BLOCK.search(text) or _GRANT.search(text))


def _untag(text: str) -> str:
    for entity, character in (("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#169;", "©")):
        text = text.replace(entity, character)
    return text


def _squeeze(text: str) -> str:
    return " ".join(text.split())
