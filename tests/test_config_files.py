from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import Field, field_validator

from eisbach.config import (
    StrictModel,
    apply_overrides,
    build_config,
    dump_yaml,
    load_config,
    override,
    read_yaml,
    save_config,
)
from eisbach.errors import ConfigError, UserError


class Inner(StrictModel):
    rate: float = Field(default=0.5, gt=0)
    names: tuple[str, ...] = ()


class Outer(StrictModel):
    steps: int = Field(ge=1)
    inner: Inner = Inner()
    title: str = ""

    @field_validator("title")
    @classmethod
    def _plain(cls, value: str) -> str:
        if "!" in value:
            raise ValueError("must be calm")
        return value


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, "inner: {rate: -1, names: 5, speed: 2}\ntitle: wow!\ncolour: red\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    text = str(caught.value)
    assert text.startswith(f"{path} has 6 faults: ")
    for part in (
        "'steps' is required",
        "'inner.rate': Input should be greater than 0 (got -1)",
        "'inner.names'",
        "unknown key 'inner.speed'",
        "'title': must be calm (got 'wow!')",
        "unknown key 'colour'",
    ):
        assert part in text
    assert "\n" not in text
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stepz": 1}, r"unknown key 'stepz' \(did you mean 'steps'\?\)"),
        ({"inner": {"ratee": 1}}, r"unknown key 'inner.ratee' \(did you mean 'rate'\?\)"),
        ({"inner": {"steps": 1}}, r"unknown key 'inner.steps' \(did you mean 'steps'\?\)"),  # a key of another group
        ({"rate": 1}, r"unknown key 'rate' \(did you mean 'inner.rate'\?\)"),
        ({"inner": {"stepz": 1}}, r"unknown key 'inner.stepz'[;.]"),  # near a key of another group only
        ({"colour": 1}, r"unknown key 'colour'[;.]"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_of_its_group(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(Outer, values)


def test_one_fault_is_singular_and_long_values_are_shortened() -> None:
    with pytest.raises(ConfigError, match=r"^the configuration has 1 fault: 'steps'.*\.\.\.\)\.$") as caught:
        build_config(Outer, {"steps": "x" * 500})
    assert len(str(caught.value)) < 250


def test_overrides_reach_into_groups_and_are_read_as_yaml() -> None:
    values = {"steps": 5, "inner": {"rate": 1.0}}
    changes = ["steps=7", "inner.names=[a, b]", "inner.rate=1e-4", "title=a=b", "new.deep.key=null"]
    made = apply_overrides(values, changes)
    assert made == {
        "steps": 7, "inner": {"rate": "1e-4", "names": ["a", "b"]}, "title": "a=b", "new": {"deep": {"key": None}},
    }  # fmt: skip
    assert values == {"steps": 5, "inner": {"rate": 1.0}}
    assert build_config(Inner, made["inner"]).rate == 1e-4  # YAML 1.1 reads 1e-4 as text; the field knows better


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": "abc"}, r"'steps': must be a whole number \(got 'abc'\)"),
        ({"inner": {"rate": "fast"}}, r"'inner.rate': must be a number \(got 'fast'\)"),
        ({"inner": {"names": 5}}, r"'inner.names': must be a list \(got 5\)"),
    ],
)
def test_a_value_of_another_kind_is_said_in_words(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(Outer, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("steps", "must look like key=value"),
        ("=5", "must look like key=value"),
        ("steps.more=5", "goes through 'steps', which is not a group"),
        ("steps=[", "a value that is not valid YAML"),
        ("steps={a: 1, a: 2}", "a value that is not valid YAML"),
    ],
)
def test_overrides_that_cannot_be_applied(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        apply_overrides({"steps": 5}, [change])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: [",
            r"is not valid YAML at line \d, column \d: indentation, a bracket or a quote is wrong there or shortly",
        ),
        ("steps: 1\n  inner: 2\n", r"recipe.yaml is not valid YAML at line 2, column \d+: indentation, a bracket"),
        ("- 1\n", "must be a mapping of keys to values, not a list"),
        ("just words", "not a str"),
        ("steps: 1\nsteps: 2\n", r"the key 'steps' is written twice \(line 2\)"),
        ("steps: 1\ninner:\n  rate: 1\n  names: []\n  rate: 2\n", r"the key 'rate' is written twice \(line 5\)"),
        ("? [1]\n: 2\n", "is not valid YAML"),
        ("a: &a {b: *a}\n", "an alias stands for something that holds it"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ],
)
def test_recipes_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; give the path of a YAML file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("title: Straße".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "latin.yaml")
    assert read_yaml(write(tmp_path, "")) == {}


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    made = read_yaml(write(tmp_path, "base: &base {a: 1, b: 2}\nchild: {<<: *base, a: 3}\n"))
    assert made["child"] == {"a": 3, "b": 2}


def test_a_saved_configuration_is_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(Outer, None, ["steps=3", "inner.names=[琴, 'true']", "title='x: y'"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Outer, tmp_path / "config.yaml") == config
    assert list(yaml.safe_load(dump_yaml(config))) == ["steps", "inner", "title"]
    assert "琴" in dump_yaml(config)


def test_configurations_are_frozen_and_defaults_are_checked() -> None:
    config = build_config(Outer, {"steps": 1})
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 2  # type: ignore[misc]

    class Wrong(StrictModel):
        rate: float = Field(default=-1.0, gt=0)

    with pytest.raises(ConfigError, match="'rate'"):
        build_config(Wrong, {})


@pytest.mark.parametrize(
    "value", ["🎵 music", "a\x85b", "a \u2028 b", "a\x7fb", 'tab\tand "quotes"', None, 3, [1, 2], True]
)
def test_a_change_carries_its_value_whatever_its_letters(value: object) -> None:
    assert apply_overrides({}, [override("out", value)]) == {"out": value}
