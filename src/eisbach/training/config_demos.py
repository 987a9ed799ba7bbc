"""The groups `demos` and `stop` of a recipe: what a run plays while it trains, and when that says it is enough."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eisbach.config import StrictModel
from eisbach.generation.config import PlayConfig
from eisbach.generation.prompts import check_prompts


class DemosConfig(PlayConfig):
    """The same prompts from the same noise every so many steps, written to `samples/step-N/`, measured and logged.

    They are played where the training computes and in its precision, and never change it.

    Attributes
    ----------
    every : int
        Steps between demos; step 0 (the base) and the last step are always played.
    prompts : str or list
        A built-in set, a YAML file, or a list of `{id, text}` or of plain texts.
    """

    every: int = Field(default=100, ge=1)
    num_inference_steps: int = Field(default=50, ge=1, le=1000)

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            check_prompts(value)
        return value

    @model_validator(mode="after")
    def _play_where_training_computes(self) -> DemosConfig:
        chosen = [key for key in ("device", "precision") if getattr(self, key) != "auto"]
        if chosen:
            raise ValueError(
                f"{' and '.join(chosen)} of demos cannot be set: they are played where the training computes; leave "
                "it out, or set the key of the training"
            )
        return self

    def due(self, step: int, last: int) -> bool:
        """Whether this step of a run of `last` steps is played."""
        return step in (0, last) or step % self.every == 0

    def content(self) -> dict[str, Any]:
        """What decides the demos, as plain values, prompts written out."""
        prompts = {prompt.id: prompt.text for prompt in self.resolve_prompts()}
        return self.model_dump(mode="json", exclude={"prompts", "device", "precision"}) | {"prompts": prompts}


class StopConfig(StrictModel):
    """Stop when the demos show that going on gains less than the margin, and ship the best checkpoint
    (`statistics.anytime`).

    With few clips this finds a training that has become worse, not one that stands still. At the first check after the
    best demo 24 reserve clips, prompts × (seeds − 1), find what is worse by 30 points of the range (96%), 56 clips what
    is by 20 (97%), 120 clips what is by 10 (71%); a plateau takes 239 clips that gain exactly nothing, or 40 with a
    margin of 0.1 (`bench/stop_rule.py`).

    Attributes
    ----------
    measure : str
        A column of the demos' records.
    better : "lower" or "higher"
        Which of its values is good.
    bounds : pair of float
        Its range; what lies beyond counts as the end.
    margin : float
        A smaller gain, as a share of that range, is none.
    alpha : float
        Probability of stopping a training that still gains by the margin.
    patience, window : int
        Demos after the best one before a test, and between tests; demos that are averaged on each side of one.
    """

    measure: str = "flat_probability"
    better: Literal["lower", "higher"] = "lower"
    bounds: tuple[float, float] = (0.0, 1.0)
    margin: float = Field(default=0.02, ge=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    patience: int = Field(default=3, ge=1)
    window: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _can_be_meant(self) -> StopConfig:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds are {list(self.bounds)}; give the lower one first")
        if self.patience < self.window:
            raise ValueError(f"patience is {self.patience} and window {self.window}; patience is at least window")
        return self
