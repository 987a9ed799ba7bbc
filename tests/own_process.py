"""Processes of their own that do not pay for the imports: forked from one server that has them (six to eight seconds of
a core for each process that starts Python and loads a model).

Everything else is as a shell gives it: a process has its own streams, folder, environment, signals and end. What Python
does while it starts (its encodings, its warnings, what a command imports) is tested with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

PRELOADED = (
    "pytest",
    "eisbach.cli.main",
    "eisbach.training.loop",
    "eisbach.generation.generate",
    "eisbach.structure.analyze",
    "eisbach.backbones.stable_audio3",
    "eisbach.backbones.tiny",
    "eisbach.codecs.wide",
    "diffusers.models.transformers.transformer_stable_audio3",
    "diffusers.models.unets.unet_2d",
    "peft.tuners.lora",
    "accelerate",
    "torch._dynamo",
    "lightning.pytorch",
    "pytorch_lightning",
)

_AT_FIRST = dict(os.environ)


def server() -> ForkServerContext:
    """What gives processes that have the imports already: `server().Process(target=function, args=…)`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    now = dict(os.environ)  # what one test has set is not what the server keeps for the others
    try:
        _set_environment(_AT_FIRST)
        forkserver.ensure_running()
    finally:
        _set_environment(now)
    return context


def _set_environment(values: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def together(count: int, function: Callable[..., Any], *args: Any, seconds: float = 300) -> None:
    """Calls `function(rank, *args)` in `count` processes at once; each must end well."""
    workers = [server().Process(target=function, args=(rank, *args)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
    assert [worker.exitcode for worker in workers] == [0] * count


@dataclass(frozen=True)
class Done:
    """What a process came to, as `subprocess.run` says it."""

    returncode: int
    stdout: str
    stderr: str


class OwnProcess:
    """A function in a process of its own, with streams of its own; `kill`, `send_signal`, `poll` and `wait` as with
    `subprocess.Popen`.

    Parameters
    ----------
    function : callable
        Of a module that can be imported by its name.
    args
        What it is called with.
    cwd, env, text
        The folder, the whole environment, and what standard input reads.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *args: Any,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        text: str = "",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="own-process-")
        streams = Path(self._folder.name)
        (streams / "0").write_text(text, encoding="utf-8")
        place, environment = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        self._process = server().Process(target=_begin, args=(str(streams), place, environment, function, args))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> Done:
        """What it came to, when it has ended; it ends here where it takes longer than that."""
        end = time.monotonic() + seconds
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        streams = Path(self._folder.name)
        said = {number: (streams / str(number)).read_text(encoding="utf-8", errors="replace") for number in (1, 2)}
        assert time.monotonic() < end, f"did not end in {seconds:g} s: {said}"
        self._folder.cleanup()
        code = self._process.exitcode
        assert code is not None
        return Done(code, said[1], said[2])


def start_eisbach(*words: object, **options: Any) -> OwnProcess:
    """`eisbach WORDS`, begun; see `OwnProcess` for the options."""
    return OwnProcess(command, [str(word) for word in words], **options)


def eisbach(*words: object, **options: Any) -> Done:
    """`eisbach WORDS`, done."""
    return start_eisbach(*words, **options).wait()


def script(path: Path, *words: str, **options: Any) -> Done:
    """`python PATH WORDS`, done."""
    return OwnProcess(_script, str(path), list(words), **options).wait()


def _begin(streams: str, place: str, environment: dict[str, str], function: Callable[..., Any], args: Any) -> None:
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        file = os.open(f"{streams}/{number}", flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
        for number, mode in enumerate("rww")
    )
    os.chdir(place)
    _set_environment(environment)
    import huggingface_hub.constants
    import torch

    huggingface_hub.constants.HF_HUB_OFFLINE = environment.get("HF_HUB_OFFLINE") == "1"  # read as it is imported
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    function(*args)


def command(words: list[str]) -> None:
    """`eisbach WORDS` in the process that calls it."""
    from eisbach.cli.main import main

    sys.argv = ["eisbach", *words]
    main()


def _script(path: str, words: list[str]) -> None:
    sys.argv = [path, *words]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")
