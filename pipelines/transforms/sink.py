"""Writing into the output folder: scores, dead letters and ledger as Parquet. A run over files publishes them together
at its end (`WriteRun`), a live job appends them as they come (`AppendRun`), and its ledger as a running total.

Here: rows, their order and their files. The folders and the commit are in `pipelines.store` and `pipelines.livestore`,
the columns in `pipelines.rows`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import PickleCoder
from apache_beam.transforms import userstate
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipelines.ledger import DeadLetter, Ledger, total
from pipelines.livestore import Kind, append
from pipelines.metrics import counter
from pipelines.rows import (
    DEAD_LETTERS,
    ROW_GROUP,
    TIME,
    RunTarget,
    StreamTarget,
    ledger_table,
    live_ledger_table,
    live_schema,
    score_schema,
    write_table,
)
from pipelines.store import LEDGER, Outcome, Status, publish, read_outcome
from pipelines.transforms.inference import ScoreBlock

Inputs = tuple[beam.PCollection[ScoreBlock], beam.PCollection[DeadLetter], beam.PCollection[Ledger]]

Letter = tuple[str, str, str, str, int, str, bytes | None, str | None]  # the fields of a DeadLetter


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
            "model_version": _repeated(block.version, len(block.entities)),
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


def score_rows(tables: Iterable[pa.Table], target: RunTarget | StreamTarget) -> pa.Table:
    """Whole score rows of `block_table`s, in the order of (as_of, entity_id, revision), whatever order they came in."""
    rows = pa.concat_tables(tables)
    version = rows.schema.get_field_index("model_version")
    rows = rows.set_column(version, "model_version", rows["model_version"].cast(pa.string()))
    rows = rows.sort_by([("as_of", "ascending"), ("entity_id", "ascending"), ("revision", "ascending")])
    pairs = zip(rows["entity_id"].to_pylist(), rows["as_of"].to_pylist(), strict=True)
    same = {"task": target.task, "run_id": target.run_id}
    columns = {
        "score_id": pa.array([score_id(target.task, *pair) for pair in pairs], pa.string()),
        **{name: pa.repeat(value, rows.num_rows) for name, value in same.items()},
        **{name: rows[name] for name in rows.column_names},
    }
    schema = score_schema(target.outputs)
    return pa.table({f.name: columns[f.name] for f in schema}).cast(schema).combine_chunks()


def letter_fields(letter: DeadLetter) -> Letter:
    """Its fields, as text that UTF-8 can hold; attributes as a JSON object."""
    stage, source, position, reason, raw = map(
        _clean, (letter.stage, letter.source, letter.position, letter.reason, letter.raw)
    )
    attributes = _clean(json.dumps(dict(letter.attributes), ensure_ascii=False)) if letter.attributes else None
    return stage, source, position, reason, int(letter.rows), raw, letter.payload, attributes


def letter_rows(letters: Iterable[Letter], run_id: str) -> pa.Table:
    """Dead letter rows by source and position (`row 9` before `row 10`), whatever order they came in."""
    ordered = sorted(letters, key=_letter_order)
    columns = list(zip(*ordered, strict=True)) if ordered else [()] * (len(DEAD_LETTERS) - 1)
    return pa.table([*columns, [run_id] * len(ordered)], schema=DEAD_LETTERS)


def stamped(rows: pa.Table, at: int) -> pa.Table:
    """Rows of a live job's scores or dead letters, with the time when they are written, us."""
    schema = live_schema(rows.schema)
    return rows.append_column(schema.field(rows.num_columns), pa.repeat(pa.scalar(at, TIME), rows.num_rows))


def run_status(ledger: Ledger, max_bad_share: float) -> Status:
    """Refused for too many bad rows, unbalanced if the sums do not match, otherwise published."""
    if ledger.bad_share > max_bad_share:
        return "refused"
    return "unbalanced" if ledger.differences else "published"


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


@dataclass(eq=False)
class AppendRun(beam.PTransform):
    """Appends (scores, dead letters, ledgers) of a live job to the output folder, one file of a kind and bundle.

    A bundle that is done again writes its scores and dead letters again, which the views and the next merge make one.
    The ledger is a running total in the state of the job, which a runner that recovers sets back with all the rest:
    each of its rows replaces those before. To be run after `livestore.prepare`.

    Args:
      every: seconds from a change of the ledger to a row of it; the end of the input makes one, too.
    """

    target: StreamTarget
    clock: Callable[[], int] = now
    every: float = 5.0

    def expand(self, inputs: Inputs) -> beam.pvalue.PDone:
        scores, dead, ledgers = inputs
        scores | "AppendScores" >> beam.ParDo(_AppendScores(self.target, self.clock))
        (
            ledgers
            | "KeyLedger" >> beam.Map(_keyed).with_output_types(tuple[str, Ledger])
            | "Running" >> beam.ParDo(_Run(self.target.attempt, self.every, self.clock)).with_output_types(Running)
            | "AppendLedger" >> beam.ParDo(_AppendLedger(self.target))
        )
        if self.target.letters_to_files:
            dead | "AppendLetters" >> beam.ParDo(_AppendLetters(self.target, self.clock))
        return beam.pvalue.PDone(scores.pipeline)


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


class _Append(beam.DoFn):
    """Holds what a bundle brings, and writes it at the end of the bundle, or as soon as it is as much as `most`."""

    kind: Kind
    most: int

    def __init__(self, target: StreamTarget, clock: Callable[[], int]) -> None:
        self.target, self.clock = target, clock

    def start_bundle(self) -> None:
        self.held: list[Any] = []
        self.size = 0

    def finish_bundle(self) -> None:
        if self.held:
            self.write()

    def hold(self, value: object, size: int) -> None:
        self.held.append(value)
        self.size += size
        if self.size >= self.most:
            self.write()

    def write(self) -> None:
        at = self.clock()
        append(self.target.out, self.target.run_id, self.kind, self.rows(at), at)
        self.start_bundle()

    def rows(self, at: int) -> pa.Table:
        """Of what is held, written at a time, us."""
        raise NotImplementedError


class _AppendScores(_Append):
    kind: Kind = "scores"
    most = ROW_GROUP

    def process(self, block: ScoreBlock) -> None:
        self.hold(block_table(block, self.target.outputs), len(block.entities))

    def rows(self, at: int) -> pa.Table:
        return stamped(score_rows(self.held, self.target), at)


class _AppendLetters(_Append):
    kind: Kind = "dead_letters"
    most = 10_000

    def setup(self) -> None:
        self.letters = counter("dead_letters")

    def process(self, letter: DeadLetter) -> None:
        self.letters.inc()
        self.hold(letter_fields(letter), 1)

    def rows(self, at: int) -> pa.Table:
        return stamped(letter_rows(self.held, self.target.run_id), at)


@dataclass(frozen=True)
class Running:
    """The ledger of a live job, as its state keeps it."""

    attempt: str  # that began to count: a job that is updated goes on with the state, and so with the attempt
    total: Ledger
    at: int = 0  # of the last row, us
    changed: bool = False  # since then

    def counted(self, ledger: Ledger) -> Running:
        return replace(self, total=self.total + ledger, changed=True)

    def written(self, at: int) -> Running:
        """At a time (us), or just after the last row if the clock was put back."""
        return replace(self, at=max(at, self.at + 1), changed=False)


RUNNING = beam.DoFn.StateParam(userstate.ReadModifyWriteStateSpec("running", PickleCoder()))
SOON_TIMER = userstate.TimerSpec("soon", userstate.TimeDomain.REAL_TIME)
END_TIMER = userstate.TimerSpec("end", userstate.TimeDomain.WATERMARK)
SOON, END = beam.DoFn.TimerParam(SOON_TIMER), beam.DoFn.TimerParam(END_TIMER)


class _Run(beam.DoFn):
    """Adds up ledgers, and tells the total a while after it has changed, and at the end of the input."""

    def __init__(self, attempt: str, every: float, clock: Callable[[], int]) -> None:
        self.attempt, self.every, self.clock = attempt, every, clock

    def process(self, element: tuple[str, Ledger], state: Any = RUNNING, soon: Any = SOON, end: Any = END) -> None:
        _, ledger = element
        if ledger == Ledger():
            return
        running = state.read() or Running(self.attempt, Ledger())
        if not running.changed:
            soon.set(Timestamp.of(self.clock() / 1e6 + self.every))
            end.set(GlobalWindow().max_timestamp())
        state.write(running.counted(ledger))

    @userstate.on_timer(SOON_TIMER)
    def meanwhile(self, state: Any = RUNNING) -> Iterator[Running]:
        yield from self._tell(state)

    @userstate.on_timer(END_TIMER)
    def ending(self, state: Any = RUNNING, soon: Any = SOON) -> Iterator[Running]:
        soon.clear()
        yield from self._tell(state)

    def _tell(self, state: Any) -> Iterator[Running]:
        running = state.read()
        if running is not None and running.changed:
            running = running.written(self.clock())
            state.write(running)
            yield running


class _AppendLedger(beam.DoFn):
    def __init__(self, target: StreamTarget) -> None:
        self.target = target

    def process(self, running: Running) -> None:
        row = live_ledger_table(replace(self.target, attempt=running.attempt), running.total, running.at)
        append(self.target.out, self.target.run_id, "ledger", row, running.at)


def _keyed(ledger: Ledger) -> tuple[str, Ledger]:
    """All under one key."""
    return "", ledger


def _clean(text: str) -> str:
    """Half surrogate pairs, which JSON allows and UTF-8 does not, as \\uNNNN."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _letter_order(letter: Letter) -> tuple[str, int, tuple[object, ...]]:
    number = re.search(r"\d{1,18}", letter[2])
    return letter[1], int(number[0]) if number else -1, (*letter[:6], letter[6] or b"", letter[7] or "")


def _repeated(value: str, n: int) -> pa.Array:
    """n times the same text, at a byte each."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), pa.array([value], pa.string()))


def _pack(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue().to_pybytes()


def _unpack(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()
