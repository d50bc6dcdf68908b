"""What the Parquet files of a run hold: the columns of scores, dead letters and the ledger. No Beam here.

`transforms.sink` makes the rows, `store` keeps the files, `query` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger import NEVER, Ledger
from pipelines.store import Attempt, Status

TIME = pa.timestamp("us", "UTC")
COUNTS = tuple(f.name for f in fields(Ledger) if f.name not in ("first_time", "last_time", "reasons"))
REASONS = pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))

DEAD_LETTERS = pa.schema(
    [
        ("stage", pa.string()),
        ("source", pa.string()),
        ("position", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int64()),
        ("raw", pa.string()),
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
    ]
)


@dataclass(frozen=True)
class RunTarget:
    """What a run writes, and where."""

    attempt: Attempt
    task: str
    outputs: tuple[str, ...]  # names of the score columns
    model_version: str
    inputs: tuple[str, ...]  # file patterns
    started_at: int  # us
    max_bad_share: float = 0.05


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


def ledger_table(target: RunTarget, ledger: Ledger, status: Status, finished_at: int) -> pa.Table:
    """The one row of a run's ledger."""
    row = {
        "run_id": target.attempt.run_id,
        "attempt": target.attempt.attempt,
        "task": target.task,
        "model_version": target.model_version,
        "status": status,
        "started_at": target.started_at,
        "finished_at": finished_at,
        "inputs": list(target.inputs),
        **{name: getattr(ledger, name) for name in COUNTS},
        "first_time": None if ledger.first_time == NEVER else ledger.first_time,
        "last_time": None if ledger.last_time == -NEVER else ledger.last_time,
        "reasons": [{"reason": reason, "count": count} for reason, count in ledger.reasons],
        "differences": list(ledger.differences),
    }
    return pa.table({f.name: pa.array([row[f.name]], f.type) for f in LEDGER})


def read_ledger(path: Path) -> Ledger:
    """The counts in a ledger file."""
    table = pq.read_table(path)
    counts = {name: table[name][0].as_py() for name in COUNTS}
    first, last = (table[name].cast(pa.int64())[0].as_py() for name in ("first_time", "last_time"))
    reasons = tuple((r["reason"], r["count"]) for r in table["reasons"][0].as_py())
    return Ledger(
        **counts,
        first_time=NEVER if first is None else first,
        last_time=-NEVER if last is None else last,
        reasons=reasons,
    )
