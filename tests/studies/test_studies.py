"""Every study's folder keeps the contract: what it declares, what its records say, and the page that shows both."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.errors import ConfigError, EisbachError, UserError
from eisbach.experiments.recipes import load_spec
from eisbach.output_folder import Finished
from eisbach.report.page import plain_table
from eisbach.studies import contract
from eisbach.studies.contract import (
    RECIPE,
    RECORDS,
    ClaimResult,
    Declaration,
    Effect,
    Result,
    RunFacts,
    load_studies,
    load_study,
    study_names,
)
from eisbach.studies.judging import judged, not_run, verdict
from eisbach.studies.page import claims_pages, in_order, study_section
from eisbach.studies.preamble import IN_SHORT, SHARED_DRAWS
from eisbach.studies.running import read_facts, resolve_settings, run_study
from eisbach.studies.wording import before_run_lines, core_minutes, effect_text, marked_verdict, took_text

ROOT = Path(__file__).parents[2]
STUDIES = study_names()


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["study", *words], env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", STUDIES)
def test_a_folder_is_whole(name: str) -> None:
    study = load_study(name)
    assert (study.folder / "README.md").stat().st_size > 500
    assert (study.folder / "judge.py").is_file()
    assert (study.folder / RECIPE).is_file() != (study.folder / "run.py").is_file()
    assert {claim.key for claim in study.result.claims} == {claim.key for claim in study.declaration.claims}
    for claim in study.result.claims:
        assert claim.verdict == "not run" or claim.effects, claim.key
    facts = read_facts(study.folder / RECORDS)
    if facts is None:  # declared, and not run yet
        assert not (study.folder / RECORDS).exists()
        assert {claim.verdict for claim in study.result.claims} == {"not run"}
    else:
        assert facts.command.startswith(f"eisbach study run {name}")


LONG = {**dict.fromkeys(("curation", "gated", "levels"), pytest.mark.slow), "stop_rule": pytest.mark.whole}
"""Studies of so many records, or replays, that their judges take the longest."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG[name]) if name in LONG else name for name in STUDIES])
def test_the_result_is_what_the_judge_says_of_the_records(name: str) -> None:
    """Recomputed, not typed: every verdict, effect, interval and p."""
    study = load_study(name)
    judge = importlib.import_module(f"eisbach.studies.{name}.judge").judge
    expected = Result(study=name, run=read_facts(study.folder / RECORDS), claims=judge(study.folder / RECORDS))
    found, wanted = study.result.model_dump(mode="json"), expected.model_dump(mode="json")
    assert _rounded(found) == _rounded(wanted)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", STUDIES)
def test_settings_resolve_in_full_and_quick(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    whole, quick = (resolve_settings(study, out=tmp_path, quick=quick) for quick in (False, True))
    assert whole != quick
    again = yaml.safe_load(run("run", name, "--dry-run", "--out", str(tmp_path)))
    assert build_config(type(whole), again) == whole
    with pytest.raises(ConfigError, match="nonsense"):
        resolve_settings(study, out=tmp_path, changes=["nonsense=1"])


def test_the_documented_claims_are_those_of_the_results() -> None:
    written = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("claims*.md")}
    assert written == claims_pages()


def test_the_short_of_it_rests_on_verdicts() -> None:
    found = {f"{study.name}/{claim.key}": result.verdict for study in load_studies() for claim, result in study.rows()}
    for text, verdicts in IN_SHORT:
        assert {key: found[key] for key in verdicts} == verdicts, text


def test_what_studies_share_is_what_their_recipes_say() -> None:
    """Studies over draws with equal sets stand together on the page of claims, and no others do."""
    groups: dict[tuple[str, range], set[str]] = {}
    for study in load_studies():
        for recipe in (study.folder / name for name in ("recipe.yaml", "domain.yaml")):
            if recipe.is_file() and (spec := load_spec(recipe)).material is not None and spec.material.redraw:
                draws = range(spec.train_seeds[0], spec.train_seeds[-1] + 1)
                assert list(spec.train_seeds) == list(draws)
                groups.setdefault((spec.material.model_dump_json(), draws), set()).add(study.name)
    main = load_spec("barrier_main")  # whose trainings barrier_dynamics makes again, and watches
    settings = resolve_settings(load_study("barrier_dynamics"), out=Path("x"))
    assert settings.draws == list(main.train_seeds)  # type: ignore[attr-defined]
    assert main.material is not None
    groups[main.material.model_dump_json(), range(100, 108)].add("barrier_dynamics")
    shared = {draws: names for (_, draws), names in groups.items() if len(names) > 1}
    assert shared == {draws: set(names) for draws, names in SHARED_DRAWS.items()}


def test_flat_pieces_of_any_kind_stand_beside_those_that_stand() -> None:
    rows = [line for text in claims_pages().values() for line in text.splitlines() if "loops or is a texture: " in line]
    (recurrence,) = (
        row for row in rows if row.startswith("| The recurrence barrier leaves fewer pieces standing still")
    )
    assert "Flat of any kind: −18.2 points (−34.5 to −2.00), p = 0.062." in recurrence
    decided = [row for row in rows if re.search(r"\*\* \| share that stands still, loops or is a texture: ", row)]
    assert len(decided) >= 25
    assert all("Flat of any kind: " in row for row in decided)


def test_a_claim_stands_with_all_that_it_rests_on() -> None:
    """Verdict and effect in its row; in its study's part the command, what the run took, and the smallest effect."""
    pages = claims_pages()
    parts = [part for text in pages.values() for part in re.split(r"^(?=#)", text, flags=re.M)]
    for study in load_studies():
        for claim, result in study.rows():
            row, part = next(
                (line, part) for part in parts for line in part.splitlines() if line.startswith(f"| {claim.claim} |")
            )
            text, note = " ".join(part.split()), study.declaration.declared.note
            ran = any(other.verdict != "not run" for _, other in study.rows())
            if ran:
                assert f"| **{result.verdict}{' †' if note else ''}** |" in row, claim.key
                assert not result.effects or effect_text(result.effects[0], name=True) in row
            marked = f"† Declared or changed when some records were known: {' '.join(note.split()).rstrip('.')}"
            assert (marked in text) == bool(note)
            known = " ".join(study.declaration.declared.known.split()).rstrip(".")
            assert (f"Known when it was declared, before the run: {known}" in text) == bool(known)
            smallest = " ".join(claim.smallest_effect.split()).rstrip(".")
            assert smallest in text, claim.key
            assert f"](../src/eisbach/studies/{study.name}/README.md)" in part
            assert f"\neisbach study run {study.name}" in part
            assert took_text(study) in text


def test_decided_claims_come_first_and_studies_in_the_order_of_their_paper() -> None:
    studies = load_studies()
    names = [study.name for study in in_order(studies, "barrier")]
    assert names.index("barrier_main") < names.index("barrier_characters") < names.index("barrier_dynamics")
    assert names.index("barrier_dynamics") < names.index("barrier_strength") < names.index("barrier_adherence")
    assert "barrier_dora" not in names or any(
        result.verdict != "not run" for _, result in load_study("barrier_dora").rows()
    )
    study = load_study("barrier_short")
    first = study.result.claims[0]
    partly = replace(study, result=study.result.model_copy(update={"claims": study.result.claims[1:]}))
    section = study_section(partly)
    assert section is not None
    assert [row[1] for row in section.rows][-1] == "not run"
    assert section.rows[-1][0] == next(claim.claim for claim in study.declaration.claims if claim.key == first.key)


@pytest.mark.parametrize(
    ("facts", "cores", "words"),
    [
        ({"command": "c --jobs 2", "seconds": 3519.8}, 117.3, "took 59 minutes on two jobs: at most 117 core minutes"),
        (
            {"command": "c", "seconds": 600, "versions": {"threads": "4"}}, 40,
            "took 10 minutes in one process: at most 40 core minutes",
        ),
        ({"command": "c", "seconds": 60}, None, "took 1 minute in one process"),
        ({"command": "c --jobs 2"}, None, "its minutes were not kept; about 25 core minutes, declared"),
        ({"command": "c --jobs 2", "seconds": 5, "quick": True}, 0.2, "about 25 core minutes, declared"),
        (None, None, "about 25 core minutes, declared"),
    ],
)  # fmt: skip
def test_minutes_are_measured_where_a_full_run_was(facts: dict | None, cores: float | None, words: str) -> None:
    study = load_study("boundaries")
    run = None if facts is None else RunFacts(**facts)
    if run is not None:
        assert core_minutes(run) == (None if cores is None else pytest.approx(cores, abs=0.05))
    assert took_text(replace(study, result=study.result.model_copy(update={"run": run}))) == words


def test_a_full_run_says_first_what_it_can_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("barrier_strength")
    said = " ".join(" ".join(before_run_lines(study)).split())
    assert said.startswith("barrier_strength decides four claims; about 155 core minutes, declared.")
    for claim in study.declaration.claims:
        assert f"{claim.key}: {' '.join(claim.smallest_effect.split())}" in said
    assert len(before_run_lines(load_study("erd_toy"))) < 12  # 22 claims, two smallest effects
    result = load_study("boundaries").result
    monkeypatch.setattr("eisbach.studies.running.run_study", lambda *_, **__: result)
    words = ["study", "run", "boundaries", "--out", str(tmp_path), "--json"]
    full, rehearsal, quiet = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--quick"], ["--quiet"]))
    assert full.stderr.startswith("boundaries decides two claims; about 25 core minutes, declared.\n")
    assert "beside-librosa: 0.1 of F" in full.stderr
    assert json.loads(full.stdout) == result.model_dump(mode="json")
    assert rehearsal.stderr == quiet.stderr == ""


def test_what_was_retired_is_gone_and_stood_in_its_commit() -> None:
    retired = yaml.safe_load((Path(contract.__file__).parent / "retired.yaml").read_text())["retired"]
    assert {entry["study"] for entry in retired} <= set(STUDIES)
    for entry in retired:
        assert re.fullmatch("[0-9a-f]{7,40}", entry["commit"])


def test_list_show_and_page(tmp_path: Path) -> None:
    rows = json.loads(run("list", "--json"))
    assert len(rows) == sum(len(study.declaration.claims) for study in load_studies())
    assert {row["study"] for row in rows} == set(STUDIES)
    columns = {"claim", "source", "verdict", "effects", "unit", "smallest_effect", "date", "command", "core_minutes"}
    assert all(columns <= row.keys() for row in rows)
    waiting = [row["verdict"] == "not run" for row in rows]
    assert waiting == sorted(waiting)
    listed = run("list")
    text = " ".join(listed.split())
    assert max(len(line) for line in listed.splitlines()) <= 80  # the width that `run` sets
    for study in load_studies():
        assert f"{study.name}: {study.declaration.title} (" in text
        for claim, result in study.rows():
            assert f"{marked_verdict(study, result)} {claim.claim} [{claim.source}]" in text
            assert not result.effects or effect_text(result.effects[0], name=True) in text
    shown = run("show", "erd-digits")
    assert "refuted if" in shown
    assert "eisbach study run erd_digits" in shown
    assert "it took 40 minutes on two jobs: at most 80 core minutes" in shown
    assert json.loads(run("show", "erd_digits", "--json"))["declaration"]["title"] == "Loss weights on digits"
    stale, own = tmp_path / "c-not-run-9.md", tmp_path / "c-mine.md"
    stale.touch()
    own.touch()
    files = json.loads(run("page", "--out", str(tmp_path), "--markdown", str(tmp_path / "c.md"), "--json"))
    own.unlink()  # nobody's but the reader's
    html = Path(files["page"]).read_text()
    assert "http://" not in html
    assert "https://" not in html
    assert all(study.declaration.claims[0].claim[:20].replace("'", "&#39;") in html for study in load_studies())
    pages = claims_pages(stem="c")
    assert Path(files["markdown"]).read_text() == pages["c.md"]
    assert {file.name for file in tmp_path.glob("c*.md")} == set(pages)
    linked = set(re.findall(r"\]\((c[^)#]*)", "".join(pages.values())))
    assert linked == pages.keys() - {"c.md"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "erd_digit"], "no study is called 'erd_digit' .did you mean erd_digits"),
        (["run", "nothing"], "no study is called 'nothing'; choose one of"),
        (["run", "curation", "--seeds", "3", "--dry-run"], "has no --seeds; change a key"),
        (["run", "signature_digits", "--batch", "3", "--dry-run"], "has no --batch; it has --seeds"),
        (["run", "levels", "--config", "x.yaml", "--dry-run"], "is a recipe, which --config cannot replace"),
        (["judge", "boundaries", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["toy", "digits"])
def test_the_old_name_says_the_new_one(word: str) -> None:
    command = [sys.executable, "-m", "eisbach", "recoverability", word, "--quick", "--set", "a=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"eisbach: 'recoverability' is now `eisbach study run erd_{word}`, with the same options.\n"
    assert done.stdout == ""


def test_a_result_may_not_speak_of_what_was_not_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_study("boundaries")
    folder = tmp_path / "boundaries"
    folder.mkdir()
    (folder / "study.yaml").write_text((source.folder / "study.yaml").read_text())
    monkeypatch.setattr(contract, "__file__", str(tmp_path / "contract.py"))
    assert [result.verdict for _, result in load_study("boundaries").rows()] == ["not run", "not run"]
    invented = Result(study="boundaries", claims=[ClaimResult(key="invented", verdict="supported")])
    (folder / "result.json").write_text(invented.model_dump_json())
    with pytest.raises(EisbachError, match=r"claims that its study\.yaml lacks: invented"):
        load_study("boundaries")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claims": []}, "claims"),
        ({"declared": {"date": "soon", "commit": "abc"}}, "declared.date"),
        ({"declared": {"date": "2026-11-21", "commit": "8218116"}}, "say which of its rules came after the run"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_declarations_are_strict(change: dict, words: str) -> None:
    values = load_study("boundaries").declaration.model_dump(mode="json")
    assert build_config(Declaration, values)
    with pytest.raises(ConfigError, match=words):
        build_config(Declaration, values | change)
    twice = [values["claims"][0], values["claims"][0]]
    with pytest.raises(ConfigError, match="two claims have one key"):
        build_config(Declaration, values | {"claims": twice})


def test_an_interval_has_two_ends_and_verdicts_exclude_one_another() -> None:
    with pytest.raises(ConfigError, match="two ends"):
        build_config(Effect, {"name": "x", "value": 1.0, "low": 0.5})
    assert [verdict(True, False), verdict(False, True), verdict(False, False)] == [
        "supported",
        "refuted",
        "inconclusive",
    ]
    with pytest.raises(ValueError, match="cannot be supported and refuted"):
        judged("x", [], supported=True, refuted=True)
    assert not_run("x").verdict == "not run"


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (Effect(name="e", value=-26.25, low=-54.1, high=1.627, unit="points", p=0.0952), "−26.2 points (−54.1 to "
                                                                                         "1.63), p = 0.095"),
        (Effect(name="e", value=0.00012345), "0.0001"),
        (Effect(name="e", value=7194.9, unit="dB²"), "7195 dB²"),
        (Effect(name="e", value=0), "0"),
        (Effect(name="e", value=-7, unit="of 12 cells"), "−7 of 12 cells"),
        (Effect(name="e", value=95.45, low=74.36, high=100, unit="%"), "95.5% (74.4 to 100)"),
    ],
)  # fmt: skip
def test_effects_as_text(effect: Effect, text: str) -> None:
    assert effect_text(effect) == text
    assert effect_text(effect, name=True) == f"e: {text}"


def test_tables_wrap_and_align() -> None:
    lines = plain_table(["a", "b"], [["x", "one two three"], ["long", "y"]], widest=7).splitlines()
    assert lines == ["a     b", "x     one two", "      three", "long  y"]


def test_finished_pieces_are_kept_and_a_torn_row_is_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def piece(name: str) -> dict[str, float]:
        made.append(name)
        return {"value": 0.1 + len(made)}

    first = Finished(tmp_path / "p.jsonl")
    assert first.get("a", lambda: piece("a")) == {"value": 1.1}
    first.get("b", lambda: piece("b"))
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('{"key": "c", "val')  # killed while writing
    again = Finished(tmp_path / "p.jsonl")
    assert again.get("a", lambda: piece("a")) == {"value": 1.1}
    assert again.get("c", lambda: piece("c")) == {"value": 3.1}
    assert made == ["a", "b", "c"]
    assert set(Finished(tmp_path / "p.jsonl").rows) == {"a", "b", "c"}


def test_a_folder_of_other_settings_is_refused_but_for_what_may_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("eisbach.studies.signature_digits.run")
    runs: list[int] = []

    def record(settings: module.Settings, out: Path, **_: object) -> None:
        runs.append(settings.seeds)
        records = json.loads((study.folder / RECORDS / "signature_digits.json").read_text())
        (out / "signature_digits.json").write_text(json.dumps(records))

    study = load_study("signature_digits")
    monkeypatch.setattr(module, "run", record)
    for seeds in (3, 5):
        settings = resolve_settings(study, out=tmp_path, changes=[f"seeds={seeds}"])
        result = run_study(study, settings, tmp_path, command="again", quiet=True)
    assert runs == [3, 5]
    assert result.claims == study.result.claims
    assert result.run is not None
    assert result.run.command == "again"
    assert {"torch", "threads", "eisbach"} <= result.run.versions.keys()
    assert json.loads((tmp_path / "result.json").read_text()) == result.model_dump(mode="json")
    settings = resolve_settings(study, out=tmp_path, changes=["steps=32"])
    with pytest.raises(UserError, match="steps was 64 and is now 32"):
        run_study(study, settings, tmp_path, command="other", quiet=True)
    assert runs == [3, 5]


def test_listing_needs_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from eisbach.cli.main import app; "
        "r = CliRunner().invoke(app, ['study', 'list']); assert r.exit_code == 0, r.output; "
        "heavy = {'torch', 'matplotlib', 'scipy', 'pyarrow'} & set(sys.modules); assert not heavy, sorted(heavy)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
