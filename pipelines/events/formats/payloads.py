"""The events in messages. Pure functions, from messages to rows.

A JSON payload is an object, a list of objects, or JSON Lines; an Avro payload is a container with any number of
records, or the bare bytes of one record of a schema that is given. Nothing, or an empty list, is a heartbeat. JSON of
many messages is parsed together, as lines of one text: about 1 us an event, where a parser for each takes 5.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Self, TypeVar

import fastavro
import numpy as np
import pyarrow as pa

from pipelines.events.block import hash64
from pipelines.events.formats import avro, jsonl, lines, records
from pipelines.events.formats import avro_schema as avroschema
from pipelines.events.formats.base import (
    Hashes,
    Ints,
    Refusal,
    Rows,
    Sent,
    Unreadable,
    explain,
    readable,
    shorten,
)
from pipelines.events.messages import ID, Messages, Payload, event_id, event_ids
from pipelines.task.spec import Task

PORTION = 64 << 20  # bytes of payload in memory, beside one message
SPACE = re.compile(r"[ \t\r\n]*")
NOT_JSON = "neither a JSON object, nor a list of them, nor JSON Lines"
DECODER = json.JSONDecoder()

E = TypeVar("E")


@dataclass(frozen=True)
class Origin:
    """Which messages n events came in."""

    messages: Messages
    message: Ints  # (n) index of the message
    event: Ints  # (n) number in the message; -1 for one that is the whole message
    ids: Hashes | None  # (n) with identity `none`

    def take(self, rows: slice | Ints) -> Origin:
        ids = None if self.ids is None else self.ids[rows]
        return Origin(self.messages, self.message[rows], self.event[rows], ids)

    @property
    def arrival(self) -> Ints:
        """The arrival of each event, (n) us."""
        return self.messages.arrival[self.message]

    def sent(self, row: int, payload: bytes) -> Sent:
        """What to send again so that an event comes again."""
        message, event = int(self.message[row]), int(self.event[row])
        name = self.messages.id[message]
        position = f"message {name}" if event < 0 else f"message {name}, event {event}"
        attributes = {**self.messages.attributes[message], ID: name if event < 0 else event_id(name, event)}
        return Sent(position, payload, tuple(attributes.items()))


@dataclass(frozen=True)
class Texts(lines.Lines):
    """n events as lines of JSON."""

    origin: Origin

    def take(self, rows: slice | Ints) -> Self:
        return replace(super().take(rows), origin=self.origin.take(rows))

    def rows(self, table: pa.Table, whole: bool) -> Rows:
        origin = self.origin
        return replace(super().rows(table, whole), arrival=origin.arrival, ids=origin.ids, sent=self.sent)

    def refusal(self, row: int, reason: str, value: str = "") -> Refusal:
        sent = self.sent(row)
        return Refusal(sent.position, reason, value, self.raw(row), sent=sent)

    def sent(self, row: int) -> Sent:
        return self.origin.sent(row, self.line(row))


@dataclass(frozen=True)
class Found:
    """n events as Avro records."""

    records: Sequence[records.Record]
    origin: Origin
    containers: Mapping[int, avro.Container]  # by message

    def rows(self, task: Task, table: pa.Table, rows: Ints) -> Rows:
        """Some of the events, in columns."""
        part, texts = Found([self.records[r] for r in rows], self.origin.take(rows), self.containers), None
        if task.events.identity == "all":
            texts = pa.array([json.dumps(r, default=repr, sort_keys=True) for r in part.records], pa.string())
        origin = part.origin
        return Rows(table, rows, "record {}", part.raw, texts, origin.arrival, origin.ids, part.sent)

    def refusal(self, row: int, reason: str, value: str) -> Refusal:
        sent = self.sent(row)
        return Refusal(sent.position, reason, value, self.raw(row), sent=sent)

    def raw(self, row: int) -> str:
        return avro.shown(self.records[row])

    def sent(self, row: int) -> Sent:
        """The record alone, in a container if it came in one."""
        message, event = int(self.origin.message[row]), int(self.origin.event[row])
        alone = self.origin.messages.data[message] if event < 0 else self.containers[message].single(event)
        return self.origin.sent(row, alone)


def parse(task: Task, messages: Messages, payload: Payload) -> Iterator[Rows | Refusal]:
    """Every event of the messages, each once. The order is not that of the messages.

    Args:
      task: as `decode.without_arrival` gives it: when events arrived is known without their fields.
    """
    for portion in _portions(messages):
        yield from _parse(task, portion, payload)


def _portions(messages: Messages) -> Iterator[Messages]:
    size = np.cumsum(np.fromiter(map(len, messages.data), np.int64, len(messages)))
    first = 0
    while first < len(messages):
        before = int(size[first - 1]) if first else 0
        end = max(int(np.searchsorted(size, before + PORTION, side="right")), first + 1)
        yield messages if end - first == len(messages) else messages.take(slice(first, end))
        first = end


def split(data: bytes) -> list[bytes]:
    """The events of a JSON payload, each on one line; none for a heartbeat.

    Raises:
      Unreadable: there is no telling where events begin. Its arguments are the reason and what stood there.
    """
    text = data.removeprefix(lines.BOM).strip()
    if excess := jsonl.excess(text):
        raise Unreadable(excess, "")
    if text.startswith(b"["):
        return _elements(text)
    parts = [line for line in map(bytes.strip, text.split(b"\n")) if line]
    if len(parts) < 2 or _is_object(parts[0]):
        return parts
    if _is_object(text):
        return [_one_line(text)]
    if any(map(_is_object, parts)):
        return parts
    raise Unreadable(NOT_JSON, shorten(text[:80].decode("utf-8", "backslashreplace")))


def fields(messages: Messages, payload: Payload) -> dict[str, str]:
    """Fields of the events in some messages, and their types.

    Raises:
      Unreadable: none of the messages can be read.
    """
    out: dict[str, str] = {}
    texts: list[bytes] = []
    problems: list[Unreadable] = []
    for data in messages.data:
        try:
            if payload.format == "avro" or data.startswith(avro.MAGIC):
                out |= dict(_known(data, payload))
            else:
                texts += split(data)
        except Unreadable as error:
            problems.append(error)
    out |= jsonl.kinds(texts)
    if problems and not out:
        raise Unreadable(": ".join(problems[0].args))
    return out


def _parse(task: Task, messages: Messages, payload: Payload) -> Iterator[Rows | Refusal]:
    """JSON together, Avro together; a message that cannot be read alone."""
    is_json = payload.format == "json"
    plain = _objects(messages.data) if is_json else []
    texts = Collected([messages.data[i] for i in plain], plain, [-1] * len(plain))
    held = _Held([], [], [])
    for i in sorted(set(range(len(messages))).difference(plain)):
        data = messages.data[i]
        try:
            if is_json and not data.startswith(avro.MAGIC):
                texts.add(i, split(data))
                continue
            found = _records(task, data, payload)
        except Unreadable as error:
            reason, value = error.args
            sent = Origin(messages, np.array([i]), np.array([-1]), None).sent(0, data)
            yield Refusal(sent.position, reason, value, readable(data), sent=sent)
            continue
        if held.memory + found.memory > avroschema.DECODED:
            yield from _avro(task, held.found(task, messages))
            held = _Held([], [], [])
        held.take(i, found)
    if texts.events:
        yield from _json(task, texts.events, texts.origin(task, messages))
    if held.events:
        yield from _avro(task, held.found(task, messages))


def _objects(data: Sequence[bytes]) -> list[int]:
    """Which messages look like one JSON object on one line."""
    return [i for i, d in enumerate(data) if d[:1] == b"{" and d[-1:] == b"}" and b"\n" not in d]


@dataclass
class Collected(Generic[E]):
    """Events, and where each came from."""

    events: list[E]
    message: list[int]
    event: list[int]

    def add(self, message: int, events: Sequence[E]) -> None:
        """All events of a message."""
        self.events += events
        self.message += [message] * len(events)
        self.event += range(len(events)) if len(events) > 1 else [-1] * len(events)

    def origin(self, task: Task, messages: Messages) -> Origin:
        message, event = np.array(self.message, np.int64), np.array(self.event, np.int64)
        ids = None
        if task.events.identity == "none":
            ids = hash64(pa.array(event_ids(messages, message, np.maximum(event, 0)), pa.string()))
        return Origin(messages, message, event, ids)


class Decoded(NamedTuple):
    """What an Avro message holds."""

    records: Sequence[records.Record]
    memory: int  # bytes that they take, at most
    container: avro.Container | None


@dataclass
class _Held(Collected[records.Record]):
    """Avro records of messages."""

    containers: dict[int, avro.Container] = field(default_factory=dict)
    memory: int = 0

    def take(self, message: int, found: Decoded) -> None:
        self.add(message, found.records)
        self.memory += found.memory
        if found.container is not None:
            self.containers[message] = found.container

    def found(self, task: Task, messages: Messages) -> Found:
        return Found(self.events, self.origin(task, messages), self.containers)


def _json(task: Task, texts: Sequence[bytes], origin: Origin) -> Iterator[Rows | Refusal]:
    end = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
    start = np.concatenate(([0], end[:-1] + 1))
    chunk, bad = lines.unicode(Texts(b"\n".join(texts), start, end, 0, origin))
    yield from bad.refused("text that is not UTF-8")
    if len(chunk):
        yield from jsonl.parse(task, chunk)


def _avro(task: Task, found: Found) -> Iterator[Rows | Refusal]:
    good, bad = records.tables(task, found.records, compared=False)
    for row, (reason, value) in bad.items():
        yield found.refusal(row, reason, value)
    for table, rows in good:
        yield found.rows(task, table, rows)


def _elements(text: bytes) -> list[bytes]:
    """The values of a JSON list, as they stand."""
    chars, out = text.decode("latin-1"), list[bytes]()  # a character a byte, and what is ASCII stays so
    try:
        at = _skip(chars, 1)
        if chars[at] == "]" and at + 1 == len(chars):
            return out
        while True:
            end = DECODER.raw_decode(chars, at)[1]
            out.append(_one_line(text[at:end]))
            at = _skip(chars, end)
            if chars[at] == "]" and at + 1 == len(chars):
                return out
            if chars[at] != ",":
                raise ValueError("neither , nor ]")
            at = _skip(chars, at + 1)
    except (ValueError, IndexError, RecursionError):
        raise Unreadable("a JSON list that breaks off", f"after {len(out)} values") from None


def _skip(chars: str, at: int) -> int:
    match = SPACE.match(chars, at)
    return match.end() if match else at


def _one_line(text: bytes) -> bytes:
    """The same JSON: inside text, JSON has no line ends."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


def _is_object(text: bytes) -> bool:
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _records(task: Task, data: bytes, payload: Payload) -> Decoded:
    """The records of an Avro payload; none for a heartbeat. Raises Unreadable, as `split` does."""
    try:
        found = _decoded(data, payload)
    except Exception as error:  # damaged data can fail in any way
        raise Unreadable("an Avro message that cannot be read", explain(error)) from error
    known = _known(data, payload) if found.container is None else found.container.head.fields
    lacking = next((c for c in task.columns if c not in known), None)
    if lacking is not None and found.records:
        raise Unreadable(f"column {lacking} is missing", "columns: " + shorten(", ".join(known), 400))
    return found


def _known(data: bytes, payload: Payload) -> Mapping[str, str]:
    """Fields of the records, and their types."""
    if data.startswith(avro.MAGIC):
        return avro.header(io.BytesIO(data)).fields
    return avro.named(payload.schema) if payload.schema else {}


def _decoded(data: bytes, payload: Payload) -> Decoded:
    if data.startswith(avro.MAGIC):
        container = avro.container(data)
        return Decoded(container.records, container.memory, container)
    if not data:
        return Decoded([], 0, None)
    if not payload.schema:
        raise Unreadable("it is no container, and no schema is given for bare records")
    memory = avroschema.shape(payload.schema).memory(data, 1)
    source = io.BytesIO(data)
    found = fastavro.schemaless_reader(source, payload.parsed, None)
    if source.tell() != len(data):
        raise Unreadable(f"{len(data) - source.tell()} bytes too many")
    return Decoded([found], memory, None)
