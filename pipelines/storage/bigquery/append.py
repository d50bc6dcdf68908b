"""Rows as Arrow to a stream of the Storage Write API: in requests of what it takes, again until it takes them.

https://cloud.google.com/bigquery/docs/write-api
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.google.bigquery import PATIENCE, patiently, transient
from pipelines.google.tables import resource

if TYPE_CHECKING:
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types

ROWS = 5_000  # of a request
BYTES = 8 << 20  # of a request, of which BigQuery takes 10 MB
OK, ALREADY_EXISTS = 0, 6  # of google.rpc.Code


class RefusedRow(NamedTuple):
    """A row that BigQuery does not take."""

    row: int
    reason: str  # in its words


@dataclass(frozen=True)
class Pending:
    """A stream of rows that nobody sees until it is committed."""

    name: str
    rows: int


class AppendError(Exception):
    """BigQuery refused a request for what is no fault of a row."""


@dataclass(frozen=True)
class _Request:
    rows: npt.NDArray[np.int64]  # (n) of the table that is appended
    batch: pa.RecordBatch

    @property
    def size(self) -> int:
        return int(pa.ipc.get_record_batch_size(self.batch))

    def only(self, chosen: npt.NDArray[np.int64]) -> _Request:
        return _Request(self.rows[chosen], self.batch.take(pa.array(chosen)))

    def halves(self) -> list[_Request]:
        n = len(self.rows) // 2
        return [_Request(self.rows[:n], self.batch.slice(0, n)), _Request(self.rows[n:], self.batch.slice(n))]


def default_stream(table: str) -> str:
    """The stream of `project.dataset.table` in which rows can be seen at once, and may be twice."""
    return f"{resource(table)}/streams/_default"


def append_pending(client: BigQueryWriteClient, table: str, rows: pa.Table) -> tuple[Pending, list[RefusedRow]]:
    """Writes rows into a pending stream of their own, which takes no more.

    Raises:
      GoogleAPICallError, AppendError: BigQuery did not take them.
    """
    from google.cloud.bigquery_storage_v1 import types

    stream = types.WriteStream(type_=types.WriteStream.Type.PENDING)
    name = patiently(lambda: client.create_write_stream(parent=resource(table), write_stream=stream, retry=None)).name
    refused = append(client, name, rows, first=0)
    count = int(patiently(lambda: client.finalize_write_stream(name=name, retry=None)).row_count)
    if count != len(rows) - len(refused):
        raise AppendError(f"{table}: {len(rows) - len(refused)} rows were appended to {name}, which has {count}")
    return Pending(name, count), refused


def commit(client: BigQueryWriteClient, table: str, streams: list[str]) -> None:
    """Makes pending streams visible; those that are already, stay so.

    Raises:
      GoogleAPICallError, AppendError: BigQuery did not commit them.
    """
    from google.cloud.bigquery_storage_v1 import types

    request = types.BatchCommitWriteStreamsRequest(parent=resource(table), write_streams=streams)
    answer = patiently(lambda: client.batch_commit_write_streams(request=request, retry=None))
    for error in answer.stream_errors:
        find = partial(client.get_write_stream, name=error.entity, retry=None)
        if not patiently(find).commit_time:
            raise AppendError(f"{table}: {error.entity} cannot be committed: {error.error_message}")


def append(
    client: BigQueryWriteClient,
    stream: str,
    rows: pa.Table,
    first: int | None = None,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[RefusedRow]:
    """Appends all rows that BigQuery takes, and gives the others.

    Args:
      stream: its name.
      rows: with the columns of the table, in types that it takes (no dictionaries).
      first: the offset in the stream at which they begin: each row is then there once. Without an offset, requests
        whose answer got lost are sent again, and their rows are there twice.
      patience: seconds in which BigQuery must take the next request.

    Raises:
      GoogleAPICallError: it did not.
      AppendError: it never will.
    """
    appending = _Appending(client, stream, rows.schema, first)
    for request in _requests(rows):
        if request.size > BYTES:
            reason = f"the row has {request.size:,} bytes, and a request at most {BYTES:,}"
            appending.refused += [RefusedRow(row, reason) for row in request.rows.tolist()]
        else:
            appending.todo.append(request)
    while appending.todo:
        patiently(partial(appending.send, patience), patience, sleep=sleep)
    return sorted(appending.refused)


@dataclass
class _Appending:
    """Requests under way to a stream."""

    client: BigQueryWriteClient
    stream: str
    schema: pa.Schema
    offset: int | None  # of the first request to do; None: without offsets
    todo: deque[_Request] = field(default_factory=deque)
    refused: list[RefusedRow] = field(default_factory=list)

    def send(self, patience: float) -> None:
        """Sends all that is to do on one connection, until an answer changes what follows. Raises what no answer made
        up for."""
        answers = self.client.append_rows(
            _messages(self.stream, self.schema, list(self.todo), self.offset),
            metadata=(("x-goog-request-params", f"write_stream={self.stream}"),),
            retry=None,
            timeout=patience,
        )
        progress = False
        try:
            for answer in answers:
                following = self._take(answer)
                progress = True
                if not following:
                    break
        except Exception as error:
            if not (progress and transient(error)):
                raise
        finally:
            answers.cancel()
        if not progress:
            raise AppendError(f"{self.stream}: no answer to {len(self.todo)} requests")

    def _take(self, answer: types.AppendRowsResponse) -> bool:
        """The answer to the first request. Whether what follows on the connection counts."""
        bad = {int(error.index): error.message for error in answer.row_errors}
        if not bad and answer.error.code not in (OK, ALREADY_EXISTS):
            raise _error(self.stream, answer.error)
        request = self.todo.popleft()
        if not bad:
            if self.offset is not None:
                self.offset += len(request.rows)
            return True
        self.refused.extend(RefusedRow(int(request.rows[i]), bad[i]) for i in sorted(bad))
        rest = np.setdiff1d(np.arange(len(request.rows)), list(bad))
        if len(rest) and self.offset is None:
            self.todo.append(request.only(rest))
        elif len(rest):
            self.todo.appendleft(request.only(rest))
        return self.offset is None  # offsets of what follows no longer fit


def _requests(rows: pa.Table) -> Iterator[_Request]:
    """The rows in parts that are small enough, but for single rows that are not."""
    at = 0
    for batch in rows.combine_chunks().to_batches(max_chunksize=ROWS):
        todo = [_Request(np.arange(at, at + len(batch)), batch)] if len(batch) else []
        while todo:
            request = todo.pop()
            if request.size > BYTES and len(request.rows) > 1:
                todo += reversed(request.halves())
            else:
                yield request
        at += len(batch)


def _messages(
    stream: str, schema: pa.Schema, requests: Sequence[_Request], offset: int | None
) -> Iterator[types.AppendRowsRequest]:
    """All requests of a connection: the first one names the stream and has the schema."""
    from google.cloud.bigquery_storage_v1 import types

    written = types.ArrowSchema(serialized_schema=schema.serialize().to_pybytes())
    for i, request in enumerate(requests):
        batch = types.ArrowRecordBatch(serialized_record_batch=request.batch.serialize().to_pybytes())
        data = types.AppendRowsRequest.ArrowData(rows=batch, writer_schema=written if i == 0 else None)
        message = types.AppendRowsRequest(arrow_rows=data, write_stream=stream if i == 0 else "")
        if offset is not None:
            message.offset = offset
            offset += len(request.rows)
        yield message


def _error(stream: str, status: Any) -> Exception:
    """What a status in an answer stands for: an error of the service that passes, or AppendError."""
    from google.api_core.exceptions import from_grpc_status
    from grpc import StatusCode

    code = next((c for c in StatusCode if c.value[0] == status.code), StatusCode.UNKNOWN)
    error = from_grpc_status(code, status.message)  # type: ignore[no-untyped-call]
    return error if transient(error) else AppendError(f"{stream}: {status.message}")
