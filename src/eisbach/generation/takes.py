"""The clips of a generation: what each plays, and where its file goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eisbach.generation.config import GenerateConfig
from eisbach.generation.prompts import Prompt


@dataclass(frozen=True)
class Take:
    """One clip to make: a prompt, a seed, and where its file goes."""

    prompt: Prompt
    seed: int
    path: Path

    @property
    def id(self) -> str:
        """Name of the clip, unique in its folder."""
        return self.path.stem


def plan_takes(config: GenerateConfig) -> list[Take]:
    """Every clip that the configuration asks for, prompts outside, seeds inside."""
    out = Path(config.out)
    return [
        Take(prompt, seed, out / f"{prompt.id}_seed-{seed}.flac") for prompt in config.prompts for seed in config.seeds
    ]
