"""SQL over the output folder, and how results are printed. The views, and which files they read: `views`.

A connection reads the generations that were current when it was made, and what live jobs had written by then, so a
query sees whole runs, whatever is published meanwhile. It is in memory: nothing that a statement creates is kept.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import Literal, TextIO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.storage.folder.views import TRIES, VIEWS, connected, snapshot
from pipelines.system.screen import for_data, in_json, one_line

Format = Literal["table", "csv", "spreadsheet", "json"]
Row = tuple[object, ...]
T = TypeVar("T")

FETCH = 10_000  # rows at a time
TABLE_ROWS = 100
NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UBIGINT",
    "UHUGEINT",
    "UINTEGER",
    "USMALLINT",
    "UTINYINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
)
# How text begins that a spreadsheet computes, by OWASP: the signs also in full width.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
CELL = 60  # characters of a table's cell
NAMED = 24  # columns of a view that an error message names


@dataclass(frozen=True)
class QueryResult:
    """Column names, DuckDB's types, and rows, which are fetched as they are read."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[Row]


def connect(out: str | os.PathLike[str]) -> duckdb.DuckDBPyConnection:
    """An in-memory connection, in UTC, with the views of `out`, which are empty for a folder without runs.

    scores, which is scores_current, scores_history, scores_forecasts, scores_movers, scores_calibration:
      see `view_sql`.
    dead_letters: the rows of all runs, with the status of the run.
    ledger: one row of each run, that of a live job (status live) up to now, with the events that are still pending.

    The files stay until a run has been published twice more, those of live jobs for a minute at least.
    Raises UserError if there is no such folder.
    """
    return _on_current(out, lambda con: con)


def select(out: str | os.PathLike[str], sql: str) -> QueryResult:
    """The result of a statement over the views. Raises UserError, with the views and columns, if it fails."""
    return _answer(out, sql, _execute)


def table(out: str | os.PathLike[str], sql: str) -> pa.Table:
    """The same, whole and as Arrow has it."""
    return _answer(out, sql, _whole)


def _answer(out: str | os.PathLike[str], sql: str, fetch: Callable[[duckdb.DuckDBPyConnection, str], T]) -> T:
    if any("\ud800" <= c <= "\udfff" for c in sql):
        raise UserError("the statement is not text in UTF-8")
    try:
        return _on_current(out, lambda con: fetch(con, sql))
    except (duckdb.Error, OverflowError, ValueError) as e:
        raise UserError(_explain(e, connect(out))) from e


def query(
    out: str | os.PathLike[str],
    sql: str,
    format: Format = "table",
    limit: int = TABLE_ROWS,
    stream: TextIO | None = None,
) -> None:
    """Prints the result of a statement: an aligned table, CSV with a header, or JSON lines. Times are in UTC.

    Args:
        format: csv is exact, for programs; in spreadsheet, also CSV, a quote (') stands before text that begins as a
            formula does, so that what an event brought is not computed where it is opened.
        limit: rows that a table shows, 0 for all; it says so if there are more. CSV and JSON are always whole.
    """
    result, to = select(out, sql), stream or sys.stdout
    if format == "table":
        _print_table(result, limit, to)
        return
    to = for_data(to)
    plain = ([_plain(v, t) for v, t in zip(row, result.types, strict=True)] for row in result.rows)
    if format == "json":
        twice = next((name for name, times in Counter(result.names).items() if times > 1), None)
        if twice is not None:
            raise UserError(f"two columns are named {twice}, and JSON keeps one: name them apart with AS")
        to.writelines(in_json(_json(dict(zip(result.names, row, strict=True)))) + "\n" for row in plain)
        return
    writer = csv.writer(_Lines(to), lineterminator="\r\n")  # of which it quotes either in a field
    cell = _nested if format == "csv" else _uncomputed
    writer.writerow(map(cell, result.names))
    writer.writerows(map(cell, row) for row in plain)


@dataclass(frozen=True)
class _Lines:
    """Ends the lines of a CSV writer as every system's tools take them."""

    to: TextIO

    def write(self, line: str) -> int:
        return self.to.write(line.removesuffix("\r\n") + "\n")


def _on_current(out: str | os.PathLike[str], use: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    for attempt in range(TRIES):
        files = snapshot(out)
        try:
            return use(connected(files))
        except duckdb.IOException:
            if attempt + 1 == TRIES or files == snapshot(out):
                raise
    raise AssertionError("unreachable")


def _execute(con: duckdb.DuckDBPyConnection, sql: str) -> QueryResult:
    done = con.execute(sql)
    if done is None or not done.description:
        raise duckdb.InvalidInputException("there is no statement")
    names, types = zip(*((str(d[0]), str(d[1])) for d in done.description), strict=True)
    first = done.fetchmany(FETCH)  # so that files that are gone show here
    rest = chain.from_iterable(iter(lambda: done.fetchmany(FETCH), []))
    return QueryResult(names, types, chain(first, rest))


def _whole(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    done = con.sql(sql)
    if done is None:
        raise duckdb.InvalidInputException("there is no statement that gives rows")
    return done.to_arrow_table()


def _explain(error: Exception, con: duckdb.DuckDBPyConnection) -> str:
    """DuckDB's message without blank lines, and what there is to ask for."""
    lines = [line for line in str(error).splitlines() if line.strip()][:6]
    for view in VIEWS:
        names = [row[0] for row in con.execute(f"DESCRIBE {view}").fetchall()]
        more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"  {view}({', '.join(names[:NAMED])}{more})")
    lines.insert(-len(VIEWS), "The views are:")
    return "\n".join(lines)


def _plain(value: object, type_: str = "") -> object:
    """A value that JSON has: times as ISO 8601, 32-bit floats with their own digits, NaN and infinities as null."""
    if isinstance(value, float):
        shortest = float(str(np.float32(value))) if type_ == "FLOAT" else value
        return shortest if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat() + ("Z" if value.tzinfo else "")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _nested(value: object) -> object:
    """What goes into a field of text: JSON for lists, structs and truth values."""
    return _json(value) if isinstance(value, list | dict | bool) else value


def _uncomputed(value: object) -> object:
    """The same, but for text that a spreadsheet would take for a formula. Numbers stay numbers."""
    text = _nested(value)
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _print_table(result: QueryResult, limit: int, to: TextIO) -> None:
    """Numbers to the right, the rest to the left; times to the second, line breaks escaped, long cells cut."""
    rows = list(islice(result.rows, limit + 1 if limit else None))
    cut = bool(limit) and len(rows) > limit
    rows = rows[:limit] if cut else rows
    names = [one_line(name) for name in result.names]
    columns = [_cells([row[i] for row in rows]) for i in range(len(names))]
    right = [t.partition("(")[0] in NUMBERS for t in result.types]
    widths = [max(map(len, [n, *cells])) for n, cells in zip(names, columns, strict=True)]
    lines: Iterable[Sequence[str]] = zip(*columns, strict=True)
    for line in (names, ["-" * w for w in widths], *lines):
        fields = zip(line, widths, right, strict=True)
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in fields).rstrip(), file=to)
    if cut:
        print(f"(the first {limit} rows; there are more: --limit 0 shows all)", file=to)
    elif not rows:
        print("(no rows)", file=to)


def _cells(values: Sequence[object]) -> list[str]:
    cells = [_cell(v) for v in values]
    if any(isinstance(v, datetime) for v in values) and all(c.endswith(" 00:00:00") or not c for c in cells):
        cells = [c.removesuffix(" 00:00:00") for c in cells]
    return cells


def _cell(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, datetime):
        text = str(value.replace(tzinfo=None, microsecond=0))
    else:
        text = "" if value is None else str(_nested(_plain(value)))
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: CELL + 1])
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
