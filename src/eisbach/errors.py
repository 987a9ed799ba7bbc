"""The errors that Eisbach raises on purpose.

A `UserError` is a mistake that a person can mend: its message is one sentence that says what arrived,
what is allowed and what to do. The command line prints it and exits with code 2. Everything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys

_UNSEEN = ("Cc", "Cf", "Cs")  # controls, formatting such as zero-width and direction marks, halves of surrogate pairs


def one_line(text: str) -> str:
    """The text on one line: breaks become a space, and what cannot be seen is written as an escape (`\\x1b`)."""
    text = " ".join(part for line in str(text).splitlines() if (part := line.strip()))
    if text.isascii() and text.isprintable():
        return text
    import unicodedata  # here, since everything imports this module

    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "clip"), counted(2, "clip")
    ('1 clip', '2 clips')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


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


class OutOfMemory(UserError):
    """The device or the machine has less memory than the recipe needs; says how much."""


_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "failed to map segment",
    "can't start new thread",
    "std::bad_alloc",
    "without exception set",  # what CPython says where an extension ran out and forgot to say so
    "cublas_status_alloc_failed",
    "cudnn_status_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory ran out, on a GPU or on the host (`ulimit -v` included)."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = str(error).lower()
    if isinstance(error, (RuntimeError, ImportError, SystemError)) and any(sign in said for sign in _MEMORY_SIGNS):
        return True
    # what could not be read for want of memory is no broken file, whatever the reader made of it
    cause = error.__cause__ if isinstance(error, CheckpointError) or not isinstance(error, EisbachError) else None
    return cause is not None and is_out_of_memory(cause)


def out_of_memory(error: BaseException) -> str | None:
    """The sentence for memory that ran out, for whoever called a command; None for every other error."""
    if isinstance(error, OutOfMemory):
        return str(error)
    if not is_out_of_memory(error):
        return None
    return (
        "there is not enough memory for this; close other programs or raise the limit (ulimit -v), or do less at "
        "once: a smaller batch, fewer --jobs, shorter clips or a smaller model. What was finished is kept."
    )


def storage_error(path: object, error: OSError) -> StorageError:
    """What a user is told when the system refused to write a path."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return StorageError(f"{path} could not be written: a file is where a folder should be; choose another folder.")
    return StorageError(
        f"{path} could not be written ({error.strerror or error}); free some space or choose another folder."
    )


def disk_error(error: BaseException | None) -> OSError | None:
    """The system's error; None when the disk is not to blame."""
    if isinstance(error, OSError):
        return error
    safetensors = sys.modules.get("safetensors")  # it wraps the system's errors in one of its own
    if safetensors is not None and isinstance(error, safetensors.SafetensorError) and "I/O error" in str(error):
        return OSError(str(error).rpartition("I/O error: ")[2])
    return None
