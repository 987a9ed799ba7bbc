"""The judges that read a row a model (`models.jsonl`), on rows whose truth is known."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eisbach.experiments.recipes import load_spec
from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import read_jsonl, write_jsonl
from eisbach.statistics.records import save_records
from eisbach.studies.barrier_falsification.judge import as_far
from eisbach.studies.barrier_falsification.run import RECIPE, Settings, domain_spec
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import Draws
from eisbach.types import Record

DRAWS = range(100, 108)


def judge(study: str, folder: Path) -> dict[str, ClaimResult]:
    return {claim.key: claim for claim in importlib.import_module(f"eisbach.studies.{study}.judge").judge(folder)}


def noise(draw: int, arm: str, spread: float = 0.02) -> float:
    return float(np.exp(np.random.default_rng([draw, len(arm)]).normal(0, spread)))


FLOOR = 4.0
"""What a Fréchet distance of 24 clips is even from their own kind, beside kernel distances of about .1."""


def write_domain(
    folder: Path, arms: dict[str, tuple[float, float]], *, wobble: float = 0.002, draws: Sequence[int] = DRAWS
) -> None:
    """Kernel distances on texture and on musicnn: the arm's own, more in one draw than in another, with noise whose
    mean over draws is 0; Fréchet distances are as much above their floor."""
    models, clips = [], []
    for arm, distances in arms.items():
        noise = np.random.default_rng([*arm.encode()]).normal(0, wobble, (len(draws), 2))
        noise -= noise.mean(0)
        for draw, moved in zip(draws, noise, strict=True):
            row: Record = {"arm": arm, "train_seed": draw, "yardstick": "domain"}
            for embedding, distance, error in zip(("texture", "musicnn"), distances, moved, strict=True):
                kernel = float(distance * (1 + 0.3 * np.sin(draw)) + error)
                row |= {f"{embedding}_kernel": kernel, f"{embedding}_frechet": FLOOR + kernel}
            models.append(row)
            clips.append({"arm": arm, "train_seed": draw, "prompt_id": "a", "seed": 0, "path": f"{arm}-{draw}",
                          "is_flat": True})  # fmt: skip
    write_jsonl(folder / MODELS_FILE, models)
    save_records(clips, folder)


def test_failing_is_being_farther_from_the_domain_than_plain_training(tmp_path: Path) -> None:
    plain = (0.1, 0.1)
    write_domain(tmp_path / "noise", {"plain": plain, "sample-100": (0.15, 0.12), "development": plain})
    write_domain(tmp_path / "texture", {"plain": plain, "sample-100": (0.07, 0.1), "development": (0.15, 0.07)})
    write_domain(tmp_path / "drone", {"plain": plain, "sample-100": (0.11, 0.1), "development": plain}, wobble=0.05)
    found = judge("barrier_falsification", tmp_path)
    assert {key: claim.verdict for key, claim in found.items()} == {
        "fails-on-noise-per-sample": "supported",
        "fails-on-noise-development": "refuted",  # as near
        "fails-on-texture-per-sample": "refuted",  # nearer
        "fails-on-texture-development": "inconclusive",  # musicnn hears it nearer
        "fails-on-drone-per-sample": "inconclusive",
        "fails-on-drone-development": "inconclusive",
    }
    effect, heard, plainly = found["fails-on-noise-per-sample"].effects[:3]
    assert effect.name == "kernel distance of textures: per sample, λ 1 − plain"
    assert effect.value == pytest.approx(0.05, abs=0.01)
    assert (effect.n, effect.p) == (8, pytest.approx(2 / 2**8))
    assert 0 < (effect.low or 0) < effect.value < (effect.high or 0) < 0.1
    assert heard.value == pytest.approx(0.02, abs=0.01)
    assert (plainly.name, plainly.value) == ("kernel distance of textures: plain", pytest.approx(0.1, abs=0.02))


def test_a_floor_of_small_sets_does_not_hide_a_rise(tmp_path: Path) -> None:
    """Half as far again from the domain is 1% of a Fréchet distance, which would be called equal."""
    write_domain(tmp_path / "drone", {"plain": (0.1, 0.1), "sample-100": (0.15, 0.15)})
    models = Draws(read_jsonl(tmp_path / "drone" / MODELS_FILE), str(RECIPE))
    assert models.equal_ratio("sample-100", "texture_frechet", 1.1, "plain") < 0.001
    claim = judge("barrier_falsification", tmp_path)["fails-on-drone-per-sample"]
    assert claim.verdict == "supported"
    ratio = next(effect for effect in claim.effects if effect.name.startswith("Fréchet distance of textures"))
    assert (ratio.unit, ratio.value) == ("ratio", pytest.approx(1.012, abs=0.003))


def test_musicnn_vetoes_by_its_raw_p(tmp_path: Path) -> None:
    """By musicnn six draws of eight are nearer, which is shown only as long as nothing corrects it."""
    write_domain(tmp_path / "noise", {"plain": (0.1, 0.1), "sample-100": (0.15, 0.1)})
    rows = read_jsonl(tmp_path / "noise" / MODELS_FILE)
    shift = dict(zip(DRAWS, (-0.03, -0.03, -0.03, -0.03, -0.03, -0.03, 0.012, 0.01), strict=True))
    for row in rows:
        row["musicnn_kernel"] = 0.1 + (shift[row["train_seed"]] if row["arm"] == "sample-100" else 0.0)
    write_jsonl(tmp_path / "noise" / MODELS_FILE, rows)
    claim = judge("barrier_falsification", tmp_path)["fails-on-noise-per-sample"]
    assert 0.025 < (claim.effects[1].p or 0) < 0.05
    assert claim.effects[1].value < 0
    assert claim.verdict == "inconclusive"


def test_nothing_is_as_far_where_plain_training_is_not_shown_to_be_away(tmp_path: Path) -> None:
    """An unbiased distance of 0: a tenth of it is no margin. What is farther is shown all the same."""
    write_domain(tmp_path / "noise", {"plain": (0.0, 0.0), "sample-100": (0.0, 0.0), "development": (0.1, 0.0)})
    found = judge("barrier_falsification", tmp_path)
    assert (found["fails-on-noise-per-sample"].effects[2].low or 0) < 0
    assert found["fails-on-noise-per-sample"].verdict == "inconclusive"
    assert found["fails-on-noise-development"].verdict == "supported"


def test_one_draw_shows_nothing(tmp_path: Path) -> None:
    write_domain(tmp_path / "noise", {"plain": (0.1, 0.1), "sample-100": (0.5, 0.1), "development": (0.1, 0.1)},
                 draws=[100])  # fmt: skip
    found = judge("barrier_falsification", tmp_path)
    assert {found[f"fails-on-noise-{weight}"].verdict for weight in ("per-sample", "development")} == {"inconclusive"}


def test_no_p_is_not_a_p_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect without a test, whatever its size, shows nothing."""
    write_domain(tmp_path / "noise", {"plain": (0.1, 0.1), "sample-100": (0.5, 0.1)})
    whole = Draws.effect

    def untested(*args: Any, **options: Any) -> Effect:
        return whole(*args, **options).model_copy(update={"p": None})

    monkeypatch.setattr(Draws, "effect", untested)
    assert judge("barrier_falsification", tmp_path)["fails-on-noise-per-sample"].verdict == "inconclusive"


def test_as_far_is_within_a_tenth_of_a_mean_that_is_itself_estimated(tmp_path: Path) -> None:
    """The same as scipy's two one-sided tests of arm − 1.1 plain and arm − .9 plain."""
    write_domain(tmp_path, {"plain": (0.1, 0.1), "sample-100": (0.104, 0.1)}, wobble=0.006)
    models = Draws(read_jsonl(tmp_path / MODELS_FILE), str(RECIPE))
    ours, plain = (np.array(list(models.by_draw(arm, "texture_kernel").values())) for arm in ("sample-100", "plain"))
    ends = [ttest_1samp(ours - 1.1 * plain, 0, alternative="less").pvalue,
            ttest_1samp(ours - 0.9 * plain, 0, alternative="greater").pvalue]  # fmt: skip
    assert as_far(models, "sample-100") == pytest.approx(max(ends))
    assert 0.001 < max(ends) < 0.5


def test_a_domain_that_was_not_run_is_not_judged(tmp_path: Path) -> None:
    write_domain(tmp_path / "noise", {"plain": (0.1, 0.1), "sample-100": (0.15, 0.12)})
    found = judge("barrier_falsification", tmp_path)
    assert found.pop("fails-on-noise-per-sample").verdict == "supported"
    assert {claim.verdict for claim in found.values()} == {"not run"}


def test_each_domain_trains_on_its_kind_alone(tmp_path: Path) -> None:
    specs = {name: domain_spec(Settings(), name, tmp_path) for name in ("noise", "texture", "drone")}
    kinds = {name: spec.material.kinds for name, spec in specs.items() if spec.material is not None}
    assert kinds == {"noise": ("noise",), "texture": ("cloud",), "drone": ("drone",)}
    for spec in specs.values():
        assert spec.material is not None
        assert spec.material.developing_clips == 0
        assert spec.arms.keys() == load_spec(str(RECIPE)).arms.keys()


def write_polarised(folder: Path, base: float) -> None:
    """Per sample loses 6% on rare clips and none on common ones; development loses 6% on both. The base loses on rare
    clips `base`, plain training .7."""
    loss = {"sample-100": {"rare": 1.06}, "development": {"rare": 1.06, "common": 1.06}}
    spec, models, clips = load_spec("barrier_polarisation"), [], []
    for group, yardstick in spec.yardsticks.items():
        models.append({"arm": "untrained", "train_seed": None, "yardstick": group, "held_out_loss": base})
        for arm in [arm for arm in spec.arms if arm != "untrained"]:
            for draw in DRAWS:
                factor = loss.get(arm, {}).get(group, 1.0) * noise(draw, arm + group, 0.003)
                weight = {"sample-100": {"rare": 0.6, "common": 1.05}}.get(arm, {}).get(group, 1.0)
                models.append({"arm": arm, "train_seed": draw, "yardstick": group, "held_out_loss": 0.7 * factor,
                               "mean_weight": weight, "texture_frechet": 4 * noise(draw, group),
                               "musicnn_frechet": 9 * factor})  # fmt: skip
                for prompt in yardstick.prompts:
                    blocks = {"sample-100": 0.1 if group == "common" else -0.3}.get(arm, 0.0)
                    row = {"arm": arm, "train_seed": draw, "prompt_id": prompt, "seed": 0, "is_flat": False}
                    blocks += 0.3 + 0.01 * noise(draw, arm)
                    clips.append({**row, "path": f"{arm}-{draw}-{prompt}", "block_strength": blocks})
    write_jsonl(folder / MODELS_FILE, models)
    save_records(clips, folder)


def test_polarising_is_falling_behind_on_rare_material_alone(tmp_path: Path) -> None:
    write_polarised(tmp_path, base=0.75)
    found = judge("barrier_polarisation", tmp_path)
    assert {key: claim.verdict for key, claim in found.items()} == {
        "ignorant-of-rare-per-sample": "supported",
        "sharp-on-common-per-sample": "supported",
        "ignorant-of-rare-development": "refuted",
        "sharp-on-common-development": "refuted",
    }
    claim = found["ignorant-of-rare-per-sample"]
    effects = {effect.name: effect.value for effect in claim.effects}
    assert effects["held-out loss on rare / on common: per sample, λ 1 / plain"] == pytest.approx(1.06, abs=0.01)
    assert effects["held-out loss on common: per sample, λ 1 / plain"] == pytest.approx(1.0, abs=0.01)
    assert effects["held-out loss on rare: plain / untrained base"] == pytest.approx(0.7 / 0.75, abs=0.01)
    assert effects["mean weight on rare / on common: per sample, λ 1 / plain"] == pytest.approx(0.6 / 1.05)
    assert "within 1/1.01" in claim.note  # a fifth of log(.75 / .7)
    assert claim.effects[0].p == pytest.approx(2 / 2**8)  # alone: no other measure takes from it


@pytest.mark.parametrize(("base", "verdict"), [(0.701, "inconclusive"), (0.7, "inconclusive"), (0.65, "refuted")])
def test_equal_is_less_than_a_fifth_of_what_plain_training_changed(tmp_path: Path, base: float, verdict: str) -> None:
    """Nothing learned leaves nothing to be equal to; where plain training made the loss worse, its size counts."""
    write_polarised(tmp_path, base)
    assert judge("barrier_polarisation", tmp_path)["ignorant-of-rare-development"].verdict == verdict


def test_a_ratio_is_a_geometric_mean_over_draws() -> None:
    rows = [{"arm": arm, "train_seed": draw, "loss": value * (draw - 99)} for draw in (100, 101)
            for arm, value in (("plain", 1.0), ("oracle", 2.0 if draw == 100 else 8.0))]  # fmt: skip
    draws = Draws(rows, "barrier_main")
    assert draws.ratio("oracle", "loss", "plain").value == pytest.approx(4.0)
    assert draws.equal_ratio("oracle", "loss", 1.1, "plain") > 0.5
    assert draws.equal_ratio("plain", "loss", 1.1, "plain") < 0.05
