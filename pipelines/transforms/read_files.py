"""From files and tables to packed event blocks by shard: which files, in which pieces, what became of each row.

How a format is read is in `formats`, what a row means in `decode`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import TaggedOutput

from pipelines.errors import UserError
from pipelines.events.block import EventBlock, split
from pipelines.events.decode import Since, Span, without_arrival
from pipelines.events.formats.base import Piece, Unreadable, explain
from pipelines.events.formats.registry import READERS, endings, format_of, named, reader_of
from pipelines.events.intake import take_in
from pipelines.events.messages import BlockOrTick
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.system.progress import Progress
from pipelines.task.fields import format_time
from pipelines.task.spec import Task

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
        raise UserError(
            f"{path}: the format of this file is not known by its name ({known})", remedy="Say it with --format"
        )
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
    """Checks that the file of a piece is the one that was planned. Raises UserError if not. One that is gone is not
    refused: whoever reads it is told."""
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
            f"{piece.path}: changed while it was read (it had {was}, now {is_}), so nothing was published",
            remedy="Run again when nothing writes to it any more, or name only files that are complete",
        )


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
    """The task as the piece is read with."""
    if isinstance(span, Span) or task.events.arrival is None or not piece.size:
        return task
    try:
        return fitting(task, span, reader_of(piece.format).columns(piece))
    except (Unreadable, OSError):
        return task


def fitting(task: Task, span: Span | Since | None, fields: Collection[str]) -> Task:
    """The task as something with these fields is read with: what a stream starts from need not have the arrival."""
    arrival = task.events.arrival
    lacks = isinstance(span, Since) and arrival is not None and arrival.field not in fields
    return without_arrival(task) if lacks else task


@dataclass(eq=False)
class ReadPieces(beam.PTransform):
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
    def __init__(self, read: ReadPieces) -> None:
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
