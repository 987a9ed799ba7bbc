"""`stop:` of a recipe: the rule of `statistics.anytime` on what the checkpoints of a run have played."""

from __future__ import annotations

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
        self._rule = StopRule(chosen.alpha, chosen.margin, chosen.patience, chosen.window)
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
        steps = [played for played in self._demos.played(step) if played > 0]
        tables = {played: table for played in steps if (table := self._scores(played)) is not None}
        if not tables:
            return None
        known = list(tables)
        decisions = decide(lambda place, seed: tables[known[place]][seed], len(known), self._demos.size[1], self._rule)
        end = decisions[-1]
        return Standing(known[len(decisions) - 1], known[end.best], end)

    def _scores(self, step: int) -> np.ndarray | None:
        """Scores [shape=(seeds, prompts)]; None where a clip could not be measured."""
        chosen, (prompts, seeds) = self._chosen, self._demos.size
        values = [row.get(chosen.measure) for row in self._demos.records(step)]
        if len(values) != prompts * seeds or not all(isinstance(value, bool | int | float) for value in values):
            return None
        scores = [score_of(float(value), chosen.better, chosen.bounds) for value in values]  # type: ignore[arg-type]
        return np.array(scores).reshape(prompts, seeds).T
