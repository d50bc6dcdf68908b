"""SQL over the output folder: DuckDB views of scores, forecasts, dead letters and ledger, and how results are printed.

A connection reads the generations that were current when it was made, so a query sees whole runs, whatever is published
meanwhile. It is in memory: nothing that a statement creates is kept.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TextIO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.rows import DEAD_LETTERS, LEDGER, score_schema
from pipelines.store import LEDGER as LEDGER_FILE
from pipelines.store import current, link_status

Format = Literal["table", "csv", "json"]
Row = tuple[object, ...]
T = TypeVar("T")

VIEWS = ("scores", "forecasts", "dead_letters", "ledger")
FETCH = 10_000  # rows at a time
TRIES = 20  # when what a statement reads is replaced twice meanwhile, and so removed
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
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
)
CELL = 60  # characters of a table's cell
NAMED = 24  # columns of a view that an error message names


@dataclass(frozen=True)
class Snapshot:
    """The files that were current at one moment."""

    scores: tuple[str, ...]
    dead_letters: tuple[tuple[str, str], ...]  # (status of the run, file)
    ledger: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Column names, DuckDB's types, and rows, which are fetched as they are read."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[Row]


def connect(out: str | os.PathLike[str]) -> duckdb.DuckDBPyConnection:
    """An in-memory connection, in UTC, with the views `scores`, `forecasts`, `dead_letters` and `ledger` of `out`.

    scores: one row of each score_id: the highest revision, of the run that finished last, at scored_at.
    forecasts: the paths among them, one row of each step ahead (1 is the first), with its quantiles p10, p50, ...
    dead_letters, ledger: the rows of all runs, with the status of the run.
    A folder without runs has empty views. The files stay until a run has been published twice more.
    Raises UserError if there is no such folder.
    """
    return _on_current(out, lambda con: con)


def select(out: str | os.PathLike[str], sql: str) -> Result:
    """The result of a statement over the views. Raises UserError, with the views and columns, if it fails."""
    try:
        return _on_current(out, lambda con: _execute(con, sql))
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
        limit: rows that a table shows, 0 for all; it says so if there are more. CSV and JSON are always whole.
    """
    result, to = select(out, sql), stream or sys.stdout
    if format == "table":
        _print_table(result, limit, to)
        return
    plain = ([_plain(v, t) for v, t in zip(row, result.types, strict=True)] for row in result.rows)
    if format == "csv":
        writer = csv.writer(to, lineterminator="\n")
        writer.writerow(result.names)
        writer.writerows([_nested(v) for v in row] for row in plain)
    else:
        to.writelines(_json(dict(zip(result.names, row, strict=True))) + "\n" for row in plain)


def snapshot(out: str | os.PathLike[str]) -> Snapshot:
    """The files behind the links. Raises UserError if there is no such folder."""
    folder = Path(out).resolve()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the output folder of `foretide score`")
    links = current(folder)
    for _ in range(TRIES):
        try:
            return _files(links)
        except FileNotFoundError:  # removed after the links were read, or by hand
            before, links = links, current(folder)
            if links == before:
                links = {name: g for name, g in links.items() if (g / LEDGER_FILE).is_file()}
    raise UserError(f"the runs in {folder} are replaced faster than they can be read: try again later")


def _files(links: Mapping[str, Path]) -> Snapshot:
    scores, dead, ledger = [], [], []
    for name, generation in links.items():
        status = link_status(name)
        if status == "published":
            scores += _parquet(generation / "scores")
        dead += [(status, f) for f in _parquet(generation / "dead_letters")]
        ledger.append(str(generation / LEDGER_FILE))
    return Snapshot(tuple(scores), tuple(dead), tuple(ledger))


def _parquet(folder: Path) -> list[str]:
    return sorted(str(folder / n) for n in os.listdir(folder) if n.endswith(".parquet"))


def _on_current(out: str | os.PathLike[str], use: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    for attempt in range(TRIES):
        files = snapshot(out)
        try:
            return use(_connect(files))
        except duckdb.IOException:
            if attempt + 1 == TRIES or files == snapshot(out):
                raise
    raise AssertionError("unreachable")


def _connect(files: Snapshot) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"CREATE VIEW scores AS {_scores(con, files)}")
    con.execute(f"CREATE VIEW forecasts AS {_forecasts(con)}")
    con.execute(f"CREATE VIEW dead_letters AS {_dead_letters(con, files)}")
    con.execute(f"CREATE VIEW ledger AS {_ledger(con, files)}")
    return con


def _scores(con: duckdb.DuckDBPyConnection, files: Snapshot) -> str:
    """Partitioned by what score_id is made of: conditions on these columns then reach the files."""
    source = _source(con, score_schema(()), files.scores)
    names = [row[0] for row in con.execute(f"DESCRIBE {source}").fetchall()]
    base = score_schema(()).names
    ordered = [*base[:5], *(n for n in names if n not in base), *base[5:]]
    columns = ", ".join(f"s.{_quoted(n)}" for n in ordered)
    return f"""
        SELECT {columns}, l.finished_at AS scored_at
        FROM ({source}) s JOIN ({_ledger(con, files)}) l ON l.run_id = s.run_id AND l.status = 'published'
        QUALIFY row_number() OVER (
            PARTITION BY s.task, s.entity_id, s.as_of ORDER BY s.revision DESC, l.finished_at DESC, s.run_id
        ) = 1"""


def _forecasts(con: duckdb.DuckDBPyConnection) -> str:
    """The columns step_<k> (the median) and step_<k>_p<q> of `scores` as rows."""
    columns = [row[0] for row in con.execute("DESCRIBE scores").fetchall()]
    found = [(m, c) for c in columns if (m := re.fullmatch(r"step_([0-9]+)(?:_(p[0-9_]+))?", c))]
    quantiles = sorted({m[2] or "p50" for m, _ in found}, key=lambda q: float(q[1:].replace("_", "."))) or ["p50"]
    column = {(int(m[1]), m[2] or "p50"): c for m, c in found}
    steps = [
        ", ".join(
            [f"'step': {k}", *(f"'{q}': {_quoted(column[k, q]) if (k, q) in column else 'NULL'}" for q in quantiles)]
        )
        for k in sorted({k for k, _ in column})
    ]
    key = "score_id, task, entity_id, as_of, revision, model_version"
    if not steps:
        return f"SELECT {key}, NULL::INTEGER AS step, NULL::FLOAT AS p50 FROM scores WHERE false"
    rows = f"SELECT {key}, unnest([{', '.join('{' + s + '}' for s in steps)}], recursive := true) FROM scores"
    return f"SELECT * FROM ({rows}) WHERE p50 IS NOT NULL"


def _dead_letters(con: duckdb.DuckDBPyConnection, files: Snapshot) -> str:
    by_status = {s: [f for status, f in files.dead_letters if status == s] for s, _ in files.dead_letters}
    sources = [f"SELECT *, '{s}' AS status FROM ({_source(con, DEAD_LETTERS, fs)})" for s, fs in by_status.items()]
    return " UNION ALL BY NAME ".join(sources or [f"SELECT *, '' AS status FROM ({_source(con, DEAD_LETTERS, ())})"])


def _ledger(con: duckdb.DuckDBPyConnection, files: Snapshot) -> str:
    return _source(con, LEDGER, files.ledger)


def _source(con: duckdb.DuckDBPyConnection, schema: pa.Schema, files: Sequence[str]) -> str:
    """A SELECT of all rows of the files; of no rows, with the columns of the schema, for no files."""
    if files:
        literals = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
        return f"SELECT * FROM read_parquet([{literals}], union_by_name = true)"
    con.register("empty", schema.empty_table())
    types = {row[0]: row[1] for row in con.execute("DESCRIBE empty").fetchall()}
    con.unregister("empty")
    return f"SELECT {', '.join(f'NULL::{t} AS {_quoted(n)}' for n, t in types.items())} WHERE false"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _execute(con: duckdb.DuckDBPyConnection, sql: str) -> Result:
    done = con.execute(sql)
    if done is None or not done.description:
        raise duckdb.InvalidInputException("there is no statement")
    names, types = zip(*((str(d[0]), str(d[1])) for d in done.description), strict=True)
    first = done.fetchmany(FETCH)  # so that files that are gone show here
    rest = chain.from_iterable(iter(lambda: done.fetchmany(FETCH), []))
    return Result(names, types, chain(first, rest))


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
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _nested(value: object) -> object:
    """What goes into a field of text: JSON for lists, structs and truth values."""
    return _json(value) if isinstance(value, list | dict | bool) else value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _print_table(result: Result, limit: int, to: TextIO) -> None:
    """Numbers to the right, the rest to the left; times to the second, line breaks escaped, long cells cut."""
    rows = list(islice(result.rows, limit + 1 if limit else None))
    cut = bool(limit) and len(rows) > limit
    rows = rows[:limit] if cut else rows
    columns = [_cells([row[i] for row in rows]) for i in range(len(result.names))]
    right = [t.partition("(")[0] in NUMBERS for t in result.types]
    widths = [max(map(len, [n, *cells])) for n, cells in zip(result.names, columns, strict=True)]
    lines: Iterable[Sequence[str]] = zip(*columns, strict=True)
    for line in (result.names, ["-" * w for w in widths], *lines):
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
