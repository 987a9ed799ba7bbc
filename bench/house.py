"""Measures how the house is built: size, fragments, dead names, duplicates, pages, and the way of a file to a page.

    python bench/house.py [--root CHECKOUT] --out FILE

reads a checkout (the present one unless named), imports nothing of it, prints a table and writes the numbers as JSON,
so that two checkouts are measured by one rule. "Library" is `src/eisbach` without `studies/`.

What the rows mean:

- *lines*: lines of Python files, blank ones and docstrings included; *lines of docstrings* are those of modules,
  classes and functions. *Comment share*: lines with a comment, pragmas (`noqa`, `fmt`, `type:`) left out.
- *Function lines*: from `def` to the last line, docstring and nested functions included; methods count.
- *Public names*: functions, classes and constants of a module, without an underscore. A name is *used* where code
  loads, imports or asks for it as an attribute, where a string names it (`"module:name"`), and in the code of a
  Markdown page. *In their own file alone*: no other file of src, tests, bench, docs or examples uses it; names that no
  other file of src and docs uses, but a test, bench or an example does, are counted beside. *Dead*: a function that
  nothing uses. A function with a decorator counts as used, since the decorator may register it.
- *Duplicate pairs*: runs of at least six equal lines at two places, after leaving out blank lines, comments,
  docstrings, imports and lines of punctuation; a run is counted once however long it is.
- *The way of a file to the page*: the steps that `eisbach analyze A/ B/` takes from audio to index.html, listed below
  in the order in which each begins its work; a return to a caller is no step. A *move* is a step into another room (a
  folder of the package, or a module at its top), a *climb* a move into a higher layer of pyproject's list.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import re
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

VAGUE_NAMES = ("one", "found", "kept", "again", "story")
SHORT_FILE, LONG_FUNCTION, LONGEST_FUNCTION = 60, 60, 80
DUPLICATE_LINES = 6
USERS = ("src", "tests", "bench", "docs", "examples", "recipes")

# Written from a trace of calls between rooms, newest checkout first; the first list whose steps all exist is used.
WAYS: dict[str, list[str]] = {
    "numbers first, then the page": [
        "cli.analyze:analyze",
        "experiments.analysis:plan_analysis",
        "experiments.measures:check_measures",
        "experiments.sets:collect_sets",
        "experiments.sets:find_audio",
        "experiments.analysis:analyze_sets",
        "structure.batch:analyze_files",
        "structure.features:extract_features",
        "structure.metrics:measure",
        "structure.record_files:write_analysis",
        "structure.sets.whole:measure_sets",
        "structure.sets.clips:clip_of_detail",
        "structure.sets.compare:compare_sets",
        "experiments.comparing:compare_sets",
        "statistics.records:validate_records",
        "statistics.records:choose_metrics",
        "statistics.results:evaluate",
        "statistics.sets:Sets.to_csv",
        "statistics.sets:Sets.to_json",
        "statistics.results:Results.to_json",
        "report.comparison.terminal:summary_lines",
        "report.comparison.terminal:format_summary",
        "report.structure.analysis:write_page",
        "report.comparison.page:write_comparison_page",
        "report.comparison.findings:_difference",
        "report.comparison.numbers:_cell",
        "report.comparison.players:make_players",
        "structure.features:extract_features",
        "structure.record_files:read_details",
        "report.structure.draw:section_spans",
        "report.figures:draw_similarity",
        "structure.similarity:self_similarity",
    ],
    "one page": [
        "cli.analyze:analyze",
        "experiments.analysis:plan_analysis",
        "experiments.measures:check_measures",
        "experiments.sets:collect_sets",
        "structure.batch:find_audio",
        "experiments.analysis:analyze_sets",
        "structure.batch:analyze_files",
        "structure.features:extract_features",
        "structure.metrics:measure",
        "structure.record_files:write_analysis",
        "structure.sets.whole:measure_sets",
        "structure.sets.clips:clip_of_detail",
        "structure.sets.compare:compare_sets",
        "experiments.comparing:compare_sets",
        "statistics.records:validate_records",
        "statistics.metric_info:choose_metrics",
        "statistics.results:evaluate",
        "experiments.analysis:comparison_csv",
        "experiments.comparing:Sets.to_json",
        "statistics.results:Results.to_json",
        "report.structure.analysis:write_page",
        "report.comparison.page:write_comparison_page",
        "report.comparison.findings:_difference",
        "statistics.comparison:Comparison.shown_interval",
        "report.comparison.numbers:_cell",
        "report.comparison.players:make_players",
        "structure.features:extract_features",
        "structure.record_files:read_details",
        "report.structure.draw:section_spans",
        "report.figures:draw_similarity",
        "structure.similarity:self_similarity",
        "cli.analyze:_print",
        "report.comparison.findings:terminal_lines",
        "structure.summary:format_summary",
    ],
    "before the rooms were moved": [
        "cli.analyze:analyze",
        "report.structure_inputs:collect_clips",
        "structure.batch:find_audio",
        "cli.analyze:_check_names",
        "experiments.metric_info:check_names",
        "report.structure_inputs:short_names",
        "report.structure_compare:check_pairing",
        "structure.batch:analyze_files",
        "structure.features:extract_features",
        "structure.metrics:measure",
        "structure.record_files:write_records",
        "structure.summary:summarise",
        "report.structure_compare:compare",
        "experiments.records:validate_records",
        "experiments.metric_info:choose_metrics",
        "experiments.results:evaluate",
        "experiments.folders:condition_notes",
        "report.structure_set_tables:measure_sets",
        "structure.sets.clips:clip_of_detail",
        "structure.sets.compare:compare_sets",
        "report.structure_set_tables:_p",
        "experiments.verdicts:format_p",
        "report.structure_compare:Sets.to_json",
        "experiments.results:Results.to_json",
        "cli.analyze:_save",
        "report.structure_page:write_structure_page",
        "report.structure_players:make_players",
        "report.figures:features_of",
        "structure.features:extract_features",
        "report.structure_players:waveform_path",
        "report.figures:draw_similarity",
        "structure.similarity:self_similarity",
        "report.structure_findings:_difference",
        "experiments.statistics:Comparison.shown_interval",
        "report.structure_numbers:_cell",
        "experiments.verdicts:format_difference",
        "report.charts:_arm_row",
        "experiments.verdicts:format_value",
        "structure.summary:format_summary",
        "cli.analyze:_print",
        "experiments.verdicts:format_interval",
    ],
}


@dataclass
class SourceFile:
    """One Python file, parsed once: its text, tree and the names that it uses."""

    path: Path
    text: str
    tree: ast.Module
    used: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> list[str]:
        """The lines of the file."""
        return self.text.splitlines()


def read_source(path: Path) -> SourceFile:
    """A file with its tree and used names."""
    text = path.read_text(encoding="utf-8")
    source = SourceFile(path, text, ast.parse(text))
    source.used = Counter(_used_names(source.tree))
    return source


def _used_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w.:\[\]| ,]+", str(node.value)):
            # Quoted annotations, lazy tables ("module:name") and lists of names; not prose.
            yield from re.findall(r"\w+", str(node.value))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _public_names(tree: ast.Module) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return {name: node for name, node in names.items() if not name.startswith("_")}


def _bindings(tree: ast.Module) -> Counter[str]:
    stored = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    arguments = (node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    return Counter([*stored, *arguments])


def _comment_lines(text: str) -> int:
    rows = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|fmt:|type:|!|pragma)", token.string):
            rows.add(token.start[0])
    return len(rows)


def _docstring_lines(tree: ast.Module) -> int:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    firsts = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    return sum(
        (first.end_lineno or first.lineno) - first.lineno + 1
        for first in firsts
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )


def measure_size(sources: list[SourceFile]) -> dict[str, object]:
    """Files, lines, fragments, long functions, the longest line and comments of some files."""
    lengths = {source.path: len(source.lines) for source in sources}
    function_lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1 for source in sources for node in _functions(source.tree)
    ]
    longest = max(((len(line), source.path, row) for source in sources for row, line in enumerate(source.lines, 1)))
    bindings = sum((_bindings(source.tree) for source in sources), Counter())
    lines = sum(lengths.values())
    return {
        "files": len(sources),
        "lines": lines,
        "lines of docstrings": sum(_docstring_lines(source.tree) for source in sources),
        f"files under {SHORT_FILE} lines": sum(length < SHORT_FILE for length in lengths.values()),
        "functions": len(function_lengths),
        f"functions over {LONG_FUNCTION} lines": sum(length > LONG_FUNCTION for length in function_lengths),
        f"functions over {LONGEST_FUNCTION} lines": sum(length > LONGEST_FUNCTION for length in function_lengths),
        "longest line": longest[0],
        "lines over 120 columns": sum(len(line) > 120 for source in sources for line in source.lines),
        "comment share": round(sum(_comment_lines(source.text) for source in sources) / lines, 4),
        "vague bindings": {name: bindings[name] for name in VAGUE_NAMES},
    }


def _code_words(markdown: str) -> Iterator[str]:
    for block, span in re.findall(r"```.*?\n(.*?)```|`([^`\n]+)`", markdown, flags=re.DOTALL):
        yield from re.findall(r"\w+", block or span)


def measure_names(package: list[SourceFile], users: list[SourceFile], pages: list[str]) -> dict[str, object]:
    """Public names that only their own file uses, and functions that nothing uses."""
    in_files: Counter[str] = Counter()  # in how many files each name is used
    for source in users:
        in_files.update(set(source.used))
    in_pages = {word for page in pages for word in _code_words(page)}
    in_package: Counter[str] = Counter()
    for source in package:
        in_package.update(set(source.used))
    private, dead, for_tests = [], [], []
    for source in package:
        for name, node in _public_names(source.tree).items():
            own = name in source.used
            if name in in_pages or in_package[name] > own or getattr(node, "decorator_list", None):
                continue
            where = f"{source.path.as_posix()}:{name}"
            if in_files[name] > own:
                for_tests.append(where)
            elif own:
                private.append(where)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                dead.append(where)
    lists = {
        "public names used in their own file alone": private,
        "public names used in their own file, tests, bench and examples alone": for_tests,
        "dead names": dead,
    }
    return {**{kind: len(places) for kind, places in lists.items()}, "places": {k: sorted(v) for k, v in lists.items()}}


def _compared_lines(source: SourceFile) -> list[tuple[int, str]]:
    """The lines that the search for duplicates compares, each with its number."""
    left_out: set[int] = set()
    for node in ast.walk(source.tree):
        is_import = isinstance(node, (ast.Import, ast.ImportFrom))
        is_prose = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_import or is_prose:
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    rows = [(row, " ".join(line.split())) for row, line in enumerate(source.lines, 1) if row not in left_out]
    return [(row, line) for row, line in rows if re.search(r"\w", line) and not line.startswith("#")]


def find_duplicates(sources: list[SourceFile]) -> list[str]:
    """Pairs of places with at least six equal lines, each as `file:line = file:line (lines)`."""
    compared = {source.path: _compared_lines(source) for source in sources}
    windows: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, rows in compared.items():
        for at in range(len(rows) - DUPLICATE_LINES + 1):
            windows[tuple(line for _, line in rows[at : at + DUPLICATE_LINES])].append((path, at))
    matches = set()
    for places in windows.values():
        matches.update((first, second) for index, first in enumerate(places) for second in places[index + 1 :])
    pairs = []
    for (path, at), (other, other_at) in sorted(matches):
        if ((path, at - 1), (other, other_at - 1)) in matches or (path == other and other_at - at < DUPLICATE_LINES):
            continue
        length = DUPLICATE_LINES
        while ((path, at + length - DUPLICATE_LINES + 1), (other, other_at + length - DUPLICATE_LINES + 1)) in matches:
            length += 1
        first, second = compared[path][at][0], compared[other][other_at][0]
        pairs.append(f"{path.as_posix()}:{first} = {other.as_posix()}:{second} ({length} lines)")
    return pairs


def measure_page(text: str) -> dict[str, object]:
    """Words of a Markdown page, and numbers in its prose and tables (code left out)."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", " ", text, flags=re.DOTALL)
    words = len(text.split())
    numbers = len(re.findall(r"(?<![\w.])[-+−±]?\d+(?:[.,]\d+)*", prose))
    return {"words": words, "numbers": numbers, "numbers per 100 words": round(100 * numbers / max(words, 1), 1)}


def _layers(root: Path) -> dict[str, int]:
    """Each room's height in pyproject's layers; the lowest is 0."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {
        name.strip(" ()").removeprefix("eisbach."): height
        for height, layer in enumerate(reversed(layers))
        for name in re.split(r"[|:]", layer)
    }


def _exists(root: Path, step: str) -> bool:
    module, _, name = step.partition(":")
    base = root / "src/eisbach" / module.replace(".", "/")
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():
        return False
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        node = next((node for node in body if getattr(node, "name", None) == part), None)
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


def measure_way(root: Path) -> dict[str, object]:
    """Moves and climbs of the first way whose steps all exist in the checkout."""
    layers = _layers(root)
    missing: dict[str, list[str]] = {}
    for name, steps in WAYS.items():
        missing[name] = [step for step in steps if not _exists(root, step)]
        if missing[name]:
            continue
        rooms = [re.split(r"[.:]", step)[0] for step in steps]
        moves = [(before, after) for before, after in itertools.pairwise(rooms) if before != after]
        climbs = [f"{before} → {after}" for before, after in moves if layers[after] > layers[before]]
        return {"way": name, "steps": len(steps), "moves": len(moves), "climbs": len(climbs), "rooms": len(set(rooms))}
    return {"way": "none of those listed fits this checkout", "steps that do not exist": missing}


def measure(root: Path) -> dict[str, object]:
    """Every number of a checkout."""
    users = [
        SourceFile(source.path.relative_to(root), source.text, source.tree, source.used)
        for folder in USERS
        for source in map(read_source, sorted((root / folder).rglob("*.py")))
    ]
    package = [source for source in users if source.path.parts[:2] == ("src", "eisbach")]
    library = [source for source in package if source.path.parts[2] != "studies"]
    docs = sorted((root / "docs").rglob("*.md")) + sorted((root / "src").rglob("*.md")) + [root / "README.md"]
    pages = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in docs}
    duplicates = find_duplicates(package)
    return {
        "library": measure_size(library),
        "studies": measure_size([source for source in package if source not in library]),
        "with studies": measure_size(package),
        "files without Python": measure_assets(root),
        "names": measure_names(package, users, list(pages.values())),
        "duplicate pairs": len(duplicates),
        "duplicates": duplicates,
        "pages": {path: measure_page(text) for path, text in pages.items()},
        "way of a file to the page": measure_way(root),
    }


def measure_assets(root: Path) -> dict[str, object]:
    """Files of the package that hold no Python: how many, and their kilobytes, by what they are."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for path in sorted((root / "src/eisbach").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            parts = path.relative_to(root / "src/eisbach").parts
            kind = f"{parts[0]} records" if "records" in parts else parts[0]
            kinds[kind].append(path.stat().st_size)
    return {kind: f"{len(sizes)} files, {sum(sizes) // 1000} kB" for kind, sizes in sorted(kinds.items())}


def print_table(house: dict[str, object], indent: str = "") -> None:
    """The numbers, one a line; lists of places stand in the JSON alone."""
    for name, value in house.items():
        if name == "places":
            continue
        if (
            isinstance(value, dict)
            and all(isinstance(part, (int, float, str)) for part in value.values())
            and len(value) < 6
        ):
            print(f"{indent}{name:<70}" + ", ".join(f"{key} {part}" for key, part in value.items()))
        elif isinstance(value, dict):
            print(f"{indent}{name}")
            print_table(value, indent + "  ")
        elif not isinstance(value, list):
            print(f"{indent}{name:<70}{value}")


def main() -> None:
    """Measures a checkout, prints the numbers and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    if not (arguments.root / "src/eisbach").is_dir():
        parser.error(f"{arguments.root} has no src/eisbach; name a checkout of this project with --root.")
    house = measure(arguments.root)
    print_table(house)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(house, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
