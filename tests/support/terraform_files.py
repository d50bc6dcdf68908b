"""Terraform's files as dicts: blocks by kind, what their expressions refer to, and the objects in expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
from hcl2 import SerializationOptions

PLAIN = SerializationOptions(strip_string_quotes=True, explicit_blocks=False, with_comments=False)
REFERENCE = re.compile(r"\b(?:(var|local)\.([a-z]\w*)|(google_\w+)\.(\w+))")
Body = dict[str, Any]  # of a block: attributes, and lists of the blocks in it; expressions are text with ${


class Module(dict[str, Any]):
    """A folder's blocks: variable, local, output and provider by name, resource by type.name, terraform."""

    def __init__(self, *texts: str) -> None:
        super().__init__({kind: {} for kind in ("variable", "local", "output", "provider", "resource", "terraform")})
        for text in texts:
            for kind, blocks in hcl2.loads(text, serialization_options=PLAIN).items():
                for block in blocks:
                    self._add(kind, block)

    def resources(self, *kinds: str) -> Iterator[tuple[str, Body]]:
        """type.name and body, of those types or of all."""
        return (item for item in self["resource"].items() if not kinds or item[0].partition(".")[0] in kinds)

    @property
    def references(self) -> set[str]:
        """var.x, local.x and type.name, of all that expressions mention."""
        found = (REFERENCE.finditer(text) for text in strings(self) if "${" in text)
        return {".".join(filter(None, match.groups())) for matches in found for match in matches}

    @property
    def declared(self) -> set[str]:
        return {*(f"var.{n}" for n in self["variable"]), *(f"local.{n}" for n in self["local"]), *self["resource"]}

    def _add(self, kind: str, block: Body) -> None:
        if kind == "resource":
            block = {f"{t}.{name}": body for t, named in block.items() for name, body in named.items()}
        kind = {"locals": "local"}.get(kind, kind)
        again = self[kind].keys() & block.keys()
        if again:
            raise ValueError(f"{kind} {sorted(again)} is declared twice")
        self[kind].update(block)


def module(folder: Path) -> Module:
    return Module(*(path.read_text() for path in sorted(folder.glob("*.tf"))))


def strings(value: Any) -> Iterator[str]:
    """All texts in nested dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def literal(expression: str, after: str) -> Body:
    """The object that begins at the first brace after some text of an expression. ValueError: there is none."""
    start = expression.index("{", expression.index(after) + len(after))
    depth = 0
    for end in range(start, len(expression)):
        depth += {"{": 1, "}": -1}.get(expression[end], 0)
        if not depth:
            return dict(hcl2.loads(f"x = {expression[start : end + 1]}\n", serialization_options=PLAIN)["x"])
    raise ValueError(f"braces do not match: {expression}")
