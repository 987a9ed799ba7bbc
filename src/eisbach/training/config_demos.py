"""The group `demos` of a recipe: what a run plays while it trains."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from eisbach.generation.config import PlayConfig


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

    @field_validator("prompts", mode="before")
    @classmethod
    def _texts_are_prompts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [
            {"id": f"prompt-{number}", "text": item} if isinstance(item, str) else item
            for number, item in enumerate(value, 1)
        ]

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            from eisbach.generation.prompts import check_prompts

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
