"""Views over the output folder, whatever it holds, and printed results."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.ledger import Ledger
from pipelines.query import Format, connect, query, select
from pipelines.rows import RunTarget, ledger_table, score_schema
from pipelines.store import LEDGER, Status, begin, publish
from tests.publisher import PARTS, SCORES, write_values

BASE = ["score_id", "task", "entity_id", "as_of", "revision"]
REST = ["model_version", "n_events", "last_event_time", "run_id", "scored_at"]


def put(out: Path, run_id: str, value: int, finished_at: int = 1, status: Status = "published", rows: int = 3) -> None:
    with begin(out, run_id, f"{status}-{value}") as run:
        write_values(run.data, value, rows, run_id, status, finished_at)
        publish(run, status, PARTS if status == "published" else PARTS[1:])


def put_scores(out: Path, run_id: str, columns: dict[str, list[object]], finished_at: int = 1) -> None:
    """A run of one task whose scores have these columns; the others are the same for all."""
    n = len(columns["entity_id"])
    names = [c for c in columns if c not in score_schema([]).names]
    same: dict[str, object] = {"task": "churn", "as_of": 0, "revision": 0, "n_events": 1, "last_event_time": 0}
    same |= {"score_id": "x", "model_version": "m", "run_id": run_id}
    schema = score_schema(names)
    with begin(out, run_id, "a") as run:
        table = pa.table({c: columns.get(c) or [same[c]] * n for c in schema.names}, schema=schema)
        pq.write_table(table, run.data / SCORES)
        target = RunTarget(run, "churn", tuple(names), "m", (), 0)
        pq.write_table(ledger_table(target, Ledger(), "published", finished_at), run.data / LEDGER)
        publish(run, "published", [SCORES])


def printed(out: Path, sql: str, format: Format = "table", limit: int = 100) -> str:
    stream = io.StringIO()
    query(out, sql, format, limit, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["new", 'it\'s "a" [b] * folder'])
def test_a_folder_without_runs_has_empty_views(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    scores = select(tmp_path / name, "SELECT * FROM scores")
    assert list(scores.names) == BASE + REST
    assert scores.types[3] == "TIMESTAMP WITH TIME ZONE"
    assert list(scores.rows) == []
    assert list(select(tmp_path / name, "FROM dead_letters").rows) == []
    assert "status" in select(tmp_path / name, "FROM dead_letters").names
    assert list(select(tmp_path / name, "FROM ledger").rows) == []


@pytest.mark.parametrize("name", ["new", 'it\'s "a" [b] * folder'])
def test_a_folder_with_a_run(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "r", 7)
    scores = select(tmp_path / name, "SELECT * FROM scores ORDER BY entity_id")
    assert list(scores.names) == [*BASE, "churn", *REST]
    first = dict(zip(scores.names, next(scores.rows), strict=True))
    assert (first["churn"], first["n_events"]) == (7.0, 7)
    assert first["scored_at"] == datetime(1970, 1, 1, 0, 0, 0, 1, UTC)
    assert list(select(tmp_path / name, 'SELECT "rows", status FROM dead_letters').rows) == [(7, "published")] * 3


def test_the_run_that_finished_last_wins(tmp_path: Path) -> None:
    put(tmp_path, "b", 1, finished_at=10)
    put(tmp_path, "a", 2, finished_at=30)
    put(tmp_path, "c", 3, finished_at=20)
    assert list(select(tmp_path, "SELECT DISTINCT churn, run_id FROM scores").rows) == [(2.0, "a")]
    assert list(select(tmp_path, "SELECT count(*) FROM scores").rows) == [(3,)]


def test_the_highest_revision_wins_over_a_later_run(tmp_path: Path) -> None:
    put_scores(tmp_path, "a", {"entity_id": ["e", "e", "f"], "revision": [0, 1, 0], "churn": [0.1, 0.2, 0.3]}, 10)
    put_scores(tmp_path, "b", {"entity_id": ["e", "f"], "revision": [0, 0], "churn": [0.4, 0.5]}, 20)
    got = select(tmp_path, "SELECT entity_id, revision, churn::DECIMAL(2, 1)::DOUBLE FROM scores ORDER BY 1")
    assert list(got.rows) == [("e", 1, 0.2), ("f", 0, 0.5)]


def test_tasks_with_different_outputs_share_a_folder(tmp_path: Path) -> None:
    put_scores(tmp_path, "a", {"entity_id": ["e"], "churn": [0.5]})
    put_scores(tmp_path, "b", {"task": ["price"], "entity_id": ["e"], "step_1": [1.5], "step_2": [2.5]})
    got = select(tmp_path, "SELECT * FROM scores ORDER BY task")
    assert list(got.names) == [*BASE, "churn", "step_1", "step_2", *REST]
    assert [row[5:8] for row in got.rows] == [(0.5, None, None), (None, 1.5, 2.5)]


def test_only_published_scores_count(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "a", 2, status="refused")
    put(tmp_path, "b", 3, status="unbalanced")
    assert list(select(tmp_path, "SELECT DISTINCT churn FROM scores").rows) == [(1.0,)]
    letters = select(tmp_path, 'SELECT DISTINCT run_id, "rows", status FROM dead_letters ORDER BY 2')
    assert list(letters.rows) == [("a", 1, "published"), ("a", 2, "refused"), ("b", 3, "unbalanced")]
    assert list(select(tmp_path, "SELECT count(*) FROM ledger").rows) == [(3,)]


def test_a_generation_that_was_deleted_by_hand_is_no_longer_there(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    (tmp_path / "generations" / "b.published-2").rename(tmp_path / "elsewhere")
    assert list(select(tmp_path, "SELECT DISTINCT run_id FROM scores").rows) == [("a",)]


def test_an_open_connection_keeps_its_generation(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    con = connect(tmp_path)
    with begin(tmp_path, "a", "b") as run:
        write_values(run.data, 2, run="a")
        publish(run, "published", PARTS)
    assert con.execute("SELECT DISTINCT churn FROM scores").fetchall() == [(1.0,)]
    assert connect(tmp_path).execute("SELECT DISTINCT churn FROM scores").fetchall() == [(2.0,)]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*none: give the output folder"):
        connect(tmp_path / "none")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nope FROM scores", 'Referenced column "nope" not found'),
        ("SELEC", "syntax error"),
        ("SELECT * FROM score", "score does not exist"),
        ("SELECT 'a'::INTEGER", "Could not convert string"),
        ("FROM read_parquet('none.parquet')", "No files found"),
        ("", "there is no statement"),
        (" -- nothing", "there is no statement"),
    ],
)
def test_statements_that_fail(tmp_path: Path, sql: str, message: str) -> None:
    put(tmp_path, "a", 1)
    with pytest.raises(UserError) as error:
        query(tmp_path, sql, stream=io.StringIO())
    text = str(error.value)
    assert message in text
    assert "The views are:\n  scores(score_id, task, entity_id, as_of, revision, churn, model_version" in text
    assert "\n  ledger(run_id, attempt, " in text


def test_an_error_names_some_of_many_columns(tmp_path: Path) -> None:
    put_scores(tmp_path, "a", {"entity_id": ["e"], **{f"step_{i}": [1.0] for i in range(1, 101)}})
    with pytest.raises(UserError, match="step_18, step_19, and 86 more"):
        select(tmp_path, "SELECT nope FROM scores")


def test_a_table(tmp_path: Path) -> None:
    sql = """SELECT * FROM (VALUES ('ann', 0.123456789::DOUBLE, 7, true, TIMESTAMPTZ '2024-01-01', [1, 2]),
        ('bob ' || chr(10) || 'x', NULL, 1000, false, TIMESTAMPTZ '2024-01-02', NULL)) t(who, p, n, ok, day, list)"""
    assert printed(tmp_path, sql).splitlines() == [
        "who             p     n  ok     day         list",
        "-------  --------  ----  -----  ----------  ------",
        "ann      0.123457     7  true   2024-01-01  [1, 2]",
        "bob \\nx            1000  false  2024-01-02",
    ]


def test_a_table_is_cut_and_says_so(tmp_path: Path) -> None:
    assert printed(tmp_path, "FROM range(3)", limit=2).splitlines()[-1].startswith("(the first 2 rows; there are more")
    assert len(printed(tmp_path, "FROM range(3)", limit=3).splitlines()) == 5
    assert len(printed(tmp_path, "FROM range(300)", limit=0).splitlines()) == 302
    assert printed(tmp_path, "FROM range(0)").splitlines()[-1] == "(no rows)"
    cell = printed(tmp_path, "SELECT repeat('x', 1000000) AS c").splitlines()[-1]
    assert cell == "x" * 59 + "…"


def test_times_in_a_table_are_to_the_second(tmp_path: Path) -> None:
    table = printed(tmp_path, "SELECT TIMESTAMPTZ '2024-01-01 06:07:08.9' AS t")
    assert table.splitlines()[-1] == "2024-01-01 06:07:08"


VALUES = """SELECT 0.1::FLOAT AS f, 0.1::DOUBLE AS d, sum(i) AS s, 1.50::DECIMAL(9, 2) AS c, 'a,"ü' AS t, NULL AS n,
    TIMESTAMPTZ '2024-01-01 06:00:00.25' AS z, DATE '2024-01-01' AS day, {'a': [1]} AS o, true AS b,
    'nan'::DOUBLE AS nan, INTERVAL 90 SECOND AS i FROM range(3) t(i)"""


def test_json_lines(tmp_path: Path) -> None:
    row = json.loads(printed(tmp_path, VALUES, "json"))
    times = {"z": "2024-01-01T06:00:00.250000Z", "day": "2024-01-01", "i": 90.0}
    assert (
        row
        == {"f": 0.1, "d": 0.1, "s": 3, "c": 1.5, "t": 'a,"ü', "n": None, "o": {"a": [1]}, "b": True, "nan": None}
        | times
    )


def test_csv(tmp_path: Path) -> None:
    head, row = printed(tmp_path, VALUES, "csv").splitlines()
    assert head == "f,d,s,c,t,n,z,day,o,b,nan,i"
    assert row == '0.1,0.1,3,1.5,"a,""ü",,2024-01-01T06:00:00.250000Z,2024-01-01,"{""a"": [1]}",true,,90.0'


@pytest.mark.parametrize("format", ["csv", "json"])
def test_csv_and_json_are_whole(tmp_path: Path, format: Format) -> None:
    assert len(printed(tmp_path, "FROM range(25000)", format, limit=1).splitlines()) == 25_000 + (format == "csv")


def test_statements_other_than_select(tmp_path: Path) -> None:
    assert "dead_letters" in printed(tmp_path, "SHOW TABLES")
    assert "entity_id" in printed(tmp_path, "DESCRIBE scores")
    assert "(no rows)" in printed(tmp_path, "SET threads = 1")
    target = tmp_path / "copy.csv"
    query(tmp_path, f"COPY (SELECT 1 AS x) TO '{target}'", stream=io.StringIO())
    assert target.read_text() == "x\n1\n"


def test_conditions_reach_the_files(tmp_path: Path) -> None:
    """Conditions on entity and as-of are applied when the files are read, not after all scores were compared."""
    entities = [f"e{i}" for i in range(1000)]
    put_scores(tmp_path, "a", {"entity_id": list(entities), "churn": np.linspace(0, 1, 1000).tolist()})
    plan = connect(tmp_path).execute("EXPLAIN SELECT * FROM scores WHERE entity_id = 'e7'").fetchall()[0][1]
    scan = plan[plan.upper().index("PARQUET") - 400 :]
    assert "entity_id" in scan
    assert "'e7'" in scan


def test_paths_as_rows(tmp_path: Path) -> None:
    put_scores(tmp_path, "old", {"entity_id": ["gone"], "score_id": ["g"], "churn": [0.5]})
    path: dict[str, list[object]] = {
        "step_1": [1.0, 4.0],
        "step_2": [2.0, 5.0],
        "step_1_p10": [0.5, 3.5],
        "step_2_p10": [1.0, 3.0],
    }
    put_scores(tmp_path, "new", {"entity_id": ["a", "b"], "score_id": ["x", "y"], **path, "step_2_p97_5": [3.0, 6.0]})
    rows = list(select(tmp_path, "SELECT entity_id, step, p10, p50, p97_5 FROM forecasts ORDER BY ALL").rows)
    assert rows == [
        ("a", 1, 0.5, 1.0, None),
        ("a", 2, 1.0, 2.0, 3.0),
        ("b", 1, 3.5, 4.0, None),
        ("b", 2, 3.0, 5.0, 6.0),
    ]


def test_no_paths_are_no_forecasts(tmp_path: Path) -> None:
    put_scores(tmp_path, "r", {"entity_id": ["a"], "churn": [0.5]})
    assert list(select(tmp_path, "SELECT step, p50 FROM forecasts").rows) == []
