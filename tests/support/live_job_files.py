"""Files of a live job for tests; and, as a forking process, children that merge them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import append
from pipelines.storage.rows import DEAD_LETTERS, Run, live_ledger_table, live_schema, score_schema
from tests.support.forking_process import serve

RUN = "churn-live"
FAN = 3
HOUR = 3_600_000_000

Row = tuple[str, int, int, float]  # entity, as-of in hours, revision, score


def append_scores(out: Path, rows: Sequence[Row], at: int, run_id: str = RUN, task: str = "churn") -> Path:
    same = {"task": task, "model_version": "m", "n_events": 1, "last_event_time": 0, "run_id": run_id, "scored_at": at}
    columns = [
        {"score_id": f"{task} {e} {t}", "entity_id": e, "as_of": t * HOUR, "revision": revision, "churn": score, **same}
        for e, t, revision, score in rows
    ]
    table = pa.Table.from_pylist(columns, schema=live_schema(score_schema(["churn"])))
    return append(out, run_id, "scores", table, at)


def append_letters(out: Path, positions: Sequence[str], at: int, run_id: str = RUN) -> Path:
    same = {"stage": "read", "source": "s", "reason": "bad", "rows": 1, "raw": "\\xff", "payload": b"\xff"}
    same |= {"attributes": '{"k": "v"}', "run_id": run_id, "written_at": at}
    table = pa.Table.from_pylist([{"position": p, **same} for p in positions], schema=live_schema(DEAD_LETTERS))
    return append(out, run_id, "dead_letters", table, at)


def append_ledger(out: Path, ledger: Ledger, at: int, run_id: str = RUN, attempt: str = "a") -> Path:
    """All that an attempt has counted so far."""
    run = Run(run_id, attempt, "churn", ("churn",), ("projects/p/subscriptions/s",), 5)
    return append(out, run_id, "ledger", live_ledger_table(run, ledger, at), at)


def main(out: Path, grace: float) -> None:
    def merge() -> None:
        compact(out, RUN, grace, FAN)

    serve(merge, merge, where=str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
