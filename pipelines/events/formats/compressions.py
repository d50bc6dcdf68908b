"""How whole text files may be compressed. To add a compression: what decompresses it, and a line in `COMPRESSIONS`.

Blocks inside of Avro files are in `codecs`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.events.formats.base import Unreadable


@dataclass(frozen=True)
class Compression:
    """How a file is compressed as a whole."""

    name: str
    ending: str  # of the names of files, in lower case
    magic: bytes  # what compressed data begin with
    ratio: int  # how many times longer text is than what becomes of it, about
    inflate: Callable[[BinaryIO, int], Iterator[bytes]]  # what is in a file, in parts of at most so many bytes


def inflate_gzip(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Parts of at most `size` bytes. What was there before a break is given out before the error is raised.

    Raises:
      Unreadable: damaged, or cut off. (Beam's own reader takes a gzip file that breaks off for one that ends.)
    """
    engine, fresh = zlib.decompressobj(31), True
    while raw := file.read(1 << 20):
        while raw:
            try:
                data = engine.decompress(raw, size)
            except zlib.error as error:
                raise Unreadable("no gzip data, or damaged") from error
            fresh = False
            if data:
                yield data
            raw = engine.unconsumed_tail
            if engine.eof:
                raw, engine, fresh = engine.unused_data.lstrip(b"\0"), zlib.decompressobj(31), True
    if not fresh:
        raise Unreadable("the gzip data breaks off")


COMPRESSIONS = (Compression("gzip", ".gz", b"\x1f\x8b", 6, inflate_gzip),)


def compression_of(path: str) -> Compression | None:
    """The compression of a file by its name; None for one that is not compressed."""
    return next((each for each in COMPRESSIONS if path.lower().endswith(each.ending)), None)
