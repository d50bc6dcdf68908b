"""Row groups of a Parquet file in bounded memory, whatever the file says of itself.

Some bytes can stand for gigabytes: a page that decompresses to them, a long value of a dictionary that all rows have, a
list of a hundred million nulls. So the bytes of row groups are read first, once, and the headers of their pages are
looked at; only then they are decoded, in steps. Small row groups are read together: each alone costs milliseconds.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.events.formats import thrift
from pipelines.events.formats.base import Unreadable, explain

BATCH = 1 << 18  # rows in memory
TOGETHER = 128 << 20  # bytes of memory of rows that are decoded together, about
PAGE = 512 << 20  # bytes of a page, decompressed
VALUES = 64 << 20  # of lists and maps in a row group
FEW = 1 << 20  # bytes of a column chunk, decompressed, whose pages need no look
GAP = 1 << 20  # bytes between column chunks that are read rather than skipped
TAIL = 1 << 16  # bytes at the end of a file, where its footer is
ENDLESS = 1 << 62  # bytes that a file may seem to have
NO_CONTENT = re.compile("File too short|[Uu]nexpected end of stream")  # what is told of a file without content
DELTA = 7  # encoding of text by what differs from the text before it
# What a byte can decompress to, at most; others have no bound.
RATIO = {"UNCOMPRESSED": 1, "SNAPPY": 64, "LZ4": 256, "LZ4_RAW": 256, "GZIP": 1_100, "ZSTD": 50_000}

CODECS = {"UNCOMPRESSED": "", "SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "LZ4_RAW": "lz4_raw"}


class Chunk(NamedTuple):
    """A column of a row group."""

    start: int  # in the file
    end: int
    values: int
    path: str
    width: int  # bytes of a value; 0 for text, whose values differ
    nested: bool
    most: int  # bytes, decompressed, if there is a bound
    codec: str


@dataclass(frozen=True)
class RowGroup:
    """A row group, with the columns that are wanted of it."""

    number: int
    rows: int
    chunks: tuple[Chunk, ...]
    broken: str = ""  # why it cannot be read

    @property
    def most(self) -> int:
        """Memory, in bytes, that it takes when it is decoded, at most."""
        return sum(_most(chunk) for chunk in self.chunks)


def check_footer(file: BinaryIO) -> None:
    """Raises Unreadable for columns that are nested too deep; leaves the file where it was."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(end - TAIL, 0))
    tail = file.read(TAIL)
    size = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] == b"PAR1" and size <= end - 8:
        if size > len(tail) - 8:
            file.seek(end - 8 - size)
            tail = file.read(size) + tail[-8:]
        thrift.check_columns(tail[-8 - size : -8])
    file.seek(0)


def groups(meta: pq.FileMetaData, columns: Sequence[str], start: int, end: int) -> list[RowGroup]:
    """Describes the row groups [start, end).

    Raises:
      Unreadable: they are encrypted, or have other columns than the file.
    """
    if any(meta.row_group(i).num_columns != meta.num_columns for i in range(start, end)):
        raise Unreadable("a row group with other columns than the file")
    wrong = _unsound(meta, columns, range(start, end))
    if "ecrypt" in wrong:
        raise Unreadable(wrong)
    wanted = [i for i in range(meta.num_columns) if _wanted(meta.schema.column(i).path, columns)]
    return [_group(meta, wanted, number, wrong and _unsound(meta, columns, [number])) for number in range(start, end)]


def _unsound(meta: pq.FileMetaData, columns: Sequence[str], numbers: Sequence[int]) -> str:
    """What is wrong with the metadata of columns in row groups; empty if nothing. To ask pyarrow for those of one that
    is encrypted or damaged ends the process. A reader raises, and of a file without content it reads nothing else."""
    nothing = Held([])
    nothing.size = ENDLESS
    with pq.ParquetFile(nothing, metadata=meta, pre_buffer=True) as source:
        try:
            next(source.iter_batches(1, numbers, columns=list(columns), use_threads=False), None)
        except (pa.ArrowException, OSError, ValueError) as error:
            return "" if NO_CONTENT.search(str(error)) else explain(error)
    return ""


def _group(meta: pq.FileMetaData, wanted: Sequence[int], number: int, wrong: str) -> RowGroup:
    group, schema = meta.row_group(number), meta.schema
    if wrong:
        return RowGroup(number, group.num_rows, (), wrong)
    try:
        chunks = tuple(_chunk(group.column(i), schema.column(i)) for i in wanted)
    except (Unreadable, pa.ArrowException, OSError, ValueError) as error:
        return RowGroup(number, group.num_rows, (), explain(error))
    return RowGroup(number, group.num_rows, chunks)


def runs(found: Sequence[RowGroup]) -> Iterator[list[RowGroup]]:
    """Row groups that are read together: several small ones, or one."""
    held, rows, most = list[RowGroup](), 0, 0
    for group in found:
        large = rows + group.rows > BATCH or most + group.most > TOGETHER
        if held and (large or group.broken or held[-1].broken):
            yield held
            held, rows, most = [], 0, 0
        held.append(group)
        rows, most = rows + group.rows, most + group.most
    if held:
        yield held


def tables(
    file: BinaryIO, meta: pq.FileMetaData, run: Sequence[RowGroup], columns: list[str], dictionary: list[str]
) -> Iterator[pa.Table]:
    """The rows of row groups, in order, in tables that are bounded in rows and memory.

    Raises:
      Unreadable, pa.ArrowException, OSError, ValueError: they are damaged, or would take too much memory.
    """
    if run[0].broken:
        raise Unreadable(run[0].broken)
    with Held.of(file, [chunk for group in run for chunk in group.chunks]) as held:
        most, step = (BATCH, BATCH) if _small(run) else _steps(held, meta, run, dictionary)
        numbers = [group.number for group in run]
        parts, rows, memory = list[pa.RecordBatch](), 0, 0
        with _opened(held, meta, dictionary) as source:
            for batch in source.iter_batches(step, numbers, columns=columns, use_threads=False):
                parts.append(_sound(batch))
                rows, memory = rows + len(batch), memory + batch.nbytes
                if rows >= most or memory >= TOGETHER:
                    yield from _bounded(_joined(parts))
                    parts, rows, memory = [], 0, 0
        if parts:
            yield from _bounded(_joined(parts))


def _small(run: Sequence[RowGroup]) -> bool:
    """Whether nothing in some row groups can be large, by the size of their bytes alone."""
    return sum(g.most for g in run) <= TOGETHER and all(c.most <= FEW for g in run for c in g.chunks)


def _steps(held: Held, meta: pq.FileMetaData, run: Sequence[RowGroup], dictionary: Sequence[str]) -> tuple[int, int]:
    """(rows in a table, rows that are decoded at once), by what the pages of row groups say.

    Raises:
      Unreadable: a page is damaged, or too large.
    """
    most = step = TOGETHER // BATCH  # bytes of a row
    for group in run:
        long = 0
        for chunk in group.chunks:
            found = _look(held, chunk)
            each = -(-chunk.values // max(group.rows, 1))  # values in a row
            long += each * (chunk.width or found.plain)
            step = max(step, found.delta)
            if found.dictionary * chunk.values > TOGETHER and not chunk.width and chunk.path not in dictionary:
                same = _same_length(held, chunk)
                long += each * (_longest(held, meta, group, chunk, found.dictionary) if same is None else same)
        most = max(most, long)
    rows = max(TOGETHER // most, 1)
    return rows, max(min(rows, TOGETHER // step), 1)


class Look(NamedTuple):
    """What the pages of a column say, in bytes."""

    dictionary: int
    plain: int  # of a value, in the page where they are longest
    delta: int  # of the largest page of text that is told by what differs


def _look(held: Held, chunk: Chunk) -> Look:
    dictionary = plain = delta = values = 0
    for page in thrift.pages(held.view(chunk.start, chunk.end)):
        if page.size > PAGE:
            raise Unreadable(f"a page of {page.size:,} bytes, more than {PAGE >> 20} MiB: write smaller ones")
        if page.kind == thrift.DICTIONARY:
            dictionary = max(dictionary, page.size)
        elif page.kind in (thrift.DATA, thrift.DATA_V2):
            values += page.values
            plain = max(plain, page.size // max(page.values, 1))
            delta = max(delta, page.size if page.encoding == DELTA else 0)
        if values > chunk.values:
            raise Unreadable("pages with more values than their column has")
    if chunk.nested and values > VALUES:
        raise Unreadable(f"{values:,} values in lists, more than {VALUES:,}: write smaller row groups")
    return Look(dictionary, plain, delta)


def _same_length(held: Held, chunk: Chunk) -> int | None:
    """Bytes of each value of a dictionary, if they all have as many, as identifiers do; None if not."""
    view = held.view(chunk.start, chunk.end)
    page = next((p for p in thrift.pages(view) if p.kind == thrift.DICTIONARY), None)
    codec = CODECS.get(chunk.codec)
    if page is None or not page.values or codec is None or page.size % page.values:
        return None
    data = view[page.data : page.data + page.compressed]
    plain = np.frombuffer(pa.decompress(data, page.size, codec) if codec else data, np.uint8)
    sizes = plain.reshape(page.values, -1)[:, :4].copy().view("<u4")
    return int(sizes[0, 0]) if plain.size and (sizes == plain.size // page.values - 4).all() else None


def _longest(held: Held, meta: pq.FileMetaData, group: RowGroup, chunk: Chunk, size: int) -> int:
    """Bytes of the longest value of a dictionary of `size` bytes; if it shows in the first row."""
    with _opened(held, meta, [chunk.path]) as source:
        first = next(source.iter_batches(1, [group.number], columns=[chunk.path], use_threads=False), None)
    leaves = list(first.columns) if first is not None else []
    while any(pa.types.is_nested(leaf.type) for leaf in leaves):
        leaves = [inner for leaf in leaves for inner in _inner(leaf)]
    lengths = [
        pc.max(pc.binary_length(leaf.dictionary)).as_py() for leaf in leaves if pa.types.is_dictionary(leaf.type)
    ]
    return max((n for n in lengths if n is not None), default=size)


def _inner(array: pa.Array) -> list[pa.Array]:
    """The arrays that a nested one is made of."""
    kind = array.type
    if pa.types.is_struct(kind):
        return [array.field(i) for i in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [array.keys, array.items]
    return [array.values] if pa.types.is_nested(kind) else [array]


def _bounded(table: pa.Table) -> Iterator[pa.Table]:
    """A table, in parts while it is too large, also without its dictionaries.

    Raises:
      Unreadable: one row is.
    """
    encoded = [c.chunk(0).dictionary for c in table.columns if c.num_chunks and pa.types.is_dictionary(c.type)]
    long = sum(pc.max(pc.binary_length(each)).as_py() or 0 for each in encoded)
    step = max(TOGETHER // max(long, 1), 1)
    for start in range(0, len(table), step):
        yield from _halved(table.slice(start, step))


def _halved(table: pa.Table) -> Iterator[pa.Table]:
    if table.nbytes <= 4 * TOGETHER:
        yield table
    elif len(table) == 1:
        raise Unreadable(f"a row of {table.nbytes:,} bytes, more than {4 * TOGETHER >> 20} MiB")
    else:
        half = len(table) // 2
        yield from _halved(table.slice(0, half))
        yield from _halved(table.slice(half))


def _joined(parts: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(parts)
    return table if len(parts) == 1 else table.unify_dictionaries().combine_chunks()


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch itself.

    Raises:
      pa.ArrowInvalid: damaged data give an index that is not in its dictionary, which Arrow itself never checks.
    """
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            most = pc.max(column.indices).as_py()
            if most is not None and most >= len(column.dictionary):
                raise pa.ArrowInvalid("an index outside its dictionary")
    return batch


def _opened(held: Held, meta: pq.FileMetaData, dictionary: list[str]) -> pq.ParquetFile:
    return pq.ParquetFile(held, metadata=meta, read_dictionary=dictionary, coerce_int96_timestamp_unit="us")


def _wanted(path: str, columns: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _chunk(column: pq.ColumnChunkMetaData, schema: pq.ColumnSchema) -> Chunk:
    dictionary = column.dictionary_page_offset if column.has_dictionary_page else None
    start = column.data_page_offset if not dictionary else min(dictionary, column.data_page_offset)
    size, values = column.total_compressed_size, column.num_values
    if start < 0 or size < 0 or values < 0:
        raise Unreadable("a column of a size that cannot be")
    kind = column.physical_type
    width = {"BOOLEAN": 1, "INT96": 12, "BYTE_ARRAY": 0, "FIXED_LEN_BYTE_ARRAY": schema.length}.get(kind, 8)
    most = size * RATIO.get(column.compression, 1 << 20)
    return Chunk(
        start, start + size, values, schema.path, width, schema.max_repetition_level > 0, most, column.compression
    )


def _most(chunk: Chunk) -> int:
    return chunk.values * (chunk.width or chunk.most)  # of text one value may be all there is, and stand in every row


class Held(io.RawIOBase):
    """Parts of a file in memory, at their places in it."""

    def __init__(self, parts: list[tuple[int, bytes]]) -> None:
        self.parts, self.at = parts, 0
        self.starts = np.array([start for start, _ in parts], np.int64)
        self.size = max((start + len(data) for start, data in parts), default=0)

    @staticmethod
    def of(file: BinaryIO, chunks: Sequence[Chunk]) -> Held:
        """The bytes of some columns, with those of small gaps between them."""
        spans: list[tuple[int, int]] = []
        for chunk in sorted(chunks):
            if spans and chunk.start <= spans[-1][1] + GAP:
                spans[-1] = spans[-1][0], max(spans[-1][1], chunk.end)
            else:
                spans.append((chunk.start, chunk.end))
        parts = []
        for start, end in spans:
            file.seek(start)
            parts.append((start, file.read(end - start)))
        return Held(parts)

    def view(self, start: int, end: int) -> memoryview:
        """A part of what is there."""
        i = int(np.searchsorted(self.starts, start, side="right")) - 1
        if i < 0:
            return memoryview(b"")
        first, data = self.parts[i]
        return memoryview(data)[start - first : max(end - first, 0)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else self.at + size
        out = bytes(self.view(self.at, end))
        self.at += len(out)
        return out
