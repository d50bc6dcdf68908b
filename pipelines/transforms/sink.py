"""Writing a run into the output folder: scores, dead letters and ledger as Parquet, published together at the end.

Here: rows, their order and their files. The folder and the commit are in `pipelines.store`, the columns in
`pipelines.rows`.
"""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger import DeadLetter, Ledger, total
from pipelines.rows import DEAD_LETTERS, RunTarget, ledger_table, score_schema
from pipelines.store import LEDGER, Outcome, Status, publish, read_outcome, write_file
from pipelines.transforms.inference import ScoreBlock

Inputs = tuple[beam.PCollection[ScoreBlock], beam.PCollection[DeadLetter], beam.PCollection[Ledger]]

Letter = tuple[str, str, str, str, int, str]  # the fields of a DeadLetter
ROW_GROUP = 131_072
REPEATED = ["task", "entity_id", "model_version", "run_id", "stage", "source", "reason"]


def now() -> int:
    """The wall clock, us since 1970."""
    return time.time_ns() // 1000


def score_id(task: str, entity: str, as_of: int) -> str:
    """md5 of `task|entity|as_of`, as_of in us: in SQL, md5(task || '|' || entity_id || '|' || epoch_us(as_of))."""
    return hashlib.md5(f"{task}|{entity}|{as_of}".encode(), usedforsecurity=False).hexdigest()


def block_table(block: ScoreBlock, outputs: Sequence[str]) -> pa.Table:
    """The columns in which the rows of a run differ; times as int64, us."""
    scores = {name: pa.array(block.scores[:, i]) for i, name in enumerate(outputs)}
    return pa.table(
        {
            "entity_id": pa.array(block.entities, pa.string()),
            "as_of": pa.array(block.as_of),
            "revision": pa.array(block.revision),
            **scores,
            "n_events": pa.array(block.n_events),
            "last_event_time": pa.array(block.last_event_time),
        }
    )


def part_of(text: str, parts: int) -> int:
    """A part number in [0, parts) that depends on the text alone."""
    return zlib.crc32(text.encode()) % parts


def split(table: pa.Table, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each part, by entity; parts without rows are left out."""
    part = np.array([part_of(e, parts) for e in table["entity_id"].to_pylist()], np.int64)
    for p in np.unique(part).tolist():
        yield p, table.take(pa.array(np.flatnonzero(part == p)))


def score_rows(tables: Iterable[pa.Table], target: RunTarget) -> pa.Table:
    """Whole score rows of `block_table`s, in the order of (as_of, entity_id, revision), whatever order they came in."""
    rows = pa.concat_tables(tables)
    rows = rows.sort_by([("as_of", "ascending"), ("entity_id", "ascending"), ("revision", "ascending")])
    pairs = zip(rows["entity_id"].to_pylist(), rows["as_of"].to_pylist(), strict=True)
    same = {"task": target.task, "model_version": target.model_version, "run_id": target.attempt.run_id}
    columns = {
        "score_id": pa.array([score_id(target.task, *pair) for pair in pairs], pa.string()),
        **{name: pa.repeat(value, rows.num_rows) for name, value in same.items()},
        **{name: rows[name] for name in rows.column_names},
    }
    schema = score_schema(target.outputs)
    return pa.table({f.name: columns[f.name] for f in schema}).cast(schema).combine_chunks()


def letter_fields(letter: DeadLetter) -> Letter:
    """Its fields, as text that UTF-8 can hold."""
    stage, source, position, reason, rows, raw = astuple(letter)
    return _clean(stage), _clean(source), _clean(position), _clean(reason), int(rows), _clean(raw)


def letter_rows(letters: Iterable[Letter], run_id: str) -> pa.Table:
    """Dead letter rows by source and position (`row 9` before `row 10`), whatever order they came in."""
    ordered = sorted(letters, key=_letter_order)
    columns = list(zip(*ordered, strict=True)) if ordered else [()] * (len(DEAD_LETTERS) - 1)
    return pa.table([*columns, [run_id] * len(ordered)], schema=DEAD_LETTERS)


def run_status(ledger: Ledger, max_bad_share: float) -> Status:
    """Refused for too many bad rows, unbalanced if the sums do not match, otherwise published."""
    if ledger.bad_share > max_bad_share:
        return "refused"
    return "unbalanced" if ledger.differences else "published"


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet whose bytes depend on the rows alone, whole or not at all."""

    def write(f: object) -> None:
        pq.write_table(
            table,
            f,
            row_group_size=ROW_GROUP,
            compression="zstd",
            compression_level=3,
            use_dictionary=_dictionary(table),
        )

    write_file(path, write)


@dataclass(eq=False)  # not frozen: Beam keeps notes of its own on a transform
class WriteRun(beam.PTransform):
    """Writes (scores, dead letters, ledgers) and publishes them; gives one Outcome.

    Ledgers are summed. A run that is not published has no scores, only dead letters and a ledger. To be run inside
    `store.begin` of the target's attempt. `parts` is part of what decides the bytes: it does not follow the machine.
    """

    target: RunTarget
    parts: int = 8
    clock: Callable[[], int] = now

    def expand(self, inputs: Inputs) -> beam.PCollection[Outcome]:
        scores, dead, ledgers = inputs
        score_parts = (
            scores
            | "SplitScores" >> beam.ParDo(_SplitScores(self.target, self.parts)).with_output_types(tuple[int, bytes])
            | "GroupScores" >> beam.GroupByKey()
            | "WriteScores" >> beam.ParDo(_WriteScores(self.target)).with_output_types(str)
        )
        letter_parts = (
            dead
            | "KeyLetters" >> beam.ParDo(_KeyLetters(self.parts)).with_output_types(tuple[int, Letter])
            | "GroupLetters" >> beam.GroupByKey()
            | "WriteLetters" >> beam.ParDo(_WriteLetters(self.target)).with_output_types(str)
        )
        ledger = ledgers | "SumLedgers" >> beam.CombineGlobally(total)
        written = (score_parts, letter_parts) | "Written" >> beam.Flatten()
        start = ledgers.pipeline | "Last" >> beam.Create([None], reshuffle=False)
        publishing = beam.ParDo(
            _Publish(self.target, self.clock), beam.pvalue.AsList(written), beam.pvalue.AsSingleton(ledger)
        )
        return start | "Publish" >> publishing.with_output_types(Outcome)


class _SplitScores(beam.DoFn):
    def __init__(self, target: RunTarget, parts: int) -> None:
        self.outputs, self.parts = target.outputs, parts

    def process(self, block: ScoreBlock) -> Iterator[tuple[int, bytes]]:
        for part, table in split(block_table(block, self.outputs), self.parts):
            yield part, _pack(table)


class _WriteScores(beam.DoFn):
    def __init__(self, target: RunTarget) -> None:
        self.target = target

    def process(self, group: tuple[int, Iterable[bytes]]) -> Iterator[str]:
        part, packed = group
        name = f"scores/part-{part:05}.parquet"
        write_table(score_rows(map(_unpack, packed), self.target), self.target.attempt.data / name)
        yield name


class _KeyLetters(beam.DoFn):
    def __init__(self, parts: int) -> None:
        self.parts = parts

    def process(self, letter: DeadLetter) -> Iterator[tuple[int, Letter]]:
        values = letter_fields(letter)
        yield part_of(f"{values[1]}|{values[2]}", self.parts), values


class _WriteLetters(beam.DoFn):
    def __init__(self, target: RunTarget) -> None:
        self.attempt = target.attempt

    def process(self, group: tuple[int, Iterable[Letter]]) -> Iterator[str]:
        part, letters = group
        name = f"dead_letters/part-{part:05}.parquet"
        write_table(letter_rows(letters, self.attempt.run_id), self.attempt.data / name)
        yield name


class _Publish(beam.DoFn):
    def __init__(self, target: RunTarget, clock: Callable[[], int]) -> None:
        self.target, self.clock = target, clock

    def process(self, _: None, written: list[str], ledger: Ledger) -> Iterator[Outcome]:
        run = self.target.attempt
        outcome = read_outcome(run)
        if outcome is None:  # otherwise this bundle is a repetition
            status = run_status(ledger, self.target.max_bad_share)
            write_table(ledger_table(self.target, ledger, status, self.clock()), run.data / LEDGER)
            keep = [name for name in written if status == "published" or not name.startswith("scores/")]
            outcome = publish(run, status, keep)
        yield outcome


def _clean(text: str) -> str:
    """Half surrogate pairs, which JSON allows and UTF-8 does not, as \\uNNNN."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _letter_order(letter: Letter) -> tuple[str, int, Letter]:
    number = re.search(r"\d{1,18}", letter[2])
    return letter[1], int(number[0]) if number else -1, letter


def _dictionary(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name in REPEATED]


def _pack(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue().to_pybytes()


def _unpack(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()
