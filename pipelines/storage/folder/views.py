"""The DuckDB views over the files of an output folder: which files there are, and the SQL that reads them as one.

What the views of scores say is in `view_sql`. `query` runs statements over them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.storage.folder.live import KINDS, Kind, folder, live_runs, parquet, parts
from pipelines.storage.folder.runs import LEDGER as LEDGER_FILE
from pipelines.storage.folder.runs import current, link_status
from pipelines.storage.rows import COUNTS, DEAD_LETTERS, LAST, LEDGER, LETTER, live_schema, score_schema
from pipelines.storage.view_sql import DUCKDB, ordered, score_views

VIEWS = (
    "scores",
    "scores_current",
    "scores_history",
    "scores_forecasts",
    "scores_movers",
    "scores_calibration",
    "dead_letters",
    "ledger",
)
TRIES = 20  # when what is to be read is replaced twice meanwhile, and so removed

ONCE = f"row_number() OVER (PARTITION BY {LETTER} ORDER BY written_at DESC) = 1"
PENDING = "(read - accepted - rejected - duplicates - outside - filtered)"


@dataclass(frozen=True)
class Snapshot:
    """The files that were current at one moment, and those of live jobs."""

    scores: tuple[str, ...]
    dead_letters: tuple[tuple[str, str], ...]  # (status of the run, file)
    ledger: tuple[str, ...]
    live: Mapping[Kind, tuple[str, ...]]


@dataclass(frozen=True)
class _Rows:
    """A SELECT, and the names of its columns."""

    sql: str
    columns: Sequence[str]


def snapshot(out: str | os.PathLike[str]) -> Snapshot:
    """The files behind the links, and those of live jobs. Raises UserError if it is not there, or closed."""
    try:
        return _snapshot(Path(os.path.realpath(out)))
    except PermissionError as error:
        raise UserError(f"{error.filename}: you may not read it: ask its owner, or be of its group") from None
    except OSError as error:
        raise UserError(
            f"{out}: cannot be read: {error.strerror or error}; give the output folder of `foretide score`"
        ) from None


def _snapshot(place: Path) -> Snapshot:
    if not place.is_dir():
        raise UserError(f"there is no folder {place}: give the output folder of `foretide score`")
    links = current(place)
    for _ in range(TRIES):
        try:
            runs = live_runs(place)
            live = {kind: tuple(str(p) for run in runs for p in parts(folder(place, run, kind))) for kind in KINDS}
            return _files(links, live)
        except FileNotFoundError:  # removed after the links were read, or by hand
            before, links = links, current(place)
            if links == before:
                links = {name: g for name, g in links.items() if (g / LEDGER_FILE).is_file()}
    raise UserError(f"the runs in {place} are replaced faster than they can be read: try again later")


def _files(links: Mapping[str, Path], live: Mapping[Kind, tuple[str, ...]]) -> Snapshot:
    scores, dead, ledger = [], [], []
    for name, generation in links.items():
        status = link_status(name)
        if status == "published":
            scores += _parquet(generation / "scores")
        dead += [(status, f) for f in _parquet(generation / "dead_letters")]
        ledger.append(str(generation / LEDGER_FILE))
    return Snapshot(tuple(scores), tuple(dead), tuple(ledger), live)


def _parquet(folder: Path) -> list[str]:
    return sorted(str(folder / n) for n in os.listdir(folder) if n.endswith(".parquet"))


def connected(files: Snapshot) -> duckdb.DuckDBPyConnection:
    """A connection in memory with the views that `query.connect` describes."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    rows, outputs = _score_rows(con, files)
    con.execute(f"CREATE VIEW dead_letters AS {_dead_letters(con, files)}")
    con.execute(f"CREATE VIEW ledger AS {_ledger(con, files)}")
    for name, sql in score_views(DUCKDB, f"({rows})", "ledger", "scores_current", outputs).items():
        con.execute(f"CREATE VIEW scores_{name} AS {sql}")
    con.execute("CREATE VIEW scores AS FROM scores_current")
    return con


def _score_rows(con: duckdb.DuckDBPyConnection, files: Snapshot) -> tuple[str, list[str]]:
    """All scores of published runs and of live jobs, with the outputs of all tasks; and the names of these."""
    schema = score_schema(())
    batch, live = _source(con, schema, files.scores), _source(con, live_schema(schema), files.live["scores"])
    sources = [_finished(con, files, batch.sql, "published", "scored_at")]
    if files.live["scores"]:
        sources.append(live.sql)
    base = live_schema(schema).names
    outputs = [name for name in dict.fromkeys((*batch.columns, *live.columns)) if name not in base]
    return _union(sources), ordered(outputs)


def _dead_letters(con: duckdb.DuckDBPyConnection, files: Snapshot) -> str:
    by_status: dict[str, list[str]] = {}
    for status, file in files.dead_letters:
        by_status.setdefault(status, []).append(file)
    sources = [
        f"SELECT *, '{s}' AS status FROM ({_finished(con, files, _source(con, DEAD_LETTERS, fs).sql, s, 'written_at')})"
        for s, fs in by_status.items()
    ]
    live = _source(con, live_schema(DEAD_LETTERS), files.live["dead_letters"])
    return _union([*sources, f"SELECT *, 'live' AS status FROM ({live.sql}) QUALIFY {ONCE}"])


def _ledger(con: duckdb.DuckDBPyConnection, files: Snapshot) -> str:
    sources = [_source(con, LEDGER, files.ledger).sql]
    if files.live["ledger"]:
        sources.append(_live_ledger(_source(con, LEDGER, files.live["ledger"]).sql))
    return f"SELECT *, {PENDING} AS pending FROM ({_union(sources)})"


def _finished(con: duckdb.DuckDBPyConnection, files: Snapshot, rows: str, status: str, name: str) -> str:
    """The rows of runs of a status, and when the run was finished."""
    ledger = _source(con, LEDGER, files.ledger).sql
    runs = f"SELECT run_id, finished_at FROM ({ledger}) WHERE status = '{status}'"
    return f"SELECT r.*, l.finished_at AS {name} FROM ({rows}) r JOIN ({runs}) l ON l.run_id = r.run_id"


def _live_ledger(source: str) -> str:
    """One row of each live job: the sums over its attempts, which differ only where more is accounted for than read."""
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in COUNTS)
    return f"""
        WITH parts AS MATERIALIZED (SELECT * FROM ({source}) QUALIFY {LAST}),
        sums AS (
            SELECT run_id, arg_max(task, finished_at) AS task, 'live' AS status, min(started_at) AS started_at,
                max(finished_at) AS finished_at, arg_max(inputs, finished_at) AS inputs, {sums},
                min(first_time) AS first_time, max(last_time) AS last_time,
                arg_max(horizon, finished_at) AS horizon, arg_max(active_within, finished_at) AS active_within
            FROM parts GROUP BY run_id
        ),
        reasons AS (
            SELECT run_id, list({{'reason': reason, 'count': n}} ORDER BY reason) AS reasons
            FROM (
                SELECT run_id, r.reason AS reason, sum(r.count)::BIGINT AS n
                FROM (SELECT run_id, unnest(reasons) AS r FROM parts) GROUP BY ALL
            ) GROUP BY run_id
        )
        SELECT sums.*, coalesce(reasons.reasons, []) AS reasons,
            list_filter([
                CASE WHEN {PENDING} < 0 THEN read || ' events read, ' || read - {PENDING} || ' accounted for' END,
                CASE WHEN sequences < scored + failed
                    THEN sequences || ' sequences, ' || scored || ' scored and ' || failed || ' failed' END
            ], lambda d: d IS NOT NULL) AS differences
        FROM sums LEFT JOIN reasons USING (run_id)"""


def _source(con: duckdb.DuckDBPyConnection, schema: pa.Schema, files: Sequence[str]) -> _Rows:
    """All rows of the files; those columns of the schema that none of them has are null."""
    con.register("empty", schema.empty_table())
    types = {row[0]: row[1] for row in con.execute("DESCRIBE empty").fetchall()}
    con.unregister("empty")
    described = con.execute(f"DESCRIBE SELECT * FROM {parquet(files)}").fetchall() if files else []
    found = [row[0] for row in described]
    absent = {name: f"NULL::{type_} AS {DUCKDB.quoted(name)}" for name, type_ in types.items() if name not in found}
    if not files:
        return _Rows(f"SELECT {', '.join(absent.values())} WHERE false", list(types))
    return _Rows(f"SELECT {', '.join(['*', *absent.values()])} FROM {parquet(files)}", [*found, *absent])


def _union(selects: Sequence[str]) -> str:
    return " UNION ALL BY NAME ".join(f"({select})" for select in selects)
