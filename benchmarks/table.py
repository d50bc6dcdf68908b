"""Score rows into BigQuery: `python -m benchmarks.table HOW ROWS`, on an emulator of its own.

`ours` is the sink of a run, from blocks of scores to rows that can be seen after its merge; `bare` is a loop over the
same client that appends ready Arrow tables to pending streams and commits them. Both write `ROWS` rows of `AS_OFS`
as-ofs; the time is from the first row to the last one that can be seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from benchmarks.measure import Meter
from pipelines.google.bigquery import execute, writer
from pipelines.google.tables import Table
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.storage.bigquery import schema, staging
from pipelines.storage.bigquery.append import append_pending, commit
from pipelines.storage.rows import Run
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, score_rows, stamped
from pipelines.transforms.write_table import WriteTable
from tests.support.warehouse import Warehouse

AS_OFS, DAY, FIRST = 10, 86_400_000_000, 1_704_067_200_000_000  # 2024-01-01
BLOCK = 2_000  # rows of a block
STREAM = 100_000  # rows of a pending stream of the bare loop
OUTPUTS = ("churn",)


def block(i: int) -> ScoreBlock:
    """The i-th `BLOCK` rows: entities of one as-of."""
    rng = np.random.default_rng(i)
    as_of = FIRST + i % AS_OFS * DAY
    return ScoreBlock(
        entities=[f"customer-{i // AS_OFS:05}-{n:05}" for n in range(BLOCK)],
        as_of=np.full(BLOCK, as_of),
        revision=np.zeros(BLOCK, np.int32),
        scores=rng.random((BLOCK, 1), np.float32),
        n_events=rng.integers(1, 1_000, BLOCK),
        last_event_time=as_of - rng.integers(1, DAY, BLOCK),
        version="20240101-1a2b3c4d",
    )


def ours(table: Table, run: Run, rows: int) -> None:
    """Through the pipeline's own sink."""
    as_ofs = tuple(FIRST + i * DAY for i in range(AS_OFS))
    n = rows // BLOCK
    counts = Ledger(read=rows, accepted=rows, sequences=rows, scored=rows, files=1)
    with staging.begin(table, run):
        pipeline = beam.Pipeline(FnApiRunner())
        scores = pipeline | beam.Create(range(n)) | "Block" >> beam.Map(block).with_output_types(ScoreBlock)
        dead = pipeline | "Dead" >> beam.Create([], reshuffle=False).with_output_types(DeadLetter)
        ledgers = pipeline | "Ledgers" >> beam.Create([counts], reshuffle=False)
        (scores, dead, ledgers) | WriteTable(run, table, as_ofs)
        pipeline.run().wait_until_finish()
    done = staging.read_result(table, run.run_id, run.attempt)
    if done.status != "published" or done.visible != rows:
        raise SystemExit(f"not all rows are there: {done}")


def bare(table: Table, tables: Iterator[pa.Table]) -> None:
    """Straight to the service."""
    streams = [append_pending(writer(), table.scores, rows)[0].name for rows in tables]
    commit(writer(), table.scores, streams)


def ready(run: Run, rows: int) -> list[pa.Table]:
    """What `ours` writes, as tables of `STREAM` rows."""
    out = []
    for first in range(0, rows // BLOCK, STREAM // BLOCK):
        blocks = [block_table(block(i), OUTPUTS) for i in range(first, min(first + STREAM // BLOCK, rows // BLOCK))]
        out.append(schema.stored(stamped(score_rows(blocks, run), FIRST), "scores", OUTPUTS))
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=("ours", "bare"))
    parser.add_argument("rows", type=int)
    args = parser.parse_args()
    with TemporaryDirectory() as folder, Warehouse(Path(folder)) as warehouse:
        table = warehouse.table()
        schema.apply(schema.plan(table, OUTPUTS))
        run = Run("bench", "a", "bench", OUTPUTS, ("none",), 0, model_version="20240101-1a2b3c4d")
        tables = iter(ready(run, args.rows)) if args.how == "bare" else iter(())
        meter, started = Meter(), time.perf_counter()
        if args.how == "ours":
            ours(table, run, args.rows)
        else:
            bare(table, tables)
        seconds = time.perf_counter() - started
        (found,) = execute(table.project, f"SELECT count(DISTINCT score_id) AS n FROM `{table.scores}`").result()
        if found.n != args.rows:
            raise SystemExit(f"{found.n} of {args.rows} rows are there")
        meter.report(rows=args.rows / seconds)


if __name__ == "__main__":
    main()
