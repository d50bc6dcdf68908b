"""YAML as plain values, with the line of each, and nothing that is built by a tag.

Timestamps stay text, keys are text as written, aliases and merge keys are refused. It knows nothing about tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import yaml
from yaml.constructor import SafeConstructor

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
Path = tuple[str | int, ...]

TAG = "tag:yaml.org,2002:"
NUMBERS = SafeConstructor()


class YamlError(Exception):
    """Text that is not YAML, with the line (from 1) where it stops being so."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True)
class Place:
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
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_yaml(text: str) -> Document:
    """Parses one YAML document. Empty text gives None. Raises YamlError where the syntax is wrong."""
    try:
        _refuse_aliases(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as e:
        raise YamlError(text.count("\n", 0, e.position) + 1, "a control character that YAML does not allow") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        problem = ", ".join(x for x in (e.context, e.problem) if x)
        hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
        raise YamlError(mark.line + 1 if mark else 1, problem + hint) from None
    except (ValueError, OverflowError) as e:
        raise YamlError(1, f"an escape that stands for no character ({e})") from None
    except RecursionError:
        raise YamlError(1, "nested too deeply") from None
    document = Document()
    if node is not None:
        document.data = _build(document, node, (), node.start_mark.line + 1)
    return document


def _refuse_aliases(text: str) -> None:
    """An alias can name what it stands in, without end."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise YamlError(line, "aliases (*name) are not supported; write the value out")


def _build(document: Document, node: yaml.Node, path: Path, key: int) -> Plain:
    line = node.start_mark.line + 1
    document.places[path] = Place(key, line, node.value if isinstance(node, yaml.ScalarNode) else "")
    if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
        return [_build(document, n, (*path, i), n.start_mark.line + 1) for i, n in enumerate(node.value)]
    try:
        return _scalar(node)
    except (ValueError, KeyError, OverflowError) as e:
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
        elif name.value in out:
            first = document.places[here].key
            document.problems.append(Problem(here, line, f"stands twice, first in line {first}; keep one of them"))
        else:
            out[_text(name.value)] = _build(document, value, here, line)
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
        return bool(NUMBERS.construct_yaml_bool(node))
    if tag == "int":
        return _integer(node)
    if tag == "float":
        number = float(NUMBERS.construct_yaml_float(node))
        if not math.isfinite(number):
            raise ValueError(f"{node.value} is not a finite number")
        return number
    return _text(node.value)


def _integer(node: yaml.ScalarNode) -> int:
    try:
        return int(NUMBERS.construct_yaml_int(node))
    except ValueError:
        raise ValueError(f"{node.value[:40]} cannot be read as a whole number") from None


def _text(value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("an escape that stands for no character; write the character itself")
    return value
