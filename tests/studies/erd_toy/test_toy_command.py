"""`eisbach study run erd_toy` from the outside: files, JSON, continuing, and one sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from page_checks import chromium, page_faults
from typer.testing import CliRunner

from eisbach.cli.main import app
from eisbach.errors import UserError
from eisbach.statistics.records import load_records
from eisbach.studies.erd_toy.page import _won

TINY = {
    "network": {"width": 8, "depth": 2, "embedding": 4},
    "paths": ["linear"],
    "targets": ["eps", "x0"],
    "figures": {"steps": 3, "batch": 8, "bins": [0, 0.5, 1], "levels": 4, "samples": 8, "ntk_samples": 8,
    "ntk_levels": 3,
                "joint_samples": 3},
    "comparison": {"seeds": 2, "steps": 3, "batch": 8, "levels": 5, "samples": 8, "generated": 16, "sampling_steps": 3},
}  # fmt: skip


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["study", "run", "erd_toy", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    out = folder / "out"
    printed = run("--config", str(folder / "tiny.yaml"), "--out", str(out), "--jobs", "1", "--json", "--quiet")
    assert json.loads(printed) == json.loads((out / "result.json").read_text())
    return out, json.loads((out / "toy.json").read_text())


@pytest.mark.slow
def test_the_folder_holds_everything(made: tuple[Path, dict]) -> None:
    out, printed = made
    assert {claim["key"] for claim in json.loads((out / "result.json").read_text())["claims"]} >= {"excess-constant"}
    assert len(load_records(out / "records.parquet")) == 2 * 2 * 5
    assert {claim["figure"] for claim in printed["claims"]} >= {"7", "9", "11", "12"}
    assert any(one["measure"] == "likelihood_gap" for one in printed["comparison"])
    with np.load(out / "figures.npz") as arrays:
        assert arrays["linear/ntk/gram"].shape == (2, 2, 8, 8)
        assert arrays["comparison/excess/linear/x0/erd"].shape == (2, 5)
    pictures = {path.stem for path in (out / "figures").glob("*.png")}
    assert {"fig02-loss", "fig03-phase", "fig04-joint", "fig07-loss", "fig08-phase", "fig09-features-linear",
            "fig10-spectrum", "fig11-rank", "fig12-gram-linear", "comparison-erd",
            "comparison-curves"} <= pictures  # fmt: skip


@pytest.mark.whole
def test_the_page_stands_alone_and_says_what_was_found(made: tuple[Path, dict]) -> None:
    out, printed = made
    page = (out / "index.html").read_text()
    assert printed["headline"] in page
    assert page.count("data:image/png;base64,") == len(list((out / "figures").glob("*.png")))
    assert "http://" not in page
    assert "https://" not in page
    assert "U-shaped" in page
    assert "With 2 seeds no difference can be shown" in page
    # every cell of every statement can be judged anew
    cells = sum(len(claim["cells"]) for claim in printed["claims"])
    assert page.count(">yes</td>") + page.count(">no</td>") == cells


def test_who_comes_nearer_is_said_without_a_count_of_nothing() -> None:
    assert _won(8, 0, 12) == "nearer in 8 of 12"
    assert _won(0, 2, 10) == "farther in 2 of 10"
    assert _won(3, 1, 12) == "nearer in 3 and farther in 1 of 12"
    assert _won(0, 0, 4) == "no difference was shown in any of 4"


@pytest.mark.slow
def test_the_page_can_be_read_by_everybody(made: tuple[Path, dict]) -> None:
    with chromium() as browser:
        assert page_faults(browser, made[0] / "index.html") == []


@pytest.mark.slow
def test_the_same_command_continues(made: tuple[Path, dict]) -> None:
    out, printed = made
    before = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    gone = next(iter((out / "cells").glob("piecewise-*.json")))
    gone.unlink()
    run("--config", str(out.parent / "tiny.yaml"), "--out", str(out), "--jobs", "1", "--quiet", "--json")
    assert json.loads((out / "toy.json").read_text())["comparison"] == printed["comparison"]
    after = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {gone.name, f"{gone.stem}.safetensors"}


def test_dry_run_prints_a_configuration_that_can_be_given_back(tmp_path: Path) -> None:
    text = run("--dry-run", "--quick", "--path", "gvp", "--set", "data.standardise=true")
    values = yaml.safe_load(text)
    assert values["paths"] == ["gvp"]
    assert values["data"]["standardise"] is True
    assert values["comparison"]["steps"] < 2000
    (tmp_path / "again.yaml").write_text(text)
    assert run("--dry-run", "--config", str(tmp_path / "again.yaml")) == text
    whole = yaml.safe_load(run("--dry-run"))
    assert (whole["figures"]["steps"], whole["figures"]["batch"], whole["comparison"]["seeds"]) == (2000, 512, 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1"], "comparison over one training has no interval"),
        (["--path", "spiral"], "'spiral' is not a path"),
        (["--target", "score"], "'score' is not a target"),
        (["--arm", "cosmap", "--path", "vp"], "undefined on the vp path"),
        (["--set", "comparison.stepss=3"], "unknown key"),
        (["--config", "nowhere.yaml"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        run("--out", str(tmp_path), *arguments)
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from eisbach.cli.main import app; "
        "r = CliRunner().invoke(app, ['study', 'run', '--help']); assert r.exit_code == 0 and '--quick' in r.output, "
        "r.output; "
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules), sorted({'torch', 'matplotlib', 'scipy'} & "
        "set(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_key_that_is_set_holds_over_the_quick_values_of_digits() -> None:
    arguments = ["--quick", "--set", "samples=64", "--set", "steps.uvit=60", "--set", "jobs=2", "--seeds", "3"]
    result = CliRunner().invoke(app, ["study", "run", "erd_digits", *arguments, "--dry-run"])
    values = yaml.safe_load(result.stdout)
    assert (values["samples"], values["steps"], values["jobs"], values["seeds"]) == (64, {"uvit": 60}, 2, 3)
    assert values["backbones"] == ["uvit"]  # the rest stays quick
