from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.events.formats import lines, regular
from pipelines.events.formats.lines import TextLines
from tests.support.event_files import START, jsonl, records, task


def chunk(content: bytes) -> TextLines:
    return lines.whole_lines(content, 0)


def agrees(content: bytes) -> bool:
    """Whether all lines are read as regular ones; those that are, are JSON and have just these values."""
    found = chunk(content)
    read = regular.columns(task(), found)
    if read is None:
        return False
    table, rows = read
    assert len(table) == len(rows)
    for i, row in zip(rows.tolist(), table.to_pylist(), strict=True):
        record = json.loads(found.line(i), parse_constant=pytest.fail)
        for name in ("user", "kind", "id", "ts"):
            assert row[name] == record.get(name), found.line(i)
        amount = record.get("amount")
        assert row["amount"] == (amount if amount is None or isinstance(amount, str) else float(amount))
    return len(table) == len(found)


@pytest.mark.parametrize(
    "line",
    [
        b'{"user":"a","ts":1704067200,"kind":"buy","amount":1.5,"id":"x"}',
        b'{ "user" : "a" , "ts" :1704067200, "kind": "buy", "amount" : null , "id": "x" }',
        b'{"amount":-0.5e-3,"id":"","user":"b","ts":0}',
        '{"id":"é😀","amount":1e5,"ts":7}'.encode(),
        b'{"a":true,"b":false,"c":null,"user":"x","ts":1}',
    ],
)
def test_regular_lines(line: bytes) -> None:
    assert agrees(line + b"\n")
    assert agrees((line + b"\n") * 50)
    assert agrees((line + b"\r\n") * 50)


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"{", b"[]", b"x", b'{"user"}', b'{"user":}', b'{"user":"a"', b'{"user":"a"}}', b'{"user":"a"},'),
        *(b'{"user":"a","user":"b"}', b'{"user":{"a":"b"}}', b'{"user":["a"]}', b'{"user":"a\tb"}'),
        *(b'{"ts":01}', b'{"ts":+1}', b'{"ts":.5}', b'{"ts":1.}', b'{"ts":NaN}', b'{"ts":Infinity}', b'{"ts":0x1}'),
        *(b'{"ts":1_0}', b'{"ts":1 2}', b'{"extra":tru,"ts":1}', b'{"ts":true}', b'{"ts":1.5}', b"{'ts':1}"),
        *(b'{"user":"a" "ts":1}', b'{,"user":"a"}', b'{"user":"a",}', b'{"user" "a"}', b'{"user":"a"} ,'),
        *(b'{"user":"a\\u0041"}', b'{"user":"a";"ts":1}', b'"user":"a"}', b',"user":"a"}', b'{"user":"a",,"ts":1}'),
    ],
)  # fmt: skip
def test_lines_that_are_left_to_the_parser(line: bytes) -> None:
    assert regular.columns(task(), chunk(line + b"\n")) is None
    good = b'{"user":"a","ts":1}'
    assert which(good + b"\n" + line + b"x\n" + good) == [0, 2]
    assert which(line + b"x\n" + good + b"\n" + good + b"\n" + good) == [1, 2, 3]  # the first is of no use


def which(content: bytes) -> list[int]:
    """The lines that are read."""
    agrees(content)
    read = regular.columns(task(), chunk(content))
    assert read is not None
    return [int(row) for row in read[1]]


def test_same_number_of_quotes_in_other_places() -> None:
    one, two = b'{"user":"a","ts":1,"id":"x"}\n', b'{"user":"a","id":"x","ts":1}\n'
    assert agrees(one + one)
    assert which(one + two) == [0]
    assert which(one + b'{"user":"a","ts":1,"id":"x",}\n') == [0]
    assert which(b'{"user":"a"}\n{"user":"a""b"}\n{"user":a}\n') == [0]


def test_few_lines_of_a_form_are_left_to_the_parser() -> None:
    assert regular.columns(task(), chunk(b'{"ts":1}\n' + b'{"ts":true}\n' * 9)) is None


def test_absent_fields_are_null() -> None:
    read = regular.columns(task(), chunk(b'{"ts":1}\n{"ts":2}\n'))
    assert read is not None
    table, _ = read
    assert table["user"].type == pa.null()
    assert table["ts"].to_pylist() == [1, 2]


ROWS = jsonl(records(6)).splitlines()


@settings(max_examples=600)
@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans())
@example(0, 1, True)
def test_changed_bytes_never_deceive(seed: int, changes: int, everywhere: bool) -> None:
    """Bytes changed in one line, or at the same place of all: what is read is what a parser reads."""
    r = random.Random(seed)
    rows = [bytearray(row) for row in ROWS]
    for _ in range(changes):
        at, byte, grow = r.randrange(60), r.choice(b'"{}:, \n\r\t0123456789.eE+-truefalsn\\a\xc3'), r.random() < 0.5
        for row in rows if everywhere else r.sample(rows, 1):
            row[at : at + (not grow)] = bytes([byte])
    content = b"\n".join(rows)
    good, _ = lines.unicode(chunk(content))
    if len(good):
        agrees(good.text().to_pybytes())


def test_numbers_keep_their_digits() -> None:
    big = [2**53 + 1, 92 * 10**17 - 1, 1 - 92 * 10**17, 2**63]  # 64 bits do not hold the last
    read = regular.columns(task(), chunk(b"".join(b'{"user":%d,"ts":%d}\n' % (v, START) for v in big)))
    assert read is not None
    assert (read[0]["user"].to_pylist(), read[1].tolist()) == (big[:3], [0, 1, 2])
