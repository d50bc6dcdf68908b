"""Rows into the output folder, as Parquet: a run over files publishes scores, dead letters and ledger together at its
end (`WriteRun`), a live job appends them as they come (`AppendRun`), and its ledger as a running total.

Here: which rows are in which file. The rows are made in `output_rows`, the folders and the commit are in
`storage.folder`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.ledger.counts import DeadLetter, Ledger, Running, total
from pipelines.storage.folder.live import append
from pipelines.storage.folder.runs import LEDGER, Attempt, Outcome, publish, read_outcome
from pipelines.storage.rows import Run, ledger_table, live_ledger_table, write_table
from pipelines.transforms.hold_rows import HoldLetters, HoldScores
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import (
    Inputs,
    Letter,
    block_table,
    letter_fields,
    letter_rows,
    now,
    run_status,
    score_rows,
)
from pipelines.transforms.running_ledger import RunningTotal


def part_of(text: str, parts: int) -> int:
    """A part number in [0, parts) that depends on the text alone."""
    return zlib.crc32(text.encode()) % parts


def split(table: pa.Table, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each part, by entity; parts without rows are left out."""
    part = np.array([part_of(e, parts) for e in table["entity_id"].to_pylist()], np.int64)
    for p in np.unique(part).tolist():
        yield p, table.take(pa.array(np.flatnonzero(part == p)))


@dataclass(eq=False)  # not frozen: Beam keeps notes of its own on a transform
class WriteRun(beam.PTransform):
    """Writes (scores, dead letters, ledgers) and publishes them; gives one Outcome.

    Ledgers are summed. A run that is not published has no scores, only dead letters and a ledger. To be run inside
    `folder.runs.begin` of the place. `parts` is part of what decides the bytes: it does not follow the machine.
    """

    run: Run
    place: Attempt
    parts: int = 8
    clock: Callable[[], int] = now

    def expand(self, inputs: Inputs) -> beam.PCollection[Outcome]:
        scores, dead, ledgers = inputs
        score_parts = (
            scores
            | "SplitScores"
            >> beam.FlatMap(_split_scores, self.run.outputs, self.parts).with_output_types(tuple[int, bytes])
            | "GroupScores" >> beam.GroupByKey()
            | "WriteScores" >> beam.Map(_write_scores, self.run, self.place).with_output_types(str)
        )
        letter_parts = (
            dead
            | "KeyLetters" >> beam.Map(_key_letter, self.parts).with_output_types(tuple[int, Letter])
            | "GroupLetters" >> beam.GroupByKey()
            | "WriteLetters" >> beam.Map(_write_letters, self.place).with_output_types(str)
        )
        ledger = ledgers | "SumLedgers" >> beam.CombineGlobally(total).with_output_types(Ledger)
        written = (score_parts, letter_parts) | "Written" >> beam.Flatten()
        start = ledgers.pipeline | "Last" >> beam.Create([None], reshuffle=False)
        sides = beam.pvalue.AsList(written), beam.pvalue.AsSingleton(ledger)
        publishing = beam.Map(_publish, *sides, self.run, self.place, self.clock)
        return start | "Publish" >> publishing.with_output_types(Outcome)


@dataclass(eq=False)
class AppendRun(beam.PTransform):
    """Appends (scores, dead letters, ledgers) of a live job to the output folder, one file of a kind and bundle.

    A bundle that is done again writes its scores and dead letters again, which the views and the next merge make one.
    The ledger is a running total in the state of the job, which a runner that recovers sets back with all the rest:
    each of its rows replaces those before. To be run after `folder.live.prepare`. Gives all dead letters.

    Args:
      every_s: seconds from a change of the ledger to a row of it; the end of the input makes one, too.
    """

    run: Run
    out: Path
    letters: bool = True  # otherwise something else takes the dead letters
    clock: Callable[[], int] = now
    every_s: float = 5.0

    def expand(self, inputs: Inputs) -> beam.PCollection[DeadLetter]:
        scores, dead, ledgers = inputs
        scores | "AppendScores" >> beam.ParDo(_AppendScores(self.run, self.out, self.clock))
        (
            ledgers
            | RunningTotal(self.run.attempt, self.every_s, self.clock)
            | "AppendLedger" >> beam.FlatMap(_append_ledger, self.run, self.out)
        )
        if self.letters:
            dead | "AppendLetters" >> beam.ParDo(_AppendLetters(self.run, self.out, self.clock))
        return dead


def _split_scores(block: ScoreBlock, outputs: Sequence[str], parts: int) -> Iterator[tuple[int, bytes]]:
    for part, table in split(block_table(block, outputs), parts):
        yield part, _pack(table)


def _write_scores(group: tuple[int, Iterable[bytes]], run: Run, place: Attempt) -> str:
    part, packed = group
    name = f"scores/part-{part:05}.parquet"
    write_table(score_rows(map(_unpack, packed), run), place.data / name)
    return name


def _key_letter(letter: DeadLetter, parts: int) -> tuple[int, Letter]:
    values = letter_fields(letter)
    return part_of(f"{values[1]}|{values[2]}", parts), values


def _write_letters(group: tuple[int, Iterable[Letter]], place: Attempt) -> str:
    part, letters = group
    name = f"dead_letters/part-{part:05}.parquet"
    write_table(letter_rows(letters, place.run_id), place.data / name)
    return name


def _publish(
    _: None, written: list[str], ledger: Ledger, run: Run, place: Attempt, clock: Callable[[], int]
) -> Outcome:
    outcome = read_outcome(place)
    if outcome is not None:  # this bundle is a repetition
        return outcome
    status = run_status(ledger, run.max_bad_share)
    write_table(ledger_table(run, ledger, status, clock()), place.data / LEDGER)
    return publish(place, status, [name for name in written if status == "published" or not name.startswith("scores/")])


class _AppendScores(HoldScores):
    def __init__(self, run: Run, out: Path, clock: Callable[[], int]) -> None:
        super().__init__(run, clock)
        self.out = out

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        append(self.out, self.run.run_id, "scores", rows, at)
        return ()


class _AppendLetters(HoldLetters):
    def __init__(self, run: Run, out: Path, clock: Callable[[], int]) -> None:
        super().__init__(run, clock)
        self.out = out

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        append(self.out, self.run.run_id, "dead_letters", rows, at)
        return ()


def _append_ledger(running: Running, run: Run, out: Path) -> Iterable[Any]:
    row = live_ledger_table(replace(run, attempt=running.attempt), running.total, running.at)
    append(out, run.run_id, "ledger", row, running.at)
    return ()


def _pack(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue().to_pybytes()


def _unpack(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()
