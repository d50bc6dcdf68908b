"""Avro container files: byte ranges of whole blocks, found by their sync markers.

A block belongs to the piece that holds the first byte of the marker before it, so pieces need no index of the file and
reading goes on behind a damaged block. (A marker that is itself damaged, just where a piece begins, hides one block.)
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, BinaryIO, NamedTuple

import fastavro
import fastavro.read

from pipelines.events.formats import avro_schema, codecs, records
from pipelines.events.formats.base import (
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
    without,
)
from pipelines.task.spec import Task

PIECE = 16 << 20  # bytes
HEADER = 4 << 20  # bytes of a file's header, at most
MAGIC = b"Obj\x01"
SYNC = 16
ROWS = 1 << 15  # in memory at once
DENSEST = 1 << 10  # bytes that a byte of compressed data may stand for, about
DAMAGED = "an Avro block that cannot be read"
DECIMAL = "bytes-decimal"
LONG: Any = fastavro.parse_schema({"type": "long"})
HEADER_SCHEMA: Any = fastavro.parse_schema(
    {
        "type": "record",
        "name": "header",
        "fields": [
            {"name": "magic", "type": {"type": "fixed", "name": "magic", "size": len(MAGIC)}},
            {"name": "meta", "type": {"type": "map", "values": "bytes"}},
            {"name": "sync", "type": {"type": "fixed", "name": "sync", "size": SYNC}},
        ],
    }
)


def _decimal(data: bytes, *more: Any) -> Any:
    """A decimal number; one of a million digits takes a minute."""
    if len(data) > avro_schema.DIGITS:
        raise ValueError(f"a decimal number of {len(data)} bytes")
    return _DECIMAL(data, *more)


_DECIMAL = fastavro.read.LOGICAL_READERS[DECIMAL]
fastavro.read.LOGICAL_READERS[DECIMAL] = _decimal


@dataclass(frozen=True)
class Header:
    """What the blocks of a file are read with."""

    raw: bytes
    schema: bytes
    codec: str

    @property
    def sync(self) -> bytes:
        return self.raw[-SYNC:]

    @property
    def fields(self) -> Mapping[str, str]:
        """Fields and their types."""
        return named(self.schema)

    def records(self, data: bytes, count: int) -> Iterator[tuple[records.Record, int]]:
        """The records of decompressed data, each with where it ends. Their memory has been looked at."""
        source, schema = io.BytesIO(data), parsed(self.schema)
        for _ in range(count):
            record: Any = fastavro.schemaless_reader(source, schema, None)
            yield record, source.tell()


class BlockPlace(NamedTuple):
    """Where a block is in a buffer, and how many records its head promises."""

    data: int  # where its data begin
    end: int  # where the marker behind it begins
    records: int


def header(file: BinaryIO) -> Header:
    """Reads the header: magic, metadata, sync marker."""
    file.seek(0)
    raw = file.read(HEADER)
    if not raw.startswith(MAGIC):
        raise Unreadable("it does not begin as Avro does")
    source = io.BytesIO(raw)
    try:
        found: Any = fastavro.schemaless_reader(source, HEADER_SCHEMA, None)
        metadata = found["meta"]
        avro_schema.shape(metadata["avro.schema"])
        named(metadata["avro.schema"])
        codec = metadata.get("avro.codec", b"null").decode()
    except Unreadable:
        raise
    except Exception as error:  # damaged data can fail in any way
        raise Unreadable("a damaged Avro header") from error
    return Header(raw[: source.tell()], metadata["avro.schema"], codec)


@lru_cache(maxsize=16)
def parsed(schema: bytes | str) -> Any:
    """A schema, which is within bounds, as fastavro wants it."""
    return fastavro.parse_schema(json.loads(schema))


@lru_cache(maxsize=16)
def named(schema: bytes | str) -> Mapping[str, str]:
    """Fields of the schema of a record, which is within bounds, and their types in a word or two."""
    return {str(f["name"]): _named(f["type"]) for f in json.loads(schema)["fields"]}


@dataclass(frozen=True)
class Container:
    """The records of a whole container that is in memory."""

    head: Header
    data: bytes  # decompressed
    records: list[records.Record]
    ends: list[int]  # in the data
    memory: int  # bytes that the records take, at most

    def single(self, record: int) -> bytes:
        """A container with one of the records, byte for byte."""
        start = self.ends[record - 1] if record else 0
        return _container(self.head.schema, self.data[start : self.ends[record]], 1)


def container(data: bytes) -> Container:
    """Decodes a container, of which together there may be as much as of one block.

    Raises:
      Exception: of any kind; damaged data can fail in any way.
    """
    file = io.BytesIO(data)
    head = header(file)
    parts, count, at, whole = list[bytes](), 0, len(head.raw), bytearray(data)
    while at < len(data):
        block = _block(file, whole, at)
        if block is None or data[block.end : block.end + SYNC] != head.sync:
            raise Unreadable("a block that is damaged, or too small for its records")
        parts.append(codecs.decompress(data[block.data : block.end], head.codec))
        if sum(map(len, parts)) > codecs.LARGEST:
            raise Unreadable(f"more than {codecs.LARGEST >> 20} MiB in a container")
        count, at = count + block.records, block.end + SYNC
    plain = b"".join(parts)
    memory = avro_schema.shape(head.schema).memory(plain, count)
    found = list(head.records(plain, count)) if count else []
    if len(found) != count:
        raise Unreadable(f"{len(found)} records instead of {count}")
    return Container(head, plain, [record for record, _ in found], [end for _, end in found], memory)


def _container(schema: bytes, data: bytes, count: int) -> bytes:
    """A container of one block that is not compressed."""
    out, metadata = io.BytesIO(), {"avro.schema": schema, "avro.codec": b"null"}
    fastavro.schemaless_writer(out, HEADER_SCHEMA, {"magic": MAGIC, "meta": metadata, "sync": bytes(SYNC)})
    for number in (count, len(data)):
        fastavro.schemaless_writer(out, LONG, number)
    return out.getvalue() + data + bytes(SYNC)


class Avro(Format):
    """The format; where a row stands is told by its block."""

    name = "avro"
    title = "Avro"
    endings = (".avro",)
    magic = MAGIC

    def pieces(self, path: str, size: int) -> list[Piece]:
        """Byte ranges of `PIECE`."""
        return ranges(path, self.name, size, PIECE)

    def fields(self, path: str) -> dict[str, str]:
        """Fields of the schema and their types."""
        with opened(path) as file:
            return dict(header(file).fields)

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """Records of the piece's blocks, in tables of about `ROWS`."""
        try:
            with opened(piece.path) as file:
                head = header(file)
                parts = _records(file, head, piece)
                lacking = next((c for c in task.columns if c not in head.fields), None)
                if lacking is None:
                    yield from _tables(task, parts)
                    yield from ended(piece, file.seek(0, io.SEEK_END))
                    return
                rows = sum(part.rows if isinstance(part, Refusal) else len(part.records) for part in parts)
                if rows:
                    yield without(lacking, list(head.fields), rows)
        except (Unreadable, OSError) as error:
            yield Refusal("file", "not a readable Avro file", explain(error), "", 1, True)


READER = Avro()


class AvroBlock(NamedTuple):
    """A block that was read."""

    at: int
    records: list[records.Record]
    memory: int  # bytes that they take, at most


def _records(file: BinaryIO, head: Header, piece: Piece) -> Iterator[AvroBlock | Refusal]:
    """The blocks of a piece, or why one cannot be read."""
    shape = avro_schema.shape(head.schema)
    for at, block, raw in _blocks(file, head, piece):
        if raw is None:
            yield Refusal(f"byte {at}", DAMAGED, "", "", _promised(block), True)
            continue
        try:
            data = codecs.decompress(raw, head.codec)
            memory = shape.memory(data, block.records)
            found = [record for record, _ in head.records(data, block.records)]
            if len(found) != block.records:
                raise ValueError(f"{len(found)} records instead of {block.records}")
            yield AvroBlock(at, found, memory)
        except Exception as error:  # damaged data can fail in any way
            yield Refusal(f"byte {at}", DAMAGED, explain(error), "", _promised(block), True)


def _promised(block: BlockPlace) -> int:
    """How many records are lost with a block: what its head says, as far as that can be."""
    return min(max(block.records, 1), 8 * max(block.end - block.data, 1))


def _blocks(file: BinaryIO, head: Header, piece: Piece) -> Iterator[tuple[int, BlockPlace, bytes | None]]:
    """(byte, block, its data) of a piece; no data of a damaged block."""
    start = max(piece.start, len(head.raw) - SYNC)
    file.seek(start)
    data = bytearray(file.read(max(piece.end - start, 0) + SYNC))
    marker = data.find(head.sync)
    while 0 <= marker < piece.end - start:
        at = marker + SYNC
        block = _block(file, data, at)
        if block is None and at >= len(data):
            return
        good = block is not None and data[block.end : block.end + SYNC] == head.sync
        if block is not None and not good:  # only the marker is damaged if another block follows it
            after = _block(file, data, block.end + SYNC)
            good = after is not None and data[after.end : after.end + SYNC] == head.sync
        if block is not None and good:
            yield start + at, block, bytes(data[block.data : block.end])
            marker = block.end
        else:
            yield start + at, block or BlockPlace(at, at, 1), None
            marker = data.find(head.sync, at)


def _block(file: BinaryIO, data: bytearray, at: int) -> BlockPlace | None:
    """The block that begins at `at`, read on into `data` if need be; None if no block can begin there."""
    if len(data) < at + 20:
        data += file.read(at + 20 - len(data))
    try:
        count, body = _long(data, at)
        size, body = _long(data, body)
    except IndexError:
        return None
    if not (0 < count <= 8 * max(size, 1) * DENSEST and 0 <= size <= codecs.LARGEST):
        return None
    missing = body + size + SYNC - len(data)
    if missing > 0:
        data += file.read(missing)
    return BlockPlace(body, body + size, count)


def _tables(task: Task, parts: Iterator[AvroBlock | Refusal]) -> Iterator[Rows | Refusal]:
    first, held, memory = 0, list[records.Record](), 0
    for part in parts:
        if isinstance(part, Refusal):
            yield part
            continue
        if len(held) >= ROWS or memory + part.memory > avro_schema.DECODED:
            yield from _rows(task, first, held)
            held, memory = [], 0
        if not held:
            first = part.at
        held += part.records
        memory += part.memory
    if held:
        yield from _rows(task, first, held)


def _rows(task: Task, first: int, held: list[records.Record]) -> Iterator[Rows | Refusal]:
    place = f"row {{}} after byte {first}"
    good, bad = records.tables(task, held)
    for row, (reason, value) in bad.items():
        yield Refusal(place.format(row), reason, value, shown(held[row]))
    for table, rows in good:
        yield Rows(table, rows, place, partial(_content, held, rows))


def _content(held: list[records.Record], rows: Ints, row: int) -> str:
    return shown(held[rows[row]])


def shown(record: records.Record) -> str:
    """A record as JSON."""
    return readable(json.dumps(record, default=_plain, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _plain(value: object) -> str:
    return readable(value) if isinstance(value, bytes) else str(value)


def _long(raw: bytes | bytearray, at: int) -> tuple[int, int]:
    """(value, what follows) of a zigzag varint of at most 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
    raise IndexError("a varint of more than 10 bytes")


def _named(kind: object) -> str:
    """A type of the schema in a word or two."""
    if isinstance(kind, list):
        return " or ".join(_named(k) for k in kind if k != "null")
    if isinstance(kind, dict):
        return str(kind.get("logicalType", _named(kind.get("type"))))
    return str(kind)
