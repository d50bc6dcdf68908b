"""What runs over files and live jobs leave in an output folder, for tests of what is read from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.folder.live import append, make_folders
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import Run, ledger_table, live_ledger_table, live_schema, score_schema
from tests.support.publishing_process import PARTS, SCORES, write_values

NOTHING = Ledger()
Row = tuple[str, int, int, str, int, Sequence[float | None]]  # entity, as-of, revision, model, last event, scores


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


def score_table(run: Run, rows: Sequence[Row], scored_at: int) -> pa.Table:
    """Rows as a live job has them; times in us."""
    names = ("entity_id", "as_of", "revision", "model_version", "last_event_time")
    same = {"task": run.task, "run_id": run.run_id, "n_events": 1, "scored_at": scored_at}
    made = [
        {
            "score_id": f"{run.task} {row[0]} {row[1]}",
            **same,
            **dict(zip(names, row, strict=False)),
            **dict(zip(run.outputs, row[-1], strict=True)),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=live_schema(score_schema(run.outputs)))


def publish_rows(out: Path, run: Run, rows: pa.Table, finished_at: int, ledger: Ledger = NOTHING) -> None:
    """As a run over files."""
    with begin(out, run.run_id, run.attempt) as attempt:
        pq.write_table(rows.drop_columns(["scored_at"]), attempt.data / SCORES)
        pq.write_table(ledger_table(run, ledger, "published", finished_at), attempt.data / LEDGER)
        publish(attempt, "published", [SCORES])


def append_rows(out: Path, run: Run, rows: pa.Table, finished_at: int) -> None:
    """As a live job."""
    make_folders(out, run.run_id)
    append(out, run.run_id, "scores", rows, finished_at)
    append(out, run.run_id, "ledger", live_ledger_table(run, Ledger(), finished_at), finished_at)
