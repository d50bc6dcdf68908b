"""A sample of rows, of files, tables and messages alike, as they are read with a task. What it shows: `data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.events.block import EventBlock
from pipelines.events.decode import Since, Span, decode, without_arrival
from pipelines.events.formats.base import Refusal, Rows, Unreadable, explain
from pipelines.events.formats.registry import format_of
from pipelines.events.times import FARTHEST
from pipelines.jobs.source import rows
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File, fitting

FILES = 8  # that are looked into, from the first to the last
ROWS = 50_000  # of all of them
FIRST = 100  # rows of a source; where none of them can be an event, none is expected to be
TOGETHER = 4  # files that are opened at the same time


@dataclass
class Sample:
    """Rows of one source, as they were read with a task."""

    source: str
    task: Task
    rows: int = 0
    whole: bool = True  # every row of the source
    broken: bool = False  # it, or a part of it, cannot be read
    filtered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why rows are refused
    examples: dict[str, str] = field(default_factory=dict)  # reason -> what stood where
    blocks: list[EventBlock] = field(default_factory=list)  # of all events, whenever they were
    tables: list[pa.Table] = field(default_factory=list)
    hopeless: str = ""  # why none of the first rows can be an event; empty where one can
    events: float = 0.0  # rows that the source has, about

    @property
    def refused(self) -> int:
        return self.reasons.total()

    def take(self, parts: Iterable[Rows | Refusal], most: int) -> None:
        """Takes at most some rows."""
        for part in parts:
            if most <= 0:
                self.whole = False
                return
            self._add(part, most)
            most -= len(part) if isinstance(part, Rows) else part.rows

    def _add(self, part: Rows | Refusal, most: int) -> None:
        if isinstance(part, Refusal):
            self.rows += part.rows
            self.broken |= part.part
            self._refuse(part.reason, part.position, part.value, part.raw, part.rows)
            return
        self.whole &= len(part) <= most
        lines = None if part.lines is None else part.lines[:most]
        arrival = None if part.arrival is None else part.arrival[:most]
        ids = None if part.ids is None else part.ids[:most]
        table = part.table.slice(0, most)
        decoded = decode(_timeless(self.task), table, Span((FARTHEST,)), lines, arrival, ids)
        for row, (reason, value) in decoded.refused.items():
            self._refuse(reason, part.position(row), value, "" if reason in self.examples else part.raw(row))
        if not self.tables:
            self._judge_first({row: refused.reason for row, refused in decoded.refused.items()}, len(table))
        self.rows += len(table)
        self.filtered += decoded.filtered
        self.blocks.append(decoded.block)
        self.tables.append(table)

    def _refuse(self, reason: str, position: str, value: str, raw: str, rows: int = 1) -> None:
        self.reasons[reason] += rows
        beside = f"{value} at {position}" if value else f"{position}: {raw[:200]}" if raw else position
        self.examples.setdefault(reason, beside)

    def _judge_first(self, reasons: dict[int, str], rows: int) -> None:
        first = [reason for row, reason in reasons.items() if row < FIRST]
        if rows and len(first) == min(rows, FIRST) and len(set(first)) == 1:
            shown = f"{first[0]} ({self.examples[first[0]]})"
            self.hopeless = f"none of the first {len(first)} rows can be an event: {shown}"


@dataclass(frozen=True)
class Looked:
    """A file, and what its header or first rows say."""

    file: File
    task: Task  # as it is read with
    fields: Mapping[str, str]  # name -> type; none of a file without rows, and of one that cannot be read
    problem: str = ""  # why it cannot be read

    @property
    def needed(self) -> tuple[str, ...]:
        """Fields that must show: where rows may leave out what is null, those that no event is without."""
        events = self.task.events
        sparse = format_of(self.file.format).is_sparse
        return (events.entity, events.time.field) if sparse else tuple(self.task.columns)

    @property
    def lacks(self) -> bool:
        """Whether one of them does not."""
        return bool(self.fields) and not all(name in self.fields for name in self.needed)


def look(task: Task, span: Span | Since | None, files: Sequence[File]) -> list[Looked]:
    """Into some of the files that hold anything, from the first to the last."""
    full = [f for f in files if f.size]
    chosen = [full[i] for i in np.unique(np.linspace(0, len(full) - 1, min(FILES, len(full))).astype(int))]
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(lambda file: _look(task, span, file), chosen))


def _look(task: Task, span: Span | Since | None, file: File) -> Looked:
    try:
        fields = format_of(file.format).fields(file.path)
    except (Unreadable, OSError) as error:
        return Looked(file, task, {}, f"{file.path}: not a readable {file.format} file: {explain(error)}")
    known = format_of(file.format).is_archive and task.events.arrival is not None  # beside the fields
    return Looked(file, without_arrival(task) if known else fitting(task, span, fields), fields)


def sampled(files: Sequence[Looked]) -> list[Sample]:
    """Of each file rows of its first and of its last piece."""
    most = ROWS // max(len(files), 1)
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(lambda looked: _sample(looked, most), files))


def _sample(looked: Looked, most: int) -> Sample:
    file, sample = looked.file, Sample(looked.file.path, looked.task, broken=bool(looked.problem))
    if looked.problem:
        return sample
    form = format_of(file.format)
    pieces = form.pieces(file.path, file.size)
    ends = pieces if len(pieces) < 3 else [pieces[0], pieces[-1]]
    sample.whole = len(ends) == len(pieces)
    for i, piece in enumerate(ends):
        broken = sample.broken
        sample.take(form.read(piece, looked.task), most // len(ends))
        sample.broken = broken if i else sample.broken  # a later break is one of rows
    sample.events = sample.rows if sample.whole else max(rows([file]), sample.rows)
    return sample


def joined(source: str, samples: Sequence[Sample], whole: bool) -> Sample:
    """Several samples of a task as one.

    Args:
      whole: whether they are of all sources that there are.
    """
    out = Sample(source, samples[0].task, whole=whole and all(s.whole for s in samples))
    for s in samples:
        out.rows, out.filtered, out.events = out.rows + s.rows, out.filtered + s.filtered, out.events + s.events
        out.broken |= s.broken
        out.reasons.update(s.reasons)
        of = f" of {s.source}" if len(samples) > 1 else ""
        out.examples = {**{reason: f"{shown}{of}" for reason, shown in s.examples.items()}, **out.examples}
        out.blocks += s.blocks
        out.tables += s.tables
    return out


def bad_share(samples: Sequence[Sample], sources: float) -> float:
    """About what a run will find: the share of rows refused, or of sources not readable, whichever is larger.

    Args:
      sources: how many the samples stand for: those, and as many without a row as there are for them.
    """
    read = [s for s in samples if s.rows and (s.tables or not s.broken)]
    refused, events = sum(s.events * s.refused / s.rows for s in read), sum(s.events for s in read)
    return max(refused / max(events, 1), sum(s.broken for s in samples) / max(sources, 1))


def _timeless(task: Task) -> Task:
    """The task with a history of all times, so that no event lies outside."""
    sequence = task.sequence.model_copy(update={"steps": (2 * FARTHEST) // task.sequence.step + 1})
    return Task.model_construct(**{**{name: getattr(task, name) for name in Task.model_fields}, "sequence": sequence})
