"""The README and the pages of docs/ keep their word: commands, options, keys, names, files and links that they print
exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
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


def test_what_the_readme_says_to_do_can_be_typed() -> None:
    """Its table's commands are whole: nothing that they need is missing."""
    table = re.findall(r"^\|.*\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    commands = [code for row in table for code in re.findall(r"`(eisbach [^`]+)`", row)]
    assert len(commands) > 15
    for code in commands:
        command, rest = command_of(shlex.split(code)[1:])
        command.make_context(command.name, list(rest)).close()
        assert not children_of(command), f"{code}: prints help alone"


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


@cache
def configurations() -> list[type[BaseModel]]:
    """What recipes and studies may set."""
    from eisbach.diagnostics.probe.result import ProbeConfig
    from eisbach.diagnostics.signature.config import SignatureConfig
    from eisbach.diagnostics.signature.entropic import EntropicConfig
    from eisbach.experiments.spec import ExperimentSpec
    from eisbach.training.config import TrainConfig

    studies = sorted(file.parent.name for file in STUDIES.glob("*/run.py"))
    settings = [importlib.import_module(f"eisbach.studies.{name}.run").Settings for name in studies]
    return [TrainConfig, ExperimentSpec, ProbeConfig, SignatureConfig, EntropicConfig, *settings]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_keys_that_are_set_are_keys(page: Path) -> None:
    configs = configurations()
    for key in re.findall(r"--set ([a-z_.]+)=", page.read_text(encoding="utf-8")):
        if key != "key":
            assert any(has_key(config, key.split(".")) for config in configs), key


PACKAGE = ROOT / "src/eisbach"
PACKAGES = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_FILE = re.compile(r"\.(?:csv|json|jsonl|md|npy|npz|parquet|png|py|safetensors|wav|ya?ml)$")


@cache
def modules() -> dict[str, Path]:
    """The file of every module of the package, by its dotted name."""
    files = {file: file.relative_to(PACKAGE.parent).with_suffix("") for file in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(place.parts).removesuffix(".__init__"): file for file, place in files.items()}


@cache
def tree_of(module: str) -> ast.Module:
    """A module, read and not imported: importing them all would take half a minute."""
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def defined_in(body: list[ast.stmt], *, imported: bool = True) -> set[str]:
    """The names that a module's or a class's body gives a value, or a type; what it imports too where asked."""
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
        elif isinstance(node, ast.ImportFrom | ast.Import) and imported:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If | ast.Try):
            names |= defined_in(node.body, imported=imported)
    return names


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of ours, or what one defines or hands on, or something of that."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        if module in modules():
            tree = tree_of(module)
            lazily = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} if cut == 1 else set()
            return cut == len(parts) or parts[cut] in defined_in(tree.body) | lazily
    return False


@cache
def attributes_in(package: str) -> set[str]:
    """What the classes that bear a package's name define: an object of `weighting.Weighting` is called `weighting`."""
    inside = [name for name in modules() if name.startswith(f"eisbach.{package}.")]
    classes = [node for name in inside for node in tree_of(name).body if isinstance(node, ast.ClassDef)]
    kinds = [node for node in classes if node.name.lower().endswith(package)]
    return {name for kind in kinds for name in defined_in(kind.body)}


def is_key(name: str) -> bool:
    """Whether a recipe or a study may set it."""
    return any(has_key(config, name.split(".")) for config in configurations())


def misnamed(texts: dict[str, list[str]]) -> list[str]:
    """Dotted names between backticks that begin with `eisbach` or one of its packages, and are neither theirs, nor a
    key, nor an attribute of an object that has its package's name (`weighting.end_step`)."""
    found = []
    for place, codes in texts.items():
        for code in codes:
            name = re.sub(r"\(.*\)$", "", code, flags=re.S)
            first, _, rest = name.partition(".")
            if not _DOTTED.fullmatch(name) or _FILE.search(name):
                continue
            if first == "eisbach":
                known = resolves(name)
            elif first in PACKAGES:
                known = resolves(f"eisbach.{name}") or is_key(name) or rest in attributes_in(first)
            else:
                continue
            found += [] if known else [f"{place}: {name}"]
    return found


def test_names_of_the_package_are_there() -> None:
    """`statistics.stopping` in a page or a docstring is a module, or something else that exists."""
    texts = {str(page.relative_to(ROOT)): inline(page) for page in PAGES if STUDIES not in page.parents}
    for name, file in modules().items():
        texts[name] = re.findall(r"`([\w.]+)(?:\([^`]*\))?`", file.read_text(encoding="utf-8"))
    assert len(texts) > 300
    assert misnamed(texts) == []
    wrong = ["statistics.stopping", "experiments.adherence", "eisbach.trainer", "weighting.nothing", "adapters.mix.no"]
    right = ["statistics.anytime", "weighting.strength", "data.cache", "eisbach.training.train", "adapters.mix"]
    assert misnamed({"here": [*wrong, *right]}) == [f"here: {name}" for name in wrong]


def test_modules_that_pages_name_shortly_define_what_they_are_said_to() -> None:
    """`anytime.decide`: a module by its own name alone, which has to define the name and not only to import it."""
    by_name: dict[str, list[str]] = {}
    for module in modules():
        by_name.setdefault(module.rpartition(".")[2], []).append(module)
    wrong = []
    for page in PAGES:
        for code in inline(page) if STUDIES not in page.parents else []:
            first, _, rest = re.sub(r"\(.*\)$", "", code).partition(".")
            if first in {"eisbach", *PACKAGES} or not re.fullmatch(r"\w+", rest) or _FILE.search(f".{rest}"):
                continue
            named = by_name.get(first, [])
            if named and not any(rest in defined_in(tree_of(module).body, imported=False) for module in named):
                wrong += [] if is_key(f"{first}.{rest}") else [f"{page.name}: {code}"]
    assert wrong == []


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
        assert f": {page.name}\n" in nav or (
            page.name.startswith("claims-") and re.search(rf"\]\({page.name}[)#]", others)
        ), page.name
