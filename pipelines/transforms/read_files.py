"""From files and tables to packed event blocks by shard: which files, in which pieces, what became of each row.

How a format is read is in `formats`, what a row means in `decode`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import TaggedOutput

from pipelines.errors import UserError
from pipelines.events.block import EventBlock, split
from pipelines.events.columns import DecodeError
from pipelines.events.decode import Since, Span, decode, without_arrival
from pipelines.events.formats.base import Piece, Refusal, Rows, Unreadable, explain, shorten
from pipelines.events.formats.registry import READERS, endings, format_of, named, reader_of
from pipelines.events.intake import take_in
from pipelines.events.messages import BlockOrTick
from pipelines.events.times import micros
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.system.progress import Progress
from pipelines.task.fields import format_time, parse_time
from pipelines.task.spec import Task, TimeField

EPOCHS: tuple[Literal["s", "ms", "us", "ns"], ...] = ("s", "ms", "us", "ns")
SAMPLE = 100  # rows that are looked at before a run
KEPT = 64 << 20  # characters of refused rows of a piece that are kept; small files can hold gigabytes of them
BRIEF = 200  # characters of each of the others


@dataclass(frozen=True)
class File:
    """An input file."""

    path: str
    size: int  # bytes
    format: str
    modified: float | None = None  # seconds since 1970; None where a change need not be seen


def find(patterns: Sequence[str], format: str | None = None) -> list[File]:
    """The files that patterns (files, folders, globs) stand for, each once, in order.

    Raises:
      UserError: a pattern without a match, or a file whose format is not known.
    """
    found: dict[str, File] = {}
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise UserError(f"{pattern}: no such file, or a folder without {', '.join(endings())} files")
        for m in matches:
            found[m.path] = File(m.path, m.size_in_bytes, format or _format(m.path), m.last_updated_in_seconds)
    return [found[path] for path in sorted(found)]


def _match(pattern: str) -> list[FileMetadata]:
    """A file, the files of a glob, and those with a known extension in a folder."""
    if pattern.endswith("/") or re.fullmatch(r"\w+://[^/]+", pattern):  # a bucket is a folder, and cannot be matched
        found = [FileMetadata(pattern.rstrip("/") + "/", 0)]
    else:
        found = _listed(pattern)
    files = [m for m in found if not _is_folder(m.path)]
    folders = [m.path for m in found if _is_folder(m.path)] if found else [pattern]
    for folder in (f.rstrip("/\\") + "/" for f in folders):
        _check_access(folder)
        below = [m for m in _listed(folder + "**") if not _is_folder(m.path)]
        files += [m for m in below if named(m.path) and not _hidden(m.path[len(folder) :])]
    return files


def _listed(pattern: str) -> list[FileMetadata]:
    try:
        return list(FileSystems.match([pattern])[0].metadata_list)
    except (BeamIOError, ValueError) as error:
        cause: Exception = error
        while isinstance(cause, BeamIOError) and cause.exception_details:
            cause = next(iter(cause.exception_details.values()))
        raise UserError(f"{pattern.removesuffix('/**')}: cannot be listed: {explain(cause)}") from error


def _check_access(folder: str) -> None:
    """A local folder below that cannot be listed must not look like one without files, as it does to Beam."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {explain(error)}")

    if os.path.isdir(folder):
        for _, below, _ in os.walk(folder, onerror=refuse):
            below[:] = [name for name in below if not _hidden(name)]


def _is_folder(path: str) -> bool:
    return path.endswith("/") or os.path.isdir(path)


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.replace("\\", "/").split("/"))


def _format(path: str) -> str:
    name = named(path)
    if name is None:
        known = ", ".join(endings())
        raise UserError(f"{path}: the format of this file is not known by its name ({known}); say it with --format")
    return name


def plan(files: Sequence[File]) -> tuple[Piece, ...]:
    """The pieces of all files; an empty file is one piece with nothing in it."""
    out: list[Piece] = []
    for f in files:
        pieces = format_of(f.format).pieces(f.path, f.size) if f.size else [Piece(f.path, f.format, 0, 0, 0, True)]
        version = None if f.modified is None else (f.size, f.modified)
        out += [replace(piece, version=version) for piece in pieces]
    return tuple(out)


def check_unchanged(piece: Piece) -> None:
    """Raises UserError when the file of a piece is another than the one that was planned. One that is gone is not:
    whoever reads it is told."""
    if piece.version is None:
        return
    try:
        now = FileSystems.get_filesystem(piece.path).metadata(piece.path)
    except (BeamIOError, OSError):
        if FileSystems.exists(piece.path):
            raise
        return
    found = now.size_in_bytes, now.last_updated_in_seconds
    if found != piece.version:
        was, is_ = (f"{size:,} bytes of {format_time(int(at * 1e6))}" for size, at in (piece.version, found))
        raise UserError(
            f"{piece.path}: changed while it was read (it had {was}, now {is_}), so nothing was published. Run again "
            "when nothing writes to it any more, or name only files that are complete"
        )


def preflight(task: Task, files: Sequence[File], arrival: bool = True) -> None:
    """Holds the task against the first readable file, before anything is computed.

    Args:
      arrival: whether the file must have the task's arrival field; a stream that starts from files does without.

    Raises:
      UserError: no file can be read, a field of the task is not there, or none of the first rows can be an event.
    """
    problem = ""
    for file in files:
        form = format_of(file.format)
        try:
            found = form.fields(file.path) if file.size else {}
        except (Unreadable, OSError) as error:
            problem = problem or f"{file.path}: not a readable {file.format} file: {explain(error)}"
            continue
        if found:
            field = task.events.arrival.field if task.events.arrival else None
            if form.is_archive or (not arrival and field not in found):
                task = without_arrival(task)
            ev = task.events
            always = (ev.entity, ev.time.field)
            check_fields(file.path, found, always if form.is_sparse else task.columns)
            if not form.is_archive:  # which has what came, good or bad
                check_rows(task, file.path, form.read(form.pieces(file.path, file.size)[0], task))
            return
    if problem:
        raise UserError(problem if len(files) == 1 else f"none of the {len(files)} files can be read; {problem}")


def check_fields(path: str, found: Mapping[str, str], needed: Collection[str]) -> None:
    """Raises UserError when a field is not among those that were found, with their types."""
    for name in needed:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f", did you mean {near[0]}?" if near else "."
            shown = [f"{f if f.isprintable() else ascii(f)} ({kind})" for f, kind in found.items()]
            there = shorten(", ".join(shown), 1_000)
            raise UserError(f"{path}: the task needs the field {name}, which is not there{hint} Fields: {there}")


def check_rows(task: Task, path: str, parts: Iterable[Rows | Refusal]) -> None:
    """Raises UserError when none of the first rows can be an event, or when their times are in another unit."""
    part = next((p for p in parts if isinstance(p, Rows)), None)
    if part is None:
        return
    table = part.table.slice(0, SAMPLE)
    lines, arrival = (None if x is None else x[:SAMPLE] for x in (part.lines, part.arrival))
    decoded = decode(task, table, Span((0,)), lines, arrival)
    reasons = {refused.reason for refused in decoded.refused.values()}
    if len(decoded.refused) == len(table) and len(reasons) == 1:
        row, (reason, value) = next(iter(decoded.refused.items()))
        shown = f" ({value} at {part.position(row)})" if value else f" ({part.position(row)}: {part.raw(row)[:200]})"
        raise UserError(f"{path}: none of the first {len(table)} rows can be an event: {reason}{shown}")
    for spec in (task.events.time, task.events.arrival):
        if spec is not None and spec.kind == "epoch":
            _check_unit(path, spec, table)


def _check_unit(path: str, spec: TimeField, table: pa.Table) -> None:
    unit = better_unit(spec, table)
    if unit is not None:
        value = table[spec.field].drop_null()[0]
        raise UserError(f"{path}: {spec.field} = {value} is no time in {spec.unit}: set its unit to {unit}")


def better_unit(spec: TimeField, table: pa.Table) -> str | None:
    """The unit of numbers that make no sense in the unit of the task, and do in exactly one other; else None."""
    fits = [unit for unit in EPOCHS if _plausible(table, TimeField(field=spec.field, unit=unit))]
    wrong = len(fits) == 1 and spec.unit != fits[0] and not _plausible(table, spec, 1971, 2200)
    return fits[0] if wrong else None


def _plausible(table: pa.Table, spec: TimeField, first: int = 2000, last: int = 2100) -> bool:
    """Whether most times are between two years."""
    try:
        parts = [micros(chunk, spec) for chunk in table[spec.field].chunks]
    except DecodeError:
        return True
    times = np.concatenate([t[ok] for t, ok in parts])
    good = (times >= parse_time(f"{first}-01-01")) & (times < parse_time(f"{last}-01-01"))
    return bool(len(times) and good.mean() > 0.5)


def read_piece(
    task: Task, span: Span | Since, piece: Piece, timed: bool = False
) -> Iterator[EventBlock | DeadLetter | Ledger]:
    """Blocks of at most about `BLOCK` events, the refused rows, and one Ledger at the end.

    Args:
      timed: events without an arrival arrived at their time, since others of the run have one.

    Raises:
      UserError: the file changed since it was planned.
    """
    task, kept = _fitting(task, span, piece), 0
    for part in take_in(task, span, reader_of(piece.format).read(piece, task) if piece.size else (), piece.path):
        if isinstance(part, Ledger):  # files are counted with their first piece
            check_unchanged(piece)
            yield replace(part, files=int(piece.whole), bad_files=int(piece.whole and part.bad_files > 0))
        elif isinstance(part, DeadLetter):
            kept += len(part.raw)
            yield part if kept <= KEPT else replace(part, raw=cut(part.raw))
        elif isinstance(part, EventBlock) and timed and part.arrival is None:
            yield replace(part, arrival=part.time)
        else:
            yield part


def cut(raw: str) -> str:
    """The begin of a refused row; the rest is in its file."""
    return raw if len(raw) <= BRIEF else f"{raw[:BRIEF]} ... (cut, of {len(raw):,} characters)"


def _fitting(task: Task, span: Span | Since, piece: Piece) -> Task:
    """The task as the piece is read with: for a stream, files need not have the task's arrival."""
    arrival = task.events.arrival
    if isinstance(span, Span) or arrival is None or not piece.size:
        return task
    try:
        return task if arrival.field in reader_of(piece.format).columns(piece) else without_arrival(task)
    except (Unreadable, OSError):
        return task


@dataclass(eq=False)
class ReadEvents(beam.PTransform):
    """Pieces -> (shard, packed EventBlock); tagged `dead`: DeadLetter, and `ledger`: one Ledger a piece."""

    task: Task
    span: Span | Since
    pieces: tuple[Piece, ...]
    shards: int
    progress: Progress

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        kinds: Any = Union[tuple({reader_of(name).piece for name in READERS})]  # noqa: UP007
        read = beam.ParDo(_Read(self))
        block = BlockOrTick if isinstance(self.span, Since) else bytes  # a live job has ticks beside
        read = read.with_output_types(tuple[int, block], dead=DeadLetter, ledger=Ledger)  # type: ignore[valid-type]
        return (
            pbegin
            | "Pieces" >> beam.Create(self.pieces, reshuffle=False).with_output_types(kinds)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> read.with_outputs("dead", "ledger", main="blocks")
        )


class _Read(beam.DoFn):
    def __init__(self, read: ReadEvents) -> None:
        self.task, self.span, self.shards, self.progress = read.task, read.span, read.shards, read.progress
        self.timed = any(reader_of(piece.format).is_archive for piece in read.pieces)

    def process(self, piece: Piece) -> Iterator[tuple[int, bytes] | TaggedOutput]:
        for part in read_piece(self.task, self.span, piece, self.timed):
            if isinstance(part, EventBlock):
                for shard, block in split(part, self.shards):
                    yield shard, block.pack()
            else:
                yield TaggedOutput("dead" if isinstance(part, DeadLetter) else "ledger", part)
        self.progress.add("reading", piece.size)
