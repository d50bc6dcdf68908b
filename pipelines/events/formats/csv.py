"""CSV: a header line, then one row a line. Fields may be quoted, line ends inside quotes are not supported.

All fields are read as text; `decode` converts them, so that a value that does not convert costs one row. The separator
is the comma, unless the header has none and has semicolons or tabs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from pipelines.events import columns
from pipelines.events.formats import lines
from pipelines.events.formats.base import Ints, Piece, Refusal, Rows, Unreadable, explain, without
from pipelines.events.formats.lines import TextLines
from pipelines.task.spec import Task

OPEN = "a quote that does not close, or a line end inside quotes"
SEPARATORS = ",;\t|"
CLOSED = (
    '(?:"(?:[^"]|"")*"(?:[^"SEPARATOR][^SEPARATOR]*)?|(?:[^"SEPARATOR][^SEPARATOR]*)?)'  # as the parser reads a field
)


def header(path: str) -> tuple[list[str], str]:
    """(column names, separator) of a file; no names for one without a line.

    Raises:
      Unreadable, OSError: the file cannot be opened or read, or has no header.
    """
    first = next((line for line in lines.head(path).removeprefix(lines.BOM).splitlines() if line.strip()), b"")
    text = first.decode("utf-8", "backslashreplace")
    separator = max(SEPARATORS, key=lambda s: (s == "," and s in text, text.count(s)))
    try:
        return next(csv.reader([text], delimiter=separator), []), separator
    except csv.Error as error:
        raise Unreadable(f"no CSV header: {explain(error)}") from error


class Csv(lines.TextFormat):
    """The format; its fields are text."""

    name = "csv"
    title = "CSV"
    endings = (".csv",)

    def fields(self, path: str) -> dict[str, str]:
        """The names in the header; CSV has no types."""
        return dict.fromkeys(header(path)[0], "text")

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """Rows of the lines that begin in the piece, but for the header."""
        try:
            names, separator = header(piece.path)
        except (Unreadable, OSError) as error:
            yield Refusal("file", "a file that cannot be read", explain(error), "", 1, True)
            return
        lacking = next((c for c in task.columns if names.count(c) != 1), None)
        parser, heading, lost = Parser(task, names, separator), piece.start == 0, 0
        for chunk in lines.read(piece):
            if isinstance(chunk, Refusal):
                yield chunk
                continue
            if heading and len(chunk):
                chunk, heading = chunk.take(slice(1, None)), False
            if lacking is None:
                yield from parser.rows(chunk)
            lost += len(chunk)
        if lacking is not None and lost:
            yield without(lacking, names, lost)


READER = Csv()


class Parser:
    """Parses lines that share a header."""

    def __init__(self, task: Task, names: list[str], separator: str) -> None:
        self.task, self.names, self.separator = task, names, separator
        self.convert = pc.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=list(task.columns), check_utf8=False
        )
        field = CLOSED.replace("SEPARATOR", re.escape(separator))
        self.closed = f"^{field}(?:{re.escape(separator)}{field})*$"
        self.spare = ("\n" + separator * (len(names) - 1) + "\n").encode()

    def rows(self, chunk: TextLines) -> Iterator[Rows | Refusal]:
        """Lines that the parser might take for one row with the next, or for two, are refused beforehand."""
        chunk, other = lines.unicode(chunk)
        yield from other.refused("a line that is not UTF-8")
        split = _marks(chunk, b"\r") > 0
        yield from chunk.take(np.flatnonzero(split)).refused("a carriage return inside a row")
        odd = ~split & (_marks(chunk, b'"') % 2 == 1)
        yield from chunk.take(np.flatnonzero(odd)).refused(OPEN)
        good = ~(odd | split)
        if good.any():
            yield from self._parse(chunk if good.all() else chunk.take(np.flatnonzero(good)))

    def _parse(self, chunk: TextLines) -> Iterator[Rows | Refusal]:
        skipped: list[tuple[int, str]] = []
        table = self._table(chunk, skipped)
        if table is None:
            yield from self._apart(chunk)
            return
        for row, reason in skipped:
            yield chunk.refusal(row, "a row with another number of fields", reason)
        wrong = np.array([row for row, _ in skipped], np.int64)
        good = chunk.take(np.setdiff1d(np.arange(len(chunk)), wrong)) if skipped else chunk
        if len(good):
            yield good.rows(table, self.task.events.identity == "all")

    def _apart(self, chunk: TextLines) -> Iterator[Rows | Refusal]:
        """Lines of which the parser does not make a row each, without those that end inside quotes."""
        closed = columns.matches(chunk.array(), self.closed)
        if not closed.any() or len(chunk) == 1:
            yield from chunk.refused(OPEN)
        elif not closed.all():
            yield from chunk.take(np.flatnonzero(~closed)).refused(OPEN)
            yield from self._parse(chunk.take(np.flatnonzero(closed)))
        else:  # it can miscount rows with another number of fields that are megabytes long
            half = len(chunk) // 2
            yield from self._parse(chunk.take(slice(0, half)))
            yield from self._parse(chunk.take(slice(half, None)))

    def _table(self, chunk: TextLines, skipped: list[tuple[int, str]]) -> pa.Table | None:
        def skip(row: pc.InvalidRow) -> str:
            skipped.append((row.number - 1, f"{row.actual_columns} instead of {row.expected_columns}"))
            return "skip"

        raw, spare = chunk.text(), int(b'"' in chunk.data)
        if spare:  # a row that an open quote would swallow
            raw = pa.py_buffer(b"".join([raw, self.spare]))
        read = pc.ReadOptions(use_threads=False, block_size=raw.size + 1, column_names=self.names)
        parse = pc.ParseOptions(delimiter=self.separator, ignore_empty_lines=False, invalid_row_handler=skip)
        try:
            table = pc.read_csv(pa.BufferReader(raw), read, parse, self.convert)
        except pa.ArrowInvalid:
            return None
        return table[: len(table) - spare] if len(table) + len(skipped) == len(chunk) + spare else None


def _marks(chunk: TextLines, mark: bytes) -> Ints:
    """(n) how many of a character each line has."""
    if mark not in chunk.data:
        return np.zeros(len(chunk), np.int64)
    at = np.flatnonzero(np.frombuffer(chunk.data, np.uint8) == mark[0])
    return np.searchsorted(at, chunk.end) - np.searchsorted(at, chunk.start)
