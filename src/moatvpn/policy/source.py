"""Reads YAML so that every value knows its line; a value is a text, a list or a mapping.

YAML's own idea of types is left alone: `no` is a word here, and 1.10 is not 1.1. Anchors, tags
and a key that stands twice are refused: a policy says what it says where it says it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from moatvpn.config_fields import short
from moatvpn.errors import ConfigError

_MEND = "Mend the policy there"
_PLAIN = re.compile(r"[\w.-]{1,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file something stands, for errors: file:line: field."""

    file: str
    line: int
    field: str = "policy"

    def error(self, why: str, remedy: str) -> ConfigError:
        """Return the error that what stands here is wrong."""
        return ConfigError(f"{self.file}:{self.line}: {self.field}", why, remedy)


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a file, and its place."""

    place: Place
    content: str | tuple[Value, ...] | dict[str, Value]

    def error(self, why: str, remedy: str) -> ConfigError:
        """Return the error that this value is wrong."""
        return self.place.error(why, remedy)

    def text(self) -> str:
        """Return the text; raise ConfigError where there is a list or a mapping."""
        if not isinstance(self.content, str):
            raise self.error("is no single value", "Give one")
        return self.content

    def items(self) -> tuple[Value, ...]:
        """Return the list's values, of which there is one at least, or raise ConfigError."""
        if not isinstance(self.content, tuple) or not self.content:
            raise self.error("is no list with something in it", "Give one, such as [one, other]")
        return self.content

    def mapping(self, known: tuple[str, ...] | None = None) -> dict[str, Value]:
        """Return the mapping; raise ConfigError where it is none, or has a key that is not known.

        known is None where any key will do.
        """
        if not isinstance(self.content, dict):
            raise self.error("is no mapping", f"Give {', '.join(known or ('NAME',))}: with values")
        for key, value in self.content.items():
            if known is not None and key not in known:
                why = f"has {short(key)}, which is no setting"
                raise Place(value.place.file, value.place.line, self.place.field).error(
                    why, f"Known: {', '.join(known)}"
                )
        return self.content

    def get(self, key: str) -> Value:
        """Return what the mapping has under key; raise ConfigError where it has nothing."""
        found = self.mapping().get(key)
        if found is None:
            raise self.error(f"has no {key}", f"Add {key}:")
        return found


def read_yaml(text: str, file: str) -> Value:
    """Return the one document in text; raise ConfigError, naming file and line, for what is none.

    The cost is bounded by the length of text: nothing in it can stand for more than itself.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise Place(file, line).error(f"is not YAML ({error.problem})", _MEND) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = f"is not YAML ({' '.join(str(error).split())})"
        raise Place(file, 1).error(why, _MEND) from error
    if node is None:
        raise Place(file, 1).error("is empty", "Write a policy; docs/policy.md shows one")
    return _value(node, file, "policy")


class _Loader(yaml.SafeLoader):
    """Composes nodes, and refuses those that stand for others."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not taken", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags are not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _value(node: yaml.Node, file: str, field: str) -> Value:
    place = Place(file, node.start_mark.line + 1, field)
    if isinstance(node, yaml.ScalarNode):
        return Value(place, node.value)
    if isinstance(node, yaml.SequenceNode):
        return Value(place, tuple(_value(each, file, field) for each in node.value))
    content: dict[str, Value] = {}
    for key, value in node.value:
        there = Place(file, key.start_mark.line + 1, field)
        if not isinstance(key, yaml.ScalarNode):
            raise there.error("has a key that is no word", _MEND)
        name = key.value
        if name in content:
            raise there.error(f"has {short(name)} twice", _MEND)
        shown = name if _PLAIN.fullmatch(name) else short(name)
        content[name] = _value(value, file, shown if field == "policy" else f"{field}.{shown}")
    return Value(place, content)
