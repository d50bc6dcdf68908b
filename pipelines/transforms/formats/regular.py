"""JSON Lines as programs write them: every line has the same keys in the same order, flat values, no escapes.

Such lines need no parser: what stands between the values is compared with the first line, byte for byte, and the
values are cut out, all in columns (0.2 us a line, a JSON parser takes 0.6). Anything else is left to the parser: no
line is read here that is not valid JSON and means just that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.task import Kind, Task
from pipelines.transforms.formats.base import Ints
from pipelines.transforms.formats.lines import Lines, cut

QUOTE = b'"'
FIELD = re.compile(rb'\s*[{,]\s*"([^"]*)"\s*:\s*("[^"]*"|[^",}\s]+)')
SCALAR = r"^(null|true|false|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?)$"

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Form:
    """What all lines have in common: fixed[0] value[0] fixed[1] ... value[-1] fixed[-1]; quotes belong to `fixed`."""

    names: list[str]
    quoted: list[bool]  # whether a value is text
    fixed: list[bytes]


def columns(task: Task, chunk: Lines) -> pa.Table | None:
    """The task's fields of UTF-8 lines (n); None if the lines are not regular."""
    form = None if b"\\" in chunk.data else form_of(chunk.line(0))
    places = None if form is None else _places(form, chunk)
    if form is None or places is None:
        return None
    table: dict[str, pa.Array] = {}
    for i, name in enumerate(form.names):
        wanted = name in task.columns
        if wanted or not form.quoted[i]:
            cells = cut(chunk.data, *places[i], pa.string())
            column = cells if form.quoted[i] else _scalars(cells, task.columns.get(name))
            if column is None:
                return None
            if wanted:
                table[name] = column
    return pa.table({name: table.get(name, pa.nulls(len(chunk))) for name in task.columns})


def form_of(line: bytes) -> Form | None:
    """The form of a line without backslashes; None if it is not a flat object with each key once."""
    names, quoted, fixed, at = list[str](), list[bool](), list[bytes](), 0
    while match := FIELD.match(line, at):
        text = match[2].startswith(QUOTE)
        fixed.append(line[at - (bool(quoted) and quoted[-1]) : match.start(2) + text])
        names.append(match[1].decode())
        quoted.append(text)
        at = match.end()
    if not names or line[at:].strip() != b"}" or len(set(names)) < len(names):
        return None
    try:
        if list(json.loads(line)) != names:
            return None
    except ValueError:
        return None
    return Form(names, quoted, [*fixed, line[at - quoted[-1] :]])


def _places(form: Form, chunk: Lines) -> list[tuple[Ints, Ints]] | None:
    """Start and end (n) of each value in chunk.data; None unless all lines have the form."""
    first, last = int(chunk.start[0]), int(chunk.end[-1])
    content = np.frombuffer(chunk.data, np.uint8)
    between = chunk.start[1:] - chunk.end[:-1]
    quotes = np.flatnonzero(content[first:last] == QUOTE[0]) + first
    each = sum(part.count(QUOTE) for part in form.fixed)
    plain = np.count_nonzero(content[first:last] < 32) == between.sum()  # no control characters but line ends
    if not plain or between.max(initial=1) > 2 or len(quotes) != each * len(chunk):
        return None
    of = quotes.reshape(len(chunk), each)
    if (of[:, 0] < chunk.start).any() or (of[:, -1] >= chunk.end).any():
        return None
    seen, at, out = 0, chunk.start, list[tuple[Ints, Ints]]()
    for i, part in enumerate(form.fixed):
        if i:  # where this part begins is where the value before it ends
            offset = part.find(QUOTE)
            at = of[:, seen] - offset if offset >= 0 else chunk.end - len(part)
            if (at < out[-1][0]).any():
                return None
            out[-1] = (out[-1][0], at)
        if not _same(content, at, part, chunk.end):
            return None
        out.append((at + len(part), at))
        seen += part.count(QUOTE)
    return out[:-1] if (out[-1][0] == chunk.end).all() else None


def _same(content: Bytes, at: Ints, part: bytes, end: Ints) -> bool:
    """Whether `part` stands at each position, compared in words of 8, 4 or 1 bytes."""
    if (at + len(part) > end).any():
        return False
    width = 8 if len(part) >= 8 else 4 if len(part) >= 4 else 1
    words = np.lib.stride_tricks.as_strided(content[:width].view(f"<u{width}"), (len(content) - width + 1,), (1,))
    offsets = [*range(0, len(part) - width, width), len(part) - width]
    return all(bool((words[at + o] == int.from_bytes(part[o : o + width], "little")).all()) for o in offsets)


def _scalars(cells: pa.Array, kind: Kind | None) -> pa.Array | None:
    """Numbers and nulls; None if there is anything else among them."""
    if not pc.all(pc.match_substring_regex(cells, SCALAR)).as_py():
        return None
    cells = pc.if_else(pc.equal(cells, "null"), None, cells)
    try:
        return cells if kind is None else cells.cast(pa.float64() if kind == "number" else pa.int64())
    except pa.ArrowInvalid:
        return None
