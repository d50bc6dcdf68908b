"""Text files as chunks of whole lines: byte ranges, compressed files, lines that are too long.

What a line means is told by the formats that have rows on lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.events.columns import is_utf8
from pipelines.events.formats import registry
from pipelines.events.formats.base import (
    RAW,
    Format,
    Ints,
    Piece,
    Refusal,
    Rows,
    Unreadable,
    ended,
    explain,
    opened,
    ranges,
    readable,
)
from pipelines.events.formats.compressions import COMPRESSIONS, compression_of

PIECE = 32 << 20  # bytes of a file that one piece holds
CHUNK = 4 << 20  # bytes of lines in memory, beside one long line
LONGEST = 64 << 20  # bytes of a line
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class TextLines:
    """n lines that are not blank, without their line ends."""

    data: bytes
    start: Ints  # (n) in data
    end: Ints  # (n)
    offset: int  # of data in the (decompressed) file

    def __len__(self) -> int:
        return len(self.start)

    def line(self, row: int) -> bytes:
        return self.data[self.start[row] : self.end[row]]

    def raw(self, row: int) -> str:
        return readable(self.line(row))

    @property
    def at(self) -> Ints:
        return self.start + self.offset

    def take(self, rows: slice | Ints) -> Self:
        return replace(self, start=self.start[rows], end=self.end[rows])

    def text(self) -> pa.Buffer:
        """The lines with line ends, and nothing else but them; not copied where they stand together."""
        if len(self) and (self.start[1:] - self.end[:-1] <= 2).all():
            return pa.py_buffer(self.data).slice(self.start[0], self.end[-1] - self.start[0])
        parts = [self.data[s:e] for s, e in zip(self.start.tolist(), self.end.tolist(), strict=True)]
        return pa.py_buffer(b"\n".join(parts))

    def array(self) -> pa.Array:
        """The lines as an Arrow array (n) of binary."""
        return cut(self.data, self.start, self.end, pa.binary()) if len(self) else pa.array([], pa.binary())

    def rows(self, table: pa.Table, whole: bool) -> Rows:
        """What the lines hold, in columns; with `whole` also the lines themselves."""
        return Rows(table, self.at, "byte {}", self.raw, self.array() if whole else None)

    def refusal(self, row: int, reason: str, value: str = "") -> Refusal:
        """The refusal of a line that cannot be a row."""
        return Refusal(f"byte {self.start[row] + self.offset}", reason, value, self.raw(row))

    def refused(self, reason: str) -> Iterator[Refusal]:
        """The refusals of all lines, none of which can be a row."""
        for row in range(len(self)):
            yield self.refusal(row, reason)


def cut(data: bytes, start: Ints, end: Ints, kind: pa.DataType) -> pa.Array:
    """(n > 0) text or binary: what stands at ascending places. What is between them is a value too, for Arrow; every
    second one is taken."""
    edges = np.empty(2 * len(start), np.int32)
    edges[0::2], edges[1::2] = start, end
    both = pa.Array.from_buffers(kind, len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)], null_count=0)
    return both.take(pa.array(np.arange(0, len(edges) - 1, 2)))


class TextFormat(Format):
    """A format of text files with a row on each line."""

    is_compressible = True

    def pieces(self, path: str, size: int) -> list[Piece]:
        """Byte ranges of `PIECE`; a compressed file is one."""
        return ranges(path, self.name, size, PIECE) if compression_of(path) is None else super().pieces(path, size)

    def row_size(self, path: str, size: int) -> float:
        first, compression = head(path), compression_of(path)
        length = len(first) / max(first.count(b"\n"), 1)
        return max(length / (compression.ratio if compression else 1), 1.0)


def read(piece: Piece) -> Iterator[TextLines | Refusal]:
    """The lines that begin in [start, end), in chunks."""
    compression = compression_of(piece.path)
    try:
        with opened(piece.path) as file:
            if compression is not None:
                yield from chunks(compression.inflate(file, CHUNK), 0, None)
            else:
                file.seek(max(piece.start - 1, 0))
                yield from chunks(iter(lambda: file.read(CHUNK), b""), piece.start, piece.end)
            yield from ended(piece, file.tell())
    except (Unreadable, OSError) as error:
        yield Refusal("file", "a file that cannot be read to its end", explain(error), "", 1, True)


def chunks(source: Iterator[bytes], start: int, end: int | None) -> Iterator[TextLines | Refusal]:
    """TextLines of a stream that begin in [start, end). The stream begins at `start`, or one byte before it if that is
    not 0: so a line that begins at `start` is told from one that began before."""
    held, at, skipping = b"", max(start - 1, 0), start > 0
    broken: Exception | None = None
    while True:
        try:
            data = next(source, b"")
        except Unreadable as error:
            data, broken = b"", error
        held = held + data if held else data
        if skipping or (len(held) > LONGEST and b"\n" not in held):
            if not skipping:
                reason = f"a line of more than {LONGEST >> 20} MiB"
                yield Refusal(f"byte {at}", reason, "", readable(held[:RAW]) + " ... (cut)")
            cut = held.find(b"\n") + 1
            skipping = not cut
            at += cut or len(held)
            held = held[cut:] if cut else b""
            if skipping and data:
                continue
        if end is not None and at >= end:
            return
        last = bool(end is not None and at + len(held) >= end)
        cut = held.find(b"\n", end - 1 - at) + 1 if last and end is not None else held.rfind(b"\n") + 1
        if not data:
            cut = len(held)
        if cut:
            yield whole_lines(held[:cut], at)
            held, at = held[cut:], at + cut
            if last:
                break
        if not data:
            break
    if broken is not None:
        raise broken


def whole_lines(data: bytes, offset: int) -> TextLines:
    """The lines of whole lines that are not blank."""
    content = np.frombuffer(data, np.uint8)
    end = np.flatnonzero(content == 10)
    if not data.endswith(b"\n"):
        end = np.append(end, len(data))
    start = np.concatenate(([0], end[:-1] + 1))
    at = -1 if data.isascii() else data.find(BOM)
    while at >= 0:  # at the start of the file; at that of a line where files were concatenated
        start[start == at] += len(BOM)
        at = data.find(BOM, at + len(BOM))
    if b"\r" in data:
        end = end - ((end > start) & (content[end - 1] == 13))
    blank = end <= start
    for row in np.flatnonzero(~blank & (content[np.minimum(start, len(data) - 1)] <= 32)).tolist():
        blank[row] = not data[start[row] : end[row]].strip()
    found = TextLines(data, start, end, offset)
    return found.take(np.flatnonzero(~blank)) if blank.any() else found


L = TypeVar("L", bound=TextLines)


def unicode(chunk: L) -> tuple[L, L]:
    """(the lines that are UTF-8, the others)."""
    if chunk.data.isascii() or is_utf8(chunk.data):
        return chunk, chunk.take(slice(0, 0))
    valid = np.array([is_utf8(chunk.line(i)) for i in range(len(chunk))], bool)
    return chunk.take(np.flatnonzero(valid)), chunk.take(np.flatnonzero(~valid))


def head(path: str, size: int = 1 << 20) -> bytes:
    """The first bytes of a text file, decompressed.

    Raises:
      Unreadable, OSError: the file cannot be opened or read, or holds no text.
    """
    compression = compression_of(path)
    with opened(path) as file:
        data = file.read(size) if compression is None else next(compression.inflate(file, size), b"")
    what = _other(data)
    if what is not None:
        raise Unreadable(f"it holds {what}, not lines of UTF-8 text")
    return data


def _other(data: bytes) -> str | None:
    """What data are that begin as no text does."""
    if data.startswith(UTF_16):
        return "UTF-16"
    formats = ((each.magic, each.title) for each in map(registry.format_of, registry.FORMATS) if each.magic)
    known = [*formats, *((each.magic, f"{each.name} data") for each in COMPRESSIONS)]
    return next((what for magic, what in known if data.startswith(magic)), None)
