"""The columns of scores, dead letters and the ledger, and Parquet files of them: the same for every sink. No Beam here.

How rows are made of what a pipeline gives is in `transforms.output_rows`, and how they are kept, in a package for each
sink beside this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import NEVER, Ledger, Status, total
from pipelines.system.files import write_file

TIME = pa.timestamp("us", "UTC")
COUNTS = tuple(f.name for f in fields(Ledger) if f.name not in ("first_time", "last_time", "reasons"))

# In SQL: of the rows of a score and revision the first counts; dead letters that have these columns in common are one;
# and of a live job's ledger the last row of each attempt counts.
NEWER = "scored_at DESC, n_events DESC, model_version DESC"
LETTER = "run_id, stage, source, position, reason"
LAST = "row_number() OVER (PARTITION BY run_id, attempt ORDER BY finished_at DESC) = 1"

ROW_GROUP = 131_072
REPEATED = ("task", "entity_id", "model_version", "run_id", "stage", "source", "reason")
REASONS = pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))

DEAD_LETTERS = pa.schema(
    [
        ("stage", pa.string()),
        ("source", pa.string()),
        ("position", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int64()),
        ("raw", pa.string()),
        ("payload", pa.binary()),  # what is to be sent again; null where there is nothing to send
        ("attributes", pa.string()),  # of that message: a JSON object, null for none
        ("run_id", pa.string()),
    ]
)

LEDGER = pa.schema(
    [
        ("run_id", pa.string()),
        ("attempt", pa.string()),
        ("task", pa.string()),
        ("model_version", pa.string()),
        ("status", pa.string()),
        ("started_at", TIME),
        ("finished_at", TIME),
        ("inputs", pa.list_(pa.string())),
        *((name, pa.int64()) for name in COUNTS),
        ("first_time", TIME),  # of an event; null when there was none
        ("last_time", TIME),
        ("reasons", REASONS),
        ("differences", pa.list_(pa.string())),
        ("horizon", pa.int64()),  # us, of the churn that scores foretell; null for other labels
        ("active_within", pa.int64()),  # us before an as-of in which an entity must have been active to churn
    ]
)


@dataclass(frozen=True)
class Run:
    """What the rows of a run over files, or of a live job, say of it."""

    run_id: str  # what is computed
    attempt: str  # no other launch has it
    task: str
    outputs: tuple[str, ...]  # names of the score columns
    inputs: tuple[str, ...]  # file patterns; of a live job the subscription, and the files that it started from
    started_at: int  # us
    model_version: str = ""  # of a live job, each row has its own
    max_bad_share: float = 1.0  # of the rows read: with more bad ones a run publishes nothing
    horizon: int | None = None  # us, of a churn label
    active_within: int | None = None  # us


def score_schema(outputs: Sequence[str]) -> pa.Schema:
    """The columns of scores. When they were written is not among them: the same scores are the same bytes."""
    return pa.schema(
        [
            ("score_id", pa.string()),
            ("task", pa.string()),
            ("entity_id", pa.string()),
            ("as_of", TIME),
            ("revision", pa.int32()),
            *((name, pa.float32()) for name in outputs),
            ("model_version", pa.string()),
            ("n_events", pa.int64()),
            ("last_event_time", TIME),
            ("run_id", pa.string()),
        ]
    )


def live_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a live job's scores or dead letters: those of any run, and when the row was written."""
    return schema.append(pa.field("scored_at" if "score_id" in schema.names else "written_at", TIME))


def ledger_table(run: Run, ledger: Ledger, status: Status, finished_at: int) -> pa.Table:
    """The one row of a run's ledger."""
    return _ledger_row(run, ledger, finished_at, model_version=run.model_version, status=status)


def live_ledger_table(run: Run, ledger: Ledger, finished_at: int) -> pa.Table:
    """All that an attempt of a live job has counted by a time, us. See `live_ledger`.

    It names no differences: while a job runs, events and sequences are under way.
    """
    return _ledger_row(run, ledger, finished_at, status="live", differences=[])


def _ledger_row(run: Run, ledger: Ledger, finished_at: int, **facts: object) -> pa.Table:
    row = {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "task": run.task,
        "started_at": run.started_at,
        "finished_at": finished_at,
        "inputs": list(run.inputs),
        "horizon": run.horizon,
        "active_within": run.active_within,
        "differences": list(ledger.differences),
        **_counts(ledger),
        **facts,
    }
    return pa.table({f.name: pa.array([row.get(f.name)], f.type) for f in LEDGER})


def _counts(ledger: Ledger) -> dict[str, object]:
    return {
        **{name: getattr(ledger, name) for name in COUNTS},
        "first_time": None if ledger.first_time == NEVER else ledger.first_time,
        "last_time": None if ledger.last_time == -NEVER else ledger.last_time,
        "reasons": [{"reason": reason, "count": count} for reason, count in ledger.reasons],
    }


def read_ledger(path: Path) -> Ledger:
    """The counts in a ledger file."""
    return ledgers(pq.read_table(path))[0]


def ledgers(table: pa.Table) -> list[Ledger]:
    """The counts of each row of a ledger table; 0 for a column that it lacks."""
    times = {name: table[name].cast(pa.int64()) for name in ("first_time", "last_time")}
    counts = {name: table[name] for name in (*COUNTS, "reasons") if name in table.column_names}
    return [_ledger(row) for row in pa.table({**counts, **times}).to_pylist()]


def live_ledger(tables: Iterable[pa.Table]) -> Ledger:
    """What the rows of a live job's ledger say together: the last one of each attempt, summed."""
    last: dict[str, tuple[int, Ledger]] = {}
    for table in tables:
        times = table["finished_at"].cast(pa.int64()).to_pylist()
        for attempt, at, ledger in zip(table["attempt"].to_pylist(), times, ledgers(table), strict=True):
            if attempt not in last or last[attempt][0] < at:
                last[attempt] = at, ledger
    return total(ledger for _, ledger in last.values())


def _ledger(row: dict[str, Any]) -> Ledger:
    return Ledger(
        **{name: row.get(name) or 0 for name in COUNTS},
        first_time=NEVER if row["first_time"] is None else row["first_time"],
        last_time=-NEVER if row["last_time"] is None else row["last_time"],
        reasons=tuple((r["reason"], r["count"]) for r in row["reasons"]),
    )


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet whose bytes depend on the rows alone, whole or not at all."""

    def write(f: object) -> None:
        pq.write_table(
            table,
            f,
            row_group_size=ROW_GROUP,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in table.column_names if name in REPEATED],
        )

    write_file(path, write)
