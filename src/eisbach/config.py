"""Configurations: strict pydantic models, read from YAML, with every fault reported together."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from eisbach.errors import ConfigError, UserError, counted
from eisbach.files import read_text, write_text
from eisbach.yaml_text import parse_yaml, where_it_breaks


class StrictModel(BaseModel):
    """A configuration whose unknown keys are errors and whose defaults are validated too."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, values: Any) -> Any:
        """A key that is null where None means nothing has its default again: so a recipe undoes what it extends."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None or not _is_unset_by_none(cls, key)}


Model = TypeVar("Model", bound=StrictModel)
_Checked = TypeVar("_Checked")

_CHAIN = 5  # how long a chain of recipes may be; longer ones are circles
_YAML_ENDINGS = (".yaml", ".yml")
_YAML_LIMIT = 2**20  # bytes; the longest recipe has some thousand


def _is_unset_by_none(cls: type[BaseModel], key: object) -> bool:
    field = cls.model_fields.get(str(key))
    if field is None or field.is_required():
        return False
    kinds = (field.annotation, *get_args(field.annotation))
    return not any(kind in (None, type(None), Any, object) for kind in kinds)


_KINDS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    "string_type": "must be text, in quotes where it looks like something else",
}
"""What a value should have been, in words, by pydantic's name of the fault."""


def build_config(
    cls: type[Model],
    values: Mapping[str, Any],
    source: str = "the configuration",
    names: Mapping[str, str] | None = None,
) -> Model:
    """An instance of `cls` from plain values.

    Parameters
    ----------
    values : mapping
    source : str
        Where they come from, for the message.
    names : mapping or None
        What the person who wrote them calls a key: ``{"num_inference_steps": "--steps"}``.

    Raises
    ------
    ConfigError
        One message that lists every fault: the key, what arrived and what is allowed.
    """
    try:
        return cls.model_validate(dict(values) if isinstance(values, Mapping) else values)
    except ValidationError as error:
        faults = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole)"
            first, dot, rest = key.partition(".")
            key = (names or {}).get(first, first) + dot + rest
            if item["type"] == "extra_forbidden":
                faults.append(f"unknown key '{key}'{_near(cls, item['loc'])}")
            elif item["type"] == "missing":
                faults.append(f"'{key}' is required")
            else:
                message = _KINDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
                shown = repr(item.get("input"))
                faults.append(f"'{key}': {message} (got {shown if len(shown) < 80 else shown[:77] + '...'})")
        raise ConfigError(f"{source} has {counted(len(faults), 'fault')}: {'; '.join(faults)}.") from error


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check_values(kind: type[_Checked], values: Any, source: str, *, error: type[UserError] = UserError) -> _Checked:
    """Plain values of a file as an instance of `kind`, which may be a dataclass, a pydantic model or `dict[str,
    float]`.

    Parameters
    ----------
    kind : type
    values : what JSON or YAML gave
    source : str
        What the values are, for the message: "the record of speeds runs/a/speeds.json".
    error : type
        What is raised.

    Raises
    ------
    UserError
        (or `error`) The values do not fit; the sentence names the first fault.
    """
    try:
        return cast(_Checked, _adapter(kind).validate_python(values))  # type: ignore[arg-type]
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        shown = repr(first.get("input"))
        where = f" in '{key}'" if key else ""
        raise error(
            f"{source} is not as it was written{where}: {first['msg'].removeprefix('Value error, ')} "
            f"(got {shown if len(shown) < 80 else shown[:77] + '...'}); restore it, or make it again."
        ) from fault


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
    wanted = str(place[-1])
    elsewhere = [
        key for key, words in known_keys(cls).items() if wanted in words
    ]  # another group's, or another tool's word
    near = elsewhere or difflib.get_close_matches(wanted, group.model_fields, n=2)
    return f" (did you mean {' or '.join(repr(name) for name in near)}?)" if near else ""


def known_keys(cls: type[BaseModel], prefix: str = "") -> dict[str, set[str]]:
    """Every dotted key below a configuration with the words that mean it: its name, and its field's `also`."""
    keys: dict[str, set[str]] = {}
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        also = extra.get("also", []) if isinstance(extra, dict) else []
        keys[prefix + name] = {name, *(str(word) for word in (also if isinstance(also, list) else []))}
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= known_keys(kind, f"{prefix}{name}.")
    return keys


def read_yaml_file(
    path: str | Path, what: str = "recipe", *, missing: str = "check the path", error: type[UserError] = ConfigError
) -> Any:
    """The value of a YAML file of at most 1 MiB; `what`, `missing` and `error` are for the message, as in
    `files.read_bytes`."""
    text = read_text(path, what, limit=_YAML_LIMIT, missing=missing, error=error)
    try:
        return parse_yaml(text)
    except yaml.YAMLError as fault:
        raise error(f"the {what} {path} is not valid YAML{where_it_breaks(fault)}.") from fault


def _is_there(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def read_yaml(path: str | Path, what: str = "recipe") -> dict[str, Any]:
    """A YAML file's mapping; `ConfigError` when missing, malformed, with a key twice, or not a mapping."""
    usual = "give the path of a YAML file" + (", or copy one from recipes/" if what == "recipe" else "")
    try:
        values = read_yaml_file(path, what, missing=usual)
    except ConfigError as error:
        if what != "recipe" or Path(path).suffix in _YAML_ENDINGS or not _is_there(path):
            raise
        raise ConfigError(
            f"{str(error).rstrip('.')}; a recipe is a YAML file (its name ends in .yaml), and recordings go into a "
            "folder, which --data names."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the {what} {path} must be a mapping of keys to values, not a {type(values).__name__}.")
    return values


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` laid over it, group by group; dotted keys reach into groups."""
    for side in (base, overrides):
        if not isinstance(side, Mapping):
            raise ConfigError(f"a group of keys is needed where {str(side)[:60]!r} stands.")
    merged: dict[str, Any] = {
        key: merge(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()
    }
    for key, value in overrides.items():
        first, _, rest = str(key).partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            group = merged.get(first)
            merged[first] = merge(group if isinstance(group, Mapping) else {}, value)
        else:
            merged[first] = value
    return merged


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe's values; it may say `extends: FILE` (beside it), and its own keys are then laid over that file's, group
    by group.

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
        if len(chain) > _CHAIN:
            raise ConfigError(f"the recipe {path} extends itself in a circle; remove one 'extends'.")
        current = current.parent / base
    merged: dict[str, Any] = {}
    for values in reversed(chain):
        merged = merge(merged, values)
    return merged


def override(key: str, value: Any) -> str:
    """The `key=value` that gives a key this value, as `apply_overrides` reads it."""
    text = json.dumps(value, ensure_ascii=False)  # half of an escaped letter pair is no YAML
    return f"{key}=" + re.sub(r"[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


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
