"""Generations of a run for tests of the output folder; and, as a forking process, children that publish them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import DEAD_LETTERS, Run, ledger_table, score_schema
from tests.support.forking_process import serve

RUN = "churn-1"
SCORES, LETTERS = "scores/part-00000.parquet", "dead_letters/part-00000.parquet"
PARTS = (SCORES, LETTERS)
VALUES = 5


def write_values(
    folder: Path, value: int, rows: int = 3, run: str = RUN, status: Status = "published", finished_at: int = 1
) -> None:
    """A generation's files, in which everything says `value`."""
    for name in ("scores", "dead_letters"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entities = [f"e{i}" for i in range(rows)]
    score = {"score_id": entities, "task": ["churn"] * rows, "entity_id": entities, "as_of": [0] * rows}
    score |= {"revision": [0] * rows, "churn": [float(value)] * rows, "model_version": ["m"] * rows}
    score |= {"n_events": [value] * rows, "last_event_time": [value] * rows, "run_id": [run] * rows}
    pq.write_table(pa.table(score, schema=score_schema(["churn"])), folder / SCORES)
    letter = ["read", "f", "row 1", "bad", value, "", None, None, run]
    pq.write_table(pa.table([[v] * rows for v in letter], schema=DEAD_LETTERS), folder / LETTERS)
    facts = Run(run, "a", "churn", ("churn",), (), 0, "m")
    ledger = Ledger(read=value, accepted=value)
    pq.write_table(ledger_table(facts, ledger, status, finished_at), folder / LEDGER)


def publish_copy(out: Path, template: Path) -> None:
    with begin(out, RUN, f"{time.time_ns()}-{os.getpid()}") as run:
        shutil.copytree(template, run.data, dirs_exist_ok=True)
        publish(run, "published", PARTS)


def main(out: Path, templates: Path) -> None:
    def once() -> None:
        publish_copy(out, templates / str(time.time_ns() % VALUES))

    def loop() -> None:
        once()
        time.sleep(0.03)

    serve(once, loop)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
