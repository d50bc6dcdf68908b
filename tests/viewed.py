"""Score rows of a run, with the facts of its task, in an output folder: for tests of what views make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.live import append, prepare
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import Run, ledger_table, live_ledger_table, live_schema, score_schema
from tests.publisher import SCORES

NOTHING = Ledger()
Row = tuple[str, int, int, str, int, Sequence[float | None]]  # entity, as-of, revision, model, last event, scores


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
    prepare(out, run.run_id)
    append(out, run.run_id, "scores", rows, finished_at)
    append(out, run.run_id, "ledger", live_ledger_table(run, Ledger(), finished_at), finished_at)
