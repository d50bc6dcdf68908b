"""JSON Lines: one object a line. Chunks are parsed by Arrow as a whole; what does not parse so, line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from pipelines.events.formats import lines, records, regular
from pipelines.events.formats.base import Ints, Piece, Refusal, Rows, Unreadable, shorten
from pipelines.events.formats.lines import TextLines
from pipelines.task.spec import Kind, Task

SAMPLE = 64  # lines of a chunk that decide on the types it is parsed with
SINGLE = 256  # lines that are not halved any more
MANY = 1 << 13  # lines that are parsed one by one before they are put into columns
DEPTH = 256  # objects and lists within each other: Python's own limit depends on who calls
VALUES = 4_000_000  # of a line, which take about 100 bytes of memory each
WORD = 64  # bytes of text that are looked at together
BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))  # all other characters
ESCAPED = re.compile(rb"\\.", re.DOTALL)
EXACT = float(1 << 53)  # whole numbers above are not exact as 64-bit floats


class JsonLines(lines.TextFormat):
    """The format; a line may leave out what is null."""

    name = "jsonl"
    title = "JSON Lines"
    endings = (".jsonl", ".ndjson", ".json")
    is_sparse = True

    def fields(self, path: str) -> dict[str, str]:
        """Fields of the first 100 lines, and the JSON types that they have.

        Raises:
          Unreadable, OSError: the file cannot be opened or read, or none of these lines is an object.
        """
        first = [line for line in lines.head(path).removeprefix(lines.BOM).splitlines() if line.strip()][:100]
        out = kinds(first)
        if first and not out:
            raise Unreadable("it does not hold one JSON object a line (but a list, or objects of many lines?)")
        return out

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """Rows of the lines that begin in the piece."""
        for chunk in lines.read(piece):
            if isinstance(chunk, Refusal):
                yield chunk
            elif len(chunk):
                chunk, bad = lines.unicode(chunk)
                yield from bad.refused("a line that is not UTF-8")
                yield from parse(task, chunk)


READER = JsonLines()


def kinds(texts: Iterable[bytes]) -> dict[str, str]:
    """Fields of some objects, and the JSON types that they have; what is no object has none."""
    out: dict[str, set[str]] = {}
    for record in map(_parsed, texts):
        for name, value in record.items() if isinstance(record, dict) else ():
            out.setdefault(name, set()).add(_named(value))
    return {name: " or ".join(sorted(found)) for name, found in out.items()}


def parse(task: Task, chunk: TextLines) -> Iterator[Rows | Refusal]:
    """Rows of a chunk of UTF-8 lines."""
    wrong = _excesses(chunk)
    for row, reason in wrong.items():
        yield chunk.refusal(row, reason)
    good = np.setdiff1d(np.arange(len(chunk)), list(wrong)) if wrong else None
    if good is None or len(good):
        yield from _parse(task, chunk if good is None else chunk.take(good))


def excess(text: bytes) -> str:
    """Why JSON cannot be parsed in bounded stack and memory; empty if it can."""
    if len(text) > 2 * DEPTH and _openings(text) > DEPTH and _depth(text) > DEPTH:
        return f"JSON nested more than {DEPTH} deep"
    if len(text) > VALUES and _openings(text) + text.count(b",") + text.count(b":") > VALUES:
        return f"JSON of more than {VALUES:,} values"
    return ""


def _excesses(chunk: TextLines) -> dict[int, str]:
    """The lines that cannot be parsed, and why. Costs little: lines are looked at whose bytes could hold so much."""
    length = chunk.end - chunk.start
    long = np.flatnonzero(length > 2 * DEPTH)
    if not len(long):
        return {}
    upto = _openings_by_word(chunk.data)
    openings = upto[(chunk.end[long] + WORD - 1) // WORD] - upto[chunk.start[long] // WORD]
    found = ((row, excess(chunk.line(row))) for row in long[(openings > DEPTH) | (length[long] > VALUES)].tolist())
    return {row: reason for row, reason in found if reason}


def _openings_by_word(data: bytes) -> Ints:
    """How many [ and { there are before each word of 64 bytes."""
    bits = np.packbits((np.frombuffer(data, np.uint8) & 0xDF) == ord("["))  # { is [ with one bit more
    words = np.append(bits, np.zeros(-len(bits) % 8, np.uint8)).view(np.uint64)
    return np.concatenate(([0], np.cumsum(np.bitwise_count(words), dtype=np.int64)))


def _openings(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _depth(text: bytes) -> int:
    """Objects and lists within each other, at most; of no JSON, a number."""
    if b"\\" in text:
        text = ESCAPED.sub(b"", text)
    marks = np.frombuffer(text.translate(None, BRACKETS), np.uint8)
    outside = np.cumsum(marks == ord('"')) % 2 == 0
    opening, closing = np.isin(marks, (91, 123)) & outside, np.isin(marks, (93, 125)) & outside
    return int(np.cumsum(opening.astype(np.int64) - closing).max(initial=0))


def _parse(task: Task, chunk: TextLines) -> Iterator[Rows | Refusal]:
    """Rows of a chunk: of the lines that share a form, then of the others; halved while these do not parse, unless so
    many do not that the halves would not either."""
    whole = task.events.identity == "all"
    found = regular.columns(task, chunk) if len(chunk) > 16 else None
    if found is not None:
        table, rows = found
        yield (chunk.take(rows) if len(rows) < len(chunk) else chunk).rows(table, whole)
        chunk = chunk.take(np.delete(np.arange(len(chunk)), rows))
    if len(chunk) <= 16:
        yield from _slow(task, chunk)
        return
    schema = _schema(task, chunk)
    parsed = None if schema is None else _fast(task, chunk, schema)
    if parsed is not None:
        yield chunk.rows(parsed, whole)
    elif schema is None or len(chunk) <= SINGLE:
        for start in range(0, len(chunk), MANY):
            yield from _slow(task, chunk.take(slice(start, start + MANY)))
    else:
        half = len(chunk) // 2
        yield from _parse(task, chunk.take(slice(0, half)))
        yield from _parse(task, chunk.take(slice(half, None)))


def _fast(task: Task, chunk: TextLines, schema: pa.Schema) -> pa.Table | None:
    """Every line of a chunk in columns, or None if Arrow cannot do it, or might see other lines than there are."""
    content = np.frombuffer(chunk.data, np.uint8)
    if not ((content[chunk.start] == ord("{")) & (content[chunk.end - 1] == ord("}"))).all():
        return None
    raw = chunk.text()
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        whole = pj.ReadOptions(use_threads=False, block_size=raw.size + 1)
        table = pj.read_json(pa.BufferReader(raw), whole, options)
    except pa.ArrowInvalid:
        return None
    return table if len(table) == len(chunk) and _exact(task, table) else None


def _schema(task: Task, chunk: TextLines) -> pa.Schema | None:
    """Types of the task's fields by a sample of lines; None if no types would do."""
    rows = np.unique(np.linspace(0, len(chunk) - 1, SAMPLE).astype(np.int64))
    seen: dict[str, set[type]] = {name: set() for name in task.columns}
    for row in rows.tolist():
        record = _parsed(chunk.line(row))
        if not isinstance(record, dict):
            return None
        for name in task.columns:
            seen[name].add(type(record.get(name)))
    types = {name: _type(seen[name] - {type(None)}, kind) for name, kind in task.columns.items()}
    return None if None in types.values() else pa.schema(list(types.items()))


def _type(seen: set[type], kind: Kind) -> pa.DataType | None:
    if not seen:
        return {"text": pa.string(), "number": pa.float64(), "epoch": pa.int64()}[kind]
    if seen <= {int, float}:
        return pa.int64() if seen == {int} and kind != "number" else pa.float64()
    return records.TYPES[seen.pop()] if len(seen) == 1 and seen <= {str, bool} else None


def _exact(task: Task, table: pa.Table) -> bool:
    """Whether no whole number lost digits on its way into a float."""
    for name, kind in task.columns.items():
        if kind != "number" and pa.types.is_floating(table[name].type):
            cells = table[name].to_numpy()
            if np.abs(cells[~np.isnan(cells)]).max(initial=0) >= EXACT:
                return False
    return True


def _slow(task: Task, chunk: TextLines) -> Iterator[Rows | Refusal]:
    found: list[dict[str, object]] = []
    rows: list[int] = []
    for i in range(len(chunk)):
        record = _parsed(chunk.line(i))
        if isinstance(record, dict):
            found.append(record)
            rows.append(i)
        else:
            reason = "not a JSON object" if isinstance(record, str) else f"{_named(record)} instead of a JSON object"
            value = record if isinstance(record, str) else ""
            yield chunk.refusal(i, reason, value)
    good, bad = records.tables(task, found, compared=False)
    for row, (reason, value) in bad.items():
        yield chunk.refusal(rows[row], reason, value)
    for table, some in good:
        yield chunk.take(np.array(rows, np.int64)[some]).rows(table, task.events.identity == "all")


def _parsed(line: bytes) -> object:
    """The value on a line; a string for what is wrong with it."""
    try:
        value: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        return shorten(str(error))
    return [value] if isinstance(value, str) else value


def _named(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
