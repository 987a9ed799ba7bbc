"""The last line of a command: what to try next, made of what it was just given.

One table for all commands. The line goes to standard error, so that standard output stays for results, and is left out
where `--quiet` or `--json` was said.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import typer

Values = Mapping[str, Any]
_OWN_MUSIC = Path("recipes/own-music.yaml")


class NextStep(str):
    """What a command itself returns as the next step, where that depends on what it found."""


def _first(value: Any, otherwise: str) -> Any:
    """The first of several, or the only one; `otherwise` where nothing was given."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return value or otherwise


def _words(*words: Any) -> str:
    return shlex.join(["eisbach", *map(str, words)])


def _after_train(given: Values) -> str:
    out = Path(given["out"] or _setting(given, "out") or "runs/train")
    if (out / "model").is_dir():
        if "latent_size" in (out / "model" / "config.json").read_text(encoding="utf-8"):
            return _words("images", "sample", out / "model", "--out", out / "samples")
        return _words("generate", "--prompts", "plain", "--model", out / "model", "--out", out / "played")
    model = _setting(given, "model")
    base = [] if model in (None, "embedded") else ["--model", model]
    return _words("generate", "--prompts", "plain", *base, "--adapter", out / "adapter", "--out", out / "played")


def _recipe() -> str:
    """A recipe for a folder of one's own, where the checkout's recipes are at hand."""
    return str(_OWN_MUSIC) if _OWN_MUSIC.is_file() else "RECIPE"


def _setting(given: Values, key: str) -> str | None:
    """A key of the recipe, as `--set` or the recipe itself has it."""
    from eisbach.config import apply_overrides, read_recipe

    value = apply_overrides(read_recipe(given["recipe"]), given["overrides"] or []).get(key)
    return value if isinstance(value, str) else None


def _after_demo(given: Values) -> str:
    if given["data"] is None:
        return _words("data", "folder", "MUSIC")
    if given["quick"]:
        from eisbach.experiments.recipes import own_demo_folder

        return _words(
            "demo", "--data", given["data"], "--out", f"{given['out'] or own_demo_folder(given['data'])}-whole"
        )
    return _after_doctor({"path": given["data"], "recipe": None})


def _after_folder(given: Values) -> str:
    return _words("data", "doctor", given["out"] or given["path"])


def _after_rendering(given: Values) -> str:
    return _words("data", "doctor", given["out"])


def _after_doctor(given: Values) -> str:
    path, captions = Path(given["path"]), given.get("caption_from") or "auto"
    if path.is_dir() and not (path / "manifest.jsonl").is_file():
        return _words("data", "folder", path, *([] if captions == "auto" else ["--caption-from", captions]))
    return _words("train", given["recipe"] or _recipe(), "--data", given["path"], "--out", "runs/mine")


def _after_probe(given: Values) -> str:
    data = [word for source in given["data"] or [] for word in ("--data", source)]
    return _words("train", given["recipe"] or _recipe(), *data, "--set", "weighting.sample=NAME")


def _after_generate(given: Values) -> str:
    if given.get("compare_checkpoints"):
        steps = sorted(Path(given["out"]).glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        return _words("generate", "--prompts", "plain", "--adapter", steps[-1] if steps else "STEP")
    return _words("analyze", given["out"], "--out", f"{given['out']}/analysis")


def _after_analyze(given: Values) -> str:
    paths = given["paths"] or ["FOLDER"]
    return _words("figure", "ssm", paths[0], "--out", "ssm.png")


TABLE: dict[str, Callable[[Values], str]] = {
    "demo": _after_demo,
    "train": _after_train,
    "watch": lambda given: _words("analyze", f"{_first(given['runs'], 'RUN')}/samples"),
    "generate": _after_generate,
    "export": lambda given: _words("generate", "--prompts", "plain", "--adapter", _first(given["adapter"], "ADAPTER")),
    "probe": _after_probe,
    "allocation": lambda given: _words(
        "train", "RECIPE", "--set", f"weighting.noise_level={_first(given['noise_level'], 'NAME')}"
    ),
    "analyze": _after_analyze,
    "figure": lambda given: _words("analyze", _first(given["files"], "FOLDER")),
    "listen make": lambda given: _words("listen", "score", f"{given['out']}/votes", "--test", given["out"]),
    "listen score": lambda given: _words("analyze", "A/", "B/", "--votes", given["test"]),
    "listen serve": lambda given: _words("listen", "score", f"{given['test']}/votes", "--test", given["test"]),
    "compare": lambda given: _words("analyze", "FOLDER"),
    "data render": _after_rendering,
    "data flat": _after_rendering,
    "data folder": _after_folder,
    "data doctor": _after_doctor,
    "data encode": lambda given: _words(
        "train", "RECIPE", "--data", given["out"] if given["layout"] == "sa3" else given["manifest"]
    ),
    "data latents": lambda given: _words("train", "RECIPE", "--data", given["folder"]),
    "data musiccaps": _after_rendering,
    "data scores": lambda given: _words("data", "render", "--out", "set"),
    "experiment run": lambda given: _words("listen", "make", "FOLDER", "OTHER", "--out", "test"),
    "signature run": lambda given: _words("study", "show", "signature_music"),
    "signature mixture": lambda given: _words("signature", "run", "--prompts", "FILE"),
    "signature entropy": lambda given: _words(
        "generate",
        "--prompts",
        "plain",
        "--schedule",
        "rescaled_entropic",
        "--schedule-option",
        f"curve={given['out'] or 'FILE'}",
    ),
    "signature structure": lambda given: _words(
        "train",
        "RECIPE",
        "--set",
        "weighting.memory={below: 0.6}",
        "--set",
        f"weighting.act_above={{curve: {given['out'] or 'FILE'}}}",
    ),
    "recoverability": lambda given: _words("study", "list"),
    "images sample": lambda given: _words(
        "images",
        "quality",
        "--reference",
        "FOLDER",
        "--samples",
        given["out"],
        "--features",
        "digits",
        "--weights",
        "FOLDER",
    ),
    "images quality": lambda given: _words("images", "sample", "MODEL", "--count", "50000"),
    "study list": lambda given: _words("study", "show", "NAME"),
    "study show": lambda given: _words("study", "run", _first(given.get("name"), "NAME"), "--quick"),
    "study run": lambda given: _words("study", "show", _first(given.get("name"), "NAME")),
    "study judge": lambda given: _words("study", "show", _first(given.get("name"), "NAME")),
    "study page": lambda given: _words("study", "list"),
}


def with_next_steps(command: Any, path: tuple[str, ...] = ()) -> Any:
    """The command with every command below it saying, when it is done, what to try next."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            with_next_steps(below, (*path, name))
        return command
    work = command.callback

    @wraps(work)
    def then(**given: Any) -> Any:
        _check_words(given)
        result = work(**given)
        if not (given.get("quiet") or given.get("as_json")):
            line = result if isinstance(result, NextStep) else next_step(" ".join(path), given)
            if line is not None:
                typer.echo(f"next: {line}", err=True)
        return result

    command.callback = then
    return command


def _check_words(given: Values) -> None:
    """Refuses what no command can use: text that is not UTF-8, and with --dry-run a place that cannot be written.

    Paths of inputs may have any name; the one that reads them says what it leaves out.
    """
    from eisbach.errors import UserError

    for name, value in given.items():
        for word in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(word, Path) and name != "out":
                continue
            try:
                str(word).encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(f"'{word}' is not UTF-8 text; rename the file or folder, or type it again.") from error
    if given.get("dry_run") and given.get("out"):
        from eisbach.output_folder import check_writable

        out = Path(given["out"])
        check_writable(out.parent if out.suffix else out)


def next_step(name: str, given: Values) -> str | None:
    """The command line to try after `name` was run with these values; capitals stand for what only a person knows."""
    if given.get("dry_run"):
        typed = sys.argv[1:]
        if " ".join(typed).startswith(name) and "--dry-run" in typed:
            return _words(*(word for word in typed if word != "--dry-run"))
        return "the same command without --dry-run"
    make = TABLE.get(name)
    return None if make is None else make(given)
