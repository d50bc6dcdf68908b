"""What a Parquet file says of itself in Thrift's compact protocol, as far as it has to be known before a reader in C++
believes it: how deep its columns are nested, and how large its pages are.

https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipelines.events.formats.base import Unreadable

LEVELS = 200  # of a column: a list is two or three
DEEPEST = 32  # structs within structs
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # kinds of pages


class Page(NamedTuple):
    """The header of a page."""

    kind: int
    data: int  # where its data begin
    compressed: int  # bytes
    size: int  # bytes, decompressed
    values: int
    encoding: int


class Compact:
    """Reads values one after the other. Raises IndexError where they break off, Unreadable where they make no sense."""

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data, self.at = data, at

    def fields(self) -> Iterator[tuple[int, int]]:
        """(number, kind) of each field of a struct; its value is to be read, or skipped, before the next."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.whole()
            yield number, head & 15

    def whole(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def listed(self) -> tuple[int, int]:
        """(kind, how many) of the items of a list."""
        head = self._byte()
        return head & 15, head >> 4 if head >> 4 < 15 else self._varint()

    def skip(self, kind: int, depth: int = 0) -> None:
        """A value of a field."""
        if depth > DEEPEST:
            raise Unreadable(f"a Parquet header nested more than {DEEPEST} deep")
        if kind in (TRUE, FALSE):
            return
        if kind in (I16, I32, I64):
            self._varint()
        elif kind in (BYTE, DOUBLE):
            self.at += 1 if kind == BYTE else 8
        elif kind == BINARY:
            size = self._varint()
            self.at += size
        elif kind in (LIST, SET):
            inner, count = self.listed()
            self._items([inner], count, depth)
        elif kind == MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            self._items([kinds >> 4, kinds & 15], count, depth)
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise Unreadable("a damaged Parquet header")

    def _items(self, kinds: list[int], count: int, depth: int) -> None:
        if count > len(self.data) - self.at:
            raise IndexError("a list that is longer than its data")
        for _ in range(count):
            for kind in kinds:
                if kind in (TRUE, FALSE):
                    self.at += 1
                else:
                    self.skip(kind, depth + 1)

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise Unreadable("a damaged Parquet header")
        return value | byte << shift


def check_columns(footer: bytes) -> None:
    """Raises Unreadable where columns are nested so deep that a reader runs out of stack. A damaged footer is left to
    the reader, which says what is wrong."""
    source = Compact(footer)
    try:
        for number, kind in source.fields():
            if (number, kind) == (2, LIST):
                _check_levels(source, source.listed()[1])
                return
            source.skip(kind)
    except IndexError:
        return


def _check_levels(source: Compact, count: int) -> None:
    open_: list[int] = []  # children that are still to come, at each level
    for _ in range(count):
        while open_ and not open_[-1]:
            open_.pop()
        if open_:
            open_[-1] -= 1
        open_.append(_children(source))
        if len(open_) > LEVELS:
            raise Unreadable(f"columns nested more than {LEVELS} deep")


def _children(source: Compact) -> int:
    """Of an element of the schema."""
    out = 0
    for number, kind in source.fields():
        if (number, kind) == (5, I32):
            out = source.whole()
        else:
            source.skip(kind)
    return max(out, 0)


def pages(chunk: memoryview) -> Iterator[Page]:
    """The headers of the pages of a column chunk.

    Raises:
      Unreadable: it is damaged, or breaks off.
    """
    at = 0
    try:
        while at < len(chunk):
            page = _page(chunk, at)
            if min(page.compressed, page.size, page.values) < 0 or page.compressed > len(chunk) - page.data:
                raise Unreadable("a page that is longer than its column")
            yield page
            at = page.data + page.compressed
    except IndexError:
        raise Unreadable("a damaged Parquet page") from None


def _page(chunk: memoryview, at: int) -> Page:
    source, found = Compact(chunk, at), {1: -1, 2: -1, 3: -1}
    values, encoding = 0, 0
    for number, kind in source.fields():
        if kind == STRUCT and number in (5, 7, 8):
            values, encoding = _described(source, 4 if number == 8 else 2)
        elif kind == I32 and number in found:
            found[number] = source.whole()
        else:
            source.skip(kind)
    return Page(found[1], source.at, found[3], found[2], values, encoding)


def _described(source: Compact, encoded: int) -> tuple[int, int]:
    """(values, encoding) in the header of a kind of page; `encoded`: the number of the field that has the encoding."""
    values = encoding = 0
    for number, kind in source.fields():
        if (number, kind) == (1, I32):
            values = source.whole()
        elif (number, kind) == (encoded, I32):
            encoding = source.whole()
        else:
            source.skip(kind)
    return values, encoding
