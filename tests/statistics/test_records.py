import json

import numpy as np
import pytest

from eisbach.errors import StorageError
from eisbach.statistics.records import (
    RecordError,
    arms_of,
    load_records,
    save_records,
    validate_records,
    value_columns,
)


def row(**values):
    return {"arm": "plain", "train_seed": 0, "prompt_id": "p0", "seed": 1, "path": "a.flac", **values}


ROWS = [
    row(block_strength=0.25, is_flat=False, flags="clipped"),
    row(seed=2, block_strength=None, is_flat=True, flags=""),
    row(arm="célesta—barrière", train_seed=None, block_strength=1, note="Ärger\u2028x"),
]


def test_round_trip_through_both_formats_keeps_types_and_gaps(tmp_path):
    jsonl, parquet = save_records(ROWS, tmp_path)
    expected = validate_records(ROWS)
    assert load_records(parquet) == expected
    assert load_records(tmp_path / "records.parquet")[0]["is_flat"] is False
    assert load_records(parquet)[2]["train_seed"] is None
    assert load_records(jsonl) == expected  # a line separator inside a text does not end a line
    assert [json.loads(line)["arm"] for line in jsonl.read_text().split("\n") if line] == [r["arm"] for r in ROWS]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_loads_like_its_file(tmp_path):
    jsonl, _ = save_records(ROWS, tmp_path)
    assert load_records(tmp_path) == load_records(jsonl)
    jsonl.unlink()
    assert load_records(tmp_path) == validate_records(ROWS)


def test_every_row_gets_every_column_keys_first():
    rows = validate_records([row(b=1.0), row(seed=2, a=2.0)])
    assert list(rows[0]) == list(rows[1]) == ["arm", "train_seed", "prompt_id", "seed", "path", "b", "a"]
    assert rows[0]["a"] is None
    assert value_columns(rows) == ["b", "a"]
    assert arms_of(rows) == ["plain"]


def test_numpy_scalars_become_plain_and_nan_is_none():
    (clean,) = validate_records([row(x=np.float32(0.5), y=np.bool_(True), z=float("nan"), n=np.int64(3))])
    assert (clean["x"], clean["y"], clean["z"], clean["n"]) == (0.5, True, None, 3)
    assert type(clean["y"]) is bool
    assert type(clean["n"]) is int


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"arm": "a", "prompt_id": "p", "path": "x"}], "lacks 'seed'"),
        ([row(arm="")], "arm = ''"),
        ([row(seed=1.5)], "seed = 1.5"),
        ([row(train_seed="0")], "train_seed = '0'"),
        ([row(x=[1])], "type list"),
        ([row(x=float("inf"))], "infinite"),
        ([row(), row()], "row 2 repeats row 1"),
        ([row(x=1.0), row(seed=2, x="one")], "column 'x' mixes numbers and text"),
        ([row(x=1.0), row(seed=2, x=True)], "mixes numbers and true/false"),
        (["no"], "row 1 is a str"),
    ],
)
def test_faults_are_named(rows, said):
    with pytest.raises(RecordError, match="cannot be used") as caught:
        validate_records(rows)
    assert said in str(caught.value)


def test_faults_are_reported_together_and_many_are_counted():
    with pytest.raises(RecordError) as caught:
        validate_records([row(seed=None) for _ in range(9)])
    assert "and" in str(caught.value)
    assert str(caught.value).count("lacks 'seed'") >= 2


def test_empty_records_survive(tmp_path):
    jsonl, parquet = save_records([], tmp_path)
    assert load_records(jsonl) == load_records(parquet) == []


def test_bad_files_give_one_sentence(tmp_path):
    for name, content, said in [
        ("a.parquet", b"PAR1 not really", "truncated or not Parquet"),
        ("a.jsonl", b'{"arm": ', "line 1"),
        ("a.csv", b"x", "'.csv'"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"\.$") as caught:
            load_records(tmp_path / name)
        assert said in str(caught.value)
    for missing in ("none.parquet", "none.jsonl"):
        with pytest.raises(ValueError, match="does not exist"):
            load_records(tmp_path / missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="neither"):
        load_records(tmp_path / "empty")


def test_a_truncated_parquet_is_refused_and_a_failed_write_keeps_the_old(tmp_path):
    _, parquet = save_records(ROWS, tmp_path)
    whole = parquet.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="truncated"):
        load_records(tmp_path / "cut.parquet")
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(StorageError, match="could not be written"):
        save_records(ROWS, blocked)
    with pytest.raises(RecordError):
        save_records([*ROWS, row(seed=None)], tmp_path)
    assert parquet.read_bytes() == whole
