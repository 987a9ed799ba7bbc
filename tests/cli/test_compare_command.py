import json

import numpy as np
import pytest
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli.main import app
from eisbach.errors import UserError
from eisbach.types import Waveform

RATE = 16_000


def clip(path, develops, seed):
    """Ten seconds: one held chord, or four passages that differ."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE * 10) / RATE
    samples = np.zeros_like(t)
    for part in range(4):
        inside = (t >= 2.5 * part) & (t < 2.5 * (part + 1))
        base = (110 * 2 ** rng.integers(0, 4)) * (1 + 2 * part) if develops else 220.0
        level = 0.05 * (1 + 3 * part) if develops else 0.2
        samples[inside] = level * sum(np.sin(2 * np.pi * base * k * t[inside]) / k for k in (1, 2, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, Waveform((samples + 1e-3 * rng.standard_normal(len(t)))[None].astype(np.float32), RATE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    for index in range(5):
        clip(root / f"flat/{index}.wav", False, index)
        clip(root / f"rich/{index}.wav", True, index)
    clip(root / "other/alone.flac", True, 9)
    (root / "rich/broken.mp3").write_bytes(b"not music")
    return root


def run(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_two_folders_give_numbers_records_and_a_page(folders, tmp_path):
    result = run(folders / "flat", f"new={folders / 'rich'}", "--out", tmp_path, "--json", "--quiet", "--no-pictures")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    by_metric = {one["metric"]: one for one in said["comparisons"]}
    assert by_metric["level_range"]["difference"] > 5
    assert by_metric["level_range"]["p"] == pytest.approx(2 / 2**5)
    assert by_metric["level_range"]["n_units"] == 5
    assert (said["pairing"], said["baseline"]) == ("name", "flat")
    assert [item["item"].endswith("broken.mp3") for item in said["skipped"]] == [True]
    page = (tmp_path / "report/index.html").read_text()
    assert page.count("<audio") == 10
    assert "broken.mp3" in page
    assert json.loads((tmp_path / "statistics.json").read_text())["comparisons"] == said["comparisons"]
    assert (tmp_path / "records.parquet").is_file()


def test_three_arms_of_unequal_size_in_words(folders, tmp_path):
    result = run(folders / "flat", folders / "rich", folders / "other", "--out", tmp_path, "--no-page", "--quiet",
                 "--primary", "level_range,is_flat")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("With rich, level range was")
    assert "| other | 1 |" in result.stdout
    assert "Not so other" in result.stdout
    assert not (tmp_path / "report").exists()


def test_dry_run_writes_nothing(folders, tmp_path):
    result = run(folders / "flat", folders / "rich", "--dry-run", "--out", tmp_path / "out", "--baseline", "rich")
    assert json.loads(result.stdout)["baseline"] == "rich"
    assert json.loads(result.stdout)["arms"]["rich"]["clips"] == 6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "q"], "--baseline is 'q'"),
        (["--oracle", "flat"], "must be different arms"),
        (["--metrics", "beauty"], "no metric named 'beauty'"),
        (["--metrics", "level_range", "--primary", "is_flat"], "add it to --metrics"),
        (["--metrics", "motif_coverage"], "no clip has a value for the metric 'motif_coverage'"),
        (["--pairing", "luck"], "no pairing 'luck'"),
    ],
)
def test_mistakes_are_one_sentence(folders, tmp_path, options, said):
    result = run(folders / "flat", folders / "rich", "--out", tmp_path, "--quiet", "--no-page", *options)
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert str(result.exception).endswith(".")
