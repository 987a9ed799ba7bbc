"""The judges that read a row a model (`models.jsonl`), on rows whose truth is known."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from eisbach.experiments.recipes import load_spec
from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import write_jsonl
from eisbach.statistics.records import save_records
from eisbach.studies.barrier_falsification.run import RECIPE, Settings, domain_spec
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import Draws

DRAWS = range(100, 108)


def judge(study: str, folder: Path) -> dict[str, ClaimResult]:
    return {claim.key: claim for claim in importlib.import_module(f"eisbach.studies.{study}.judge").judge(folder)}


def noise(draw: int, arm: str, spread: float = 0.02) -> float:
    return float(np.exp(np.random.default_rng([draw, len(arm)]).normal(0, spread)))


def write_domain(folder: Path, factors: dict[str, tuple[float, float]], wobble: float = 0.02) -> None:
    """Distances on texture and on musicnn: what the draw gives, times the arm's factors."""
    models, clips = [], []
    for arm, (texture, heard) in factors.items():
        for draw in DRAWS:
            base = 5.0 + 2.0 * np.sin(draw)
            row = {"arm": arm, "train_seed": draw, "yardstick": "domain"}
            models.append({**row, "texture_frechet": base * texture * noise(draw, arm, wobble),
                           "musicnn_frechet": 2 * base * heard * noise(draw, arm + "m", wobble)})  # fmt: skip
            clips.append({"arm": arm, "train_seed": draw, "prompt_id": "a", "seed": 0, "path": f"{arm}-{draw}",
                          "is_flat": True})  # fmt: skip
    write_jsonl(folder / MODELS_FILE, models)
    save_records(clips, folder)


def test_failing_is_being_farther_from_the_domain_than_plain_training(tmp_path: Path) -> None:
    write_domain(tmp_path / "noise", {"plain": (1, 1), "sample-100": (1.5, 1.2), "development": (1, 1)})
    write_domain(tmp_path / "texture", {"plain": (1, 1), "sample-100": (0.7, 1), "development": (1.5, 0.7)})
    write_domain(tmp_path / "drone", {"plain": (1, 1), "sample-100": (1.05, 1), "development": (1.0, 1)}, wobble=0.6)
    found = judge("barrier_falsification", tmp_path)
    assert {key: claim.verdict for key, claim in found.items()} == {
        "fails-on-noise-per-sample": "supported",
        "fails-on-noise-development": "refuted",  # as near
        "fails-on-texture-per-sample": "refuted",  # nearer
        "fails-on-texture-development": "inconclusive",  # the two embeddings disagree
        "fails-on-drone-per-sample": "inconclusive",
        "fails-on-drone-development": "inconclusive",
    }
    effect = found["fails-on-noise-per-sample"].effects[0]
    assert effect.value == pytest.approx(1.5, rel=0.03)
    assert (effect.unit, effect.n, effect.p) == ("ratio", 8, pytest.approx(2 * 2 / 2**8))
    assert 1.4 < (effect.low or 0) < effect.value < (effect.high or 0) < 1.6


def test_a_domain_that_was_not_run_is_not_judged(tmp_path: Path) -> None:
    write_domain(tmp_path / "noise", {"plain": (1, 1), "sample-100": (1.5, 1.2)})
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
