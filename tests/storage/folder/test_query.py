"""Statements over the views, and printed results."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import get_args

import pytest

from pipelines.errors import UserError
from pipelines.storage.folder.query import Format, connect, query, select
from pipelines.system.screen import Shown, shown
from tests.support.folder_outputs import put, put_scores
from tests.system.test_screen import Screen


def printed(out: Path, sql: str, format: Format = "table", limit: int = 100) -> str:
    stream = io.StringIO()
    query(out, sql, format, limit, stream)
    return stream.getvalue()


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
    'nan'::DOUBLE AS nan, INTERVAL 90 SECOND AS i, '\\xFFa'::BLOB AS x FROM range(3) t(i)"""


def test_json_lines(tmp_path: Path) -> None:
    row = json.loads(printed(tmp_path, VALUES, "json"))
    times = {"z": "2024-01-01T06:00:00.250000Z", "day": "2024-01-01", "i": 90.0, "x": "\\xffa"}
    assert (
        row
        == {"f": 0.1, "d": 0.1, "s": 3, "c": 1.5, "t": 'a,"ü', "n": None, "o": {"a": [1]}, "b": True, "nan": None}
        | times
    )


def test_csv(tmp_path: Path) -> None:
    head, row = printed(tmp_path, VALUES, "csv").splitlines()
    assert head == "f,d,s,c,t,n,z,day,o,b,nan,i,x"
    assert row == '0.1,0.1,3,1.5,"a,""ü",,2024-01-01T06:00:00.250000Z,2024-01-01,"{""a"": [1]}",true,,90.0,\\xffa'


ODD = r"""SELECT chr(13) || 'x' AS cr, chr(10) || 'y' AS lf, 'a' || chr(155) || chr(8238) AS c1, chr(0) AS nul,
    '=1+1' AS "=formula", '@x' AS at, '-1' AS t, -1 AS n, -0.5::FLOAT AS f, chr(65309) || '1' AS wide, [-1] AS list,
    '' AS none"""


def test_csv_is_exact_whatever_a_field_holds(tmp_path: Path) -> None:
    text = printed(tmp_path, ODD, "csv")
    head, row = csv.reader(io.StringIO(text, newline=""))
    assert head == ["cr", "lf", "c1", "nul", "=formula", "at", "t", "n", "f", "wide", "list", "none"]
    assert row == ["\rx", "\ny", "a\x9b\u202e", "\0", "=1+1", "@x", "-1", "-1", "-0.5", "\uff1d1", "[-1]", ""]
    assert '"\rx"' in text
    assert text.count("\r") == 1


def test_a_spreadsheet_computes_no_text(tmp_path: Path) -> None:
    head, row = csv.reader(io.StringIO(printed(tmp_path, ODD, "spreadsheet"), newline=""))
    assert head[4] == "'=formula"
    assert row == ["'\rx", "'\ny", "a\x9b\u202e", "\0", "'=1+1", "'@x", "'-1", "-1", "-0.5", "'\uff1d1", "[-1]", ""]


def test_no_format_moves_the_cursor_of_a_terminal(tmp_path: Path) -> None:
    sql = ODD.replace("none", "\x1b[2J\n\u202e").replace(" AS \x1b[2J\n\u202e", ' AS "\x1b[2J\n\u202e"')
    for format in get_args(Format):
        screen = Screen()
        query(tmp_path, sql, format, stream=Shown(screen))  # type: ignore[arg-type]
        assert screen.getvalue() == shown(screen.getvalue())
    head = printed(tmp_path, sql).splitlines()[0]
    assert head.endswith("\\x1b[2J\\n\\u202e")
    assert json.loads(printed(tmp_path, sql, "json"))["\x1b[2J\n\u202e"] == ""


def test_a_statement_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the statement is not text in UTF-8"):
        printed(tmp_path, "SELECT '\udcff'")


def test_json_keeps_every_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two columns are named a, and JSON keeps one: name them apart with AS"):
        printed(tmp_path, "SELECT 1 AS a, 2 AS b, 3 AS a", "json")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="there is no folder"):
        connect(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        connect(tmp_path / ("x" * 5000))


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
