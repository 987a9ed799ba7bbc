"""Prompt sets: what a model is asked for, each with an id that names files and seeds noise."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import field_validator

from eisbach.config import StrictModel, build_config, read_yaml_file
from eisbach.errors import UserError
from eisbach.files import read_text

BUILT_IN_PROMPTS = tuple(sorted(path.stem for path in (Path(__file__).parents[1] / "assets/prompts").glob("*.yaml")))
"""Prompt sets inside the package: the paper's four characters, eight in the words of the rendered captions, and sixteen
that name no instrument."""

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Prompt(StrictModel):
    """One thing to ask for.

    Attributes
    ----------
    id : str
        Lower-case letters, digits, `-` and `_`, at most 64: it names files and, with the seed, fixes the starting
        noise.
    text : str
        What the model reads.
    character : str or None
        Whom the music portrays, for people; the model never reads it.
    """

    id: str
    text: str
    character: str | None = None

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("an id is 1 to 64 lower-case letters, digits, '-' or '_', starting with a letter or digit")
        return value

    @field_validator("text")
    @classmethod
    def _check_text(cls, value: str) -> str:
        text = " ".join(value.split())
        if not text:
            raise ValueError("a prompt needs words; write what should be heard")
        return text


class PromptSet(StrictModel):
    """A checked list of prompts with distinct ids."""

    prompts: tuple[Prompt, ...]

    @field_validator("prompts")
    @classmethod
    def _check(cls, value: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        check_prompts(value)
        return value


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raises `ValueError` when there is no prompt, or two share an id."""
    if not prompts:
        raise ValueError("at least one prompt is needed")
    ids = [prompt.id for prompt in prompts]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"prompt ids must differ, and {', '.join(twice)} came more than once")


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a YAML file, or of a built-in set by its name.

    Parameters
    ----------
    source : str or Path
        A name of `BUILT_IN_PROMPTS`, the path of a YAML list (see `prompt_rows`), or that of a `.txt` with one text a
        line; lines that are empty or begin with `#` are no texts.

    Raises
    ------
    UserError
        No such file, not YAML, not a list.
    ConfigError
        Prompts with missing, unknown, empty or repeated fields; every fault is named.
    """
    name = str(source)
    if name in BUILT_IN_PROMPTS:
        with resources.as_file(resources.files("eisbach").joinpath(f"assets/prompts/{name}.yaml")) as path:
            rows = read_yaml_file(path, "prompt file")
    else:
        sets = " or ".join(BUILT_IN_PROMPTS)
        missing = (
            f"give a YAML list of texts or of {{id, text}}, a .txt with a text a line, or a set of ours ({sets}); "
            f"words themselves are played without --prompts: eisbach generate {shlex.quote(name)}"
        )
        if Path(source).suffix.lower() == ".txt":
            text = read_text(source, "prompt file", missing=missing)
            # splitlines() would also cut at U+2028 and its like within a text
            lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
            rows = [line for line in lines if line and not line.startswith("#")]
        else:
            rows = read_yaml_file(source, "prompt file", missing=missing, error=UserError)
    if not isinstance(rows, list):
        raise UserError(
            f"the prompt file {name} must be a YAML list of texts or of {{id, text}}, not a {type(rows).__name__}."
        )
    return build_config(PromptSet, {"prompts": prompt_rows(rows)}, f"the prompt file {name}").prompts


def prompt_rows(values: Sequence[Any]) -> list[Any]:
    """A list of `{id, text, character}` (`character` is optional) from one in which plain texts may stand: these get
    the ids `prompt-1`, `prompt-2`, … by their place, or a number behind the list's where a prompt has that id.

    A number that stands for a text (`- 1812`) is one.
    """
    given = {str(value.get("id") if isinstance(value, dict) else getattr(value, "id", None)) for value in values}
    # other texts keep the numbers of their places, and so their noise
    spare = (name for number in count(len(values) + 1) if (name := f"prompt-{number}") not in given)
    rows: list[Any] = []
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            rows.append(value)
            continue
        name = f"prompt-{number}"
        rows.append({"id": next(spare) if name in given else name, "text": str(value)})
    return rows


def prompts_from_texts(texts: Sequence[str]) -> tuple[Prompt, ...]:
    """Prompts with ids `prompt-1`, `prompt-2`, … in the order given: other words, the same noise."""
    return build_config(PromptSet, {"prompts": prompt_rows(texts)}, "the list of prompts").prompts
