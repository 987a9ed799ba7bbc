"""Prompts × seeds → audio with a manifest."""

from eisbach.generation.config import GenerateConfig, SamplingConfig
from eisbach.generation.generate import generate
from eisbach.generation.prompts import BUILT_IN_PROMPTS, Prompt, load_prompts, prompts_from_texts

__all__ = [
    "BUILT_IN_PROMPTS",
    "GenerateConfig",
    "Prompt",
    "SamplingConfig",
    "generate",
    "load_prompts",
    "prompts_from_texts",
]
