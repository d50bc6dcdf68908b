"""YAML as plain values, with the line of each, and nothing that is built by a tag.

Timestamps stay text, keys are text as written. What YAML 1.1 reads otherwise than it looks is refused: numbers in other
bases (0x1F, 010, 1:30) and yes, no, on and off; so are aliases, merge keys and what is nested deeply. It knows nothing
about tasks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
Path = tuple[str | int, ...]

TAG = "tag:yaml.org,2002:"
NUMBERS = SafeConstructor()
DEEPEST = 20  # levels; PyYAML calls itself for each, and looks ahead over all of them
WHOLE = re.compile("[-+]?(0|[1-9][0-9_]*)")
NO_CHARACTER = "an escape that stands for no character; write the character itself"
LONG = 40  # characters of a value that a message shows


class YamlError(Exception):
    """Text that is not YAML, with the line (from 1) where it stops being so."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True)
class YamlPlace:
    """Where a value stands: the lines (from 1) of its key and of itself, and a scalar as it was written."""

    key: int
    line: int
    raw: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong at a path, on a line (from 1)."""

    path: Path
    line: int
    text: str


@dataclass
class Document:
    """Plain data, the place of each value in it, and what had to be refused."""

    data: Plain = None
    places: dict[Path, YamlPlace] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_yaml(text: str) -> Document:
    """Parses one YAML document. Empty text gives None. Raises YamlError where the syntax is wrong."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as e:
        raise YamlError(text.count("\n", 0, e.position) + 1, "a control character that YAML does not allow") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        problem = ", ".join(x for x in (e.context, e.problem) if x)
        hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
        raise YamlError(mark.line + 1 if mark else 1, problem + hint) from None
    except (ValueError, OverflowError) as e:
        raise YamlError(1, f"an escape that stands for no character ({e})") from None
    document = Document()
    if node is not None:
        document.data = _build(document, node, (), node.start_mark.line + 1)
    return document


class _Loader(yaml.SafeLoader):
    """One that stops at the first alias, which can name what it stands in, and below `DEEPEST` levels."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(line, "aliases (*name) are not supported; write the value out")
        if self.depth == DEEPEST:
            raise YamlError(line, "nested too deeply")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _build(document: Document, node: yaml.Node, path: Path, key: int) -> Plain:
    line = node.start_mark.line + 1
    document.places[path] = YamlPlace(key, line, node.value if isinstance(node, yaml.ScalarNode) else "")
    if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
        return [_build(document, n, (*path, i), n.start_mark.line + 1) for i, n in enumerate(node.value)]
    try:
        return _scalar(node)
    except (ValueError, LookupError, OverflowError) as e:
        problem = str(e) if type(e) is ValueError else "cannot be read as what its tag says"
        document.problems.append(Problem(path, line, problem))
        return None


def _mapping(document: Document, node: yaml.MappingNode, path: Path) -> Plain:
    out: dict[str, Plain] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        here = (*path, name.value if isinstance(name, yaml.ScalarNode) else "?")
        if not isinstance(name, yaml.ScalarNode):
            document.problems.append(Problem(here, line, "a key must be plain text"))
        elif name.tag == TAG + "merge":
            document.problems.append(Problem(here, line, "merge keys (<<) are not supported; write the keys out"))
        elif not _is_text(name.value):
            document.problems.append(Problem(path, line, f"a key has {NO_CHARACTER}"))
        elif name.value in out:
            first = document.places[here].key
            document.problems.append(Problem(here, line, f"stands twice, first in line {first}; keep one of them"))
        else:
            out[name.value] = _build(document, value, here, line)
    return out


def _scalar(node: yaml.Node) -> Plain:
    tag = node.tag.removeprefix(TAG)
    if not isinstance(node, yaml.ScalarNode) or tag not in (
        "null",
        "bool",
        "int",
        "float",
        "str",
        "timestamp",
        "value",
    ):
        raise ValueError(f"the tag {node.tag.replace(TAG, '!!')} is not supported; leave it out")
    if tag == "null":
        return None
    if tag == "bool":
        return _truth(node)
    if tag == "int":
        return _integer(node)
    if tag == "float":
        return _number(node)
    return _text(node.value)


def _truth(node: yaml.ScalarNode) -> bool:
    truth = bool(NUMBERS.construct_yaml_bool(node))
    if node.value.lower() not in ("true", "false"):
        raise ValueError(_otherwise(node.value, str(truth).lower()))
    return truth


def _integer(node: yaml.ScalarNode) -> int:
    try:
        number = int(NUMBERS.construct_yaml_int(node))
        digits = str(number)  # refused for a number of thousands of digits
    except (ValueError, IndexError):
        raise ValueError(f"{node.value[:LONG]} cannot be read as a whole number") from None
    if not WHOLE.fullmatch(node.value):
        raise ValueError(_otherwise(node.value, digits))
    return number


def _number(node: yaml.ScalarNode) -> float:
    number = float(NUMBERS.construct_yaml_float(node))
    if not math.isfinite(number):
        raise ValueError(f"{node.value[:LONG]} is not a finite number")
    if ":" in node.value:
        raise ValueError(_otherwise(node.value, str(number)))
    return number


def _otherwise(raw: str, read: str) -> str:
    raw, read = raw[:LONG], read[:LONG]
    return f"YAML reads {raw} as {read}; write {read}, or put it in quotes where it is text: '{raw}'"


def _text(value: str) -> str:
    if not _is_text(value):
        raise ValueError(NO_CHARACTER)
    return value


def _is_text(value: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in value)
