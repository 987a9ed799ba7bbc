"""The judges of the studies over draws, on records whose truth is known."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eisbach.experiments.recipes import load_spec
from eisbach.statistics.records import load_records, save_records
from eisbach.studies.barrier_complements.judge import judge as complements
from eisbach.studies.barrier_steps.judge import judge as steps
from eisbach.studies.judging import Draws

CLIPS = 40


def write(folder: Path, study: str, share: Callable[[str, int], float], **columns: Callable[[str, int], float]) -> Path:
    """Records of every draw: `share(arm, draw)` of the clips are flat; columns are constant over a model's clips. What
    is not trained is there once."""
    rng = np.random.default_rng(0)
    spec = load_spec(study)
    rows = []
    for arm in spec.arms:
        trained = spec.arms[arm].trained
        for draw in spec.train_seeds if trained else spec.train_seeds[:1]:
            flat = round(share(arm, draw) * CLIPS)
            for clip in range(CLIPS):
                row = {
                    "arm": arm,
                    "train_seed": draw if trained else None,
                    "prompt_id": f"p{clip}",
                    "seed": 0,
                    "path": f"{arm}-{draw}-{clip}",
                }
                metrics = {name: float(rng.normal()) for name in spec.primary_metrics if name != "is_flat"}
                kinds = {"flat_still": float(clip < flat), "flat_loop": 0.0, "flat_texture": 0.0}
                own = {k: v(arm, draw) for k, v in columns.items()}
                rows.append({**row, **metrics, "is_flat": clip < flat, **kinds, **own})
    save_records(rows, folder)
    return folder


def verdicts(folder: Path, study: str) -> dict[str, str]:
    judge = importlib.import_module(f"eisbach.studies.{study}.judge").judge
    return {claim.key: claim.verdict for claim in judge(folder)}


def spread(draw: int) -> float:
    """How flat training on a draw makes models, whatever the arm: what pairing takes out."""
    return 0.5 + 0.2 * np.sin(draw)


def test_arms_are_paired_by_draw(tmp_path: Path) -> None:
    effect = {"sample-100": -0.15, "sample-50": 0.15, "recurrence": 0.0, "development": -0.1, "oracle": -0.3}
    noise = np.random.default_rng(1).normal(0, 0.01, 400)

    def share(arm: str, draw: int) -> float:
        wobble = 0.25 * (-1) ** draw if arm == "clip-and-level" else 0.0
        return spread(draw) + effect.get(arm, 0.0) + wobble + noise[hash((len(arm), draw)) % 400]

    found = verdicts(write(tmp_path / "main", "barrier_main", share), "barrier_main")
    assert found == {"eq5": "refuted", "per-sample": "supported", "development": "supported"}
    found = verdicts(write(tmp_path / "short", "barrier_short", share), "barrier_short")
    assert found == {
        "eq5": "refuted",  # the same within 5 points
        "per-sample": "supported",
        "half": "refuted",  # worse
        "recurrence-over-draws": "refuted",
        "development-over-draws": "supported",
        "clip-and-level-over-draws": "inconclusive",
        "labels-are-enough": "supported",
    }


def test_what_is_shuffled_does_not_stand(tmp_path: Path) -> None:
    """The main study counts flat pieces of all kinds; the one of short pieces those that stand still, loop or are a
    texture."""
    kinds = {"flat_still": 0.0, "flat_loop": 0.0, "flat_texture": 0.0}
    columns = {name: (lambda arm, draw, value=value: value) for name, value in kinds.items()}
    columns["flat_texture"] = lambda arm, draw: 0.3 + 0.001 * (draw % 3) - (0.2 if arm == "batch-50" else 0.0)
    folder = write(tmp_path, "barrier_short", lambda arm, draw: 0.2 if arm == "sample-100" else 0.8, **columns)
    result = verdicts(folder, "barrier_short")
    assert result["per-sample"] == "refuted"  # fewer flat pieces, and as many that stand
    assert result["eq5"] == "supported"
    from eisbach.studies.judging import STANDING, with_standing

    rows = with_standing(load_records(folder / "records.parquet"))
    assert {round(row[STANDING], 3) for row in rows} == {0.3, 0.301, 0.302, 0.1, 0.101, 0.102}
    assert with_standing([{"arm": "plain", "flat_still": 0.1, "flat_loop": None}])[0][STANDING] is None


def test_an_effect_is_the_mean_of_differences_within_draws(tmp_path: Path) -> None:
    write(tmp_path, "barrier_main", lambda arm, draw: spread(draw) - (0.25 if arm == "development" else 0.0))
    draws = Draws(load_records(tmp_path / "records.parquet"), "barrier_main")
    effect = draws.effect("development", "is_flat")
    assert effect.value == pytest.approx(-25, abs=1.5)
    assert effect.n == 8
    assert effect.p == pytest.approx(2 / 2**8)
    assert effect.low is not None
    assert effect.low > -28
    same = draws.interaction(("development", "plain"), ("development", "plain"))[0]
    assert (same.value, same.p) == (0, 1)
    holm = draws.primary("development")
    assert holm[0].p == pytest.approx(4 * 2 / 2**8)


def test_a_clip_without_a_value_is_left_out_with_its_partner(tmp_path: Path) -> None:
    """Sections last longer at some prompts than at others, and one arm has no value of the longest."""
    rows = []
    for arm, gain in (("plain", 0.0), ("development", 1.0), ("base", -1.0)):
        for draw in (100, 101, 102) if arm != "base" else (None,):
            for prompt, scale in (("short", 2.0), ("long", 10.0), ("middle", 4.0)):
                gone = (arm, prompt) in {("development", "long"), ("base", "middle")}
                value = None if gone else scale + gain + 0.01 * ((draw or 0) % 3)
                rows.append({"arm": arm, "train_seed": draw, "prompt_id": prompt, "seed": 0, "block_scale": value})
    draws = Draws(rows, "barrier_main")
    assert draws.effect("development", "block_scale").value == pytest.approx(1.0)
    assert draws.effect("development", "block_scale").unit == "s"
    assert draws.ratio("development", "block_scale", "plain").value == pytest.approx(4.0 / 3.0, rel=0.01)
    assert draws.from_untrained("plain", "block_scale", "base").mean() == pytest.approx(1.01)
    assert list(draws.by_draw("development", "block_scale")) == [100, 101, 102]
    assert draws.printed("development") == []
    apart = [{**row, "prompt_id": f"{row['arm']} {row['prompt_id']}"} for row in rows]
    assert not len(Draws(apart, "barrier_main").differences("development", "block_scale", "plain"))


@pytest.mark.parametrize(
    ("best", "bend", "wobble", "optimum", "collapse"),
    [
        (0.5, 0.8, 0.01, "supported", "supported"),
        (1.0, 0.8, 0.01, "refuted", "refuted"),
        (0.0, 0.0, 0.01, "refuted", "refuted"),  # the same at every strength
        (0.5, -0.8, 0.01, "refuted", "refuted"),  # a hump
        (0.3, 0.8, 0.06, "inconclusive", "supported"),  # bent, and where is not known
        (0.5, 0.15, 0.002, "supported", "supported"),  # a dip that lies within the margin
    ],
)
def test_an_optimum_is_a_fitted_peak(
    tmp_path: Path, best: float, bend: float, wobble: float, optimum: str, collapse: str
) -> None:
    noise = np.random.default_rng(2).normal(0, wobble, (200, 5))

    def share(arm: str, draw: int) -> float:
        strength = 0.0 if arm == "plain" else int(arm.split("-")[1]) / 100
        curve = 0.0 if arm.startswith("batch") else bend * ((strength - best) ** 2 - best**2)
        return 0.6 + 0.1 * np.sin(draw) + curve + noise[draw, round(4 * strength)]

    found = verdicts(write(tmp_path, "barrier_strength", share), "barrier_strength")
    assert found["optimum-per-sample"] == optimum
    assert found["collapse-per-sample"] == collapse
    if wobble < 0.05:
        assert found["optimum-eq5"] == "refuted"


def test_needing_an_adapter_is_a_difference_of_gains(tmp_path: Path) -> None:
    gains = {
        "batch-50": -0.3,
        "lora-batch-50": 0.0,
        "sample-100": -0.3,
        "lora-sample-100": -0.3,
        "lora-recurrence": 0.3,
    }
    noise = np.random.default_rng(3).normal(0, 0.01, 400)

    def share(arm: str, draw: int) -> float:
        return spread(draw) + gains.get(arm, 0.0) + noise[(7 * draw + len(arm)) % 400]

    covers = {"batch-50": 50.0, "lora-batch-50": 40.0}
    found = verdicts(
        write(tmp_path, "barrier_dora", share,
              paper_pca_coverage=lambda arm, draw: covers.get(arm, 45.0) + 10 * noise[(7 * draw + len(arm)) % 400]),
        "barrier_dora",
    )  # fmt: skip
    assert {key: found[key] for key in found if "dora" in key} == {
        "needs-dora-eq5": "supported",
        "needs-dora-per-sample": "refuted",
        "needs-dora-development": "refuted",
        "needs-dora-recurrence": "inconclusive",  # it does harm with LoRA, and nothing with DoRA: no gain
        "dora-covers-more-eq5": "supported",
        "dora-covers-more-per-sample": "refuted",  # the same within 3 dB
    }


def test_gains_alike_refute_the_need_even_where_neither_is_shown(tmp_path: Path) -> None:
    """The difference of the two gains is shown, and lies within the margin; with DoRA there is no gain to speak of."""
    noise = np.random.default_rng(11).normal(0, 0.002, 400)
    steps = {"recurrence": 0.0, "lora-recurrence": 0.01}

    def stands(arm: str, draw: int) -> float:
        wobble = 0.03 * (-1) ** draw if arm in ("plain", "lora-plain") else 0.0
        return 0.3 + wobble + steps.get(arm, 0.0) + noise[(7 * draw + len(arm)) % 400]

    folder = write(tmp_path, "barrier_dora", lambda arm, draw: 1.0, flat_still=stands)
    assert verdicts(folder, "barrier_dora")["needs-dora-recurrence"] == "refuted"


def test_beside_a_partner_a_weight_adds_or_does_not(tmp_path: Path) -> None:
    """Min-SNR takes nothing from the paper's weight, ERD half of it, curation leaves it nothing; the other weight adds
    to curation by more than the margin there and less than elsewhere, and does nothing or harm beside the rest."""
    gains = {"sample-100": -0.3, "min-snr": -0.1, "min-snr-sample-100": -0.4, "erd": -0.1, "erd-sample-100": -0.25}
    gains |= {"oracle": -0.4, "oracle-sample-100": -0.4, "oracle-recurrence": -0.44}
    gains |= {"min-snr-recurrence": -0.06, "erd-recurrence": -0.09}
    noise = np.random.default_rng(5).normal(0, 0.01, 400)

    def share(arm: str, draw: int) -> float:
        wobble = 0.3 * (-1) ** draw if arm == "erd-recurrence" else 0.0
        return 0.6 + 0.1 * np.sin(draw) + gains.get(arm, 0.0) + wobble + noise[(7 * draw + len(arm)) % 400]

    folder = write(tmp_path, "barrier_complements", share)
    assert verdicts(folder, "barrier_complements") == {
        "adds-to-curation-per-sample": "refuted",
        "adds-to-min-snr-per-sample": "supported",
        "adds-to-erd-per-sample": "supported",
        "adds-to-curation-recurrence": "supported",
        "adds-to-min-snr-recurrence": "refuted",  # more stand
        "adds-to-erd-recurrence": "inconclusive",
    }
    results = {one.key: one for one in complements(folder)}
    interaction = results["adds-to-erd-per-sample"].effects[1]
    assert interaction.value == pytest.approx(15, abs=2)  # gains .15 in place of .3: less, so above 0
    assert results["adds-to-min-snr-per-sample"].effects[1].value == pytest.approx(0, abs=2)


def test_a_margin_beside_curation_is_half_of_what_is_left(tmp_path: Path) -> None:
    """Less by 3.5 points in half of the draws and by nothing in the others: within 5 points, not within 2.5."""
    gain = {"min-snr-sample-100", "oracle-sample-100"}
    noise = np.random.default_rng(5).normal(0, 0.001, 400)

    def share(arm: str, draw: int) -> float:
        return 0.3 + (0.04 * (draw % 2) - 0.037 if arm in gain else 0.0) + noise[(7 * draw + len(arm)) % 400]

    found = verdicts(write(tmp_path, "barrier_complements", share), "barrier_complements")
    assert found["adds-to-min-snr-per-sample"] == "refuted"
    assert found["adds-to-curation-per-sample"] == "inconclusive"


def test_beside_a_partner_that_leaves_little_half_of_it_is_no_nothing(tmp_path: Path) -> None:
    """Min-SNR leaves 3 points and the weight 1.5 of them, not shown: within 5 points, and half of all there is."""
    wobble = np.random.default_rng(3).normal(0, 0.024, 8)
    wobble -= wobble.mean()

    def share(arm: str, draw: int) -> float:
        return {"min-snr": 0.03, "min-snr-sample-100": 0.015 + wobble[draw % 8]}.get(arm, 0.1)

    folder = write(tmp_path, "barrier_complements", lambda arm, draw: 0.5, flat_still=share)
    result = next(one for one in complements(folder) if one.key == "adds-to-min-snr-per-sample")
    assert result.note.startswith("Min-SNR alone leaves 3.0% of its pieces standing. Within 1.5 points: p = 0.")
    assert [effect.value for effect in result.effects[-2:]] == pytest.approx([-7, -8.5])  # the partner's own
    assert result.verdict == "inconclusive"


def test_a_design_whose_arms_lack_a_draw_is_not_judged(tmp_path: Path) -> None:
    """Two draws of one arm, where eight are declared, would have decided by themselves."""
    folder = write(tmp_path, "barrier_complements", lambda arm, draw: 0.3)
    rows = load_records(folder / "records.parquet")
    kept = [row for row in rows if row["arm"] != "erd-recurrence" or row["train_seed"] < 112]
    save_records(kept, folder)
    results = {one.key: one for one in complements(folder)}
    found = results["adds-to-erd-recurrence"]
    assert (found.verdict, found.note) == ("not run", "Its four arms were not played in the same draws.")
    assert results["adds-to-erd-per-sample"].verdict == "refuted"


def test_where_training_learns_a_weight_gains_and_plain_training_falls_ill_or_not(tmp_path: Path) -> None:
    """The untrained base's share is one number; of what little is left, half is no nothing."""
    shares = {"plain": 0.23, "recurrence": 0.05, "sample-100": 0.235, "oracle": 0.1, "untrained": 0.09}
    wobble = np.random.default_rng(5).normal(0, 0.01, 400)

    def share(arm: str, draw: int) -> float:
        ill = (draw - 140) % 2 * 0.3 if arm == "oracle" else 0.0
        return shares[arm] + (0 if arm == "untrained" else ill + wobble[(7 * draw + len(arm)) % 400])

    def found(name: str) -> dict[str, str]:
        folder = write(tmp_path / name, "barrier_gentle", lambda arm, draw: 0.2, flat_still=share)
        return {key.removesuffix("-where-it-learns"): said for key, said in verdicts(folder, "barrier_gentle").items()}

    expected = {"recurrence": "supported", "per-sample": "refuted", "labels": "inconclusive", "falls-ill": "supported"}
    assert found("a") == expected
    shares |= {"plain": 0.09, "recurrence": 0.2, "sample-100": 0.045}
    assert found("b") == expected | {"recurrence": "refuted", "per-sample": "supported", "falls-ill": "refuted"}


@pytest.mark.parametrize(
    ("swaps", "direction", "magnitude"),
    [
        ({"direction": (-0.3, 0.0), "magnitude": (0.0, 4.0)}, "supported", "supported"),
        ({"direction": (0.0, 4.0), "magnitude": (-0.3, 0.0)}, "refuted", "refuted"),
        ({"direction": (-0.15, 2.0), "magnitude": (-0.15, 2.0)}, "refuted", "refuted"),
    ],
)
def test_swaps_say_which_part_carries_what(
    tmp_path: Path, swaps: dict[str, tuple[float, float]], direction: str, magnitude: str
) -> None:
    """By what stands, although all pieces are flat; the development barrier changes nothing that a part could carry."""
    noise = np.random.default_rng(5).normal(0, 0.01, 400)
    parts = {"recurrence": (-0.3, 4.0)} | {f"{part}-recurrence": value for part, value in swaps.items()}
    parts |= {f"{part}-development": value for part, value in swaps.items()}

    def of(arm: str, draw: int, place: int) -> float:
        return parts.get(arm, (0.0, 0.0))[place] + noise[(7 * draw + len(arm)) % 400]

    found = verdicts(
        write(tmp_path, "barrier_dora", lambda arm, draw: 1.0,
              flat_still=lambda arm, draw: 0.4 + 0.1 * np.sin(draw) + of(arm, draw, 0),
              level_range=lambda arm, draw: 20.0 + of(arm, draw, 1)),
        "barrier_dora",
    )  # fmt: skip
    assert found["direction-learns-structure-recurrence"] == direction
    assert found["magnitude-learns-level-recurrence"] == magnitude
    assert found["direction-learns-structure-development"] == "inconclusive"


def test_a_part_that_carries_a_narrowing_carries_it(tmp_path: Path) -> None:
    levels = {"recurrence": -4.0, "magnitude-recurrence": -4.0}
    noise = np.random.default_rng(9).normal(0, 0.05, 400)
    folder = write(
        tmp_path, "barrier_dora", lambda arm, draw: 0.5,
        level_range=lambda arm, draw: 20.0 + levels.get(arm, 0.0) + noise[(7 * draw + len(arm)) % 400],
    )  # fmt: skip
    assert verdicts(folder, "barrier_dora")["magnitude-learns-level-recurrence"] == "supported"


def test_steps_sharpen_or_leave_boundaries_and_the_barrier_more_or_alike(tmp_path: Path) -> None:
    """At the paper's rate nothing moves; at a higher one plain training sharpens, Eq. 5 alike, per sample more."""
    blocks = {"fast-plain": 0.06, "fast-batch-50": 0.06, "fast-sample-50": 0.15}
    noise = np.random.default_rng(6).normal(0, 0.004, 400)

    def strength(arm: str, draw: int) -> float:
        return 0.2 + 0.05 * np.sin(draw) + blocks.get(arm, 0.0) + noise[(11 * draw + 3 * len(arm)) % 400]

    folder = write(tmp_path, "barrier_steps", lambda arm, draw: 0.5, block_strength=strength)
    assert verdicts(folder, "barrier_steps") == {
        "sharper-as-printed": "refuted",
        "more-than-plain-as-printed": "refuted",
        "sharper-fast-eq5": "supported",
        "more-than-plain-fast-eq5": "refuted",
        "sharper-fast-per-sample": "supported",
        "more-than-plain-fast-per-sample": "supported",
    }


def test_a_drift_within_the_margin_is_no_sharpening(tmp_path: Path) -> None:
    """Steps of one training from the same noise: shown in every draw, and twenty times below the margin."""

    def strength(arm: str, draw: int) -> float:
        return 0.2 + 0.01 * np.sin(draw) + (0.001 + 0.0001 * (draw % 3) if arm == "batch-50" else 0.0)

    def flat(arm: str, draw: int) -> float:
        return 0.9 if arm.endswith("-500") else 0.1

    coverage = {"trajectory_coverage": lambda arm, draw: 1.0 + arm.endswith("-50"), "paper_pca_coverage": strength}
    folder = write(tmp_path, "barrier_steps", flat, block_strength=strength, **coverage)
    first = next(claim for claim in steps(folder) if claim.key == "sharper-as-printed")
    beside = {effect.name.partition(":")[0]: effect for effect in first.effects}
    assert beside["trajectory coverage"].value == pytest.approx(1.0)
    untrained = [effect.name for effect in first.effects if effect.name.endswith("− untrained base")]
    assert untrained == [f"block strength: Eq. 5, {n} steps − untrained base" for n in ("1,000", "500")]
    assert verdicts(folder, "barrier_steps")["sharper-as-printed"] == "refuted"
    assert verdicts(folder, "barrier_steps")["more-than-plain-as-printed"] == "refuted"


@pytest.mark.parametrize(
    ("gains", "sharper", "more"),
    [
        ({"fast-sample-50": 0.012}, "inconclusive", "inconclusive"),  # shown, and below the margin
        ({"fast-sample-50": -0.01, "fast-plain": -0.06}, "inconclusive", "inconclusive"),  # it blurs less
        ({"fast-sample-50": 0.04, "fast-plain": -0.02}, "supported", "supported"),
        ({"fast-sample-50": -0.06, "fast-plain": 0.0}, "refuted", "refuted"),
    ],
)
def test_what_sharpens_gains_more_than_the_margin(
    tmp_path: Path, gains: dict[str, float], sharper: str, more: str
) -> None:
    wobble = np.random.default_rng(6).normal(0, 0.013, 400)
    wobble -= wobble[:8].mean()

    def strength(arm: str, draw: int) -> float:
        return 0.2 + 0.05 * np.sin(draw) + gains.get(arm, 0.0) + (wobble[draw % 8] if arm == "fast-sample-50" else 0.0)

    folder = write(tmp_path, "barrier_steps", lambda arm, draw: 0.5, block_strength=strength)
    results = {one.key: one for one in steps(folder)}
    ours, theirs = results["sharper-fast-per-sample"], results["more-than-plain-fast-per-sample"]
    assert (ours.verdict, theirs.verdict) == (sharper, more)
    assert [effect.value for effect in theirs.effects[1:3]] == pytest.approx(
        [gains.get(arm, 0.0) for arm in ("fast-sample-50", "fast-plain")]
    )
    assert ("blurs less" in theirs.note) == (gains["fast-sample-50"] == -0.01)


def test_form_is_played_where_the_arms_say(tmp_path: Path) -> None:
    """Plain training takes blocks away above 0.7 alone, or below it, or nowhere. What is flat differs everywhere and
    decides nothing."""
    blocks = {"untrained": 0.16, "plain": 0.1, "plain-high": 0.1, "plain-low": 0.16}
    flat = {"untrained": 0.1, "plain": 0.5, "plain-high": 0.9, "plain-low": 0.3}
    wobble = np.random.default_rng(7).normal(0, 0.004, 400)

    def clear(arm: str, draw: int) -> float:
        return blocks[arm] + (0 if arm == "untrained" else wobble[(13 * draw + len(arm)) % 400])

    def found(name: str) -> list[str]:
        folder = write(tmp_path / name, "signature_control", lambda arm, draw: flat[arm], block_strength=clear)
        result = verdicts(folder, "signature_control")
        return [result[key] for key in ("high-is-enough-plain", "low-leaves-form-plain", "high-over-low-plain")]

    assert found("a") == ["supported", "supported", "supported"]
    blocks |= {"plain-high": 0.16, "plain-low": 0.1}
    assert found("b") == ["refuted", "refuted", "refuted"]
    blocks |= {"plain-high": 0.105, "plain-low": 0.105}  # shown, and within the margin
    assert found("c") == ["supported", "refuted", "refuted"]
    blocks |= {"plain": 0.16, "plain-high": 0.16, "plain-low": 0.16}
    assert found("d")[2] == "inconclusive"  # an adapter that does nothing to form decides nothing


@pytest.mark.parametrize("study", ["barrier_strength", "barrier_dora", "barrier_complements"])
def test_what_is_shuffled_decides_nothing(tmp_path: Path, study: str) -> None:
    """Arms that differ by half in flat pieces, and by nothing in those that stand, are the same."""
    arms = list(load_spec(study).arms)
    columns = {"flat_texture": lambda arm, draw: 0.2 + 0.001 * (draw % 3), "flat_still": lambda arm, draw: 0.0}
    folder = write(tmp_path, study, lambda arm, draw: 0.1 + 0.8 * arms.index(arm) / len(arms), **columns)
    found = verdicts(folder, study)
    asked = [key for key in found if not key.startswith(("magnitude-learns", "dora-covers"))]
    assert asked
    for key in asked:
        assert found[key] == ("inconclusive" if key.startswith("direction-learns") else "refuted"), key


def test_a_second_judge_decides_by_what_it_hears(tmp_path: Path) -> None:
    """Our own measures of the same pieces say the reverse, and decide nothing."""
    gain = {"plain": 0.0, "recurrence": 0.03, "development": 0.0, "memory": -0.03, "oracle": 0.01}
    noise = np.random.default_rng(6).normal(0, 0.002, 400)

    def heard(arm: str, draw: int) -> float:
        wobble = 0.04 * (-1) ** draw if arm == "batch-50" else 0.0
        return 0.12 + 0.02 * np.sin(draw) + gain.get(arm, 0.02) + wobble + noise[(draw * 7 + len(arm)) % 400]

    folder = write(tmp_path, "barrier_heard", lambda arm, draw: 0.9 if arm == "recurrence" else 0.2, heard_change=heard)
    found = verdicts(folder, "barrier_heard")
    assert found == {
        "eq5": "inconclusive",
        "half": "supported",
        "per-sample": "supported",
        "recurrence": "supported",
        "development": "refuted",  # the same
        "memory": "refuted",  # less
        "clip-and-level": "supported",
        "labels": "supported",
    }


def test_magnitudes_are_held_against_those_of_another_plain_training(tmp_path: Path) -> None:
    """Whether they differ from the directions' own decides nothing."""
    level = {"magnitude-batch-50": 0.5, "magnitude-development": 0.3, "magnitude-recurrence": 0.5, "plain": 0.5}
    noise = np.random.default_rng(7).normal(0, 0.01, 400)
    blocks = {"magnitude-batch-50": 0.1, "magnitude-recurrence": 0.16}

    def found(folder: str) -> list[str]:
        result = verdicts(
            write(
                tmp_path / folder, "barrier_swaps",
                lambda arm, draw: level.get(arm, 0.9) + noise[(draw * 3 + len(arm)) % 400],
                block_strength=lambda arm, draw: blocks.get(arm, 0.2) + 0.1 * noise[(draw * 5 + len(arm)) % 400],
            ),
            "barrier_swaps",
        )  # fmt: skip
        return [result[key] for key in ("development-own", "recurrence-own", "recurrence-blocks", "swapping-alone")]

    assert found("a") == ["supported", "refuted", "supported", "supported"]
    level["magnitude-batch-50"] = 0.3  # any other magnitudes do it
    blocks["magnitude-batch-50"] = 0.16
    assert found("b") == ["refuted", "refuted", "refuted", "refuted"]


def test_the_bar_of_clip_and_level_takes_all_three(tmp_path: Path) -> None:
    near = {"clip-and-level": 8.0, "memory": 9.5, "oracle-above": 8.0, "development": 8.5}
    flat = {"plain": 0.5, "development": 0.2}
    noise = np.random.default_rng(4).normal(0, 0.01, 400)
    found = verdicts(
        write(
            tmp_path, "clip_and_level", lambda arm, draw: flat.get(arm, 0.05) + abs(noise[draw]),
            held_out_distance=lambda arm, draw: near.get(arm, 10.0) + noise[(draw + len(arm)) % 400],
            training_distance=lambda arm, draw: 5.0 if arm == "oracle-above" else 11.0,
        ),
        "clip_and_level",
    )  # fmt: skip
    assert found == {
        "remembered-above": "supported",
        "remembered-everywhere": "refuted",  # not near enough
        "labels-above": "refuted",  # copies
        "in-step": "refuted",  # flat
    }


def test_remembering_is_judged_by_one_measure_a_claim(tmp_path: Path) -> None:
    """With memory fewer pieces stand than after plain training, and blocks are clearer than there, as in the step."""
    noise = np.random.default_rng(8).normal(0, 0.004, 400)
    blocks = {"memory": 0.06, "development": 0.06, "recurrence": 0.12, "oracle": 0.08}
    folder = write(
        tmp_path, "remembered", lambda arm, draw: spread(draw) - (0.2 if arm == "memory" else 0.0),
        block_strength=lambda arm, draw: 0.1 + blocks.get(arm, 0.0) + noise[(13 * draw + len(arm)) % 400],
    )  # fmt: skip
    assert verdicts(folder, "remembered") == {
        "stands-less": "supported",
        "clearer-blocks": "supported",
        "clearer-than-in-step": "refuted",  # the same within .02
        "recurrence-clearer-than-in-step": "supported",
    }
