from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.cli.common import make_manifests
from eisbach.cli.data import app
from eisbach.errors import UserError


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_folder_then_doctor(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.wav", tone(2.0, frequency=200 + ord(name)))
    out = json.loads(run("folder", str(tmp_path), "--caption-from", "name", "--label", "kind=developing", "--json"))
    assert out == {"clips": 2, "train": 2, "held_out": 0, "skipped": []}
    assert "no problems found" in run("doctor", str(tmp_path), "--strict")
    write(tmp_path / "b.wav", tone(0.5))
    assert "too short" in run("doctor", str(tmp_path))
    report = json.loads(run("doctor", str(tmp_path), "--json", "--strict", "--crop-seconds", "5", code=2))
    assert report["counts"] == {"changed": 1, "too_short": 1}
    assert report["trained"][0]["caption"] == "a"
    with pytest.raises(UserError, match="key=value"):
        run("folder", str(tmp_path), "--label", "kind")
    with pytest.raises(UserError, match="records of clips have a column sample_rate; choose another name"):
        run("folder", str(tmp_path), "--label", "sample_rate=44100")


def test_one_of_several_processes_says_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.wav", tone())
    (tmp_path / "metadata.csv").write_text("file_name,mood\na.wav,calm\n")
    for rank, said in (("1", ""), ("0", "labels in a table: mood (1)")):
        (tmp_path / "manifest.jsonl").unlink(missing_ok=True)
        monkeypatch.setenv("RANK", rank)
        capsys.readouterr()
        make_manifests(str(tmp_path), quiet=False)
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
        assert bool(told) == bool(said)
        assert said in " ".join(told)


def test_render_and_flat(tmp_path: Path, score_cache: Path) -> None:
    common = ["-n", "1", "-s", "3", "--pieces", "airdsAirs/book1#0003", "--cache", str(score_cache), "-j", "1"]
    assert json.loads(run("render", "-o", str(tmp_path / "x"), *common, "--dry-run"))["seconds"] == [3.0]
    assert not (tmp_path / "x").exists()
    assert "1 clips" in run("render", "-o", str(tmp_path / "dev"), *common, "--stereo", "--format", "wav")
    assert (tmp_path / "dev" / "clips" / "000000.wav").is_file()
    assert "1 clips" in run("flat", "-o", str(tmp_path / "flat"), *common, "--kinds", "pad")
    assert '"kind": "pad"' in (tmp_path / "flat" / "manifest.jsonl").read_text()
    with pytest.raises(UserError, match="must be a number or a range"):
        run("render", "-o", str(tmp_path / "y"), "-s", "long")


def test_scores_are_listed_with_their_licence(tmp_path: Path, score_cache: Path) -> None:
    assert "yes  joplin/maple_leaf_rag" in run("scores", "joplin", "--list")
    run("scores", "joplin", "leadSheet", "--redistributable-only", "--out", str(tmp_path / "sources.json"))
    rows = json.loads((tmp_path / "sources.json").read_text())
    assert [row["piece"] for row in rows] == ["joplin/maple_leaf_rag", "leadSheet/fosterBrownHair"]
    parsed = run("scores", "airdsAirs/book1#0003", "--json", "--cache", str(score_cache), "-j", "1")
    assert json.loads(parsed) == {"parsed": 1, "skipped": []}
