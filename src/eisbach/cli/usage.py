"""Words that no command understands, in one sentence with the way to what was meant."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

UNKNOWN_OPTION, NO_WORDS = "NoSuchOption", "NoArgsIsHelpError"
"""Kinds of usage errors by their class's name: typer brings a click of its own, or takes the one that is installed."""


def usage_sentence(error: Any, words: Sequence[str]) -> str:
    """What is wrong with a line, and what to type instead.

    Parameters
    ----------
    error : UsageError of click
    words : sequence of str
        The line's words after the program's name.
    """
    context = error.ctx
    more = "" if context is None else f"; {_path(context)} --help says what there is"
    if type(error).__name__ == UNKNOWN_OPTION:
        key = None if context is None else recipe_key(context, error.option_name)
        if key is not None:
            assignment = shlex.quote(f"{key}={_value(error.option_name, words)}")
            return f"there is no option {error.option_name}; a recipe's key is set with --set {assignment}."
        near = f" (did you mean {' or '.join(error.possibilities)}?)" if error.possibilities else ""
        return f"there is no option {error.option_name}{near}{more}."
    message = error.format_message().strip().rstrip(".")
    about = getattr(getattr(error, "param", None), "help", None)
    if message.startswith("Missing") and about:
        message = f"{message} ({about.rstrip('.')})"
    return f"{message[:1].lower()}{message[1:]}{more}."


def _path(context: Any) -> str:
    """The command's words, whichever way the program was started."""
    names = []
    while context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["eisbach", *reversed(names)])


def recipe_key(context: Any, option: str) -> str | None:
    """The key of the command's recipe that an option which does not exist names, such as optimiser.lr for --lr.

    Of several, the one in the fewest groups. None where the command takes no `--set`, or none is the one.
    """
    if not any("--set" in parameter.opts for parameter in context.command.params):
        return None
    name = option.lstrip("-").replace("-", "_")
    keys = _keys(_path(context))
    named = [key for key in keys if key.rpartition(".")[2] == name]
    nearest = [key for key in named if key.count(".") == min(other.count(".") for other in named)]
    found = nearest or [key for key, meant in keys.items() if name in meant]
    return found[0] if len(found) == 1 else None


def _keys(command: str) -> dict[str, set[str]]:
    """The dotted keys that `--set` of a command takes, with other words for them."""
    from eisbach.config import known_keys

    if command in ("eisbach train", "eisbach probe"):
        from eisbach.training.config import TrainConfig

        return known_keys(TrainConfig)
    if command in ("eisbach demo", "eisbach experiment run"):
        from eisbach.experiments.spec import ExperimentSpec
        from eisbach.training.config import TrainConfig

        own = known_keys(ExperimentSpec)
        return {**known_keys(TrainConfig, "training."), **own}
    return {}


def _value(option: str, words: Sequence[str]) -> str:
    """The value that was typed behind an option."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and following and not following.startswith("-"):
            return following
    return "VALUE"
