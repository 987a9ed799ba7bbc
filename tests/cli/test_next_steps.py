"""Every command says what to try next, and what it says exists."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import typer.main

from eisbach.cli import main as cli
from eisbach.cli.next_steps import TABLE, next_step, with_next_steps


def leaves(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    if not hasattr(command, "commands"):
        return {" ".join(words): command}
    return {
        name: leaf for word, child in command.commands.items() for name, leaf in leaves(child, (*words, word)).items()
    }


COMMANDS = leaves(typer.main.get_command(cli.app))


def example(command: Any, folder: Path) -> dict[str, Any]:
    """Values as a call with nothing but what must be said has them."""
    given: dict[str, Any] = {}
    for item in command.params:
        assert item.name is not None
        several = getattr(item, "multiple", False) or item.nargs == -1
        given[item.name] = [str(folder / "x y")] if several else folder / "x y" if item.required else None
    return given


@pytest.mark.parametrize("name", COMMANDS)
def test_the_next_command_exists_with_its_options(name: str, tmp_path: Path) -> None:
    given = example(COMMANDS[name], tmp_path)
    if name == "train":
        (tmp_path / "recipe.yaml").write_text(f"out: {tmp_path / 'run'}\n")
        given |= {"recipe": tmp_path / "recipe.yaml", "overrides": [], "out": ""}
    line = next_step(name, given)
    assert line is not None, f"{name} has no line in next_steps.TABLE"
    words = shlex.split(line)
    assert words[0] == "eisbach"
    command, count = next((COMMANDS[" ".join(words[1:n])], n) for n in (3, 2) if " ".join(words[1:n]) in COMMANDS)
    command.make_context(
        "eisbach", words[count:], resilient_parsing=False
    )  # refuses options and arguments that do not exist
    if words[1] == "figure":
        from eisbach.cli.figure import _NAMES

        assert words[2] in _NAMES


def test_the_table_is_about_commands() -> None:
    assert len(TABLE.keys() & COMMANDS.keys()) == len(COMMANDS)


def test_a_folder_without_a_manifest_is_made_into_a_set_before_it_trains(tmp_path: Path) -> None:
    given = {"path": str(tmp_path), "recipe": "r.yaml"}
    assert TABLE["data doctor"](given) == f"eisbach data folder {tmp_path}"
    (tmp_path / "manifest.jsonl").touch()
    assert TABLE["data doctor"](given).startswith("eisbach train r.yaml --data")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": None}, "eisbach data folder MUSIC"),
        ({"data": "my music", "quick": True, "out": "run"}, "eisbach demo --data 'my music' --out run-whole"),
        ({"data": "my music"}, "eisbach data folder 'my music'"),
        ({"data": "set"}, "eisbach train RECIPE --data set --out runs/mine"),
    ],
)
def test_after_a_demo_on_ones_own_music_comes_more_of_it(
    given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my music", "set"):
        Path(name).mkdir()
    Path("set/manifest.jsonl").touch()
    assert next_step("demo", {"quick": False, "out": None, **given}) == said


def test_it_is_the_last_line_on_standard_error_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def work(
        quiet: bool = typer.Option(False, "--quiet"),
        as_json: bool = typer.Option(False, "--json"),
        out: str = "set",
        dry_run: bool = typer.Option(False, "--dry-run"),
    ) -> None:
        typer.echo("result")

    app, inner = typer.Typer(), typer.Typer()
    inner.command("flat")(work)
    inner.command("render")(work)
    app.add_typer(inner, name="data")
    command = with_next_steps(typer.main.get_command(app))
    for words, said in (
        ((), "next: eisbach data doctor set\n"),
        (("--dry-run",), "next: the same command without --dry-run\n"),
        (("--quiet",), ""),
        (("--json",), ""),
    ):
        command(["data", "flat", *words], standalone_mode=False)
        assert capsys.readouterr() == ("result\n", said)


def test_a_set_that_training_refuses_is_mended_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sf.write("a.wav", 0.1 * rng.standard_normal(5 * 22050), 22050)
    command = with_next_steps(typer.main.get_command(cli.app))
    command(["data", "folder", "."], standalone_mode=False)
    sf.write("a.wav", 0.1 * rng.standard_normal(5 * 22050), 22050)
    capsys.readouterr()
    command(["data", "doctor", "."], standalone_mode=False)
    seen = capsys.readouterr()
    assert seen.out.endswith("1 problem found, of which training refuses some.\n")
    assert seen.err.endswith("next: eisbach data folder . makes the manifest again\n")


def test_a_manifest_beside_its_audio_s_folder_is_made_again_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my music").mkdir()
    rng = np.random.default_rng(0)
    sf.write("my music/a.wav", 0.1 * rng.standard_normal(5 * 22050), 22050)
    command = with_next_steps(typer.main.get_command(cli.app))
    command(["data", "folder", "my music", "--out", "oo"], standalone_mode=False)
    sf.write("my music/a.wav", 0.1 * rng.standard_normal(5 * 22050), 22050)
    for target in ("oo", "oo/manifest.jsonl"):
        capsys.readouterr()
        command(["data", "doctor", target], standalone_mode=False)
        said = f"next: eisbach data folder '{tmp_path / 'my music'}' --out oo makes the manifest again\n"
        assert capsys.readouterr().err.endswith(said)


def test_a_probe_goes_on_with_its_data_and_a_dry_run_with_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = next_step("probe", {"recipe": "r.yaml", "data": ["my music", "b"]})
    assert line == "eisbach train r.yaml --data 'my music' --data b --set weighting.sample=NAME"
    monkeypatch.setattr("sys.argv", ["eisbach", "demo", "--data", "my music", "--dry-run", "--quick"])
    assert next_step("demo", {"dry_run": True}) == "eisbach demo --data 'my music' --quick"


def test_a_folder_is_looked_at_where_its_manifest_went_and_with_its_captions(tmp_path: Path) -> None:
    assert next_step("data folder", {"path": "shards", "out": "music"}) == "eisbach data doctor music"
    assert next_step("data folder", {"path": "music", "out": None}) == "eisbach data doctor music"
    given = {"path": tmp_path, "recipe": None, "caption_from": "tags"}
    assert next_step("data doctor", given) == f"eisbach data folder {tmp_path} --caption-from tags"
    (tmp_path / "manifest.jsonl").touch()
    assert "eisbach train" in str(next_step("data doctor", given))


def test_what_was_trained_is_played_on_its_base_and_beside_its_demos(tmp_path: Path) -> None:
    for model, words in (("embedded", ""), ("some/base", "--model some/base ")):
        (tmp_path / "recipe.yaml").write_text(f"model: {model}\nout: run\n")
        line = next_step("train", {"recipe": tmp_path / "recipe.yaml", "overrides": [], "out": ""})
        assert line == f"eisbach generate --prompts plain {words}--adapter run/adapter --out run/played"
