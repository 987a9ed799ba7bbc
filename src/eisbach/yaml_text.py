"""YAML of groups, lists and plain values: bounded, each key once, and no reading of words as something else."""

from __future__ import annotations

from typing import Any

import yaml

_DEPTH_LIMIT = 50  # of nested groups and lists
_NODES_LIMIT = 100_000  # keys, values and lists, each alias counted as what it stands for
_DIGITS_LIMIT = 40  # of an integer; longer ones overflow wherever they are turned into a float

_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))


if yaml.__with_libyaml__:  # ten times faster

    class _Events(yaml.cyaml.CParser):  # type: ignore[name-defined,misc]
        pass

else:

    class _Events(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


class _Loader(yaml.composer.Composer, _Events, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):
    """YAML of groups, lists and plain values; every key is text, written once, and all of it is bounded."""

    # Dates stay text: no configuration has one, and "2024-13-45" is no date.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)  # type: ignore[call-arg]
        yaml.composer.Composer.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._depth = self._nodes = 0
        self._sizes: dict[str, int | None] = {}  # nodes below each anchor; None while it is being read

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._nodes
        anchor, line = event.anchor, event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(anchor, 0)
            if size is None:
                raise yaml.YAMLError(f"an alias stands for something that holds it (line {line})")
            self._nodes += size
        elif anchor is not None:
            self._sizes[anchor] = None
        self._nodes += 1
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise yaml.YAMLError(f"it is nested more than {_DEPTH_LIMIT} deep (line {line})")
        if self._nodes > _NODES_LIMIT:
            raise yaml.YAMLError(f"it has more than {_NODES_LIMIT:,} values, aliases spelled out (line {line})")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._sizes[anchor] = self._nodes - before
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError(f"a value is tagged as a group of keys and is none (line {node.start_mark.line + 1})")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"a key must be text, not a list or a group (line {key.start_mark.line + 1})")
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            key.tag = "tag:yaml.org,2002:str"  # as it is written: not True for 'on', nor None for 'null'
            if key.value in seen:
                raise yaml.YAMLError(f"the key '{key.value}' is written twice (line {key.start_mark.line + 1})")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        where = f"(line {node.start_mark.line + 1})"
        if node.tag not in _TAGS:
            raise yaml.YAMLError(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read {where}")
        if isinstance(node, yaml.ScalarNode):
            if "\0" in node.value or any("\ud800" <= letter <= "\udfff" for letter in node.value):
                raise yaml.YAMLError(f"a text has a NUL character or half a surrogate pair {where}")
            if node.tag.endswith(":int") and len(node.value) > _DIGITS_LIMIT:
                raise yaml.YAMLError(f"an integer has more than {_DIGITS_LIMIT} digits {where}")
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            shown = repr(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "something else"
            kind = node.tag.rpartition(":")[2]
            raise yaml.YAMLError(f"{shown} is tagged {kind} and cannot be read as one {where}") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: groups with text as keys, lists, texts, numbers, booleans and nulls.

    Raises
    ------
    yaml.YAMLError
        Malformed; a key twice; a part that holds itself; nested more than 50 deep; more than 100,000 values with
        aliases spelled out; other tags; a NUL or half a surrogate pair.
    """
    try:
        return _Loader(text).get_single_data()
    except UnicodeEncodeError as error:
        raise yaml.YAMLError("it has half a surrogate pair, which stands for no letter") from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deep") from error


def where_it_breaks(fault: yaml.YAMLError) -> str:
    """The end of a sentence that says where a text stops being YAML, and why."""
    if not isinstance(fault, yaml.MarkedYAMLError) or fault.problem_mark is None:  # a fault of ours says it itself
        return f": {' '.join(str(fault).split())}"
    place = f"line {fault.problem_mark.line + 1}, column {fault.problem_mark.column + 1}"
    said = ", ".join(part for part in (fault.context, fault.problem) if part)
    if not isinstance(fault, yaml.scanner.ScannerError | yaml.parser.ParserError):  # its text is well formed
        return f" at {place}: {said}"
    return f" at {place}: indentation, a bracket or a quote is wrong there or shortly before ({said})"
