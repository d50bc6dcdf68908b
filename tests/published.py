"""Runs over files for tests, published into an output folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import Run, ledger_table, score_schema
from tests.publisher import PARTS, SCORES, write_values


def put(out: Path, run_id: str, value: int, finished_at: int = 1, status: Status = "published", rows: int = 3) -> None:
    with begin(out, run_id, f"{status}-{value}") as run:
        write_values(run.data, value, rows, run_id, status, finished_at)
        publish(run, status, PARTS if status == "published" else PARTS[1:])


def put_scores(out: Path, run_id: str, columns: dict[str, list[object]], finished_at: int = 1) -> None:
    """A run of one task whose scores have these columns; the others are the same for all."""
    n = len(columns["entity_id"])
    names = [c for c in columns if c not in score_schema([]).names]
    same: dict[str, object] = {"task": "churn", "as_of": 0, "revision": 0, "n_events": 1, "last_event_time": 0}
    same |= {"score_id": "x", "model_version": "m", "run_id": run_id}
    schema = score_schema(names)
    with begin(out, run_id, "a") as run:
        table = pa.table({c: columns.get(c) or [same[c]] * n for c in schema.names}, schema=schema)
        pq.write_table(table, run.data / SCORES)
        facts = Run(run_id, "a", "churn", tuple(names), (), 0, "m")
        pq.write_table(ledger_table(facts, Ledger(), "published", finished_at), run.data / LEDGER)
        publish(run, "published", [SCORES])
