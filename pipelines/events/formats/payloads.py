"""The events in messages, whatever format they are written in. Pure functions, from messages to rows.

A payload format has a module of its own, and a line in `registry`; what is common to all of them is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.events.block import hash64
from pipelines.events.formats import registry
from pipelines.events.formats.avro_schema import DECODED
from pipelines.events.formats.base import Hashes, Ints, Refusal, Rows, Sent, Unreadable, readable
from pipelines.events.messages import ID, Messages, Payload, event_id, event_ids
from pipelines.task.spec import Task

PORTION = 64 << 20  # bytes of payload in memory, beside one message


@dataclass(frozen=True)
class MessageOrigin:
    """Which messages n events came in."""

    messages: Messages
    message: Ints  # (n) index of the message
    event: Ints  # (n) number in the message; -1 for one that is the whole message
    ids: Hashes | None  # (n) with identity `none`

    def take(self, rows: slice | Ints) -> MessageOrigin:
        ids = None if self.ids is None else self.ids[rows]
        return MessageOrigin(self.messages, self.message[rows], self.event[rows], ids)

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


class Content(NamedTuple):
    """What one message holds."""

    events: Sequence[Any]
    memory: int = 0  # bytes that they take, at most
    whole: Any = None  # what its events came in together, where one of them is cut out of it


@dataclass
class Collected:
    """Events of many messages, and where each came from."""

    events: list[Any] = field(default_factory=list)
    message: list[int] = field(default_factory=list)
    event: list[int] = field(default_factory=list)
    wholes: dict[int, Any] = field(default_factory=dict)  # by message
    memory: int = 0

    def add(self, message: int, found: Content) -> None:
        """All events of a message."""
        n = len(found.events)
        self.events += found.events
        self.message += [message] * n
        self.event += range(n) if n > 1 else [-1] * n
        self.memory += found.memory
        if found.whole is not None:
            self.wholes[message] = found.whole

    def origin(self, task: Task, messages: Messages) -> MessageOrigin:
        message, event = np.array(self.message, np.int64), np.array(self.event, np.int64)
        ids = None
        if task.events.identity == "none":
            ids = hash64(pa.array(event_ids(messages, message, np.maximum(event, 0)), pa.string()))
        return MessageOrigin(messages, message, event, ids)


class PayloadFormat(ABC):
    """How events are written in messages."""

    name: ClassVar[str]  # as `--payload` takes it
    magic: ClassVar[bytes] = b""  # a message that begins with it is of this format, whatever was asked for
    takes_schema: ClassVar[bool] = False  # messages may need a schema that is not in them
    is_sparse: ClassVar[bool] = False  # an event may leave out a field that is null

    def check_schema(self, schema: str) -> None:
        """Raises UserError for a schema, as text, that no message can be read with."""
        takers = [form.name for form in _formats() if form.takes_schema]
        raise UserError(f"a schema goes with the payload format {', '.join(takers)}")

    def alone(self, data: Sequence[bytes]) -> list[int]:
        """Which messages are, as they are, one event each: told for many at once, where that is cheap."""
        return []

    @abstractmethod
    def content(self, task: Task, data: bytes, payload: Payload) -> Content:
        """The events of a message; none for a heartbeat.

        Raises:
          Unreadable: it cannot be read. Its arguments are the reason and what stood there.
        """

    @abstractmethod
    def rows(self, task: Task, found: Collected, origin: MessageOrigin) -> Iterator[Rows | Refusal]:
        """Events of many messages in columns, and those that cannot be rows."""

    @abstractmethod
    def sample(self, data: bytes, payload: Payload) -> list[Any]:
        """What tells the fields of a message. Raises Unreadable, as `content` does."""

    @abstractmethod
    def fields(self, samples: list[Any]) -> dict[str, str]:
        """Fields and their types, of all samples."""


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


def fields(messages: Messages, payload: Payload) -> dict[str, str]:
    """Fields of the events in some messages, and their types.

    Raises:
      Unreadable: none of the messages can be read.
    """
    samples: dict[PayloadFormat, list[Any]] = {form: [] for form in _formats()}
    problems: list[Unreadable] = []
    for data in messages.data:
        form = _format(data, payload)
        try:
            samples[form] += form.sample(data, payload)
        except Unreadable as error:
            problems.append(error)
    out = {name: kind for form, some in samples.items() for name, kind in form.fields(some).items()}
    if problems and not out:
        raise Unreadable(": ".join(problems[0].args))
    return out


def _formats() -> list[PayloadFormat]:
    return [registry.payload_format(name) for name in registry.PAYLOADS]


def _format(data: bytes, payload: Payload) -> PayloadFormat:
    """Which one a message is written in."""
    told = (form for form in _formats() if form.magic and data.startswith(form.magic))
    return next(told, registry.payload_format(payload.format))


def _parse(task: Task, messages: Messages, payload: Payload) -> Iterator[Rows | Refusal]:
    """The events of each format together; a message that cannot be read alone."""
    form = registry.payload_format(payload.format)
    plain = form.alone(messages.data)
    held = {each: Collected() for each in _formats()}
    held[form] = Collected([messages.data[i] for i in plain], plain, [-1] * len(plain))
    for i in sorted(set(range(len(messages))).difference(plain)):
        data = messages.data[i]
        form = _format(data, payload)
        try:
            found = form.content(task, data, payload)
        except Unreadable as error:
            reason, value = error.args
            sent = MessageOrigin(messages, np.array([i]), np.array([-1]), None).sent(0, data)
            yield sent.refusal(reason, value, readable(data))
            continue
        if held[form].memory + found.memory > DECODED:
            yield from form.rows(task, held[form], held[form].origin(task, messages))
            held[form] = Collected()
        held[form].add(i, found)
    for form, collected in held.items():
        if collected.events:
            yield from form.rows(task, collected, collected.origin(task, messages))
