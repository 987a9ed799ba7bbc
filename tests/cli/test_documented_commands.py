"""The README and the pages of docs/ keep their word: commands, options, keys, names, files and links that they print
exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import click
import pytest
import typer.main
from pydantic import BaseModel

from eisbach.cli.main import app

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "src/eisbach/studies"
PAGES = [
    ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").rglob("*.md")),
    *sorted(STUDIES.glob("*/README.md")),
]  # fmt: skip
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
MOST_WORDS = 1_500
OTHERS_OPTIONS = {"--num_processes", "--nproc_per_node", "--encoded_dir"}  # accelerate, torchrun, Stability's trainer


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The page's fenced blocks in these languages; `""` is a block without one."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        if language in languages:
            yield text


def inline(page: Path) -> list[str]:
    """What stands between backticks outside of fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def children_of(command: click.Command) -> dict[str, click.Command]:
    """A group's commands by name; none of a command."""
    return getattr(command, "commands", {})


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the words behind it."""
    command = COMMANDS[()]
    while children := children_of(command):
        default = getattr(command, "default_command", None)
        if default is not None and (not words or words[0] not in children):
            words = [default, *words]
        if not words or words[0] not in children:
            raise AssertionError(f"there is no command '{' '.join(words[:1])}' in '{command.name}'")
        command, words = children[words[0]], words[1:]
    return command, words


def printed_commands(page: Path) -> list[list[str]]:
    """The words of every `eisbach` command line in the page's shell blocks, comments left out."""
    lines = "\n".join(blocks(page, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        match = re.match(r"(?:\$ )?(?:\.venv/bin/)?eisbach (.*)", line)
        if match:
            words = shlex.split(match.group(1), comments=True)
            found.append([word for word in words if not word.startswith("${")])  # an array of the shell
    return found


def all_commands() -> dict[tuple[str, ...], click.Command]:
    """Every command and group by its words."""

    def walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        yield words, command
        for name, child in children_of(command).items():
            yield from walk(child, (*words, name))

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = all_commands()
OPTIONS = {
    name for command in COMMANDS.values() for item in command.params for name in (*item.opts, *item.secondary_opts)
} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_printed_commands_are_commands(page: Path) -> None:
    """Parsed by the command's own parser: unknown options, missing arguments and values of a wrong type raise."""
    for words in printed_commands(page):
        command, rest = command_of(words)
        command.make_context(command.name, list(rest)).close()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_the_text_are_commands(page: Path) -> None:
    """`eisbach data render`, `eisbach signature run --model FOLDER …`: the words of the command, and its options,
    exist."""
    for code in inline(page):
        if not code.startswith("eisbach ") or code.startswith("eisbach."):
            continue
        words = code.split()[1:]
        path: tuple[str, ...] = ()
        while len(words) > len(path) and (*path, words[len(path)]) in COMMANDS:
            path = (*path, words[len(path)])
        group = COMMANDS[path]
        assert path or words[0].startswith("-"), f"{code}: no such command"
        rest = words[len(path) :]
        assert not (children_of(group) and rest and re.fullmatch("[a-z]+", rest[0])), f"{code}: no such command"
        known = {name for item in group.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
        said = {word.strip("[],").split("=")[0] for word in rest if word.lstrip("[").startswith("--")}
        assert said <= known, f"{code}: {said - known}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_in_the_text_are_options(page: Path) -> None:
    scripts = [*(ROOT / "bench").glob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    text = " ".join(path.read_text(encoding="utf-8") for path in scripts)
    said = {word for code in inline(page) for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert {word for word in said - OPTIONS - OTHERS_OPTIONS if not re.search(rf"{word}\b", text)} == set()


def test_every_command_is_named_on_a_page() -> None:
    """The first word in the README, the whole command anywhere: nobody finds what no page names."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    readme = PAGES[0].read_text(encoding="utf-8")
    for words, command in COMMANDS.items():
        if not words or command.hidden:
            continue
        assert f"eisbach {words[0]}" in readme, words
        if not children_of(command):
            spoken = re.search(
                rf"eisbach {words[0]}\b[^\n|]*\b{words[-1]}\b" if len(words) > 1 else rf"eisbach {words[0]}\b", text
            )
            assert spoken, f"no page names eisbach {' '.join(words)}"


def has_key(model: type[BaseModel], parts: list[str]) -> bool:
    """Whether the configuration has such a key; what lies below a free mapping is not looked at."""
    field = model.model_fields.get(parts[0])
    if field is None:
        return False
    if len(parts) == 1:
        return True
    inside = [get_origin(kind) or kind for kind in (field.annotation, *get_args(field.annotation))]
    groups = [kind for kind in inside if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return dict in inside or any(has_key(kind, parts[1:]) for kind in groups)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_keys_that_are_set_are_keys(page: Path) -> None:
    from eisbach.diagnostics.probe.result import ProbeConfig
    from eisbach.diagnostics.signature.config import SignatureConfig
    from eisbach.diagnostics.signature.entropic import EntropicConfig
    from eisbach.experiments.spec import ExperimentSpec
    from eisbach.training.config import TrainConfig

    configs = [TrainConfig, ExperimentSpec, ProbeConfig, SignatureConfig, EntropicConfig]
    configs += [
        importlib.import_module(f"eisbach.studies.{file.parent.name}.run").Settings for file in STUDIES.glob("*/run.py")
    ]
    for key in re.findall(r"--set ([a-z_.]+)=", page.read_text(encoding="utf-8")):
        if key != "key":
            assert any(has_key(config, key.split(".")) for config in configs), key


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings], link
    for code in inline(page):
        for name in re.findall(r"(?<![\w/.])(?:bench|tests|docs|recipes|src|examples)/[\w./-]*\w(?![\w{*])", code):
            assert (ROOT / name).exists(), f"{name} in `{code}`"
    for block in blocks(page, "", "sh", "bash"):
        for name in re.findall(r"(?<![\w/.])(?:bench|docs|recipes|examples)/[\w./-]*\w", block):
            assert (ROOT / name).exists(), f"{name} in a command"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_parses_and_its_imports_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "eisbach":
                module = importlib.import_module(node.module)
                for item in node.names:
                    if not hasattr(module, item.name):
                        importlib.import_module(f"{node.module}.{item.name}")


@pytest.mark.parametrize("page", PAGES[: 1 + len(list((ROOT / "docs").glob("*.md")))], ids=lambda page: page.stem)
def test_no_page_is_longer_than_people_read(page: Path) -> None:
    words = len(page.read_text(encoding="utf-8").split())
    assert words <= MOST_WORDS, f"{page.name} has {words} words: shorten it, or split it and add the part to mkdocs.yml"


def test_sounds_that_pages_play_are_there_and_small() -> None:
    folder = ROOT / "docs/sounds"
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    played = re.findall(r'<audio controls preload="none" src="sounds/([\w-]+\.mp3)" aria-label="[^"]+"></audio>', text)
    assert len(re.findall("<audio", text)) == len(played)
    assert set(played) == {file.name for file in folder.iterdir()}
    assert all(file.stat().st_size < 100_000 for file in folder.iterdir())


def test_every_page_can_be_found() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    others = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in nav or (page.name.startswith("claims-") and f"]({page.name})" in others), page.name
