"""The standard streams as a long command needs them: output that cannot be encoded, written or shown never costs the
work.

`open_streams` is called once, before anything is printed or opened.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

_GONE = (errno.EPIPE, errno.EBADF, errno.EIO)
"""What writing to a reader that has left gives: a closed pipe, a closed descriptor, a terminal that hung up."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Unheard(io.FileIO):
    """A descriptor whose reader may leave: what nobody reads any more counts as written, and so does what finds the
    disk full."""

    lost: OSError | None = None
    """The full disk that part of the output met; said at the end, when the command's own work is done."""

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno in _FULL:
                self.lost = error
            elif error.errno not in _GONE:
                raise
            return len(data)


def open_streams() -> None:
    """Makes standard output and error safe to print to, whatever they are.

    - A descriptor that the caller closed (`2>&-`) is opened on nothing, else the next file that is opened would get its
      number and with it the messages of C libraries.
    - Characters that the stream's encoding lacks are written as escapes (`\\u97f3`).
    - When the reader leaves (`| head`) or the log's disk is full, the command goes on: what it writes to files is what
      it is for.
    - Where file names are not read as UTF-8 (a C or Latin-1 locale), the process starts itself again in Python's UTF-8
      mode, since manifests and captions are UTF-8; the streams keep their encoding.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
    _speak_utf8()
    sys.stdout = _safe(sys.stdout, 1)
    sys.stderr = _safe(sys.stderr, 2)


def close_streams() -> OSError | None:
    """Writes what is still in the buffers; gives the error where part of the output found the disk full."""
    sys.stdout.flush()
    sys.stderr.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Unheard) else None


def _safe(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # closed when Python started
        encoding = "utf-8"
    else:
        try:
            if stream.fileno() != number:
                return stream
        except (OSError, ValueError):  # someone's own stream, as in a notebook or a test
            return stream
        stream.flush()
        encoding = stream.encoding
    raw = _Unheard(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
        write_through=number == 2,
    )


def _speak_utf8() -> None:
    if os.name != "posix" or sys.flags.utf8_mode or sys.getfilesystemencoding().lower().replace("-", "") == "utf8":
        return
    environment = {**os.environ, "PYTHONUTF8": "1"}
    if "PYTHONIOENCODING" not in environment and sys.stdout is not None:
        environment["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
