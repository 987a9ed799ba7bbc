"""Arms that play a checkpoint of another arm's training: nothing is trained for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from test_draws import measured, rendered
from test_run import spec_of

from eisbach.config import build_config
from eisbach.errors import ConfigError
from eisbach.experiments import cells, material
from eisbach.experiments import run as module
from eisbach.experiments.spec import ExperimentSpec, check_spec

ARMS: dict[str, Any] = {
    "early": {"label": "early", "plays": {"arm": "plain", "step": 2}},
    "plain": {"label": "plain"},
    "other": {"label": "other", "overrides": {"optimiser": {"lr": 2e-3}}},
    "last": {"label": "last", "plays": {"arm": "plain", "step": 4}},
}
TRAINING = {"data": {"crop_seconds": 4}, "steps": 4, "checkpoint": {"every": 4, "keep": 1, "steps": [2]}}
Sounds = dict[tuple[str, int], list[str]]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sounds]:
    """`run(name, **changes)`: hashes of what each arm and draw plays; two draws unless changed."""
    monkeypatch.setattr(material, "_render", rendered)
    monkeypatch.setattr(module, "measure", measured)

    def go(name: str, training: dict[str, Any] = TRAINING, **changes: Any) -> Sounds:
        whole = spec_of(tiny_model, tmp_path / "none.jsonl", tmp_path / name)
        values = {
            "material": {"clips": 8, "flat_share": 0.25, "duration": 5.0, "seed": 3, "redraw": True},
            "training": {**whole.training, **training}, "arms": ARMS, "oracle": None, "train_seeds": [5, 6],
        }  # fmt: skip
        spec = build_config(ExperimentSpec, whole.model_dump() | values | changes)
        check_spec(spec)
        sounds: Sounds = {}
        for row in module.run_experiment(spec, quiet=True).records:
            sounds.setdefault((str(row["arm"]), int(row["train_seed"] or 0)), []).append(str(row["audio_hash"]))
        return sounds

    return go


@pytest.mark.whole
def test_a_checkpoint_plays_what_a_training_of_so_many_steps_plays(
    run: Callable[..., Sounds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    from eisbach.training import loop

    whole = loop._train
    monkeypatch.setattr(loop, "_train", lambda config, *rest: (trained.append(config.out), whole(config, *rest))[1])
    store = str(tmp_path / "store")
    sounds = run("long", store=store)
    assert len(trained) == len(set(trained)) == 4  # two arms, two draws
    assert not (tmp_path / "long/arms/early/seed-5/train").exists()
    short = run("short", TRAINING | {"steps": 2}, arms={"plain": ARMS["plain"], "other": ARMS["other"]})
    for draw in (5, 6):
        assert sounds["early", draw] == short["plain", draw]
        assert sounds["last", draw] == sounds["plain", draw] != sounds["early", draw]
    again = run("again", store=store)
    assert again == sounds
    assert len(trained) == 8


@pytest.mark.slow
def test_processes_play_checkpoints_when_the_trainings_have_ended(
    run: Callable[..., Sounds], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves: list[set[str]] = []

    class Elsewhere:
        here, threads = False, 1

        def each(self, work: Callable[..., Any], tasks: list[Any], listen: Any) -> Iterator[tuple[int, Any]]:
            waves.append({cell.name for _, cell, _ in tasks})
            for index in reversed(range(len(tasks))):  # as they happen to end
                yield index, work(*tasks[index])

    alone = run("alone", train_seeds=[5])
    monkeypatch.setattr(cells, "open_executor", lambda *_, **__: nullcontext(Elsewhere()))
    monkeypatch.setattr(cells, "send", lambda message: None)
    assert run("elsewhere", train_seeds=[5], jobs=2) == alone
    assert waves == [{"plain/seed-5", "other/seed-5"}, {"early/seed-5", "last/seed-5"}]


@pytest.mark.parametrize(
    ("plays", "extra", "sentence"),
    [
        ({"arm": "plain", "step": 3}, {}, "keeps the steps 2, 4: choose one of them"),
        ({"arm": "plain", "step": 9}, {}, "keeps the steps 2, 4"),
        ({"arm": "nobody", "step": 2}, {}, "plays a checkpoint of 'nobody'; name one that trains: plain, other"),
        ({"arm": "last", "step": 2}, {}, "plays a checkpoint of 'last'; name one that trains"),
        ({"arm": "plain", "step": 2}, {"overrides": {"steps": 2}}, "neither overrides nor trained: false"),
        ({"arm": "plain", "step": 0}, {}, "greater than or equal to 1"),
        ({"arm": "plain"}, {}, "name a step or an interval"),
        ({"arm": "plain", "interval": [0.7, 0.7]}, {}, "two noise levels that rise"),
        ({"arm": "plain", "interval": [0.7, 1.7]}, {}, "two noise levels that rise"),
        ({"arm": "early", "interval": [0.7, 1.0]}, {}, "plays the adapter of 'early'; name one that trains"),
    ],
)
def test_a_checkpoint_that_will_not_be_there_is_refused(
    run: Callable[..., Sounds], plays: dict[str, Any], extra: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run("wrong", arms=ARMS | {"early": {"label": "early", "plays": plays, **extra}})


@pytest.mark.whole
def test_an_adapter_acts_in_its_interval_and_what_it_plays_is_shared_by_it(
    run: Callable[..., Sounds], tmp_path: Path
) -> None:
    """A store tells the intervals apart, and an interval that no step visits plays the base."""
    arms: dict[str, Any] = {
        "plain": {"label": "plain", "overrides": {"optimiser": {"lr": 5e-2}}},
        "untrained": {"label": "untrained", "trained": False},
        "whole": {"label": "whole", "plays": {"arm": "plain", "interval": [0.0, 1.0]}},
        "high": {"label": "high", "plays": {"arm": "plain", "interval": [0.6, 1.0]}},
        "between": {"label": "between", "plays": {"arm": "plain", "interval": [0.001, 0.002]}},
    }
    sounds = run("intervals", arms=arms, train_seeds=[5], store=str(tmp_path / "store"))
    assert sounds["whole", 5] == sounds["plain", 5]
    assert sounds["between", 5] == sounds["untrained", 0] != sounds["plain", 5]
    assert sounds["high", 5] not in (sounds["plain", 5], sounds["untrained", 0])


def test_averaged_weights_are_in_no_checkpoint_that_could_be_played(run: Callable[..., Sounds]) -> None:
    with pytest.raises(ConfigError, match="without an average"):
        run("wrong", TRAINING | {"ema_decay": 0.9})
