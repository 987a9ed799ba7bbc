"""The `eisbach` command: collects the subcommands and turns a user's mistakes into one sentence and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from eisbach import __version__
from eisbach.cli import (
    allocation,
    analyze,
    data,
    demo,
    experiment,
    export,
    figure,
    generate,
    images,
    listen,
    probe,
    signature,
    study,
    train,
    watch,
)
from eisbach.cli.next_steps import with_next_steps
from eisbach.errors import EisbachError, InterruptedRun, out_of_memory
from eisbach.executors.base import quiet_libraries
from eisbach.interruption import stop_as_ctrl_c

_PLAY, _WEIGH = "Train and play", "Look into a weighting before training"
_MEASURE, _STUDY = "Measure what came out", "Compare trainings, check claims"

app = typer.Typer(
    name="eisbach",
    help="Decide where a diffusion model's training effort goes, and measure what that did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", rich_help_panel=_PLAY)(demo.demo)
app.add_typer(data.app, name="data", rich_help_panel=_PLAY)
app.command("train", rich_help_panel=_PLAY)(train.train)
app.command("watch", rich_help_panel=_PLAY)(watch.watch)
app.command("generate", rich_help_panel=_PLAY)(generate.generate)
app.command("export", rich_help_panel=_PLAY)(export.export)
app.command("probe", rich_help_panel=_WEIGH)(probe.probe)
app.command("allocation", rich_help_panel=_WEIGH)(allocation.allocation)
app.command("analyze", rich_help_panel=_MEASURE)(analyze.analyze)
app.command("figure", rich_help_panel=_MEASURE)(figure.figure)
app.add_typer(listen.app, name="listen", rich_help_panel=_MEASURE)
app.command("compare", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    analyze.compare
)
app.add_typer(experiment.app, name="experiment", rich_help_panel=_STUDY)
app.add_typer(signature.app, name="signature", rich_help_panel=_WEIGH)
app.add_typer(study.app, name="study", rich_help_panel=_STUDY)
app.command("recoverability", hidden=True, context_settings=study.ANY_WORDS)(study.recoverability)
app.add_typer(images.app, name="images", rich_help_panel=_MEASURE)


_INTERRUPTED = 130
_STOPPED = "stopped; the same command goes on from what was finished."


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _say_warnings() -> None:
    """Shows the package's own warnings as the notes they are; those of other libraries keep their form."""
    usual, home = warnings.showwarning, str(Path(__file__).parents[1])

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if filename.startswith(home) and file is None:
            typer.echo(f"note: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def main() -> NoReturn:
    """Runs the command line: exit code 0, 1 (a defect of ours), 2 (a user's mistake) or 130 (stopped by the user)."""
    _open_streams()
    quiet_libraries()
    _say_warnings()
    with stop_as_ctrl_c():
        code = _run()
    lost = _close_streams()
    if lost is not None:
        code = _fail(f"part of what was printed could not be written ({lost.strerror}); print it elsewhere.")
    sys.exit(code)


def _commands() -> Any:
    return with_next_steps(typer.main.get_command(app))


def _run() -> int:
    try:
        code = _commands()(standalone_mode=False)  # so that a usage error is ours to say
        if code == _INTERRUPTED:  # typer turns KeyboardInterrupt into this code, without a word
            return _fail(_STOPPED, _INTERRUPTED)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except _USAGE as error:
        return _fail_usage(error)
    except typer.Abort:
        return _fail(_STOPPED, _INTERRUPTED)
    except InterruptedRun as error:
        return _fail(f"stopped: {error}", _INTERRUPTED)
    except KeyboardInterrupt:
        return _fail(_STOPPED, _INTERRUPTED)
    except EisbachError as error:
        return _fail(out_of_memory(error) or str(error))
    except ModuleNotFoundError as error:
        sentence = missing_package(error.name)
        if sentence is None:
            raise
        return _fail(sentence)
    except Exception as error:
        sentence = out_of_memory(error) or (_storage(error) if isinstance(error, OSError) else None)
        if sentence is None:
            raise
        return _fail(sentence)


_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, of whichever click typer runs on


def _fail_usage(error: Any) -> int:
    """Says what is wrong with the line; a group without a word behind it shows its help."""
    from eisbach.cli.usage import NO_WORDS, usage_sentence

    if type(error).__name__ == NO_WORDS:
        typer.echo(error.ctx.get_help())
        return int(error.exit_code)
    if error.ctx is not None:
        typer.echo(error.ctx.get_usage(), err=True)
    return _fail(usage_sentence(error, sys.argv[1:]))


def _fail(sentence: str, code: int = 2) -> int:
    typer.echo(f"eisbach: {sentence}", err=True)
    return code


def _storage(error: OSError) -> str | None:
    """The sentence for a disk that is full or out of reach; None for every other error."""
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{str(error.filename)[:80]} cannot be a path ({error.strerror}); give another."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or error}); free some space and run the same command again."
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS) and error.filename:
        return f"{error.filename} is out of reach ({error.strerror}); choose another place."
    return None


# --- packages that a command needs and that are not installed


_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Packages whose import name is not the name that pip knows."""


def missing_package(module: str | None) -> str | None:
    """What to install for a module that could not be imported.

    Parameters
    ----------
    module : str or None
        `ModuleNotFoundError.name`.

    Returns
    -------
    str or None
        One sentence; None where the module is no requirement of this package, so that its absence is a defect.
    """
    top = (module or "").partition(".")[0]
    package = _DISTRIBUTIONS.get(top, top)
    if top in ("", "eisbach"):
        return None
    for requirement in _requirements():
        if _normal(re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]) != _normal(package):
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra is None:
            return f"the package {package} is not installed, though Eisbach needs it; run: pip install {package}"
        return f"this needs the package {package}; run: pip install 'eisbach[{extra[1]}]'"
    return None


def _requirements() -> list[str]:
    try:
        return metadata.requires("eisbach") or []
    except metadata.PackageNotFoundError:
        return []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- the standard streams of a long command: output that cannot be written never costs its work


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


def _open_streams() -> None:
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


def _close_streams() -> OSError | None:
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
