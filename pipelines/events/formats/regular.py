"""JSON Lines as programs write them: every line has the same keys in the same order, flat values, no escapes.

Such lines need no parser: what stands between the values is compared with the first line, byte for byte, and the
values are cut out, all in columns (0.2 us a line, a JSON parser takes 0.6). Lines of another form are left to the
parser: no line is read here that is not valid JSON and means just that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.formats.base import Ints
from pipelines.events.formats.lines import TextLines, cut
from pipelines.task.spec import Kind, Task

QUOTE = b'"'
FIELD = re.compile(rb'\s*[{,]\s*"([^"]*)"\s*:\s*("[^"]*"|[^",}\s]+)')
SCALAR = r"^(null|true|false|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?)$"
NUMBER = r"^(null|-?(0|[1-9][0-9]{0,199})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?)$"  # that a 64-bit float has a place for
WHOLE = r"^(null|-?(0|[1-9][0-9]{0,17}|[1-8][0-9]{18}|9[01][0-9]{17}))$"  # that 64 bits have room for

SHARE = 0.25  # of the lines, at least: fewer are not worth a table of their own

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LineForm:
    """What all lines have in common: fixed[0] value[0] fixed[1] ... value[-1] fixed[-1]; quotes belong to `fixed`."""

    names: list[str]
    quoted: list[bool]  # whether a value is text
    fixed: list[bytes]


def columns(task: Task, chunk: TextLines) -> tuple[pa.Table, Ints] | None:
    """The task's fields of the UTF-8 lines (n) that have the form of the first one, or of that in the middle.

    Returns:
      The fields and which lines these are, or None if they are few.
    """
    for line in map(chunk.line, (0, len(chunk) // 2)):
        form = None if b"\\" in line else form_of(line)
        found = None if form is None else _read(task, form, chunk)
        if found is not None:
            return found
    return None


def _read(task: Task, form: LineForm, chunk: TextLines) -> tuple[pa.Table, Ints] | None:
    least = SHARE * len(chunk)
    rows, places = _places(form, chunk)
    if not len(rows) or len(rows) < least:
        return None
    cells = {}
    for i, name in enumerate(form.names):
        if name in task.columns or not form.quoted[i]:
            cells[i] = cut(chunk.data, *places[i], pa.string())
    good = np.ones(len(rows), bool)
    for i in cells:
        if not form.quoted[i]:
            good &= _fits(cells[i], task.columns.get(form.names[i]))
    n = int(good.sum())
    if not n or n < least:
        return None
    table: dict[str, pa.Array] = {}
    for i, column in cells.items():
        if form.names[i] in task.columns:
            some = column if good.all() else column.filter(pa.array(good))
            table[form.names[i]] = some if form.quoted[i] else _scalars(some, task.columns[form.names[i]])
    return pa.table({name: table.get(name, pa.nulls(n)) for name in task.columns}), rows[good]


def form_of(line: bytes) -> LineForm | None:
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
    return LineForm(names, quoted, [*fixed, line[at - quoted[-1] :]])


def _places(form: LineForm, chunk: TextLines) -> tuple[Ints, list[tuple[Ints, Ints]]]:
    """The lines (m) that have the form but for what their values are, and start and end (m) of each value in
    chunk.data."""
    each = sum(part.count(QUOTE) for part in form.fixed)
    rows, of = _quotes(chunk, each)
    start, end, ok = chunk.start[rows], chunk.end[rows], np.ones(len(rows), bool)
    content = np.frombuffer(chunk.data, np.uint8)
    seen, at, out = 0, start, list[tuple[Ints, Ints]]()
    for i, part in enumerate(form.fixed):
        if i:  # where this part begins is where the value before it ends
            offset = part.find(QUOTE)
            at = of[:, seen] - offset if offset >= 0 else end - len(part)
            ok &= at >= out[-1][0]
            out[-1] = (out[-1][0], at)
        ok &= _same(content, at, part, start, end)
        out.append((at + len(part), at))
        seen += part.count(QUOTE)
    ok &= out.pop()[0] == end
    return (rows, out) if ok.all() else (rows[ok], [(first[ok], last[ok]) for first, last in out])


def _quotes(chunk: TextLines, each: int) -> tuple[Ints, Ints]:
    """The lines (m) with so many quotes, no backslash and no control character; where their quotes are (m, each)."""
    first, last = int(chunk.start[0]), int(chunk.end[-1])
    content = np.frombuffer(chunk.data, np.uint8)[first:last]
    quotes = np.flatnonzero(content == QUOTE[0]) + first
    plain = b"\\" not in chunk.data
    if plain and np.count_nonzero(content < 32) == (chunk.start[1:] - chunk.end[:-1]).sum():  # all between lines
        of = quotes.reshape(len(chunk), each) if len(quotes) == each * len(chunk) else quotes[:0].reshape(0, each)
        if len(of) and (not each or ((of[:, 0] >= chunk.start) & (of[:, -1] < chunk.end)).all()):
            return np.arange(len(chunk)), of
    odd = np.flatnonzero((content < 32) | (content == ord("\\"))) + first
    begin = np.searchsorted(quotes, chunk.start)
    fit = np.searchsorted(quotes, chunk.end) - begin == each
    rows = np.flatnonzero(fit & (np.searchsorted(odd, chunk.start) == np.searchsorted(odd, chunk.end)))
    return rows, quotes[begin[rows, None] + np.arange(each)]


def _same(content: Bytes, at: Ints, part: bytes, start: Ints, end: Ints) -> Mask:
    """(m) whether `part` stands at each position and within its line, compared in words of 8, 4 or 1 bytes."""
    inside = (at >= start) & (at + len(part) <= end)
    width = 8 if len(part) >= 8 else 4 if len(part) >= 4 else 1
    words = np.lib.stride_tricks.as_strided(content[:width].view(f"<u{width}"), (len(content) - width + 1,), (1,))
    offsets = [*range(0, len(part) - width, width), len(part) - width]
    at = at if inside.all() else np.where(inside, at, 0)
    for o in offsets:
        inside &= words[at + o] == int.from_bytes(part[o : o + width], "little")
    return inside


def _fits(cells: pa.Array, kind: Kind | None) -> Mask:
    """Whether `_scalars` takes each cell; of a field that the task does not read, whether it is valid."""
    return np.asarray(
        pc.match_substring_regex(cells, SCALAR if kind is None else NUMBER if kind == "number" else WHOLE)
    )


def _scalars(cells: pa.Array, kind: Kind) -> pa.Array:
    """Numbers and nulls."""
    return pc.if_else(pc.equal(cells, "null"), None, cells).cast(pa.float64() if kind == "number" else pa.int64())
