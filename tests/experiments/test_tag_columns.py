"""What `analyze --embedding musicnn` adds to the records: fifty tags, and whether clips follow their captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eisbach.audio import read_audio, write_audio
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.experiments.hearing import ranks_of
from eisbach.structure.embeddings.musicnn import TAG_COLUMNS, TAGS, MusicnnEmbedding
from eisbach.types import Waveform

RATE = 16_000
CAPTIONS = {
    "beat": "Techno, fast, drums",
    "high": "Slow, in the high register",
    "low": "Slow, in the high register",  # and does not play there
    "silence": "Slow, in the low register",
    "nothing": "",
}


def _sounds() -> dict[str, np.ndarray]:
    t = np.arange(4 * RATE) / RATE
    noise = np.random.default_rng(2).standard_normal(len(t))
    since = (2 * t) % 1  # of the last of two strikes a second
    strike = np.exp(-3 * since)
    return {
        "beat": 0.3 * noise * np.exp(-25 * since) + 0.5 * np.sin(2 * np.pi * 55 * t) * np.exp(-12 * since),
        "high": 0.2 * strike * np.sin(2 * np.pi * 1046.5 * t),
        "low": 0.2 * strike * np.sin(2 * np.pi * 130.8 * t),
        "silence": np.zeros(len(t)),
        "nothing": 0.1 * noise,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for name, sound in _sounds().items():
        write_audio(root / f"{name}.wav", Waveform(sound[None].astype(np.float32), RATE))
    rows = [
        ManifestRow(name, f"{name}.wav", caption, 4.0, {"arm": "plain"}, "0" * 64, "train")
        for name, caption in CAPTIONS.items()
    ]
    save_manifest(Manifest(rows, root))
    return root


def _analyse(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments), "--json", "-q"])
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return {row["id"]: row for row in data["records"]}


def test_tags_are_columns_and_captions_are_held_against_them(folder: Path, tmp_path: Path) -> None:
    rows = _analyse(folder, "--embedding", "musicnn", "--out", tmp_path, "--no-page")
    assert len(set(TAG_COLUMNS)) == 50
    assert all(column.isidentifier() for column in TAG_COLUMNS)
    tags = MusicnnEmbedding().tags([read_audio(folder / "beat.wav")])[0]
    assert [rows["beat"][column] for column in TAG_COLUMNS] == pytest.approx(tags.tolist(), rel=1e-4)
    ranks = ranks_of(tags)
    asked = [TAGS.index(tag) for tag in ("techno", "fast", "drums")]
    assert rows["beat"]["tag_rank"] == pytest.approx(ranks[asked].mean())
    assert rows["beat"]["tag_rank"] > 0.8
    assert rows["beat"]["tag_lift"] > 0.1  # the other clips, which are not asked for it, sound less of it
    for name in ("silence", "nothing"):  # not heard; not asked for anything
        assert rows[name]["tag_rank"] is None
        assert rows[name]["tag_lift"] is None
    assert rows["silence"]["tag_slow"] is None
    assert 0 < rows["nothing"]["tag_no_vocals"] < 1
    assert "register_distance" not in rows["beat"]  # needs notes
    assert rows["beat"]["heard_change"] is None  # of 4 s, which is one window
    written = {str(row["id"]): row for row in _written(tmp_path)}
    assert written == rows
    assert [row["tag_rank"] for row in _parquet(tmp_path)] == [row["tag_rank"] for row in rows.values()]


def _written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def _parquet(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(str(folder / "records.parquet")).read().to_pylist()
    return rows


def test_with_notes_the_register_is_held_against_the_caption(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = _analyse(folder, "--embedding", "musicnn", "--notes", "--out", tmp_path, "--no-page")
    assert rows["high"]["register_distance"] == 0
    assert rows["low"]["register_distance"] == pytest.approx(71 - 48)  # C3 where B4 or higher was asked for
    assert rows["beat"]["register_distance"] is None
    assert rows["silence"]["register_distance"] is None
    assert {"note_motifs", "notes_per_second"} <= _written(tmp_path)[0].keys()


def test_without_captions_there_are_tags_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = _analyse(folder / "beat.wav", "--embedding", "musicnn")
    assert rows["beat"].keys() >= set(TAG_COLUMNS)
    assert "tag_rank" not in rows["beat"]
    assert not list(tmp_path.iterdir())  # without --out nothing is kept


def test_a_rerun_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    arguments = (folder / "beat.wav", "--embedding", "musicnn", "--out", tmp_path, "--no-page")
    _analyse(*arguments)
    first = (tmp_path / "records.jsonl").read_bytes()
    _analyse(*arguments)
    assert (tmp_path / "records.jsonl").read_bytes() == first


@pytest.mark.whole
def test_how_much_is_heard_to_change_is_a_column_that_sets_are_compared_by(tmp_path: Path) -> None:
    time = np.arange(9 * RATE) / RATE
    for group, parts in (("held", (1, 1, 1)), ("moves", (1, 4, 2))):
        for take in range(2):
            tones = [
                np.sin(2 * np.pi * 220 * (1 + take) * part * time[: 3 * RATE]) * np.exp(-(time[: 3 * RATE] % 0.5))
                for part in parts
            ]
            (tmp_path / group).mkdir(exist_ok=True)
            sound = Waveform(0.3 * np.concatenate(tones)[None].astype(np.float32), RATE)
            write_audio(tmp_path / group / f"{take}.wav", sound)
    arguments = [str(tmp_path / group) for group in ("held", "moves")]
    words = ["analyze", *arguments, "--embedding", "musicnn", "--json", "-q", "--no-page"]
    data = json.loads(CliRunner().invoke(app, words).stdout)
    heard = {
        name: [row["heard_change"] for row in data["records"] if name in row["group"]] for name in ("held", "moves")
    }
    assert min(heard["moves"]) > 2 * max(heard["held"])
    assert "heard_change" in json.dumps(data["comparison"])
    assert "heard_change" in json.dumps(data["groups"])
