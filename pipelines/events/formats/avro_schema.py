"""What data of an Avro schema can become in memory, told before a parser written in C sees schema or data.

A parser follows a schema as deep as it goes, and believes what data say of themselves: a few bytes can be an array of
400 million nulls, or records in records until the stack is full. Here a schema is held against bounds once, and data by
arithmetic on their size. Only data of a schema that could hide such a thing are walked through, which is slow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipelines.events.formats.base import Unreadable

DEPTH = 64  # types within each other
TYPES = 10_000  # of a schema
DIGITS = 1_000  # of a decimal number
NESTED = 256  # of the JSON of a schema, with all that is no type
DECODED = 512 << 20  # bytes of memory for what is decoded together: a block, or a message

# What CPython takes, roundly and from above, in bytes.
SCALAR, LOGICAL, TEXT, WIDE = 64, 256, 64, 4  # WIDE: a byte of UTF-8, at most
RECORD, FIELD, LIST, ITEM, ENTRY = 200, 64, 72, 10, 104

VARINTS = ("int", "long", "enum")
PRIMITIVES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
TOO_MUCH = f"it takes more than {DECODED >> 20} MiB when it is decoded: write smaller blocks, or records"


@dataclass
class Type:
    """A type of a schema."""

    kind: str
    inner: list[Type] = field(default_factory=list)  # fields, items, values, or branches
    size: int = 0  # of `fixed`
    logical: bool = False
    depth: int = 1
    least: int = 0  # bytes that data of it have, at least
    base: int = 0  # memory of a value without what is in lists, maps and text, at most
    ratio: float = 0.0  # more memory for each byte of data, at most
    free: bool = True  # a parser reads it also where no bytes are left
    cyclic: bool = False  # it can hold itself
    hidden: bool = False  # its data may hold a list of any number of items in no bytes


@dataclass(frozen=True)
class Shape:
    """A schema whose types are within bounds."""

    record: Type

    def memory(self, data: bytes, records: int) -> int:
        """Bytes that records take when they are decoded, at most.

        Raises:
          Unreadable: more than `DECODED`, or the data are too short for so many records.
        """
        top = self.record
        if not top.free and records * top.least > len(data):
            raise Unreadable("data that are too short for their records")
        bound = int(records * top.base + len(data) * top.ratio)
        if bound <= DECODED and not (top.cyclic or top.hidden or top.free):
            return bound
        return _Walk(data).records(top, records)


@lru_cache(maxsize=16)
def shape(text: bytes | str) -> Shape:
    """The shape of a schema in JSON.

    Raises:
      Unreadable: it is none, or not within bounds.
    """
    try:
        schema = json.loads(text)
        _check_nesting(schema)
        record = _Reader().read(schema, "", 1)
    except Unreadable:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Unreadable("an Avro schema that cannot be read") from error
    if record.kind != "record":
        raise Unreadable("the schema must be that of a record")
    return Shape(record)


def _check_nesting(value: object) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > NESTED:
            raise Unreadable(f"an Avro schema nested more than {NESTED} deep")
        level = [inner for each in level for inner in _inner(each)]


def _inner(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


class _Reader:
    """Reads the types of a schema."""

    def __init__(self) -> None:
        self.named: dict[str, Type] = {}
        self.open: list[Type] = []  # records whose fields are being read, each in the one before it
        self.count = 0

    def read(self, schema: Any, space: str, depth: int) -> Type:
        self.count += 1
        if depth > DEPTH:
            raise Unreadable(f"an Avro schema of types in types more than {DEPTH} deep")
        if self.count > TYPES:
            raise Unreadable(f"an Avro schema of more than {TYPES:,} types")
        if isinstance(schema, list):
            return _union([self.read(branch, space, depth + 1) for branch in schema])
        if isinstance(schema, str):
            return _leaf(schema) if schema in PRIMITIVES else self._known(schema, space)
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.read(kind, space, depth + 1)
        if kind == "array":
            return _list(self.read(schema["items"], space, depth + 1))
        if kind == "map":
            return _map(self.read(schema["values"], space, depth + 1))
        if kind in ("record", "error"):
            return self._record(schema, space, depth)
        if kind in ("enum", "fixed"):
            out = _fixed(schema) if kind == "fixed" else _leaf("enum", "logicalType" in schema)
            self.named[_full(schema, space)] = out
            return out
        if kind in PRIMITIVES:
            _check_decimal(schema)
            return _leaf(kind, "logicalType" in schema)
        return self._known(kind, space)

    def _known(self, name: str, space: str) -> Type:
        found = self.named.get(name if "." in name or not space else f"{space}.{name}") or self.named.get(name)
        if found is None:
            raise Unreadable(f"an Avro schema without the type {name[:80]}")
        for at, record in enumerate(self.open):
            if record is found:
                for each in self.open[at:]:
                    each.cyclic = True
        return found

    def _record(self, schema: Mapping[str, Any], space: str, depth: int) -> Type:
        name = _full(schema, space)
        out = self.named[name] = Type("record")
        self.open.append(out)
        out.inner = [self.read(f["type"], name.rpartition(".")[0], depth + 1) for f in schema.get("fields", [])]
        self.open.pop()
        seen: set[int] = set()
        if out.cyclic and any(_is(out, f, seen) for f in out.inner):
            raise Unreadable("an Avro record that always holds itself")
        out.least = sum(f.least for f in out.inner)
        out.base = RECORD + sum(FIELD + f.base for f in out.inner)
        return _settled(out)


def _full(schema: Mapping[str, Any], space: str) -> str:
    name = str(schema["name"])
    space = str(schema.get("namespace", space) or "")
    return name if "." in name or not space else f"{space}.{name}"


def _is(record: Type, each: Type, seen: set[int]) -> bool:
    """Whether every value of a type holds a value of a record, so that there is no end of it."""
    if each is record:
        return True
    if each.kind != "record" or id(each) in seen:
        return False
    seen.add(id(each))
    return any(_is(record, f, seen) for f in each.inner)


def _settled(out: Type) -> Type:
    """With what follows from the types inside."""
    out.depth = 1 + max((t.depth for t in out.inner), default=0)
    out.ratio = max([out.ratio, *(t.ratio for t in out.inner)])
    out.cyclic = out.cyclic or any(t.cyclic for t in out.inner)
    out.hidden = out.hidden or any(t.hidden for t in out.inner)
    if out.kind == "record":
        out.free = all(t.free for t in out.inner)
    if out.depth > DEPTH:
        raise Unreadable(f"an Avro schema of types in types more than {DEPTH} deep")
    return out


def _leaf(kind: str, logical: bool = False) -> Type:
    least = PRIMITIVES.get(kind, 1)
    ratio = WIDE if kind in ("string", "bytes") else 0
    return Type(kind, least=least, base=LOGICAL if logical else SCALAR, ratio=ratio, free=kind == "null")


def _fixed(schema: Mapping[str, Any]) -> Type:
    size = schema["size"]
    if not isinstance(size, int) or not 0 <= size <= DECODED:
        raise Unreadable("an Avro type of a fixed size that cannot be")
    _check_decimal(schema)
    if schema.get("logicalType") == "decimal" and size > DIGITS:
        raise Unreadable(f"an Avro type of decimal numbers of {size} bytes")
    return Type("fixed", size=size, least=size, base=LOGICAL + size, logical="logicalType" in schema)


def _list(items: Type) -> Type:
    out = Type("array", [items], least=1, base=LIST, free=False, hidden=items.free)
    out.ratio = (ITEM + items.base) / max(items.least, 1)
    return _settled(out)


def _map(values: Type) -> Type:
    out = Type("map", [values], least=1, base=RECORD, free=False)
    out.ratio = max(WIDE, (ENTRY + TEXT + values.base) / (1 + values.least))
    return _settled(out)


def _union(branches: list[Type]) -> Type:
    out = Type("union", branches, free=False)
    out.least = 1 + min((t.least for t in branches), default=0)
    out.base = max((t.base for t in branches), default=0)
    return _settled(out)


def _check_decimal(schema: Mapping[str, Any]) -> None:
    if schema.get("logicalType") != "decimal":
        return
    for name in ("precision", "scale"):
        value = schema.get(name, 0)
        if not isinstance(value, int) or not 0 <= value <= DIGITS:
            raise Unreadable(f"an Avro type of decimal numbers whose {name} is not 0 to {DIGITS}")


class _Walk:
    """Goes through data without keeping them, and adds up the memory that they would take."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, DECODED

    def records(self, kind: Type, count: int) -> int:
        """Memory of so many, in bytes."""
        try:
            self._many(kind, count, ITEM)
        except IndexError:
            raise Unreadable("data that break off") from None
        return DECODED - self.left

    def _many(self, kind: Type, count: int, each: int) -> None:
        if kind.free:  # each of them is the same
            self._take(count * (each + kind.base))
            self._skip(count * kind.least)
            return
        if count > len(self.data) - self.at:
            raise Unreadable("a list that is longer than its data")
        for _ in range(count):
            self._take(each)
            self._value(kind, 1)

    def _value(self, kind: Type, depth: int) -> None:
        if depth > DEPTH:
            raise Unreadable(f"values in values more than {DEPTH} deep")
        if kind.free:
            self._take(kind.base)
            self._skip(kind.least)
        elif kind.kind == "record":
            self._take(RECORD + FIELD * len(kind.inner))
            for inner in kind.inner:
                self._value(inner, depth + 1)
        elif kind.kind == "union":
            branch = self._long()
            if not 0 <= branch < len(kind.inner):
                raise Unreadable("a value of a type that is not there")
            self._value(kind.inner[branch], depth + 1)
        elif kind.kind in ("array", "map"):
            self._take(kind.base)
            self._items(kind, depth)
        elif kind.kind in VARINTS:
            self._take(kind.base)
            self._long()
        elif kind.kind in ("string", "bytes"):
            size = self._long()
            self._take(kind.base + WIDE * max(size, 0))
            self._skip(size)
        else:
            self._take(kind.base)
            self._skip(kind.least)

    def _items(self, kind: Type, depth: int) -> None:
        while count := self._long():
            if count < 0:
                count = -count
                self._long()
            (inner,) = kind.inner
            if kind.kind == "array" and inner.free:
                self._many(inner, count, ITEM)
                continue
            if count > len(self.data) - self.at:
                raise Unreadable("a list that is longer than its data")
            for _ in range(count):
                if kind.kind == "map":
                    self._take(ENTRY)
                    self._value(_KEY, depth)
                else:
                    self._take(ITEM)
                self._value(inner, depth + 1)

    def _long(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise Unreadable("a number of more than 10 bytes")

    def _skip(self, size: int) -> None:
        if not 0 <= size <= len(self.data) - self.at:
            raise Unreadable("data that break off")
        self.at += size

    def _take(self, memory: int) -> None:
        self.left -= memory
        if self.left < 0:
            raise Unreadable(TOO_MUCH)


_KEY = _leaf("string")
