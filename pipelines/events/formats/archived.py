"""Archived messages: Parquet files with a row for each message as it came, when it arrived, and how to read it.

What is in the messages is read as it is in a stream (`payloads`), so a backfill sees what live saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.events.decode import without_arrival
from pipelines.events.formats import parquet, payloads
from pipelines.events.formats.base import Piece, Refusal, Rows, Unreadable, ended, explain
from pipelines.events.messages import Messages, Payload
from pipelines.task.spec import Task

EXTENSION = ".messages.parquet"
PAYLOAD = b"foretide.payload"  # key of the file's metadata: how the messages are to be read
SCHEMA = pa.schema(
    [
        ("message_id", pa.string()),
        ("arrival", pa.timestamp("us", "UTC")),
        ("data", pa.binary()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)
BATCH = 1 << 14  # messages in memory
SAMPLE = 100  # messages that tell the fields


def schema(payload: Payload) -> pa.Schema:
    """The columns, and how to read them."""
    return SCHEMA.with_metadata({PAYLOAD: json.dumps(asdict(payload)).encode()})


def table(messages: Messages, payload: Payload) -> pa.Table:
    """Messages as rows of an archive."""
    columns = {
        "message_id": messages.id,
        "arrival": messages.arrival,
        "data": messages.data,
        "attributes": [list(a.items()) for a in messages.attributes],
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCHEMA}, schema=schema(payload))


def from_table(rows: pa.Table | pa.RecordBatch) -> Messages:
    """The inverse of `table`.

    Raises:
      Unreadable: a message has no id, no arrival or no data.
    """
    if any(rows[name].null_count for name in ("message_id", "arrival", "data")):
        raise Unreadable("a message without message_id, arrival or data")
    arrival = np.asarray(rows["arrival"].cast(pa.int64()))
    attributes = tuple(dict(a or ()) for a in rows["attributes"].to_pylist())
    return Messages(tuple(rows["data"].to_pylist()), tuple(rows["message_id"].to_pylist()), arrival, attributes)


def payload_of(metadata: Mapping[bytes, bytes] | None) -> Payload:
    """How the messages of a file are to be read: JSON, unless it says otherwise. Raises Unreadable."""
    try:
        stored: dict[str, Any] = json.loads((metadata or {}).get(PAYLOAD, b"{}"))
        return Payload(**stored)
    except (ValueError, TypeError, UserError) as error:
        raise Unreadable(f"the payload format is {explain(error)}") from error


class Archived(parquet.Parquet):
    """The format: Parquet files with the columns of `SCHEMA`."""

    name = "messages"
    title = "archive of messages"
    endings = (EXTENSION,)
    magic = b""  # that of Parquet
    is_sparse = True
    is_archive = True

    def fields(self, path: str) -> dict[str, str]:
        """Fields of the events in the first messages, and their types.

        Raises:
          Unreadable, OSError: no archive, or none of these messages can be read.
        """
        try:
            with parquet.reader(path) as file:
                _check(file)
                payload = payload_of(file.schema_arrow.metadata)
                first = next(file.iter_batches(SAMPLE, use_threads=False), None)
                return {} if first is None else payloads.fields(from_table(first), payload)
        except parquet.BROKEN as error:
            raise Unreadable(explain(error)) from error

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """The events of the messages in row groups [start, end). A row group that breaks off is refused from there."""
        task = without_arrival(task)
        try:
            with parquet.reader(piece.path) as file:
                _check(file)
                payload, meta = payload_of(file.schema_arrow.metadata), file.metadata
        except parquet.BROKEN as error:
            yield Refusal("file", "not a readable archive of messages", explain(error), "", 1, True)
            return
        if meta.num_row_groups < piece.end:
            yield from ended(piece, meta.num_row_groups, "row groups")
            return
        done = sum(meta.row_group(i).num_rows for i in range(piece.start))
        for part in parquet.tables(piece, meta, SCHEMA.names, []):
            if isinstance(part, Refusal):
                yield part._replace(position=f"row {done}")
                done += part.rows
                continue
            for start in range(0, len(part), BATCH):
                for found in _messages(part.slice(start, BATCH), done + start):
                    yield from (found,) if isinstance(found, Refusal) else payloads.parse(task, found, payload)
            done += len(part)


READER = Archived()


def _messages(rows: pa.Table, first: int) -> Iterator[Messages | Refusal]:
    """Rows as messages; in halves while they cannot be, until the row that cannot stands alone."""
    try:
        yield from_table(rows)
    except parquet.BROKEN as error:
        if len(rows) == 1:
            yield Refusal(f"row {first}", "no message", explain(error), "")
            return
        half = len(rows) // 2
        yield from _messages(rows.slice(0, half), first)
        yield from _messages(rows.slice(half), first + half)


def _check(file: pq.ParquetFile) -> None:
    """Raises Unreadable for a file with other columns."""
    found = {f.name: f.type for f in file.schema_arrow}
    wrong = next((f for f in SCHEMA if found.get(f.name) != f.type), None)
    if wrong is not None:
        raise Unreadable(f"column {wrong.name} is {found.get(wrong.name, 'missing')}, not {wrong.type}")
