"""Compressed data, no more of them than there is room for: some hundred bytes can stand for gigabytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipelines.events.formats.base import Unreadable

LARGEST = 64 << 20  # bytes, decompressed
DICTIONARY = 128 << 20  # bytes that xz may look back on


def decompress(data: bytes, codec: str) -> bytes:
    """The data of a block of an Avro file.

    Raises:
      Unreadable: they are damaged, more than `LARGEST`, or of a codec that is not known.
    """
    engine = CODECS.get(codec)
    if engine is None:
        raise Unreadable(f"codec {codec[:40]} is not known: {', '.join(CODECS)} are")
    try:
        out = engine(data)
    except (ValueError, EOFError, OSError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise Unreadable(f"no {codec} data, or damaged") from error
    if len(out) > LARGEST:
        raise Unreadable(f"more than {LARGEST >> 20} MiB in a block: write smaller ones")
    return out


def _bounded(engine: Any, data: bytes) -> bytes:
    """What a decompressor makes of data, but for what is more than `LARGEST`."""
    out: bytes = engine.decompress(data, LARGEST + 1)
    if len(out) <= LARGEST and not engine.eof:
        raise ValueError("data that break off")
    return out


def _snappy(data: bytes) -> bytes:
    """They begin with their size, and end with a checksum of what they are."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > LARGEST:
        return bytes(LARGEST + 1)
    out = pa.decompress(data[:-4], size, "snappy", asbytes=True)
    if zlib.crc32(out) != int.from_bytes(data[-4:], "big"):
        raise ValueError("another checksum")
    return bytes(out)


def _zstandard(data: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as source:
        return bytes(source.read(LARGEST + 1))


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": lambda data: _bounded(zlib.decompressobj(-zlib.MAX_WBITS), data),
    "bzip2": lambda data: _bounded(bz2.BZ2Decompressor(), data),
    "xz": lambda data: _bounded(lzma.LZMADecompressor(memlimit=DICTIONARY), data),
    "snappy": _snappy,
    "zstandard": _zstandard,
}
