"""Experiment recipes: files of the user's, or the ones that the package carries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from eisbach.config import load_config
from eisbach.errors import ConfigError
from eisbach.experiments.spec import ExperimentSpec

BUILT_IN_RECIPES = ("curation", "demo")
"""Recipes inside the package; `recipes/` in the repository shows the same files."""


def load_spec(recipe: str | Path, overrides: Sequence[str] = ()) -> ExperimentSpec:
    """The experiment of a recipe with `key=value` overrides applied.

    Raises
    ------
    ConfigError
        No such recipe, or faults in it; all of them are named.
    """
    if str(recipe) in BUILT_IN_RECIPES:
        asset = resources.files("eisbach").joinpath(f"assets/recipes/{recipe}.yaml")
        with resources.as_file(asset) as path:
            return load_config(ExperimentSpec, path, overrides)
    if not Path(recipe).is_file():
        raise ConfigError(
            f"the recipe {recipe} does not exist; give a YAML file or a built-in recipe: {', '.join(BUILT_IN_RECIPES)}."
        )
    return load_config(ExperimentSpec, recipe, overrides)
