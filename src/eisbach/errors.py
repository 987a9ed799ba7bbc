"""The errors that Eisbach raises on purpose.

A `UserError` is a mistake that a person can mend: its message is one sentence that says what arrived,
what is allowed and what to do. The command line prints it and exits with code 2. Everything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class EisbachError(Exception):
    """Base of every error raised on purpose by this package."""


class UserError(EisbachError, ValueError):
    """A mistake in what the user passed: file, option, configuration, manifest or audio."""


class ConfigError(UserError):
    """A configuration that cannot be built; the message lists every fault found, not only the first."""


class AudioError(UserError):
    """An audio file or waveform that cannot be used."""


class ManifestError(UserError):
    """A manifest that cannot be read or whose rows contradict the files they name."""


class CheckpointError(UserError):
    """A checkpoint or adapter that is truncated, foreign or does not match the model."""


class StorageError(UserError):
    """Writing failed: the disk is full or the folder is not writable."""


class NonFiniteLossError(EisbachError):
    """Training met a NaN or infinite loss; the message names the step and the samples of the batch."""


class InterruptedRun(EisbachError):
    """The user stopped a run; what had been made is saved and the same command continues it."""


def printable(text: object) -> str:
    r"""A name or a caption as a terminal may show it: what is invisible or would steer it is escaped.

    >>> printable("a\x1b[31m b\u200b")
    'a\\x1b[31m b\\u200b'
    """
    return "".join(character if _is_shown(character) else _escape(character) for character in str(text))


def _is_shown(character: str) -> bool:
    # joiners within Persian, Indic scripts and emoji are neither printable nor to be touched
    return character.isprintable() or character in "\u200c\u200d"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
