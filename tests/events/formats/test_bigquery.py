"""Tables, views and queries of BigQuery give what files with the same rows give."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.cloud.bigquery import LoadJobConfig, SourceFormat
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.events.block import EventBlock
from pipelines.events.decode import Since, Span
from pipelines.events.formats import bigquery
from pipelines.google.bigquery import client, reader
from pipelines.jobs.source import InputSource
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.task.spec import Task
from pipelines.transforms.read_files import read_piece
from tests.support import event_files
from tests.support.checked import checked
from tests.support.event_files import DAY, SPAN, START, task
from tests.support.warehouse import PROJECT, Warehouse

if TYPE_CHECKING:
    from google.cloud.bigquery_storage_v1.types import ReadRowsResponse

STAMP = {"field": "ts", "unit": "iso"}
NARROW = Span((START * 1_000_000 + 12 * DAY,))
ROWS = event_files.records(600)


def spec(steps: int = 60, kind: str = "INTEGER", **events: object) -> Task:
    """A task whose time is a whole number of seconds, or of a type of times."""
    made = task(**({} if kind == "INTEGER" else {"time": STAMP}), **events)
    return made.model_copy(update={"sequence": made.sequence.model_copy(update={"steps": steps})})


def events(rows: Sequence[event_files.Record], kind: pa.DataType | None = None) -> pa.Table:
    """The rows, their time as seconds or as a type of times."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    if kind is None:
        return table
    stamps = pc.cast(table["ts"], pa.timestamp("s"))
    day = pa.types.is_date(kind)
    times = stamps.cast(kind) if day else stamps.cast(pa.timestamp("us")).cast(pa.int64()).cast(kind)
    return table.set_column(table.column_names.index("ts"), "ts", times)


def load(warehouse: Warehouse, table: pa.Table, name: str | None = None) -> str:
    """The input that is a new table with these rows."""
    name = name or f"{PROJECT}.{warehouse.dataset()}.events"
    raw = io.BytesIO()
    pq.write_table(table, raw)
    raw.seek(0)
    client(PROJECT).load_table_from_file(
        raw, name, job_config=LoadJobConfig(source_format=SourceFormat.PARQUET)
    ).result()
    return f"bq://{name}"


def source(spec: Task, span: Span | Since, *paths: str, dry_run: bool = False) -> InputSource:
    return checked(spec, *paths, span=span, dry_run=dry_run).source


def read(spec: Task, found: InputSource, span: Span | Since = SPAN) -> event_files.Result:
    parts = [p for piece in found.pieces for p in read_piece(spec, span, piece)]
    return event_files.Result(
        [p for p in parts if isinstance(p, EventBlock)],
        [p for p in parts if isinstance(p, DeadLetter)],
        total(p for p in parts if isinstance(p, Ledger)),
    )


def letters(result: event_files.Result) -> list[tuple[str, str]]:
    return sorted((d.reason, d.raw) for d in result.dead)


KINDS = {
    "INTEGER": None,
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "DATETIME": pa.timestamp("us"),
    "DATE": pa.date32(),
}


@pytest.mark.parametrize(
    ("kind", "identity"), [("INTEGER", "all"), ("TIMESTAMP", ("id",)), ("DATETIME", "none"), ("DATE", "all")]
)
def test_tables_views_and_queries_give_what_files_give(
    warehouse: Warehouse, tmp_path: Path, kind: str, identity: object
) -> None:
    """The same events, ledger and dead letters; also of rows that are refused, filtered and twice."""
    broken: list[dict[str, object]] = [{"ts": None}, {"user": ""}, {"amount": 1e300}, {"id": None}]
    bad = [{**ROWS[0], "kind": "buy", **values} for values in broken]
    table = events([*ROWS, *ROWS[:20], *bad], KINDS[kind])
    made = spec(kind=kind, identity=identity, where={"kind": "buy"})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=100)
    want = read(made, source(made, SPAN, str(tmp_path)))
    path = load(warehouse, table)
    name = path.removeprefix("bq://")
    warehouse.sql(f"CREATE VIEW `{name}_view` AS SELECT * FROM `{name}`")
    for asked in (path, f"{path}_view", f"bq://{PROJECT}?SELECT *\nFROM `{name}` -- all of it\n;"):
        found = source(made, SPAN, asked)
        got = read(made, found)
        assert got.events == want.events
        assert letters(got) == letters(want)
        assert got.ledger == want.ledger
        assert {d.source for d in got.dead} == {asked}
        assert got.dead[0].position.endswith("of stream 0")
        assert (found.files, found.shards) == (1, 8)
        assert 0 < found.size == sum(p.size for p in found.pieces)
    assert len(want.dead) == (4 if identity == ("id",) else 3)
    assert want.ledger.filtered > 100


@pytest.mark.parametrize("kind", KINDS)
def test_only_rows_that_can_be_used_are_read(warehouse: Warehouse, tmp_path: Path, kind: str) -> None:
    """And those without a time, which are refused; the scores cannot differ."""
    made = spec(steps=5, kind=kind)
    table = events([*ROWS, {**ROWS[0], "ts": None}], KINDS[kind])
    pq.write_table(table, tmp_path / "data.parquet")
    want = read(made, source(made, NARROW, str(tmp_path)), NARROW)
    path = load(warehouse, table)
    name = path.removeprefix("bq://")
    warehouse.sql(f"CREATE VIEW `{name}_view` AS SELECT * FROM `{name}`")
    for asked in (path, f"{path}_view", f"bq://{PROJECT}?SELECT * FROM `{name}`"):
        got = read(made, source(made, NARROW, asked), NARROW)
        assert got.events == want.events
        assert letters(got) == letters(want)
        assert got.ledger == replace(
            want.ledger,
            read=got.ledger.read,
            outside=0,
            first_time=got.ledger.first_time,
            last_time=got.ledger.last_time,
        )
        assert got.ledger.read == len(want.events) + 1 < len(ROWS) / 3


@given(
    as_ofs=st.lists(st.integers(-30, 30), min_size=1, max_size=4, unique=True),
    horizon=st.integers(0, 9),
    live=st.booleans(),
    arrival=st.booleans(),
)
def test_what_lies_outside_the_bounds_is_of_no_use(as_ofs: list[int], horizon: int, live: bool, arrival: bool) -> None:
    made = spec(steps=7, arrival={"field": "seen", "unit": "s"} if arrival else None)
    moments = tuple(sorted(t * DAY for t in as_ofs))
    span = Since(moments[0]) if live else Span(moments, horizon * DAY)
    low, high = bigquery.bounds(made, span)
    near = np.array([t + d for t in (low, low if high is None else high, *moments) for d in (-1, 0, 1, -DAY, DAY)])
    times = np.concatenate([near, np.arange(-60, 60) * DAY])
    useful = times[span.usable(made, times, times if arrival else None)]
    assert low in useful
    assert useful.min() >= low
    assert high is None or useful.max() == high - 1


@pytest.mark.parametrize(
    ("unit", "kind", "want"),
    [
        (
            "iso",
            "TIMESTAMP",
            "`ts` >= TIMESTAMP '2024-01-08 00:00:00+00:00' AND `ts` < TIMESTAMP '2024-01-13 00:00:00+00:00'",
        ),
        ("iso", "DATETIME", "`ts` >= DATETIME '2024-01-08 00:00:00' AND `ts` < DATETIME '2024-01-13 00:00:00'"),
        ("iso", "DATE", "`ts` >= DATE '2024-01-08' AND `ts` < DATE '2024-01-13'"),
        ("s", "INTEGER", "`ts` >= 1704672000 AND `ts` < 1705104000"),
        ("ns", "INTEGER", "`ts` >= 1704672000000000000 AND `ts` < 1705104000000000000"),
        ("iso", "STRING", None),
        ("s", "TIMESTAMP", None),
        ("s", "FLOAT", None),
        ("iso", "INTEGER", None),
    ],
)
def test_restrictions(unit: str, kind: str, want: str | None) -> None:
    made = spec(steps=5, time={"field": "ts", "unit": unit})
    found = bigquery.restriction(made, NARROW, {"ts": kind})
    assert found == (f"({want}) OR `ts` IS NULL" if want else "")


def test_restrictions_round_up_and_leave_out_what_a_type_cannot_say() -> None:
    made, odd = spec(steps=5, time=STAMP), Span((START * 1_000_000 + 1,))
    assert "DATE '2023-12-28' AND `ts` < DATE '2024-01-02'" in bigquery.restriction(made, odd, {"ts": "DATE"})
    seconds = bigquery.restriction(spec(steps=5), odd, {"ts": "INTEGER"})
    assert f"< {START + 1})" in seconds
    ancient = Span((-62_135_596_800_000_000 + DAY,))
    assert bigquery.restriction(made, ancient, {"ts": "DATE"}) == "(`ts` < DATE '0001-01-02') OR `ts` IS NULL"
    nanos = spec(time={"field": "ts", "unit": "ns"})
    assert bigquery.restriction(nanos, Span((1 << 60,)), {"ts": "INTEGER"}) == ""


@pytest.fixture(scope="module")
def long(warehouse: Warehouse) -> str:
    """A table of three streams."""
    n = 250_000
    table = pa.table(
        {
            "user": pa.array([f"u{i % 50}" for i in range(n)]),
            "ts": START + np.arange(n),
            "kind": pa.array(["buy"] * n),
            "amount": np.where(np.arange(n) % 100_000 == 7, np.inf, 1.0),
            "id": pa.array([f"e{i}" for i in range(n)]),
        }
    )
    return load(warehouse, table)


def test_streams_are_read_in_any_order_as_often_as_one_likes(long: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(task(), SPAN, long)
    assert [(p.start, p.end, p.whole) for p in found.pieces] == [(0, 1, True), (1, 2, False), (2, 3, False)]
    assert len({p.size for p in found.pieces}) <= 2
    once, again = read(task(), found), read(task(), replace(found, pieces=found.pieces[::-1]))
    assert once.events == again.events
    assert len(once.events) == 250_000 - 3
    assert sorted(once.dead, key=str) == sorted(again.dead, key=str)
    assert len({d.position for d in once.dead}) == 3
    assert once.ledger == again.ledger
    assert (once.ledger.read, once.ledger.files) == (250_000, 1)
    monkeypatch.setattr(bigquery, "ROWS", 100)
    assert read(task(), found).events == once.events


def test_a_read_that_breaks_off_goes_on_where_it_was(long: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(task(), SPAN, long)
    want, real, calls = read(task(), found), reader(), list[tuple[str, int]]()

    class Breaking:
        """Ends each call but the last of a stream: before its first rows, and after them."""

        def read_rows(self, name: str, offset: int, **more: Any) -> Iterator[ReadRowsResponse]:
            calls.append((name, offset))
            nth = sum(asked == name for asked, _ in calls)
            if nth > 1:
                yield from real.read_rows(name, offset, **more)
            if nth < 3:
                raise ServiceUnavailable("broken")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(bigquery, "reader", Breaking)
    got = read(task(), found)
    assert (got.events, got.dead, got.ledger) == (want.events, want.dead, want.ledger)
    assert [offset for _, offset in calls] == [0, 0, 83_333, 0, 0, 83_333, 0, 0, 83_334]


def test_a_session_that_is_over_is_told(tmp_path: Path) -> None:
    with Warehouse(tmp_path) as own:
        found = source(task(), SPAN, load(own, events(ROWS)))
        own.restart()
        with pytest.raises(
            UserError, match=r"bq://.*: stream 0 cannot be read to its end; run the command again \(a read"
        ):
            read(task(), found)
        assert len(read(task(), source(task(), SPAN, found.pieces[0].path)).events) == len(ROWS)


def test_a_session_is_what_the_query_gave(warehouse: Warehouse) -> None:
    """Rows that come later are read by the next run."""
    name = f"{PROJECT}.{warehouse.dataset()}.events"
    warehouse.sql(f"CREATE TABLE `{name}` (user STRING, ts INT64, kind STRING, amount FLOAT64, id STRING)")
    path = load(warehouse, events(ROWS), name)
    asked = f"bq://{PROJECT}?SELECT * FROM `{name}` WHERE amount > 0"
    found, positive = source(task(), SPAN, asked), sum(float(str(r["amount"])) > 0 for r in ROWS)
    before = source(task(), SPAN, path).tables
    load(warehouse, events([{**ROWS[0], "amount": 5.0, "id": "new"}]), name)
    assert len(read(task(), found).events) == positive
    assert len(read(task(), source(task(), SPAN, asked)).events) == positive + 1
    (old,), (new,) = before, source(task(), SPAN, path).tables
    assert old.path == new.path == path
    assert old != new
    assert source(task(), SPAN, path).tables == (new,)


def test_an_empty_table_is_read_as_an_empty_file_is(warehouse: Warehouse) -> None:
    for path in (load(warehouse, events(ROWS).slice(0, 0)), load(warehouse, events(ROWS))):
        found = source(task(), Span((0,)), path)
        result = read(task(), found, Span((0,)))
        assert (result.events, result.ledger.read, result.ledger.files, result.ledger.bad_files) == ([], 0, 1, 0)


def test_a_dry_run_runs_no_query(warehouse: Warehouse) -> None:
    path = load(warehouse, events(ROWS))
    name = path.removeprefix("bq://")
    warehouse.sql(f"CREATE VIEW `{name}_view` AS SELECT * FROM `{name}`")
    before = len(_jobs(name))
    asked = path, f"{path}_view", f"bq://{PROJECT}?SELECT * FROM `{name}`"
    found = source(task(), SPAN, *asked, dry_run=True)
    assert len(_jobs(name)) == before
    assert before  # the view was made by one
    assert found.files == 3
    with pytest.raises(UserError, match="the task needs the field users, which is not there, did you mean user"):
        source(task(entity="users"), SPAN, asked[2], dry_run=True)


def _jobs(name: str) -> list[object]:
    """The queries of a table; other tests ask the same service."""
    return [job for job in client(PROJECT).list_jobs() if name in (getattr(job, "query", None) or "")]


def test_a_stream_starts_from_a_table_that_knows_no_arrival(warehouse: Warehouse) -> None:
    made, since = task(arrival={"field": "seen", "unit": "s"}), Since(SPAN.as_ofs[0])
    path = load(warehouse, events(ROWS))
    with pytest.raises(UserError, match="the task needs the field seen"):
        source(made, SPAN, path)
    found = source(made, since, path)
    assert len(read(made, found, since).events) == len(ROWS)
    seen = events(ROWS).append_column("seen", pc.add(events(ROWS)["ts"], 5))
    blocks = read(made, source(made, since, load(warehouse, seen)), since).blocks
    assert all(np.array_equal(np.asarray(b.arrival), b.time + 5_000_000) for b in blocks)


def test_columns_of_every_type(warehouse: Warehouse, tmp_path: Path) -> None:
    """Numbers, text and bytes are what the other formats make of the same Arrow types."""
    name = f"{PROJECT}.{warehouse.dataset()}.types"
    warehouse.sql(
        f"CREATE TABLE `{name}` (user BYTES, ts TIMESTAMP, kind BOOL, amount NUMERIC, big BIGNUMERIC, id JSON, "
        "day DATE, at TIME, part STRUCT<x INT64>, many ARRAY<INT64>)"
    )
    warehouse.sql(
        f"INSERT INTO `{name}` VALUES (b'u1', '2024-01-02 03:04:05.678901', TRUE, 1.5, 2.25, JSON '{{\"a\": 1}}', "
        "'2024-01-02', '01:02:03', STRUCT(4), [5]), "
        "(b'u2', '2024-01-03', FALSE, NULL, NULL, NULL, NULL, NULL, NULL, [])"
    )
    made = spec(time=STAMP, identity="all", categories={"kind": ("true", "false")})
    result = read(made, source(made, SPAN, f"bq://{name}"))
    assert [(e[0], e[1], e[3], e[4]) for e in result.events] == [
        ("u1", START * 1_000_000 + DAY + 11_045_678_901, (0,), "[1.5]"),
        ("u2", START * 1_000_000 + 2 * DAY, (1,), "[nan]"),
    ]
    for field, kind in (("part", "RECORD"), ("many", "ARRAY of INTEGER")):
        nested = task(time=STAMP, entity=field)
        with pytest.raises(UserError, match=f"{field} is of type {kind}, of which no field can be: take out of it"):
            source(nested, SPAN, f"bq://{PROJECT}?SELECT *, 'e' AS id2 FROM `{name}`")
    day = spec(time={"field": "day", "unit": "iso"}, identity=("at",), categories={"kind": ("true",)})
    assert [e[1] for e in read(day, source(day, SPAN, f"bq://{name}")).events] == [START * 1_000_000 + DAY]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("bq://test.none", "a table is named bq://PROJECT.DATASET.TABLE"),
        ("bq://test.none.events", "Not found: Table test:none.events"),
        ("bq://test?SELEC 1", "Syntax error"),
        ("bq://test?SELECT x FROM UNNEST([1]) AS y", "Unrecognized name: x"),
        ("bq://test?DELETE FROM d.t WHERE TRUE", "d.t"),
        ("bq://test?CREATE TABLE d.t (x INT64)", "an input is one SELECT, and this is CREATE_TABLE"),
        ("bq://test?SELECT 1 AS user; SELECT 2", "an input is one SELECT, and this is SCRIPT"),
        (
            "bq://test?SELECT 5 AS ts, 2.5 AS amnt",
            "needs the field amount, which is not there, did you mean amnt? Fields",
        ),
    ],
)
def test_what_cannot_be_read_is_told(warehouse: Warehouse, path: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        source(task(), SPAN, path)
    assert str(error.value).startswith(f"{path}: ")
    assert reason in str(error.value)


def test_rows_that_make_no_sense_are_told_also_when_none_of_them_would_be_read(warehouse: Warehouse) -> None:
    path = load(warehouse, events(ROWS))
    with pytest.raises(UserError, match=r"bq://.*: ts = \d+ is no time in ms. Set the unit of ts to s"):
        source(task(time={"field": "ts", "unit": "ms"}), SPAN, path)
    with pytest.raises(UserError, match="none of the first 100 rows can be an event: ts is timestamp"):
        source(task(), SPAN, load(warehouse, events(ROWS, KINDS["TIMESTAMP"])))


def test_the_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client.cache_clear()
    for name in ("google.cloud.bigquery", "google.api_core.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    for path in ("bq://test.d.t", "bq://test?SELECT 1"):
        with pytest.raises(UserError, match=r"pip install 'foretide\[bigquery\]'"):
            source(task(), SPAN, path)
