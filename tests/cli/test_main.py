"""The whole command line: what a person sees of it, and what their mistakes look like."""

from __future__ import annotations

import errno
import itertools
import json
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile as sf
import typer.main

from eisbach import __version__
from eisbach.cli import main as cli
from eisbach.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    EisbachError,
    InterruptedRun,
    NonFiniteLossError,
    OutOfMemory,
    StorageError,
    UserError,
)

Command = Callable[..., tuple[int, str, str]]


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and group, by its words."""

    def walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))

    yield from walk(typer.main.get_command(cli.app), ())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that commands make by default, such as `analysis`, are in the working directory, which workers share."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def eisbach(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process; gives its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eisbach", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        streams = capsys.readouterr()
        return int(caught.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        sf.write(str(folder / f"{name}.wav"), 0.1 * rng.standard_normal(16000), 8000)
        (folder / f"{name}.txt").write_text("slow cello")
    return folder


HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "matplotlib",
    "scipy",
    "music21",
    "librosa",
    "peft",
    "soundfile",
    "pyarrow",
)

_PROBE = f"""
import json, sys
from click.testing import CliRunner
from typer.main import get_command
from eisbach.cli.main import app
command, runner, seen = get_command(app), CliRunner(), {{}}  # made once, not for each help
for words in json.loads(sys.argv[1]):
    result = runner.invoke(command, [*words, "--help"])
    seen[" ".join(words)] = [result.exit_code, "Usage" in result.stdout]
print(json.dumps([seen, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def test_every_help_works_without_heavy_imports() -> None:
    names = list(commands())
    assert {("data", "render"), ("train",), ("experiment", "run"), ("demo",)} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(names)], capture_output=True, text=True, check=True, timeout=120
    )
    seen, heavy = json.loads(done.stdout)
    assert seen == {" ".join(words): [0, True] for words in names}
    assert heavy == []


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "eisbach", "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


def test_without_arguments_there_is_help(eisbach: Command) -> None:
    code, out, err = eisbach()
    assert code == 2
    assert "Usage" in out + err


def test_every_option_and_argument_is_explained() -> None:
    whole, bare = typer.main.get_command(cli.app), []
    for words in commands():
        command = whole
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]
        bare += [f"{' '.join(words)}: {item.name}" for item in command.params if not getattr(item, "help", None)]
    allowed = [item for item in bare if item.endswith((": as_json", ": jobs")) or item.endswith(": path")]
    assert [item for item in bare if item not in allowed] == []


def caused(*errors: BaseException) -> BaseException:
    """The last of them, each raised from the one before."""
    for cause, error in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[-1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("the cat is out."), 2, "eisbach: the cat is out."),
        (ConfigError("x."), 2, "eisbach: x."),
        (AudioError("x."), 2, "eisbach: x."),
        (CheckpointError("x."), 2, "eisbach: x."),
        (StorageError("x."), 2, "eisbach: x."),
        (NonFiniteLossError("loss is nan."), 2, "eisbach: loss is nan."),
        (InterruptedRun("saved at step 3."), 130, "eisbach: stopped: saved at step 3."),
        (KeyboardInterrupt(), 130, "eisbach: stopped; the same command goes on from what was finished."),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "the disk is full (/x/y)"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 2, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y is out of reach (Permission denied)"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "/x is out of reach"),
        (MemoryError(), 2, "there is not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "there is not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            2,
            "not enough memory",
        ),
        (RuntimeError("can't start new thread"), 2, "there is not enough memory"),
        (SystemError("<built-in function x> returned NULL without exception set"), 2, "there is not enough memory"),
        (caused(MemoryError(), RuntimeError("Failed to import diffusers")), 2, "there is not enough memory"),
        (
            caused(ImportError("x.so: failed to map segment from shared object"), CheckpointError("fetch it again.")),
            2,
            "there is not enough memory",
        ),
        (caused(MemoryError(), RuntimeError("no import"), CheckpointError("x.")), 2, "there is not enough memory"),
        (caused(ValueError("a bad entry"), CheckpointError("fetch it again.")), 2, "eisbach: fetch it again."),
        (caused(MemoryError(), OutOfMemory("3 GiB are needed.")), 2, "eisbach: 3 GiB are needed."),
    ],
)
def test_exit_codes(
    eisbach: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_commands", lambda: fail)
    found, out, err = eisbach("anything")
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_the_package_s_warnings_are_notes(eisbach: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, without the file and line of our code; another library's warning is left as it is."""

    def warn(*_: object, **__: object) -> None:
        warnings.warn_explicit("4 clips fill batches of 16.", UserWarning, filename=str(cli.__file__), lineno=1)
        warnings.warn_explicit("soon gone.", FutureWarning, filename="/elsewhere/library.py", lineno=7)

    monkeypatch.setattr(cli, "_commands", lambda: warn)
    said: list[object] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: said.append(str(message)))
    assert eisbach("anything") == (0, "", "note: 4 clips fill batches of 16.\n")
    assert said == ["soon gone."]


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_commands", lambda: fail)
    with pytest.raises(ZeroDivisionError):
        cli.main()
    assert issubclass(UserError, EisbachError)
    assert not issubclass(InterruptedRun, UserError)


MISTAKES = {
    "data folder NONE": "is not a folder",
    "data folder EMPTY": "holds no audio",
    "data folder AUDIO --caption-from magic": "captions cannot come from 'magic'",
    "data folder AUDIO --label kind": "must look like key=value",
    "data doctor NONE": "is not a folder",
    "data doctor AUDIO --crop-seconds 0": "crop",
    "data doctor AUDIO --caption-from magic": "captions cannot come from 'magic'",
    "data encode NONE": "does not exist",
    "data encode AUDIO": "does not exist; make one with 'eisbach data folder'",
    "data encode M4A": "a.m4a: .m4a is not read; convert it (ffmpeg",
    "data encode AUDIO/a.wav": "a.wav is a recording; give the folder that holds it",
    "data encode MANIFEST --codec magic": "there is no codec 'magic'",
    "data encode MANIFEST --crop-seconds -1": "crop_seconds must be positive",
    "data encode MANIFEST --crop-seconds nan": "crop_seconds must be positive",
    "data render -o NEW --seconds long": "must be a number or a range",
    "data render -o NEW --seconds 60-30": "from the shorter to the longer",
    "data render -o NEW --seconds nan": "within 1 to 600",
    "data render -o NEW --clips 0": "clips",
    "data render -o NEW --sample-rate 1": "sample",
    "data render -o NEW --format mp3": "format",
    "data render -o NEW --pieces nobody/nothing": "nobody/nothing",
    "data render -o NEW --styles kazoo": "kazoo",
    "data flat -o NEW --kinds sharp": "sharp",
    "data scores nobody/nothing --list": "nobody/nothing",
    "train NONE": "does not exist",
    "train AUDIO": "a recipe is a YAML file (its name ends in .yaml), and recordings go into",
    "train RECIPE": "does not exist",
    "train AUDIO/a.wav": "a recipe is a YAML file (its name ends in .yaml)",
    "train RECIPE --data AUDIO/a.wav": "a.wav is a recording; give the folder that holds it",
    "train RECIPE --data AUDIO/a.wav --dry-run": "a.wav is a recording; give the folder that holds it",
    "train RECIPE --data NONE": "none.yaml does not exist; give a folder of recordings",
    "train RECIPE --data EMPTY": "holds no audio and no manifest; put .wav, .flac",
    "train RECIPE --data M4A": "a.m4a: .m4a is not read; convert it (ffmpeg",
    "train RECIPE --data M4A --dry-run": "a.m4a: .m4a is not read; convert it (ffmpeg",
    "train RECIPE --data MANIFEST --set data.select.flat=false --dry-run": "has the label flat; mark clips first (a",
    "train RECIPE --data MANIFEST --set data.select.kind=pad --dry-run": "has kind: 'pad'; the clips have 'drone' (1)",
    "probe --data M4A --out NEW": "a.m4a: .m4a is not read; convert it (ffmpeg",
    "probe --data EMPTY --out NEW": "holds no audio and no manifest; put .wav, .flac",
    "train RECIPE --set steps": "must look like key=value",
    "train RECIPE --set steps=-1": "'steps'",
    "train RECIPE --set colour=red": "unknown key 'colour'",
    "train RECIPE --data MANIFEST --set batch_size=1 --set held_out.every=0 --set model=NONE": "there is no model in",
    "generate": "nothing to generate",
    "generate x --prompts demo": "one of the two",
    "generate --prompts NONE": "does not exist",
    "generate x --seeds a": "whole numbers",
    "generate x --seeds -1": "a seed is a whole number from 0",
    "generate x --duration 0.5": "'--duration'",
    "generate x --duration nan": "'--duration'",
    "generate x --steps -3": "'--steps': Input should be greater than or equal to 1 (got -3)",
    "generate x --sampler rk4": "'--sampler'",
    "generate x --model NONE": "there is no model in",
    "generate x --model NONE --dry-run": "there is no model in",
    "generate x --out RECIPE/below --dry-run": "is a file",
    "generate x --adapter NONE --dry-run": "does not exist",
    "train RECIPE --set model=NONE --dry-run": "there is no model in",
    "train RECIPE --out RECIPE --dry-run": "is a file",
    "train RECIPE --out RECIPE/below --dry-run": "is a file",
    "train RECIPE --set weighting.sample=nothing --set lr=1 --set weighting.lambda=1 --set steps=0": "4 faults",
    "train RECIPE --set weighting.sample=nothing --set weighting.strength=7": "2 faults",
    "train RECIPE --set weighting.lambda=0.5": "(did you mean 'weighting.strength'?)",
    "train RECIPE --set lr=1e-4": "(did you mean 'optimiser.lr'?)",
    "generate --prompts AUDIO/a.wav": "the prompt file",
    "images quality --reference EMPTY --samples EMPTY --features digits": "--weights",
    "signature run --prompts NONE": "none.yaml does not exist",
    "generate x --model MODEL --adapter NONE --out NEW": "adapter",
    "generate x --model MODEL --schedule magic --out NEW": "magic",
    "analyze NONE": "does not exist",
    "analyze EMPTY": "no audio",
    "analyze RECIPE": "cannot be read as audio",
    "analyze AUDIO --pictures --json": "add --out FOLDER",
    "analyze BROKEN.jsonl": "fault",
    "compare AUDIO NONE": "part of 'eisbach analyze' now",
    "analyze AUDIO x=AUDIO": "very same files",
    "analyze AUDIO =AUDIO": "must look like",
    "analyze AUDIO EMPTY -q": "no audio",
    "analyze AUDIO BROKEN.jsonl": "fault",
    "analyze AUDIO --seconds 5 --json": "needs a folder",
    "experiment run NONE": "none.yaml",
    "experiment run RECIPE": "fault",
    "experiment run demo --set training.steps=x": "steps",
    "experiment run demo --set arms.plain.colour=red": "colour",
    "demo --data NONE --out NEW": "is not a folder",
    "demo --data EMPTY --out NEW": "holds no audio",
    "demo --seed -1": "whole number from 0",
    "demo --set colour=red": "unknown key 'colour'",
    "demo --set generation.prompts=NONE": "does not exist",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_sentence_and_make_nothing(
    eisbach: Command, audio: Path, tmp_path: Path, tiny_model: Path, line: str
) -> None:
    from eisbach.data.manifest import Manifest, ManifestRow, save_manifest

    (tmp_path / "empty").mkdir()
    (tmp_path / "m4a").mkdir()
    (tmp_path / "m4a" / "a.m4a").write_bytes(b"x")
    own = tmp_path / "own"
    own.mkdir()
    sf.write(str(own / "a.wav"), np.ones(800) * 0.1, 8000)
    save_manifest(Manifest([ManifestRow("a", "a.wav", "x", 0.1, {"kind": "drone"}, "0" * 64, "train")], own))
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{manifest: '{tmp_path / 'none.jsonl'}'}}\nout: '{tmp_path / 'new'}'\n"
    )
    (tmp_path / "broken.jsonl").write_text('{"id": 1, "mood": "bad"}\n')
    places = {
        "NONE": tmp_path / "none.yaml", "EMPTY": tmp_path / "empty", "M4A": tmp_path / "m4a", "AUDIO": audio,
        "NEW": tmp_path / "new", "MANIFEST": own, "RECIPE": tmp_path / "recipe.yaml", "MODEL": tiny_model,
        "BROKEN.jsonl": tmp_path / "broken.jsonl",
    }  # fmt: skip
    words = []
    for word in line.split():
        for name, place in places.items():
            if word == name or word.endswith(f"={name}"):
                word = word.removesuffix(name) + str(place)
            elif word.startswith(f"{name}/"):
                word = str(place) + word.removeprefix(name)
        words.append(word)
    before = set(tmp_path.rglob("*"))
    code, out, err = eisbach(*words)
    assert code == 2, out + err
    sentences = [text for text in err.splitlines() if text.startswith("eisbach: ")]
    assert len(sentences) == 1, err
    assert MISTAKES[line] in sentences[0]
    assert sentences[0].endswith(".")
    assert "Traceback" not in err
    made = set(tmp_path.rglob("*")) - before
    assert made <= {tmp_path / "new", tmp_path / "new" / ".lock"}  # a run folder is held while its data is checked
    assert not made or words[0] == "train"


@pytest.mark.parametrize(
    "words", [["fly"], ["train"], ["analyze", "--speed", "9"], ["data", "render", "--clips", "many"]]
)
def test_words_that_are_no_command_are_usage_errors(eisbach: Command, words: list[str]) -> None:
    code, _, err = eisbach(*words)
    assert code == 2
    assert "Traceback" not in err
    assert "Usage" in err
    assert "╭" not in err
    assert err.splitlines()[-1].startswith("eisbach: ")
    assert err.endswith(".\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train r.yaml --steps 200", "there is no option --steps; a recipe's key is set with --set steps=200."),
        ("train r.yaml --lr=1e-4", "there is no option --lr; a recipe's key is set with --set optimiser.lr=1e-4."),
        ("demo --steps 5", "there is no option --steps; a recipe's key is set with --set training.steps=5."),
        (
            "train r.yaml --model='my model'",
            "there is no option --model; a recipe's key is set with --set 'model=my model'.",
        ),
        (
            "train r.yaml --dry",
            "there is no option --dry (did you mean --dry-run?); eisbach train --help says what there is.",
        ),
        (
            "train",
            "missing argument 'RECIPE' (YAML recipe; copy one from recipes/); eisbach train --help says what there is.",
        ),
        ("train a b", "got unexpected extra argument(s) (b); eisbach train --help says what there is."),
        ("fly", "no such command 'fly'; eisbach --help says what there is."),
    ],
)
def test_usage_errors_are_one_sentence_with_the_way_out(eisbach: Command, line: str, said: str) -> None:
    code, out, err = eisbach(*shlex.split(line))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"eisbach: {said}"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_command_says_so(name: str) -> None:
    code = (
        "import os, signal, sys\nfrom eisbach.cli import main\n"
        f"main.app.command('stop')(lambda: (os.kill(os.getpid(), signal.{name}), signal.pause()))\n"
        "sys.argv = ['eisbach', 'stop']\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "eisbach: stopped; the same command goes on from what was finished.\n"


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "bad\udcff"),
        ("generate", "x", "--out", "bad\udcff/x"),
        ("generate", "x", "--adapter", "bad\udcff"),
        ("data", "flat", "--out", "bad\udcff"),
        ("analyze", "set", "--out", "bad\udcff/x"),
        ("demo", "--set", "title=bad\udcff"),
    ],
)
def test_words_that_are_not_utf8_are_one_sentence(eisbach: Command, words: tuple[str, ...]) -> None:
    code, out, err = eisbach(*words)
    assert (code, out) == (2, "")
    assert "is not UTF-8 text" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [("demo",), ("experiment", "run", "demo"), ("allocation",), ("data", "flat", "--clips", "1"), ("generate", "x")],
)
def test_a_dry_run_refuses_a_place_that_cannot_be_written(
    eisbach: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("x")
    code, _, err = eisbach(*words, "--dry-run", "--out", str(tmp_path / "file" / "x"))
    assert code == 2
    assert "is a file" in err


def test_memory_that_ran_out_while_a_model_was_read_is_no_broken_model() -> None:
    from eisbach.errors import is_out_of_memory

    read = CheckpointError("the model cannot be read")
    read.__cause__ = RuntimeError("Failed to import diffusers")
    assert not is_out_of_memory(read)
    read.__cause__.__cause__ = ImportError("libx.so: failed to map segment from shared object")
    assert is_out_of_memory(read)
    other = UserError("give jobs=1")
    other.__cause__ = MemoryError()
    assert not is_out_of_memory(other)
