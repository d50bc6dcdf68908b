from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.events.formats import jsonl, lines
from tests.support import event_files
from tests.support.event_files import Result, read, task, written

ROWS = event_files.records(600)
INFINITE = "amount is infinite or larger than a 32-bit float can be"


def told(result: Result) -> list[tuple[str, str]]:
    return sorted((d.position, d.reason) for d in result.dead)


def lines_of(*changed: object) -> bytes:
    """Some good lines; of those, one for each value: a line, or the changed fields of a row."""
    out = [json.dumps(row).encode() for row in ROWS]
    for i, change in enumerate(changed):
        out[20 + i * 10] = change if isinstance(change, bytes) else json.dumps({**ROWS[20 + i * 10], **change}).encode()  # type: ignore[dict-item]
    return b"\n".join(out) + b"\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a JSON object"),
        (b"nonsense", "not a JSON object"),
        (b"[1, 2]", "list instead of a JSON object"),
        (b'"text"', "list instead of a JSON object"),
        (b"17", "number instead of a JSON object"),
        (b"null", "null instead of a JSON object"),
        (b"{} {}", "not a JSON object"),
        (b'{"user": "a", "ts": 01}', "not a JSON object"),
        (b'{"user": "a\0b", "ts": 1}', "not a JSON object"),
        (b'{"user": "a\xff", "ts": 1}', "a line that is not UTF-8"),
        (b'{"user": {"id": 5}, "ts": 1}', "user is an object"),
        (b'{"user": "a", "ts": [1]}', "ts is a list"),
        (b'{"user": "\\ud800", "ts": 1}', "user is text that is not Unicode"),
        (b'{"user": "a", "ts": 99999999999999999999}', "ts is out of range"),
        (b'{"user": "a", "id": "x", "ts": 1, "amount": -Infinity}', INFINITE),
        (b"[" * 100_000, "JSON nested more than 256 deep"),
    ],
)  # fmt: skip
def test_a_bad_line(tmp_path: Path, line: bytes, reason: str) -> None:
    result = read(task(), written(tmp_path / "x.jsonl", lines_of(line)))
    (letter,) = result.dead
    assert letter.reason.startswith(reason)
    assert result.ledger.reasons == ((reason, 1),)
    assert letter.position == f"byte {len(b''.join(json.dumps(r).encode() + b' ' for r in ROWS[:20]))}"
    assert len(result.events) == len(ROWS) - 1


@pytest.mark.parametrize(
    "change",
    [
        {"user": 5},
        {"user": 5.0},
        {"user": 2**64 - 1},
        {"user": True},
        {"ts": str(event_files.START)},
        {"ts": event_files.START + 0.5},
        {"amount": "7.25"},
        {"amount": None},
        {"amount": float("nan")},
        {"amount": 10**30},
        {"kind": 7},
        {"extra": {"deep": [1, {"a": None}]}},
        b'  {"user": "a", "ts": 1704067200, "id": "x"}  ',
        b'{"user": "first", "user": "last", "ts": 1704067200, "id": "x"}',
        b'\xef\xbb\xbf{"user": "a", "ts": 1704067200, "id": "x"}',
        b'{"user": "a", "ts": 1704067200, "id": "x"}\r',
    ],
)
def test_a_line_that_is_unusual_and_good(tmp_path: Path, change: object) -> None:
    """It is an event, and the same whether the lines around it are like it or not."""
    among = read(task(), written(tmp_path / "x.jsonl", lines_of(change)))
    alone = read(task(), written(tmp_path / "y.jsonl", lines_of(change).split(b"\n")[20] + b"\n"))
    alike = read(task(), written(tmp_path / "z.jsonl", (lines_of(change).split(b"\n")[20] + b"\n") * 40))
    assert (among.dead, alone.dead, alike.dead) == ([], [], [])
    assert len(among.events) == len(ROWS)
    assert set(alone.events) == set(alike.events) <= set(among.events)


def test_types_that_change_in_the_middle(tmp_path: Path) -> None:
    rows = [{**row, "user": i, "amount": i} if i < 300 else row for i, row in enumerate(ROWS)]
    result = read(task(), written(tmp_path / "x.jsonl", event_files.jsonl(rows)))
    assert not result.dead
    assert {e[0] for e in result.events} >= {"0", "299", "u1"}


def test_whole_numbers_stay_exact_among_floats(tmp_path: Path) -> None:
    rows = [{**row, "user": 2**53 + i if i % 3 else 0.0} for i, row in enumerate(ROWS)]
    result = read(task(), written(tmp_path / "x.jsonl", event_files.jsonl(rows)))
    assert {e[0] for e in result.events} == {"0"} | {str(2**53 + i) for i in range(600) if i % 3}


def test_line_ends_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    plain = read(task(), written(tmp_path / "x.jsonl", lines_of()))
    content = lines_of().replace(b"\n", b"\r\n \r\n\n")
    for variant in (content, content.rstrip(), b"\xef\xbb\xbf" + content, b"\n\n" + content):
        result = read(task(), written(tmp_path / "x.jsonl", variant))
        assert result.events == plain.events
        assert result.ledger == plain.ledger


def test_lines_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 5_000)
    monkeypatch.setattr(lines, "CHUNK", 1_000)
    long = b'{"user": "' + b"x" * 20_000 + b'"}'
    for variant in (lines_of(long, long), lines_of(long) + long, long + b"\n" + lines_of(long)):
        result = read(task(), written(tmp_path / "x.jsonl", variant))
        assert [d.reason[:14] for d in result.dead] == ["a line of more"] * 2
        assert result.ledger.read == len(result.events) + 2


def test_a_bad_share_of_rows_is_not_slow_and_loses_nothing(tmp_path: Path) -> None:
    changes = [{"amount": "x"}, b"{", {"ts": None}] * 19
    result = read(task(), written(tmp_path / "x.jsonl", lines_of(*changes)))
    assert (len(result.dead), len(result.events)) == (57, 543)


def test_fields_are_named_with_their_types(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": "x", "b": null, "c": true}\n{bad\n{"d": {}, "e": []}\n')
    assert jsonl.READER.fields(str(path)) == {
        "a": "number or text",
        "b": "null",
        "c": "boolean",
        "d": "object",
        "e": "list",
    }
