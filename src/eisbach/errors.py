"""The errors that Eisbach raises on purpose.

A `UserError` is a mistake that a person can mend: its message is one sentence that says what arrived,
what is allowed and what to do. The command line prints it and exits with code 2. Everything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

_UNSEEN = ("Cc", "Cf", "Cs")  # controls, formatting such as zero-width and direction marks, halves of surrogate pairs


def one_line(text: str) -> str:
    """The text on one line: breaks become a space, and what cannot be seen is written as an escape (`\\x1b`)."""
    text = " ".join(part for line in str(text).splitlines() if (part := line.strip()))
    if text.isascii() and text.isprintable():
        return text
    import unicodedata  # here, since everything imports this module

    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def _escape(character: str) -> str:
    return ascii(character)[1:-1]


class EisbachError(Exception):
    """Base of every error raised on purpose by this package."""


class UserError(EisbachError, ValueError):
    """A mistake in what the user passed: file, option, configuration, manifest or audio.

    The message is kept as one line that a terminal shows as it is: names and contents that it quotes may hold anything.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


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
