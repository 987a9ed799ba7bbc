"""The study of stopping: what it trains, how it scores a clip, and what its judge says where the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.errors import UserError
from eisbach.statistics.anytime import StopRule
from eisbach.studies.stop_rule import judge as judge_module
from eisbach.studies.stop_rule import run as module
from eisbach.studies.stop_rule.judge import judge
from eisbach.studies.stop_rule.replays import count_stops, replayed
from eisbach.studies.stop_rule.textures import Neighbours, chance_nearer, expected_nearest
from eisbach.training.config import StopConfig, TrainConfig
from eisbach.training.stopping import StopJudge

STEPS = [20 * number for number in range(1, 11)]
TURNS = np.concatenate([np.linspace(0.6, 0.1, 4), np.linspace(0.75, 0.95, 6)])
GAINS = np.linspace(0.9, 0.2, 10)


@pytest.fixture(autouse=True)
def few_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "REPLAYS", 8)


def write(folder: Path, levels: np.ndarray, *, held_out: np.ndarray, noise: float = 0.05, sets: int = 8) -> Path:
    """Records of `sets` × 2 trainings around known levels, 4 seeds × 8 prompts a checkpoint."""
    rng = np.random.default_rng(5)
    rows = []
    for draw in range(sets):
        for seed in range(2):
            scores = np.clip(levels[:, None, None] + rng.normal(0, noise, (10, 4, 8)), 0, 1)
            loss = [[step, 1.0 - step / 1000] for step in range(5, 201, 5)]
            rows.append(
                {"draw": draw, "seed": seed, "steps": STEPS, "scores": scores.tolist(), "loss": loss,
                 "flat": scores.transpose(0, 2, 1).reshape(10, 32).tolist(), "before": {"memorised": 0.5},
                 "held_out_loss": held_out.tolist()}
            )  # fmt: skip
    (folder / module.RESULT).write_text(json.dumps({"every": 20, "trainings": rows}))
    return folder


def test_a_rule_that_stops_in_time_is_told_from_rivals_that_do_not(tmp_path: Path) -> None:
    regret, false, clips, rivals = judge(write(tmp_path, TURNS, held_out=np.linspace(1, 0.5, 10)))
    assert (regret.verdict, regret.effects[0].value) == ("supported", 0.0)
    assert regret.note.startswith("Before any training 50% of pieces")
    assert [effect.value > 90 for effect in regret.effects[2:5]] == [True, True, True]
    assert regret.effects[-1].value == pytest.approx(85, abs=3)  # from .1 to .95
    assert [effect.value for effect in regret.effects[-3:-1]] == [0.0, 0.0]  # other noise finds the same
    assert {effect.unit for effect in regret.effects[:-1]} == {"% of the range"}
    assert false.note.startswith("16 of 16 trainings were stopped, 16 before the last checkpoint;")
    assert (false.effects[0].n, false.effects[2].value) == (16 * 8, 0.0)
    assert false.effects[2].high == pytest.approx(20.6, abs=0.1)  # 16 trainings alone cannot show 5%
    assert (clips.verdict, clips.effects[0].value) == ("refuted", 70.0)  # stopped at the seventh of ten
    assert clips.effects[1].value < 40  # looked at
    by_rival = {effect.name.split(" − ")[1]: effect for effect in rivals.effects}
    assert by_rival["last"].value < -70
    assert by_rival["last"].p == pytest.approx(4 * 2 / 256, rel=0.35)
    assert by_rival["fixed step"].value >= 0  # one step is best in every set here
    assert rivals.verdict != "supported"


def test_a_training_that_gains_to_its_end_is_let_go_on(tmp_path: Path) -> None:
    regret, false, clips, _ = judge(write(tmp_path, GAINS, held_out=np.linspace(0.5, 1, 10)))
    assert (regret.verdict, false.note[:31]) == ("supported", "0 of 16 trainings were stopped,")
    assert false.note.endswith("stops nothing falsely: that it is of use is not shown.")
    assert [effect.value for effect in clips.effects] == [100.0, 25.0]  # looked at: the pilot alone
    assert regret.effects[3].value > 95  # the held-out loss misleads here


def test_clips_that_a_rule_chose_by_judge_nobody(tmp_path: Path) -> None:
    """In the pilot the third checkpoint is best, and in all other clips the last one is."""
    folder = write(tmp_path, GAINS, held_out=np.linspace(1, 0.5, 10), noise=0.0)
    content = json.loads((folder / module.RESULT).read_text())
    for row in content["trainings"]:
        row["scores"][2][0] = [0.0] * 8
        row["flat"][2] = [0.0 if place % 4 == 0 else value for place, value in enumerate(row["flat"][2])]
    (folder / module.RESULT).write_text(json.dumps(content))
    regret, false, _, rivals = judge(folder)
    assert regret.effects[0].value == pytest.approx(100 * 7 / 9)
    assert (regret.verdict, rivals.verdict) == ("refuted", "refuted")
    assert false.effects[2].value == 0.0  # the reserve spoke for going on


def test_a_checkpoint_whose_clips_cannot_be_measured_is_passed_over_as_in_a_training(tmp_path: Path) -> None:
    folder = write(tmp_path, GAINS, held_out=np.linspace(1, 0.5, 10), noise=0.0)
    content = json.loads((folder / module.RESULT).read_text())
    for row in content["trainings"]:
        row["flat"][9][0] = None
    content["trainings"][0]["flat"] = [[None] * 32] * 10
    (folder / module.RESULT).write_text(json.dumps(content))
    trainings = [judge_module._training(row) for row in content["trainings"]]
    assert [one.choices["rule"] for one in trainings] == [9, *[8] * 15]  # without a measure it goes to its end
    assert [len(one.seen) for one in trainings] == [0, *[9] * 15]
    assert trainings[1].looked_at == pytest.approx(100 * 9 / 40)
    assert judge(folder)[1].effects[0].n == 15 * 8


# --- verdicts where the truth is known


def trained(levels: np.ndarray, place: int, stopped_at: int | None, played: float, noise: float = 0.01) -> list[Any]:
    """Eight sets' trainings in which the rule chose `place`, and the last checkpoint is what rivals ship."""
    rng = np.random.default_rng(3)
    rows = []
    for draw in range(8):
        truth = levels[:, None] + rng.normal(0, noise, (len(levels), 8))
        seen = np.clip(levels[:, None, None] + rng.normal(0, 0.2, (len(levels), 4, 8)), 0, 1)
        choices = {"rule": place, **dict.fromkeys(judge_module._RIVALS, len(levels) - 1)}
        rows.append(judge_module.Training(draw, truth, choices, stopped_at, 30.0, played, seen))
    return rows


def verdicts(trainings: list[Any]) -> list[str]:
    scale = judge_module.scale_of(trainings)
    sides = (judge_module._regret, judge_module._false_stops, judge_module._rivals)
    regret, false, rivals = (side(trainings, scale).verdict for side in sides)
    return [regret, false, judge_module._clips(trainings).verdict, rivals]


def test_verdicts_of_rules_that_are_right_late_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "REPLAYS", 30)
    assert verdicts(trained(TURNS, 3, 6, 40.0)) == ["supported", "supported", "supported", "supported"]
    assert verdicts(trained(TURNS, 9, None, 70.0)) == ["refuted", "supported", "refuted", "inconclusive"]
    early = trained(GAINS, 0, 3, 40.0)
    assert all(one.false_stop(0.05) for one in early)
    assert verdicts(early) == ["refuted", "refuted", "supported", "refuted"]
    # a rule without level is caught by its replays, whatever happened to the trainings themselves
    monkeypatch.setattr(judge_module, "CHOSEN", StopConfig(alpha=0.9, margin=0.5))
    right = trained(TURNS, 3, 6, 40.0)
    false = judge_module._false_stops(right, judge_module.scale_of(right))
    assert (false.verdict, false.effects[2].value) == ("refuted", 0.0)
    assert false.effects[0].value > 50


def test_noise_of_the_truth_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checkpoints are equal: the choice is as good as any, 'the best' is the luckiest, and there is no range."""
    monkeypatch.setattr(judge_module, "REPLAYS", 12)
    trainings = trained(np.full(10, 0.5), 4, 7, 40.0, noise=0.2)
    scale = judge_module.scale_of(trainings)
    assert not scale.known
    assert scale.bar == 0.0
    assert np.mean([one.regret(4) for one in trainings]) > 0.08
    assert abs(np.mean([one.leads(4).mean() for one in trainings])) < 0.05
    regret = judge_module._regret(trainings, scale)
    assert {effect.unit for effect in regret.effects} == {"points"}
    assert regret.note.startswith("Checkpoints are not shown to differ")
    assert verdicts(trainings)[:2] == ["inconclusive", "supported"]


def test_without_a_range_a_lead_that_is_shown_counts_however_small() -> None:
    """Three of eight sets change at all, and what comes after their stop is better by .04."""
    rng, trainings = np.random.default_rng(0), []
    for draw in range(8):
        levels = np.array([0.5] * 5 + [0.46] * 5) if draw < 3 else np.full(10, 0.5)
        for _ in range(2):
            truth = levels[:, None] + rng.normal(0, 0.004, (10, 8))
            trainings.append(judge_module.Training(draw, truth, {"rule": 2}, 4 if draw < 3 else None))
    scale = judge_module.scale_of(trainings)
    assert not scale.known
    false = judge_module._false_stops(trainings, scale)
    assert (false.verdict, false.effects[0].value) == ("refuted", pytest.approx(37.5))  # what refutes stands in front
    assert false.effects[0].name.startswith("trainings stopped before")


def test_what_decides_about_rivals_stands_in_front() -> None:
    """By two rivals' regret the rule is better, of one nothing is shown, and one is better than the rule."""
    places = dict(zip(judge_module._RIVALS, (9, 8, 3, 3), strict=True))

    def first(regrets: dict[int, float]) -> tuple[str, str]:
        rows = []
        for draw in range(8):
            levels = np.array([regrets.get(place, 0.0) for place in range(10)])
            rows.append(judge_module.Training(draw, np.tile(levels[:, None], 8), {"rule": 1, **places}))
        result = judge_module._rivals(rows, judge_module.scale_of(rows))
        return result.verdict, result.effects[0].name

    assert first({1: 0.1, 3: 0.1, 8: 0.4, 9: 0.5}) == ("inconclusive", "regret, rule − training loss")
    assert first({1: 0.1, 3: 0.1, 8: 0.4, 9: 0.0}) == ("refuted", "regret, rule − last")


def test_one_range_of_all_trainings_divides_and_a_single_ones_noise_does_not() -> None:
    """In the second training nothing changes: by its own range its choice would be as bad as can be."""
    steep, level = np.linspace(0.8, 0.2, 10), np.full(10, 0.5) + 0.001 * (np.arange(10) == 0)
    choices = {"rule": 0}
    trainings = [judge_module.Training(draw, np.tile(rows[:, None], 8), choices)
                 for draw, rows in enumerate((steep, level, *[steep] * 5))]  # fmt: skip
    scale = judge_module.scale_of(trainings)
    assert scale.range.value == pytest.approx(100 * (6 * 0.6 + 0.001) / 7)
    assert scale.known
    assert scale.bar == pytest.approx(0.05 * scale.range.value / 100)
    each = [scale.share("", [one], [one.regret(0)]).value for one in trainings]
    assert each == pytest.approx([100 * reach / (scale.range.value / 100) for reach in (0.6, 0.001, *[0.6] * 5)])


@pytest.mark.parametrize("prompts", [2, 5, 8])
def test_leads_are_of_prompts_that_did_not_find_the_checkpoint(prompts: int) -> None:
    truth = np.random.default_rng(prompts).random((6, prompts))
    halves = list(combinations(range(prompts), prompts // 2))
    for first, place in ((0, 3), (4, 1), (0, None)):
        leads: dict[int, list[float]] = {prompt: [] for prompt in range(prompts)}
        for half in halves:
            levels = [float(np.mean([truth[step, prompt] for prompt in half])) for step in range(6)]
            best = min(range(first, 6), key=lambda step: levels[step])
            behind = max(range(first, 6), key=lambda step: levels[step]) if place is None else place
            for prompt in set(range(prompts)) - set(half):
                leads[prompt].append(truth[behind, prompt] - truth[best, prompt])
        found = judge_module.Training(0, truth, {}).leads(place, first)
        assert found == pytest.approx([np.mean(leads[prompt]) for prompt in range(prompts)])


def test_other_noise_finds_what_other_noise_measures() -> None:
    scores = np.random.default_rng(4).random((5, 3, 8))
    one = judge_module.Training(0, scores.mean(axis=1), {}, by_seed=scores)
    means = scores.mean(axis=2)  # checkpoints × seeds
    by_one = [np.mean([means[2, o] - means[means[:, s].argmin(), o] for o in {0, 1, 2} - {s}]) for s in range(3)]
    by_two = [means[2, o] - means[(means.sum(axis=1) - means[:, o]).argmin(), o] for o in range(3)]
    assert one.lead_in_other_noise(2, 1) == pytest.approx(np.mean(by_one))
    assert one.lead_in_other_noise(2, 2) == pytest.approx(np.mean(by_two))


def test_a_false_stop_is_one_before_a_checkpoint_that_is_shown_to_be_better() -> None:
    levels = np.array([0.5, 0.2, 0.6, 0.7, 0.1])

    def stopped(at: int | None, levels: np.ndarray = levels, prompts: int = 8) -> Any:
        return judge_module.Training(0, np.tile(levels[:, None], prompts), {"rule": 1}, at)

    assert stopped(3).false_stop(0.03)
    assert stopped(3).regret(1) == pytest.approx(stopped(3).leads(1).mean()) == pytest.approx(0.1)
    assert not stopped(3).false_stop(0.12)
    assert not stopped(None).false_stop(0.03)
    assert not stopped(4).false_stop(0.03)
    assert not stopped(3, prompts=5).false_stop(0.03)  # five that agree show nothing: p = 2 / 32
    two_of_eight = stopped(3)
    two_of_eight.truth[4] = np.where(np.arange(8) < 6, 0.2, 0.1 - 0.3)
    assert two_of_eight.leads(1, 4).mean() == pytest.approx(0.1)
    assert not two_of_eight.false_stop(0.03)


def test_stops_before_checkpoints_as_good_hardly_count_as_false() -> None:
    """Of the noise alone; by the bar alone a third would."""
    rng, counted, by_bar = np.random.default_rng(8), 0, 0
    for _ in range(400):
        truth = np.array([0.6, 0.5, 0.4, 0.3, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3])[:, None] + rng.normal(0, 0.05, (10, 8))
        one = judge_module.Training(0, truth, {"rule": 3}, 5)
        counted += one.false_stop(0.015)
        by_bar += one.leads(3, 6).mean() > 0.015
    assert counted <= 20
    assert by_bar > 80


def test_replays_keep_each_pairs_scores_and_gain_what_they_are_told() -> None:
    scores = np.random.default_rng(1).beta(1, 1.5, (10, 4, 8))
    shuffled = replayed(scores, np.random.default_rng(2))
    assert np.array_equal(np.sort(shuffled, axis=0), np.sort(scores, axis=0))
    assert not np.array_equal(shuffled, scores)
    rng = np.random.default_rng(2)
    means = np.mean([replayed(scores, rng, 0.02).mean(axis=(1, 2)) for _ in range(2000)], axis=0)
    assert means == pytest.approx(scores.mean() - 0.02 * np.arange(10), abs=2e-3)
    assert count_stops([scores], StopRule(), 20, rng) == [0]
    assert count_stops([scores], StopRule(alpha=0.9, margin=0.5), 20, rng)[0] > 10
    assert not replayed(np.zeros((3, 2, 2)), rng, 0.02).any()


def test_the_smoothed_loss_follows_its_course_and_not_one_step() -> None:
    losses = [[step, 1.0 if step != 100 else 0.0] for step in range(5, 205, 5)]
    losses = [[step, loss - step / 100] if step <= 150 else [step, loss] for step, loss in losses]
    assert STEPS[judge_module._smoothed_place(losses, STEPS)] in (140, 160)


def test_the_judge_asks_what_a_training_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`stop: true` on demos with the same measures: the same checkpoint, the same stop, the same clips."""
    folder = write(tmp_path, TURNS, held_out=np.linspace(1, 0.5, 10), noise=0.25, sets=3)
    config = build_config(TrainConfig, {"model": "embedded", "data": {"manifest": "m"}, "out": "o", "stop": True,
                                        "demos": {"every": 20}})  # fmt: skip
    assert config.stop == judge_module.CHOSEN
    for row in json.loads((folder / module.RESULT).read_text())["trainings"]:
        demos: Any = SimpleNamespace(
            size=(8, 4), chosen=SimpleNamespace(duration=16.0),
            played=lambda last: [step for step in (0, *STEPS) if step <= last],
            records=lambda step, row=row: [{"flat_probability": value} for value in row["flat"][step // 20 - 1]],
        )  # fmt: skip
        stop = StopJudge(config.stop, demos)
        ends = [stop.standing(step) for step in STEPS]
        first = next((end for end in ends if end is not None and end.stop), ends[-1])
        ours = judge_module._training(row)
        assert first is not None
        assert first.best == STEPS[ours.choices["rule"]]
        assert (first.step if first.stop else None) == (None if ours.stopped_at is None else STEPS[ours.stopped_at])
        assert ours.looked_at == pytest.approx(100 * first.decision.clips / 320)


def test_a_training_plays_the_same_clips_at_every_checkpoint_on_draws_of_its_own(tmp_path: Path) -> None:
    settings = build_config(module.Settings, {})
    spec = module._spec(settings, tmp_path)
    assert spec.train_seeds == tuple(range(300, 308))
    first, second = (module.training(spec, tmp_path, 300, seed) for seed in (0, 1))
    assert first.seed != second.seed
    assert first.data == second.data
    assert first.demos is not None
    assert first.demos.content() == second.demos.content()
    assert len(first.demos.resolve_prompts()) * len(first.demos.seeds) == 32
    assert (first.steps, first.demos.every, first.held_out.every) == (200, 20, 20)
    assert module._spec(build_config(module.Settings, module.QUICK), tmp_path).training["steps"] == 3


def test_a_clip_is_scored_by_its_parts() -> None:
    around = Neighbours(np.array([[0.0, 0.0]]), np.array([[10.0, 0.0]]))
    row: dict[str, Any] = {"flat_probability": 0.3}
    assert module._parts(row, {"embedding": [1.0, 0.0]}, around) == [0.3, 1.0, 0.45]
    assert module._parts(row, {"embedding": [9.0, 0.0]}, around) == [0.3, 0.0, 0.05]
    assert module._parts(row, {"embedding": None}, around) == [1.0, 0.0, 1.0]


# --- near to as many


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_nearest_of_n_is_that_of_all_subsets(n: int) -> None:
    ours, theirs = np.array([0.4, 0.1, 0.7, 0.3]), np.array([0.35, 0.9, 0.3, 0.2, 0.8, 0.6])
    left = [min(subset) for subset in combinations(ours, n)]
    right = [min(subset) for subset in combinations(theirs, n)]
    assert expected_nearest(ours, n) == pytest.approx(np.mean(left))
    wins = [(a < b) + (a == b) / 2 for a in left for b in right]
    assert chance_nearer(ours, theirs, n) == pytest.approx(np.mean(wins))
    assert chance_nearer(ours, theirs, n) + chance_nearer(theirs, ours, n) == pytest.approx(1.0)


def test_without_memorising_half_are_nearer_to_what_trained_however_many_did() -> None:
    rng = np.random.default_rng(4)
    for trained_clips, others in ((33, 4), (33, 220), (10, 30)):
        values = []
        for _ in range(150):
            around = Neighbours(rng.normal(size=(trained_clips, 6)), rng.normal(size=(others, 6)))
            values.append(np.mean([around.memorised(texture) for texture in rng.normal(size=(4, 6))]))
        assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / np.sqrt(150))
    copied = around.trained + 0.05 * rng.normal(size=around.trained.shape)
    assert np.mean([around.memorised(texture) for texture in copied]) > 0.9
    assert np.median([around.far(texture) for texture in around.trained]) == pytest.approx(0.5)


def test_clips_with_a_piece_that_trained_are_not_among_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def row(piece: str, split: str, place: float, *, flat: str = "false", then: str = "") -> ManifestRow:
        labels = {"piece": piece, "flat": flat} | ({"followed_by": then} if then else {})
        return ManifestRow(
            id=f"{piece}-{place:g}", path=f"{place:g}", caption="", duration=16.0, labels=labels, audio_hash="0" * 64,
            split=split,  # type: ignore[arg-type]
        )  # fmt: skip

    sets = {
        1: [row("a", "train", 1), row("b", "held_out", 2), row("c", "train", 3, flat="true")],
        2: [row("a", "held_out", 4), row("c", "train", 5), row("d", "train", 6), row("e", "train", 7, then="a"),
            row("f", "held_out", 8)],
    }  # fmt: skip
    spec: Any = SimpleNamespace(train_seeds=(1, 2))
    monkeypatch.setattr(module, "_manifest", lambda spec, root, draw: Manifest(sets[draw], tmp_path))
    monkeypatch.setattr(module, "_textures", lambda manifest, root: [np.array([float(row.path)]) for row in manifest])
    around = module._neighbours(spec, tmp_path, 1)
    assert around.trained.ravel().tolist() == [1]
    assert around.others.ravel().tolist() == [2, 6, 8]


# --- trainings that cannot be scored


class FakeTrainings:
    """Trainings that are made once, whose demos of step 20 fail the first `failures` times."""

    def __init__(self, failures: int) -> None:
        self.made, self.failures = 0, failures

    def __call__(self, config: Any, *, quiet: bool = False) -> Path:
        folder = Path(config.out)
        if (folder / "result.json").is_file():
            return folder
        self.made += 1
        rows: list[dict[str, Any]] = [{"step": 0, "demos": {"clips": 1}}]
        for step in (0, 20, 40):
            if step == 20 and self.made <= self.failures:
                rows.append({"step": 20, "demos": {"error": f"the disk was full, number {self.made}"}})
                continue
            place = folder / "samples" / f"step-{step}"
            place.mkdir(parents=True)
            (place / "records.jsonl").touch()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "result.json").touch()
        return folder


def test_a_training_whose_demo_failed_is_made_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainings = FakeTrainings(failures=1)
    monkeypatch.setattr("eisbach.training.train", trainings)
    config: Any = SimpleNamespace(out=str(tmp_path / "draw-1"))
    folder = module._train(config, [0, 20, 40])
    assert (trainings.made, (folder / "samples" / "step-20").is_dir()) == (2, True)
    assert module._train(config, [0, 20, 40]) == folder
    assert trainings.made == 2  # it is whole


def test_a_demo_that_fails_twice_is_said_with_its_reason_and_a_later_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainings = FakeTrainings(failures=2)
    monkeypatch.setattr("eisbach.training.train", trainings)
    config: Any = SimpleNamespace(out=str(tmp_path / "draw-1"))
    with pytest.raises(UserError, match=r"step 20 could not be made \(the disk was full, number 2\)") as raised:
        module._train(config, [0, 20, 40])
    assert f"delete {tmp_path / 'draw-1'}" in str(raised.value)
    assert trainings.made == 2
    assert (module._train(config, [0, 20, 40]) / "samples" / "step-20").is_dir()  # whether it was deleted or not


def test_a_set_that_holds_nothing_out_is_refused_before_it_trains(tmp_path: Path) -> None:
    row = ManifestRow(id="a", path="a", caption="", duration=16.0, labels={}, audio_hash="0" * 64, split="train")
    with pytest.raises(UserError, match="of draw 300 no clip is held out"):
        module._check_held_out(Manifest([row], tmp_path), 300)
    module._check_held_out(Manifest([replace(row, split="held_out")], tmp_path), 300)


def test_a_child_computes_with_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[int] = []
    asked: list[Any] = []
    monkeypatch.setattr("torch.set_num_threads", given.append)

    def stop(config: Any, steps: Any) -> Path:
        raise UserError("enough")

    monkeypatch.setattr(module, "_train", stop)
    settings = build_config(module.Settings, module.QUICK)
    for threads in (1, None):
        with pytest.raises(UserError, match="enough"):
            module._train_and_score(settings, str(tmp_path), 301, 0, threads)
    assert given == [1]

    class Executor:
        here, threads = False, 3

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def each(self, function: Any, calls: list[tuple[Any, ...]]) -> Any:
            asked.extend(calls)
            return ((index, {}) for index in range(len(calls)))

    nothing = ("build_material", "_manifest", "_developing", "_measure_set", "_neighbours", "_check_held_out")
    for name in nothing:
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module, "open_executor", lambda *_, **__: Executor())
    module.run(settings, tmp_path, jobs=2, quiet=True)
    assert [call[-1] for call in asked] == [3, 3]
