"""Avro container files: byte ranges of whole blocks, found by their sync markers.

A block belongs to the piece that holds the first byte of the marker before it, so pieces need no index of the file and
reading goes on behind a damaged block. (A marker that is itself damaged, just where a piece begins, hides one block.)
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import fastavro

from pipelines.task import Task
from pipelines.transforms.formats import records
from pipelines.transforms.formats.base import (
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

PIECE = 16 << 20  # bytes
LARGEST = 256 << 20  # bytes of a block
HEADER = 4 << 20  # bytes of a file's header, at most
MAGIC = b"Obj\x01"
SYNC = 16
ROWS = 1 << 15  # in memory at once
DAMAGED = "an Avro block that cannot be read"


@dataclass(frozen=True)
class Header:
    """What the blocks of a file are read with."""

    raw: bytes
    fields: dict[str, str]  # and their types

    @property
    def sync(self) -> bytes:
        return self.raw[-SYNC:]


class Block(NamedTuple):
    """Where a block is in a buffer, and how many records its head promises."""

    start: int
    data: int  # where its data begin
    end: int  # where the marker behind it begins
    records: int


def pieces(path: str, size: int) -> list[Piece]:
    """Byte ranges of `PIECE`."""
    return ranges(path, "avro", size, PIECE)


def fields(path: str) -> dict[str, str]:
    """Fields of the schema and their types.

    Raises:
      Unreadable, OSError: the file cannot be read.
    """
    with opened(path) as file:
        return header(file).fields


def header(file: BinaryIO) -> Header:
    """Reads the header: magic, metadata, sync marker."""
    file.seek(0)
    raw = file.read(HEADER)
    try:
        if not raw.startswith(MAGIC):
            raise Unreadable("it does not begin as Avro does")
        metadata, at = _metadata(raw, len(MAGIC))
        schema = json.loads(metadata["avro.schema"])
        if not isinstance(schema, dict) or schema.get("type") != "record" or len(raw) < at + SYNC:
            raise Unreadable("its records are not of a record type")
        return Header(raw[: at + SYNC], named(schema))
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Unreadable("a damaged Avro header") from error


def named(schema: Mapping[str, Any]) -> dict[str, str]:
    """Fields of the schema of a record, and their types in a word or two."""
    return {str(f["name"]): _named(f["type"]) for f in schema["fields"]}


def decoded(data: bytes) -> list[records.Record]:
    """The records of a whole container.

    Raises:
      Exception: of any kind; damaged data can fail in any way.
    """
    return [record for block in _checked(data) for record in block]


def single(data: bytes, record: int) -> bytes:
    """A container with one record (from 0) of a container that can be read, byte for byte."""
    for block in _checked(data):
        if record < block.num_records:
            for _ in range(record + 1):
                start = block.bytes_.tell()
                fastavro.schemaless_reader(block.bytes_, block.writer_schema, None)
            return _container(block.writer_schema, block.bytes_.getvalue()[start : block.bytes_.tell()])
        record -= block.num_records
    raise IndexError("fewer records")


def _checked(data: bytes) -> Iterator[Any]:
    """The blocks of a container, none of which promises more records than it can hold."""
    for block in fastavro.block_reader(io.BytesIO(data)):
        if block.num_records > max(len(block.bytes_.getvalue()), 1) * 8:
            raise Unreadable("a block that is too small for its records")
        yield block


def _container(schema: Mapping[str, Any], record: bytes) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, schema, [], codec="null", sync_marker=bytes(SYNC))
    return b"".join([out.getvalue(), b"\x02", _zigzag(len(record)), record, bytes(SYNC)])


def _zigzag(size: int) -> bytes:
    """A length as Avro writes it."""
    out, rest = bytearray(), size << 1
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def read(piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
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
            rows = sum(part.rows if isinstance(part, Refusal) else len(part[1]) for part in parts)
            if rows:
                yield without(lacking, list(head.fields), rows)
    except (Unreadable, OSError) as error:
        yield Refusal("file", "not a readable Avro file", explain(error), "", 1, True)


def _records(file: BinaryIO, head: Header, piece: Piece) -> Iterator[tuple[int, list[records.Record]] | Refusal]:
    """(byte, records) of each block, or why it cannot be read."""
    for at, block, raw in _blocks(file, head, piece):
        if not raw:
            yield Refusal(f"byte {at}", DAMAGED, "", "", max(block.records, 1), True)
            continue
        try:
            found = [r for part in fastavro.block_reader(io.BytesIO(raw)) for r in part]
            if len(found) != block.records:
                raise ValueError(f"{len(found)} records instead of {block.records}")
            yield at, found
        except Exception as error:  # damaged data can fail in any way
            yield Refusal(f"byte {at}", DAMAGED, explain(error), "", max(block.records, 1), True)


def _blocks(file: BinaryIO, head: Header, piece: Piece) -> Iterator[tuple[int, Block, bytes]]:
    """(byte, block, a file of its own that holds only this block) of a piece; no bytes for a damaged block."""
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
            yield start + at, block, head.raw + data[block.start : block.end] + head.sync
            marker = block.end
        else:
            yield start + at, block or Block(at, at, at, 1), b""
            marker = data.find(head.sync, at)


def _block(file: BinaryIO, data: bytearray, at: int) -> Block | None:
    """The block that begins at `at`, read on into `data` if need be; None if no block can begin there."""
    if len(data) < at + 20:
        data += file.read(at + 20 - len(data))
    try:
        count, body = _long(data, at)
        size, body = _long(data, body)
    except IndexError:
        return None
    if not (count > 0 and 0 <= size <= LARGEST and count <= max(size, 1) * 8):
        return None
    missing = body + size + SYNC - len(data)
    if missing > 0:
        data += file.read(missing)
    return Block(at, body, body + size, count)


def _tables(task: Task, parts: Iterator[tuple[int, list[records.Record]] | Refusal]) -> Iterator[Rows | Refusal]:
    first, held = 0, list[records.Record]()
    for part in parts:
        if isinstance(part, Refusal):
            yield part
            continue
        if len(held) >= ROWS:
            yield from _rows(task, first, held)
            held = []
        if not held:
            first = part[0]
        held += part[1]
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


def _metadata(raw: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """An Avro map of bytes: blocks of pairs, the last of which is empty."""
    out: dict[str, bytes] = {}
    while True:
        count, at = _long(raw, at)
        if count == 0:
            return out, at
        if count < 0:
            _, at = _long(raw, at)
        for _ in range(abs(count)):
            key, at = _string(raw, at)
            out[key.decode()], at = _string(raw, at)


def _string(raw: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(raw, at)
    if not 0 <= size <= len(raw) - at:
        raise IndexError("text that is longer than the file")
    return raw[at : at + size], at + size


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
