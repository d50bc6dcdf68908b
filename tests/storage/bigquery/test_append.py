"""Rows in streams of a real emulator: all of them, once each, less those that it refuses."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from google.api_core.exceptions import GoogleAPICallError, ServiceUnavailable

from pipelines.google.bigquery import writer
from pipelines.google.tables import resource
from pipelines.storage.bigquery import append as module
from pipelines.storage.bigquery.append import (
    AppendError,
    Pending,
    RefusedRow,
    append,
    append_pending,
    commit,
    default_stream,
)
from tests.support.warehouse import PROJECT, Warehouse

NESTED = pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))


@pytest.fixture
def table(warehouse: Warehouse) -> str:
    return made(warehouse)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of 10 rows."""
    monkeypatch.setattr(module, "ROWS", 10)


def made(warehouse: Warehouse) -> str:
    name = f"{PROJECT}.{warehouse.dataset()}.t"
    reasons = "ARRAY<STRUCT<reason STRING, count INT64>>"
    warehouse.sql(f"CREATE TABLE `{name}` (id STRING NOT NULL, n INT64, at TIMESTAMP, raw BYTES, reasons {reasons})")
    return name


def rows(n: int, bad: tuple[int, ...] = (), size: int = 1) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([None if i in bad else f"{i:0{size}}" for i in range(n)], pa.string()),
            "n": pa.array(range(n), pa.int64()),
            "at": pa.array(range(n), pa.timestamp("us", "UTC")),
            "raw": pa.array([b"x\xff"] * n, pa.binary()),
            "reasons": pa.array([[{"reason": "a", "count": 1}]] * n, NESTED),
        }
    )


def numbers(warehouse: Warehouse, table: str) -> list[int]:
    return [row["n"] for row in warehouse.sql(f"SELECT n FROM `{table}` ORDER BY n")]


@pytest.mark.parametrize("n", [0, 1, 10, 95])
@pytest.mark.usefixtures("small")
def test_rows_of_a_default_stream_are_there(warehouse: Warehouse, table: str, n: int) -> None:
    assert append(writer(), default_stream(table), rows(n)) == []
    assert numbers(warehouse, table) == list(range(n))


def test_values_come_as_they_are(warehouse: Warehouse, table: str) -> None:
    append(writer(), default_stream(table), rows(2))
    got = warehouse.sql(f"SELECT id, unix_micros(at) AS at, raw, reasons FROM `{table}` ORDER BY n DESC")
    assert got[0] == {"id": "1", "at": 1, "raw": b"x\xff", "reasons": [{"reason": "a", "count": 1}]}


def test_columns_may_be_left_out(warehouse: Warehouse, table: str) -> None:
    append(writer(), default_stream(table), rows(1).select(["n", "id"]))
    assert warehouse.sql(f"SELECT id, n, at FROM `{table}`") == [{"id": "0", "n": 0, "at": None}]


@pytest.mark.usefixtures("small")
def test_refused_rows_are_named_and_the_others_written_once(warehouse: Warehouse, table: str) -> None:
    bad = (3, 4, 25, 39, *range(50, 60), 94)
    refused = append(writer(), default_stream(table), rows(95, bad))
    assert refused == [RefusedRow(i, "Missing required field: id.") for i in bad]
    assert numbers(warehouse, table) == [i for i in range(95) if i not in bad]


@pytest.mark.usefixtures("small")
def test_nothing_but_refused_rows(warehouse: Warehouse, table: str) -> None:
    assert [r.row for r in append(writer(), default_stream(table), rows(12, tuple(range(12))))] == list(range(12))
    assert numbers(warehouse, table) == []


def test_rows_that_are_too_large_are_refused(warehouse: Warehouse, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 4_000)
    mixed = pa.concat_tables([rows(50), rows(1, size=5_000), rows(30, size=100), rows(1, size=5_000)])
    refused = append(writer(), default_stream(table), mixed)
    assert [r.row for r in refused] == [50, 81]
    assert refused[0].reason.endswith("bytes, and a request at most 4,000")
    assert len(numbers(warehouse, table)) == 80


def test_a_request_has_as_many_rows_and_bytes_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 40)
    monkeypatch.setattr(module, "BYTES", 4_000)
    chunks = pa.concat_tables([rows(30), rows(30, size=100), rows(0), rows(45, size=10)])
    requests = list(module._requests(chunks))
    assert [i for r in requests for i in r.rows.tolist()] == list(range(105))
    assert all(r.size <= 4_000 and len(r.rows) <= 40 for r in requests)
    assert len(requests) < 12


def test_a_pending_stream_is_seen_when_it_is_committed(warehouse: Warehouse, table: str) -> None:
    first, refused = append_pending(writer(), table, rows(7))
    second, _ = append_pending(writer(), table, rows(0))
    assert (first.rows, second.rows, refused) == (7, 0, [])
    assert numbers(warehouse, table) == []
    commit(writer(), table, [first.name, second.name])
    assert numbers(warehouse, table) == list(range(7))
    commit(writer(), table, [first.name, second.name])
    assert numbers(warehouse, table) == list(range(7))


def test_what_cannot_be_committed(warehouse: Warehouse, table: str) -> None:
    from google.cloud.bigquery_storage_v1 import types

    pending = types.WriteStream(type_=types.WriteStream.Type.PENDING)
    stream = writer().create_write_stream(parent=resource(table), write_stream=pending).name
    append(writer(), stream, rows(3), first=0)
    with pytest.raises(AppendError, match=f"{stream} cannot be committed: Stream is not finalized"):
        commit(writer(), table, [stream])
    with pytest.raises(GoogleAPICallError, match="Invalid stream name"):
        commit(writer(), table, [f"{stream}x"])


@pytest.mark.usefixtures("small")
def test_rows_that_the_stream_has_are_not_written_again(warehouse: Warehouse, table: str) -> None:
    """As after an answer that got lost."""
    from google.cloud.bigquery_storage_v1 import types

    kind = types.WriteStream(type_=types.WriteStream.Type.COMMITTED)
    stream = writer().create_write_stream(parent=resource(table), write_stream=kind).name
    append(writer(), stream, rows(20), first=0)
    assert [r.row for r in append(writer(), stream, rows(35, bad=(21, 33)), first=0)] == [21, 33]
    assert numbers(warehouse, table) == [i for i in range(35) if i not in (21, 33)]
    with pytest.raises(AppendError, match="beyond the end"):
        append(writer(), stream, rows(1), first=99)


def test_what_no_patience_mends_is_an_error_at_once(table: str) -> None:
    with pytest.raises(GoogleAPICallError, match=r"(?i)not found"):
        append(writer(), default_stream(f"{table}x"), rows(1), sleep=lambda _: pytest.fail("it waits"))


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Warehouse]:
    with Warehouse(tmp_path) as emulator:
        yield emulator


def test_a_service_that_does_not_come_back(fragile: Warehouse) -> None:
    stream, pauses = default_stream(made(fragile)), list[float]()
    fragile.kill()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(0.1)

    with pytest.raises(ServiceUnavailable):
        append(writer(), stream, rows(1), patience=1.0, sleep=sleep)
    assert pauses[:3] == [0.2, 0.4, 0.8]


@pytest.mark.usefixtures("small")
def test_a_service_that_is_killed_and_comes_back_has_every_row(fragile: Warehouse) -> None:
    """Those of a default stream maybe twice; what was pending is gone, and says so."""
    table = made(fragile)
    stop = threading.Event()
    written = list[int]()

    def write() -> None:
        while not stop.is_set():
            append(writer(), default_stream(table), rows(300))
            written.append(300)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for pause in (0.5, 0.3):
            time.sleep(pause)
            fragile.restart()
    finally:
        stop.set()
        thread.join()
    assert written
    assert sorted(set(numbers(fragile, table))) == list(range(300))
    pending, _ = append_pending(writer(), table, rows(5))
    fragile.restart()
    with pytest.raises(GoogleAPICallError, match="Invalid stream name"):
        commit(writer(), table, [pending.name])
    assert isinstance(pending, Pending)


class Flaky:
    """A client whose connections break after some answers, once the rows of one more were taken."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks

    def append_rows(self, requests: Iterator[object], **options: object) -> Answers:
        return Answers(writer().append_rows(requests, **options), self)


class Answers:
    def __init__(self, answers: Iterator[object], flaky: Flaky) -> None:
        self.answers, self.flaky = answers, flaky

    def __iter__(self) -> Iterator[object]:
        for i, answer in enumerate(self.answers):
            if i >= 2 and self.flaky.breaks:
                self.flaky.breaks -= 1
                raise ServiceUnavailable("broken")  # type: ignore[no-untyped-call]
            yield answer

    def cancel(self) -> None:
        """Lets the emulator take all that was sent: with another connection beside it, it mixes up offsets."""
        deque(self.answers, maxlen=0)


@pytest.mark.usefixtures("small")
def test_offsets_keep_rows_single_when_answers_get_lost(warehouse: Warehouse, table: str) -> None:
    from google.cloud.bigquery_storage_v1 import types

    kind = types.WriteStream(type_=types.WriteStream.Type.COMMITTED)
    stream = writer().create_write_stream(parent=resource(table), write_stream=kind).name
    refused = append(Flaky(3), stream, rows(95, bad=(33, 70)), first=0, sleep=lambda _: None)
    assert [r.row for r in refused] == [33, 70]
    assert numbers(warehouse, table) == [i for i in range(95) if i not in (33, 70)]
