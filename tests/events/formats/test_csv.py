from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.events.formats import csv
from tests.support import event_files
from tests.support.event_files import read, task, written

ROWS = event_files.records(300)
GOOD = event_files.comma(ROWS)


def with_line(line: bytes) -> bytes:
    rows = GOOD.split(b"\n")
    return b"\n".join([*rows[:100], line, *rows[100:]])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u1,1704067200,buy", "a row with another number of fields: 3 instead of 5"),
        (b"u1,1704067200,buy,1,x,y", "a row with another number of fields: 6 instead of 5"),
        (b'u1,1704067200,buy,1,"x', csv.OPEN),
        (b'u1,1704067200,b"uy,1,"x', csv.OPEN),
        (b'5" disk,1704067200,buy,1,x', csv.OPEN),
        (b"u1\r,1704067200,buy,1,x", "a carriage return inside a row"),
        (b"u1,1704067200,buy,1,\xff", "a line that is not UTF-8"),
        (b"u1,soon,buy,1,x", "ts is not a number: 'soon'"),
        (b"u1,,buy,1,x", "ts is missing or out of range"),
        (b"u1,1704067200,buy,one,x", "amount is not a number: 'one'"),
        (b",1704067200,buy,1,x", "user is missing"),
    ],
)
def test_a_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    for content in (with_line(line), GOOD + line, GOOD + line + b"\n"):
        result = read(task(), written(tmp_path / "x.csv", content))
        (letter,) = result.dead
        assert letter.reason == reason
        assert letter.position == f"byte {content.index(line)}"
        assert len(result.events) == len(ROWS)


@pytest.mark.parametrize(
    ("line", "user", "amount"),
    [
        (b'"a,b",1704067200,buy,1,x', "a,b", "[1.0]"),
        (b'"say ""hi""",1704067200,buy,1.5,x', 'say "hi"', "[1.5]"),
        (b'5" and 6" disks,1704067200,buy,,x', '5" and 6" disks', "[nan]"),
        (b"007,1704067200,buy, 2 ,x", "007", "[2.0]"),
        (b"null,1704067200,buy,NA,x", "null", "[nan]"),
        ("é😀,1704067200,buy,-1e3,x".encode(), "é😀", "[-1000.0]"),
        (b"\xef\xbb\xbfa,1704067200,buy,1,x", "a", "[1.0]"),
    ],
)
def test_a_row_that_is_unusual_and_good(tmp_path: Path, line: bytes, user: str, amount: str) -> None:
    result = read(task(), written(tmp_path / "x.csv", with_line(line)))
    assert not result.dead
    assert [e[4] for e in result.events if e[0] == user] == [amount]
    assert len(result.events) == len(ROWS) + 1


def test_a_quoted_line_end_costs_its_lines_and_no_more(tmp_path: Path) -> None:
    result = read(task(), written(tmp_path / "x.csv", with_line(b'"two\nlines",1704067200,buy,1,x')))
    assert (len(result.dead), len(result.events)) == (2, len(ROWS))


@pytest.mark.parametrize("separator", [b";", b"\t", b"|"])
def test_other_separators(tmp_path: Path, separator: bytes) -> None:
    plain = read(task(), written(tmp_path / "x.csv", GOOD))
    other = read(task(), written(tmp_path / "x.csv", GOOD.replace(b",", separator)))
    assert other.events == plain.events


def test_line_ends_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    plain = read(task(), written(tmp_path / "x.csv", GOOD))
    content = GOOD.replace(b"\n", b"\r\n\r\n")
    for variant in (content, content.rstrip(), b"\xef\xbb\xbf" + content, b"\r\n" + content):
        result = read(task(), written(tmp_path / "x.csv", variant))
        assert (result.events, result.ledger) == (plain.events, plain.ledger)


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", GOOD.replace(b"kind", b"user", 1))
    (letter,) = read(task(), path).dead
    assert letter.reason.startswith("column user stands twice")
    unused = GOOD.replace(b"\n", b",1,2\n").replace(b"id,1,2\n", b"id,more,more\n", 1)
    assert len(read(task(), written(path, unused)).events) == len(ROWS)


def test_header(tmp_path: Path) -> None:
    assert csv.header(str(written(tmp_path / "x.csv", b'\n"a, b",c\n1,2\n'))) == (["a, b", "c"], ",")
    assert csv.header(str(written(tmp_path / "x.csv", b"\n"))) == ([], ",")


def test_a_file_without_a_header_line(tmp_path: Path) -> None:
    """One endless line is no CSV file, and no crash."""
    result = read(task(), written(tmp_path / "x.csv", b'"' + b"x" * 2_000_000))
    assert (result.ledger.bad_files, result.ledger.read) == (1, 1)
