"""`stop:` of a recipe: the rule of `statistics.anytime` on what the checkpoints of a run have played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.errors import ConfigError
from eisbach.statistics.anytime import StopDecision, StopRule, decide, score_of
from eisbach.structure.analyze import RECORD_COLUMNS

if TYPE_CHECKING:
    from eisbach.training.config_demos import StopConfig
    from eisbach.training.demos import Demos

_SHORTEST = 8.0  # seconds, under which nothing is judged flat


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes
    ----------
    step, best : int
        Of the newest demos, and of the best ones.
    decision : StopDecision
    """

    step: int
    best: int
    decision: StopDecision

    @property
    def stop(self) -> bool:
        """Whether going on gains less than the margin."""
        return self.decision.stop

    def row(self) -> dict[str, Any]:
        """For the log: `best` is a step, evidence is in nats."""
        values = asdict(self.decision) | {"best": self.best}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}

    def sentence(self) -> str:
        """What is said when a run stops."""
        return (
            f"stopped at step {self.step}: going on gains less than the margin (evidence "
            f"{self.decision.log_evidence:.1f} nats of {self.decision.needed:.1f} needed); the best demos are those of "
            f"step {self.best}"
        )


class StopJudge:
    """The rule on a run's demos.

    Raises
    ------
    ConfigError
        Demos that could never be enough for it, or too short for its measure, or a measure that no record has.
    """

    def __init__(self, chosen: StopConfig, demos: Demos) -> None:
        self._chosen, self._demos = chosen, demos
        self._rule = rule_of(chosen)
        prompts, seeds = demos.size
        if chosen.measure not in RECORD_COLUMNS or chosen.measure == "flags":
            raise ConfigError(
                f"stop.measure is '{chosen.measure}', which no demo is measured by; choose flat_probability, or a "
                "metric of `eisbach analyze`."
            )
        if chosen.measure.startswith(("flat_", "is_flat")) and demos.chosen.duration < _SHORTEST:
            raise ConfigError(
                f"stop judges by {chosen.measure}, and demos of {demos.chosen.duration:g} s are too short to judge; "
                f"set demos.duration to {_SHORTEST:g} or more."
            )
        if not self._rule.can_stop(seeds, prompts):
            enough = next(more for more in range(seeds + 1, 10_000) if self._rule.can_stop(more, prompts))
            raise ConfigError(
                f"demos of {prompts} prompts and {seeds} seeds could never be enough for stop, whose first seed only "
                f"finds the best checkpoint; give them at least {enough} seeds."
            )

    def standing(self, step: int) -> Standing | None:
        """Where the run stands after the demos of `step`; None before there are any. Demos that failed, or were played
        with other prompts, are passed over, and so is step 0: what is not trained is no checkpoint."""
        seeds, tables = self._demos.size[1], {}
        for played in self._demos.played(step):
            values = [row.get(self._chosen.measure) for row in self._demos.records(played)] if played > 0 else []
            table = scores_of(values, self._chosen, self._demos.size)
            if table is not None:
                tables[played] = table
        return standings(tables, seeds, self._rule)[-1] if tables else None


def rule_of(chosen: StopConfig) -> StopRule:
    """The rule that a recipe's `stop:` means."""
    return StopRule(chosen.alpha, chosen.margin, chosen.patience, chosen.window)


def scores_of(values: Sequence[object], chosen: StopConfig, size: tuple[int, int]) -> np.ndarray | None:
    """Scores [shape=(seeds, prompts)] of a step's clips; None where one is missing or could not be measured.

    Parameters
    ----------
    values : sequence
        What each clip was measured, prompts outside and seeds inside, as they are played.
    size : (prompts, seeds)
    """
    prompts, seeds = size
    if len(values) != prompts * seeds or not all(isinstance(value, bool | int | float) for value in values):
        return None
    scores = [score_of(float(value), chosen.better, chosen.bounds) for value in values]  # type: ignore[arg-type]
    return np.array(scores).reshape(prompts, seeds).T


def standings(tables: Mapping[int, np.ndarray], seeds: int, rule: StopRule) -> list[Standing]:
    """Where a run stands after each step's demos, up to the one that stops it.

    Parameters
    ----------
    tables : mapping
        Step -> scores [shape=(seeds, prompts)], in the steps' order.
    """
    steps = list(tables)
    decisions = decide(lambda place, seed: tables[steps[place]][seed], len(steps), seeds, rule)
    return [Standing(steps[place], steps[now.best], now) for place, now in enumerate(decisions)]
