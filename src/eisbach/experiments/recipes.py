"""Experiment recipes: files of the user's, or the ones that the package carries; one may extend another."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from eisbach.config import apply_overrides, build_config, read_yaml
from eisbach.errors import ConfigError
from eisbach.experiments.spec import ExperimentSpec, merge

BUILT_IN_RECIPES = {
    "curation": "studies/curation/recipe.yaml",
    "demo": "assets/recipes/demo.yaml",
    "gated": "studies/gated/recipe.yaml",
    "levels": "studies/levels/recipe.yaml",
}
"""Recipes inside the package, by name: their place in it. `recipes/` in the repository shows the same files."""

_DEPTH = 5  # how long a chain of recipes may be; longer ones are circles


def load_spec(recipe: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> ExperimentSpec:
    """The experiment of a recipe.

    A recipe may say `extends: NAME` (a built-in recipe, or a file beside it): its own keys are then laid over the
    other's, group by group. Its `quick` group holds changes for a rehearsal of the same chain.

    Parameters
    ----------
    recipe : str or Path
        `"demo"`, `"curation"`, `"gated"`, `"levels"` or the path of a YAML file.
    overrides : sequence of str
        `key=value`, applied last.
    quick : bool
        Apply the recipe's `quick` changes.

    Raises
    ------
    ConfigError
        No such recipe, or faults in it; all of them are named.
    """
    values = read_recipe(recipe)
    rehearsal = values.pop("quick", None)
    if quick:
        if not isinstance(rehearsal, dict):
            raise ConfigError(
                f"the recipe {recipe} has no group 'quick', so there is no rehearsal of it; leave --quick out."
            )
        values = merge(values, rehearsal)
    return build_config(ExperimentSpec, apply_overrides(values, overrides), f"the recipe {recipe}")


def read_recipe(recipe: str | Path, depth: int = 0) -> dict[str, Any]:
    """The plain values of a recipe with what it extends filled in."""
    if depth > _DEPTH:
        raise ConfigError(f"the recipe {recipe} extends itself in a circle; remove one 'extends'.")
    if str(recipe) in BUILT_IN_RECIPES:
        with resources.as_file(resources.files("eisbach").joinpath(BUILT_IN_RECIPES[str(recipe)])) as path:
            values = read_yaml(path)
    elif Path(recipe).is_file():
        values = read_yaml(recipe)
    else:
        raise ConfigError(
            f"the recipe {recipe} does not exist; give a YAML file or a built-in recipe: {', '.join(BUILT_IN_RECIPES)}."
        )
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"the recipe {recipe} has extends: {base!r}; name one recipe.")
    source = base if base in BUILT_IN_RECIPES else Path(recipe).parent / base
    return merge(read_recipe(source, depth + 1), values)
