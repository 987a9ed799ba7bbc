"""Configurations: strict pydantic models, read from YAML, with every fault reported together."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from eisbach.errors import ConfigError
from eisbach.files import write_text


class StrictModel(BaseModel):
    """A configuration whose unknown keys are errors and whose defaults are validated too."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, protected_namespaces=())


Model = TypeVar("Model", bound=StrictModel)

_DEPTH = 5  # how long a chain of recipes may be; longer ones are circles


def build_config(cls: type[Model], values: Mapping[str, Any], source: str = "the configuration") -> Model:
    """An instance of `cls` from plain values.

    Raises
    ------
    ConfigError
        One message that lists every fault: the key, what arrived and what is allowed.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        faults = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole)"
            if item["type"] == "extra_forbidden":
                faults.append(f"unknown key '{key}'{_near(cls, item['loc'])}")
            elif item["type"] == "missing":
                faults.append(f"'{key}' is required")
            else:
                message = item["msg"].removeprefix("Value error, ")
                shown = repr(item.get("input"))
                faults.append(f"'{key}': {message} (got {shown if len(shown) < 80 else shown[:77] + '...'})")
        raise ConfigError(
            f"{source} has {len(faults)} fault{'s' if len(faults) > 1 else ''}: " + "; ".join(faults) + "."
        ) from error


def _near(cls: type[BaseModel], place: Sequence[int | str]) -> str:
    """What an unknown key may have meant: the nearest keys of its group, or nothing where none is near."""
    group: type[BaseModel] = cls
    for part in place[:-1]:
        field = group.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not below:
            return ""
        group = below[0]
    near = difflib.get_close_matches(str(place[-1]), group.model_fields, n=2)
    return f" (did you mean {' or '.join(repr(name) for name in near)}?)" if near else ""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.YAMLError(f"the key '{key.value}' is written twice (line {key.start_mark.line + 1})")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; `yaml.YAMLError` when malformed, with a key twice, or with a part that holds itself."""
    value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    try:
        json.dumps(value, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError("an alias stands for something that holds it") from error
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping; `ConfigError` when missing, malformed, with a key twice, or not a mapping."""
    path = Path(path)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"the recipe {path} does not exist; give the path of a YAML file, or copy one from recipes/."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {path} must be a mapping of keys to values, not a {type(values).__name__}.")
    return values


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` laid over it, group by group; dotted keys reach into groups."""
    merged: dict[str, Any] = {
        key: merge(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()
    }
    for key, value in overrides.items():
        first, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            group = merged.get(first)
            merged[first] = merge(group if isinstance(group, Mapping) else {}, value)
        else:
            merged[first] = value
    return merged


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe's values; it may say `extends: FILE` (beside it), and its own keys are then laid over that file's, group by group.

    Raises
    ------
    ConfigError
        As `read_yaml`; or it extends what is no file name, or itself in a circle.
    """
    chain: list[dict[str, Any]] = []
    current = Path(path)
    while True:
        values = read_yaml(current)
        base = values.pop("extends", None)
        chain.append(values)
        if base is None:
            break
        if not isinstance(base, str):
            raise ConfigError(
                f"the recipe {current} has extends: {base!r}; name one recipe, by its path from this one."
            )
        if len(chain) > _DEPTH:
            raise ConfigError(f"the recipe {path} extends itself in a circle; remove one 'extends'.")
        current = current.parent / base
    merged: dict[str, Any] = {}
    for values in reversed(chain):
        merged = merge(merged, values)
    return merged


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with `a.b=c` overrides applied; the right-hand side is read as YAML."""
    merged: dict[str, Any] = _copy(values)
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"the override '{item}' must look like key=value, for example training.steps=200.")
        node = merged
        *parents, last = key.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"the override '{item}' goes through '{parent}', which is not a group of keys.")
        try:
            node[last] = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the override '{item}' has a value that is not valid YAML.") from error
    return merged


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def load_config(cls: type[Model], path: str | Path | None, overrides: Sequence[str] = ()) -> Model:
    """A configuration from a recipe file (or from defaults when `path` is None) with overrides applied."""
    values = read_yaml(path) if path is not None else {}
    return build_config(cls, apply_overrides(values, overrides), str(path) if path is not None else "the configuration")


def dump_yaml(config: StrictModel) -> str:
    """The resolved configuration as YAML, keys in declared order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def save_config(config: StrictModel, path: str | Path) -> None:
    """Writes the resolved configuration as YAML, atomically."""
    write_text(path, dump_yaml(config))
