"""Avro in messages: a container with any number of records, or the bare bytes of one record of a schema that is given.
Nothing is a heartbeat."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.events.formats import avro, avro_schema, records
from pipelines.events.formats.base import Ints, Refusal, Rows, Sent, Unreadable, explain, shorten
from pipelines.events.formats.payloads import Collected, Content, MessageOrigin, PayloadFormat
from pipelines.events.messages import Payload
from pipelines.task.spec import Task


@dataclass(frozen=True)
class AvroEvents:
    """n events as Avro records."""

    records: Sequence[records.Record]
    origin: MessageOrigin
    containers: Mapping[int, avro.Container]  # by message

    def rows(self, task: Task, table: pa.Table, rows: Ints) -> Rows:
        """Some of them, in columns."""
        part, texts = AvroEvents([self.records[r] for r in rows], self.origin.take(rows), self.containers), None
        if task.events.identity == "all":
            texts = pa.array([json.dumps(r, default=repr, sort_keys=True) for r in part.records], pa.string())
        origin = part.origin
        return Rows(table, rows, "record {}", part.raw, texts, origin.arrival, origin.ids, part.sent)

    def refusal(self, row: int, reason: str, value: str) -> Refusal:
        return self.sent(row).refusal(reason, value, self.raw(row))

    def raw(self, row: int) -> str:
        return avro.shown(self.records[row])

    def sent(self, row: int) -> Sent:
        """The record alone, in a container if it came in one."""
        message, event = int(self.origin.message[row]), int(self.origin.event[row])
        alone = self.origin.messages.data[message] if event < 0 else self.containers[message].single(event)
        return self.origin.sent(row, alone)


class AvroPayload(PayloadFormat):
    """The format of messages."""

    name = "avro"
    magic = avro.MAGIC
    takes_schema = True

    def check_schema(self, schema: str) -> None:
        try:
            avro_schema.shape(schema)
            parsed = avro.parsed(schema)
        except Exception as error:  # fastavro raises what it likes
            raise UserError(f"the Avro schema cannot be read: {error}") from error
        if not isinstance(parsed, dict) or parsed.get("type") != "record" or not parsed.get("fields"):
            raise UserError("the Avro schema must be that of a record with fields")

    def content(self, task: Task, data: bytes, payload: Payload) -> Content:
        try:
            found = _content(data, payload)
        except Exception as error:  # damaged data can fail in any way
            raise Unreadable("an Avro message that cannot be read", explain(error)) from error
        known = _known(data, payload) if found.whole is None else found.whole.head.fields
        lacking = next((c for c in task.columns if c not in known), None)
        if lacking is not None and found.events:
            raise Unreadable(f"column {lacking} is missing", "columns: " + shorten(", ".join(known), 400))
        return found

    def rows(self, task: Task, found: Collected, origin: MessageOrigin) -> Iterator[Rows | Refusal]:
        events = AvroEvents(found.events, origin, found.wholes)
        good, bad = records.tables(task, events.records, compared=False)
        for row, (reason, value) in bad.items():
            yield events.refusal(row, reason, value)
        for table, rows in good:
            yield events.rows(task, table, rows)

    def sample(self, data: bytes, payload: Payload) -> list[Any]:
        return [_known(data, payload)]

    def fields(self, samples: list[Any]) -> dict[str, str]:
        return {name: kind for known in samples for name, kind in known.items()}


PAYLOAD = AvroPayload()


def _known(data: bytes, payload: Payload) -> Mapping[str, str]:
    """Fields of the records, and their types."""
    if data.startswith(avro.MAGIC):
        return avro.header(io.BytesIO(data)).fields
    return avro.named(payload.schema) if payload.schema else {}


def _content(data: bytes, payload: Payload) -> Content:
    if data.startswith(avro.MAGIC):
        container = avro.container(data)
        return Content(container.records, container.memory, container)
    if not data:
        return Content([])
    if not payload.schema:
        raise Unreadable("it is no container, and no schema is given for bare records")
    memory = avro_schema.shape(payload.schema).memory(data, 1)
    source = io.BytesIO(data)
    found = fastavro.schemaless_reader(source, avro.parsed(payload.schema), None)
    if source.tell() != len(data):
        raise Unreadable(f"{len(data) - source.tell()} bytes too many")
    return Content([found], memory)
