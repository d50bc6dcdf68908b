"""What every format declares of itself and how it is asked, and what formats share: pieces of input, rows in columns,
rows that cannot be read, and opening a file.

Which formats there are is in `registry`; what becomes of rows, in `transforms.read_files`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipelines.system.versioned import versioned
from pipelines.task.spec import Task

RAW = 1 << 20  # bytes of a refused row that are kept
SHOWN = 256  # refused rows whose content is in memory
ROW = 64.0  # bytes of a row of a few fields
REFUSED = {403: "Permission denied", 404: "No such file, folder or bucket"}  # HTTP answers

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@versioned("piece")
@dataclass(frozen=True)
class Piece:
    """A part of a file that is read at once; pieces of a file can be read in any order, by anyone."""

    path: str  # or the `bq://...` of a table or query, which counts as a file
    format: str  # name of the reader
    start: int  # row groups for Parquet, streams for BigQuery, else bytes, of the lines or blocks that start there
    end: int  # exclusive
    size: int  # bytes, for progress; the pieces of a file add up to the file
    whole: bool  # the first piece of its file, by which files are counted
    version: tuple[int, float] | None = field(
        default=None, kw_only=True
    )  # of its file when the run was planned: bytes,
    # and when it was modified, in seconds since 1970


class Sent(NamedTuple):
    """What a message brought, so that it can be sent again."""

    position: str  # "message 17", or "message 17, event 3"
    payload: bytes  # of the event alone where it can be had
    attributes: tuple[tuple[str, str], ...]  # of the message, and `foretide_id`, by which an event stays the same

    def refusal(self, reason: str, value: str, raw: str) -> Refusal:
        """Of an event, or of a message, that cannot be read."""
        return Refusal(self.position, reason, value, raw, sent=self)


@dataclass(frozen=True)
class Rows:
    """n rows in columns, in the order of the file."""

    table: pa.Table  # every column of task.columns; all columns of the file with identity `all`
    at: Ints  # (n) where each row is, for `place`
    place: str  # "row {}" or "byte {}"
    raw: Callable[[int], str]  # the content of a row
    lines: pa.Array | None = None  # the rows as they stand in a text file, with identity `all`
    arrival: Ints | None = None  # (n) us, where it is known beside the table
    ids: Hashes | None = None  # (n) of events of messages, with identity `none`: so that one sent twice counts once
    sent: Callable[[int], Sent] | None = None  # of messages
    raws: Callable[[Sequence[int]], list[str]] | None = None  # `raw` of many rows, where it costs less than each alone

    def __len__(self) -> int:
        return len(self.at)

    def refusals(self, flaws: Mapping[int, Flaw]) -> Iterator[Refusal]:
        """Rows that cannot be events."""
        rows = list(flaws)
        for some in (rows[start : start + SHOWN] for start in range(0, len(rows), SHOWN)):
            raws = map(self.raw, some) if self.raws is None else self.raws(some)
            for row, raw in zip(some, raws, strict=True):
                reason, value = flaws[row]
                if self.sent is not None:
                    yield self.sent(row).refusal(reason, value, raw)
                else:
                    yield Refusal(self.place.format(self.at[row]), reason, value, raw)

    def position(self, row: int) -> str:
        return self.place.format(self.at[row]) if self.sent is None else self.sent(row).position


class Flaw(NamedTuple):
    """Why a row cannot be an event."""

    reason: str  # of few kinds: no values in it
    value: str = ""  # what stood there, shortened


class Refusal(NamedTuple):
    """A row, or a part of a file, that cannot be read."""

    position: str
    reason: str  # of few kinds: no values in it
    value: str  # what stood there, shortened
    raw: str
    rows: int = 1
    part: bool = False  # a part of the file that could not be read at all
    sent: Sent | None = None  # of a message


class Reader(ABC):
    """Reads one kind of input: a format of files, or tables of BigQuery."""

    name: ClassVar[str]  # in the pieces that it reads
    piece: ClassVar[type[Piece]] = Piece  # of which class they are
    is_archive: ClassVar[bool] = False  # of messages, good and bad, and of when each arrived

    @abstractmethod
    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """Reads all rows of a piece, each once, in bounded memory."""

    @abstractmethod
    def columns(self, piece: Piece) -> Collection[str]:
        """Names of the fields of a piece. Raises Unreadable, OSError: there is no saying."""

    def row_size(self, path: str, size: int) -> float:
        """About how many bytes of an input of `size` bytes a row takes, by a short look at it.

        Raises:
          Unreadable, OSError: it cannot be looked at.
        """
        return ROW


class Format(Reader):
    """A format of event files: what it is called and how its files are, and how they are read."""

    title: ClassVar[str]  # for people
    endings: ClassVar[tuple[str, ...]]  # of the names of its files, in lower case
    magic: ClassVar[bytes] = b""  # what every file of it begins with
    is_compressible: ClassVar[bool] = False  # whole files of it may be compressed, see `compressions`
    is_sparse: ClassVar[bool] = False  # a row may leave out a field that is null, so the first rows may not show all

    @abstractmethod
    def fields(self, path: str) -> dict[str, str]:
        """Field -> its type, as the header or the first rows say.

        Raises:
          Unreadable, OSError: there is no saying.
        """

    def pieces(self, path: str, size: int) -> list[Piece]:
        """The pieces of a file of `size` bytes; one for a file that cannot be split, or opened: `read` says why."""
        return [Piece(path, self.name, 0, size, size, True)]

    def columns(self, piece: Piece) -> Collection[str]:
        return self.fields(piece.path)


class Unreadable(Exception):
    """A file that is damaged, cut off, or not of its format."""


def ranges(path: str, name: str, size: int, step: int) -> list[Piece]:
    """A file of `size` bytes in byte ranges of at most `step`."""
    starts = range(0, size, step)
    return [Piece(path, name, s, min(s + step, size), min(step, size - s), s == 0) for s in starts]


def without(column: str, there: list[str], rows: int) -> Refusal:
    """All rows of a piece of a file that lacks a column of the task, or has it twice."""
    reason = f"column {column} is missing" if column not in there else f"column {column} stands twice"
    return Refusal("file", reason, "columns: " + shorten(", ".join(there), 400), "", rows, True)


def ended(piece: Piece, reached: int, unit: str = "bytes") -> Iterator[Refusal]:
    """Refuses what a piece lacks, if its file ends before it does: it has been cut off since the run was planned."""
    if reached < piece.end:
        yield Refusal("file", "a file that was cut off", f"{reached} of {piece.end} {unit}", "", 1, True)


def opened(path: str) -> BinaryIO:
    """The bytes of a file as they are, local or remote, seekable.

    Raises:
      OSError: the file is not there, or may not be read. Other failures of a remote file system stay what they are:
        they say nothing about the file, and the runner tries again.
    """
    try:
        return cast(BinaryIO, FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
    except Exception as error:
        if getattr(error, "code", None) in REFUSED:
            raise OSError(explain(error)) from error
        raise


def readable(raw: bytes) -> str:
    """Content of a refused row: bytes that are not UTF-8 as \\xNN, cut after `RAW` bytes with a note."""
    text = raw[:RAW].decode("utf-8", "backslashreplace")
    return text if len(raw) <= RAW else f"{text} ... ({len(raw)} bytes in all)"


def shorten(text: str, size: int = 80) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."


def explain(error: Exception) -> str:
    """The first sentence of a library's error, for people."""
    known = error.strerror if isinstance(error, OSError) else REFUSED.get(getattr(error, "code", 0))
    return shorten(known or str(error).strip().split("\n")[0] or type(error).__name__, 200)
