"""The digits experiment on a grid of four tiny trainings, and its statistics on records whose answer is known."""

import numpy as np
import pytest
from scipy.stats import t as student
from typer.testing import CliRunner

from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.errors import ConfigError, UserError
from eisbach.files import read_jsonl
from eisbach.image_quality.digits_classifier import DigitClassifier, train_classifier
from eisbach.studies.erd_digits.judge import add_holm, differences, log_frechet, pooled, summarise
from eisbach.studies.erd_digits.run import run_digits
from eisbach.studies.erd_digits.spec import QUICK, DigitsConfig, cells, training_values
from eisbach.training.config import TrainConfig


def test_the_grid_and_its_trainings():
    config = DigitsConfig()
    grid = cells(config)
    assert len(grid) == 3 * 3 * 4 * 3 + 3 * 3
    assert len({cell.name for cell in grid}) == len(grid)
    for cell in grid:
        training = build_config(TrainConfig, training_values(config, cell, "x"))
        assert training.steps % training.checkpoint.every == 0
        assert training.seed == cell.seed
    assert len(cells(build_config(DigitsConfig, QUICK))) == 4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two arms, two seeds, four steps."""
    out = tmp_path_factory.mktemp("digits")
    values = {
        "backbones": ["uvit"], "targets": ["v"], "arms": ["constant", "erd"], "barrier": [], "seeds": 2,
        "steps": {"uvit": 4},
        "checkpoints": 2, "samples": 30, "sampling": {"num_inference_steps": 2, "batch_size": 30}, "out": str(out),
    }  # fmt: skip
    config = build_config(DigitsConfig, values)
    return config, run_digits(config, quiet=True)


@pytest.mark.whole
def test_the_experiment_runs_resumes_and_refuses_other_options(small):
    config, summary = small
    rows = read_jsonl(f"{config.out}/records.jsonl")
    assert [(row["arm"], row["seed"], row["step"]) for row in rows] == [
        (arm, seed, step) for seed in range(2) for arm in ("constant", "erd") for step in (2, 4)
    ]
    assert summary["classifier_accuracy"] > 0.9
    assert summary["floor"]["accuracy"] > 0.95
    assert summary["floor"]["frechet"] < min(row["frechet"] for row in rows)
    assert run_digits(config, quiet=True) == summary
    with pytest.raises(ConfigError, match="samples was 30 and is now 40"):
        run_digits(config.model_copy(update={"samples": 40}), quiet=True)


@pytest.mark.whole
def test_its_page_holds_everything(small):
    from eisbach.studies.erd_digits.page import write_digits_page

    config, summary = small
    text = write_digits_page(
        config, read_jsonl(f"{config.out}/records.jsonl"), summary, command="eisbach x"
    ).read_text()
    assert text.count("data:image/png") == 3
    assert "ERD against constant" in text
    assert "http" not in text.replace("http://www.w3.org", "")


@pytest.mark.whole
def test_the_classifier_is_saved_and_reads_digits_alone(small, tmp_path):
    config, _ = small
    classifier = DigitClassifier.load(config.out)
    classifier.save(tmp_path)
    assert DigitClassifier.load(tmp_path).identity() == classifier.identity()
    with pytest.raises(UserError, match="8x8"):
        classifier(np.zeros((2, 16, 16, 3), np.uint8))
    from eisbach.data.images import load_digits

    one = load_digits()
    with pytest.raises(UserError, match="two classes"):
        train_classifier(type(one)(one.items[:4], ("0",)), one)


def records(effect):
    """ln Fréchet distance = setting + seed + effect of the arm + its own noise."""
    rng = np.random.default_rng(0)
    rows = []
    for backbone in ("dit", "uvit"):
        for number, target in enumerate(("eps", "x0", "v")):
            for seed in range(3):
                base = number + rng.normal()
                for arm, shift in effect.items():
                    value = float(np.exp(base + shift + 0.02 * rng.normal()))
                    numbers = {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "inception_score": 2.0}
                    rows += [
                        {
                            "backbone": backbone,
                            "target": target,
                            "arm": arm,
                            "seed": seed,
                            "step": step,
                            "frechet": value,
                            **numbers,
                        }
                        for step in (5, 10)
                    ]
    return rows


def test_a_known_difference_is_found_and_its_interval_is_students():
    rows = records({"constant": 0.0, "erd": -0.3, "min_snr": 0.0})
    config = build_config(
        DigitsConfig, {"backbones": ["dit", "uvit"], "arms": ["constant", "erd", "min_snr"], "barrier": []}
    )
    floor = {"frechet": 1.0}
    summary = summarise(rows, config, floor=floor, classifier=0.9)
    against = {one["baseline"]: one for one in summary["comparisons"]}
    assert set(against) == {"constant", "min_snr"}
    found = against["constant"]["log_frechet"]
    by_setting = differences(rows, "erd", "constant", {"dit": 10, "uvit": 10}, log_frechet)
    means = np.array([np.mean(list(seeds.values())) for seeds in by_setting.values()])
    half = student.ppf(0.975, 5) * means.std(ddof=1) / np.sqrt(6)
    assert found["mean"] == pytest.approx(means.mean())
    assert found["interval"] == pytest.approx((means.mean() - half, means.mean() + half))
    assert found["mean"] == pytest.approx(-0.3, abs=0.03)
    assert found["p"] == found["smallest_p"] == pytest.approx(2 / 64)
    assert found["p_holm"] == pytest.approx(4 / 64)
    assert len(against["constant"]["by_setting"]) == 6
    assert against["constant"]["accuracy"]["mean"] == 0


def test_no_difference_is_no_difference_and_gaps_are_left_out():
    rows = records({"constant": 0.0, "erd": 0.0})
    by_setting = differences(rows, "erd", "constant", {"dit": 10, "uvit": 10}, log_frechet)
    low, high = pooled(by_setting)["interval"]
    assert low < 0 < high
    missing = [row for row in rows if not (row["arm"] == "erd" and row["target"] == "v")]
    assert set(differences(missing, "erd", "constant", {"dit": 10, "uvit": 10}, log_frechet)) == {
        "dit/eps", "dit/x0", "uvit/eps", "uvit/x0",
    }  # fmt: skip


def test_holm_is_the_textbooks():
    entries = [{"p": 0.01}, {"p": 0.04}, {"p": None}, {"p": 0.03}]
    add_holm(entries)
    assert [entry.get("p_holm") for entry in entries] == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        None,
        pytest.approx(0.06),
    ]


def test_the_command_prints_its_configuration():
    words = ["study", "run", "erd_digits", "--quick", "--dry-run", "--seeds", "5", "--first-seed", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "\nseeds: 5\nfirst_seed: 3\n" in result.stdout
    assert "- uvit" in result.stdout


def test_another_first_seed_is_another_set_of_trainings():
    first, second = (DigitsConfig(seeds=2, first_seed=number) for number in (0, 2))
    assert {cell.seed for cell in cells(first)} == {0, 1}
    assert {cell.seed for cell in cells(second)} == {2, 3}
    assert len(cells(first)) == len(cells(second))
