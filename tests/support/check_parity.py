"""Tensors of real Parquet files, bit for bit, against the oracle.

`python -m tests.support.check_parity TASK AS_OF FILE...`
The files go through the pipeline's own reading and sequences, in several shards; the oracle reads them with pyarrow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq

from pipelines.events.decode import Span
from pipelines.events.sequences import SequenceBatch
from pipelines.events.times import micros
from pipelines.system.progress import Progress
from pipelines.task.as_ofs import parse_as_ofs
from pipelines.task.file import load_task
from pipelines.task.spec import Task, TimeField
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.read_files import ReadPieces, find, plan
from tests.support.oracle import Event, oracle

OUT: list[SequenceBatch] = []


def keep(batch: SequenceBatch) -> None:
    OUT.append(batch)


def events_of(task: Task, files: Sequence[str]) -> Iterator[Event]:
    """The rows of Parquet files as the oracle takes them: text or numbers as the task uses them, times in us."""
    for file in files:
        table = pq.read_table(file).select(list(task.columns))
        for batch in table.to_batches(max_chunksize=100_000):
            columns = {f: batch.column(f).to_pylist() for f in task.columns}
            for field, kind in task.columns.items():
                if kind == "text" and field not in task.events.where:
                    columns[field] = [None if v is None else str(v) for v in columns[field]]
            for spec in (task.events.time, task.events.arrival):
                if isinstance(spec, TimeField):
                    columns[spec.field] = micros(batch.column(spec.field), spec)[0].tolist()
            yield from (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def tensors_of(task: Task, files: Sequence[str], as_ofs: Sequence[int], shards: int) -> dict[tuple[str, int], Any]:
    """(entity, as-of) -> (tensor, n_events, last_event_time, revision), through Beam."""
    OUT.clear()
    span = Span(tuple(as_ofs))
    with beam.Pipeline("FnApiRunner") as p:
        events = p | "Read" >> ReadPieces(task, span, plan(find(files)), shards, Progress())
        built = (events.blocks, events.ledger) | Sequences(task, span)
        _ = built.sequences | beam.Map(keep)
    return {
        (entity, b.as_of): (b.tensor[i], int(b.n_events[i]), int(b.last_event_time[i]), int(b.revision[i]))
        for b in OUT
        for i, entity in enumerate(b.entities)
    }


def main(argv: Sequence[str]) -> int:
    task = load_task(argv[0])
    as_ofs = sorted({t for text in argv[1].split(",") for t in parse_as_ofs(task, text)})
    got = tensors_of(task, argv[2:], as_ofs, shards=5)
    events = list(events_of(task, argv[2:]))
    want = oracle(task, events, as_ofs)
    different = [
        k
        for k in got.keys() & want.keys()
        if got[k][0].tobytes() != want[k].tensor.tobytes() or got[k][1:] != want[k][1:]
    ]
    missing, extra = len(want.keys() - got.keys()), len(got.keys() - want.keys())
    print(f"{len(events):,} events, {len(as_ofs)} as-ofs, {len(want):,} tensors in the oracle")
    print(f"{len(different)} different, {missing} missing, {extra} extra")
    return int(bool(different or missing or extra))


if __name__ == "__main__":
    from tests.support.check_parity import main as imported  # what __main__ holds is pickled by value, OUT too

    sys.exit(imported(sys.argv[1:]))
