from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import fastavro
import pytest

from tests.support import event_files
from tests.support.event_files import read, task, written
from tests.support.structure_fuzzer import zigzag

ROWS = event_files.records(2_000)
MARK = b"0123456789abcdef"


def logical(kind: str, name: str, **more: object) -> dict[str, object]:
    return {"type": kind, "logicalType": name, **more}


def one(field: str, kind: object, value: object) -> bytes:
    names = [f for f in event_files.SCHEMA["fields"] if f["name"] != field]  # type: ignore[index]
    schema = {"type": "record", "name": "event", "fields": [*names, {"name": field, "type": kind}]}
    out = io.BytesIO()
    fastavro.writer(out, schema, [{**ROWS[0], field: value}] * 3)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    plain = read(task(), written(tmp_path / "x.jsonl", event_files.jsonl(ROWS)))
    assert read(task(), written(tmp_path / "x.avro", event_files.avro(ROWS, codec))).events == plain.events


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (logical("long", "timestamp-millis"), datetime(2024, 1, 2, tzinfo=UTC)),
        (logical("long", "timestamp-micros"), datetime(2024, 1, 2, tzinfo=UTC)),
        (logical("long", "local-timestamp-micros"), datetime(2024, 1, 2)),
        (logical("int", "date"), date(2024, 1, 2)),
        ("string", "2024-01-02T00:00:00Z"),
    ],
)
def test_times(tmp_path: Path, kind: object, value: object) -> None:
    result = read(task(time={"field": "ts", "unit": "iso"}), written(tmp_path / "x.avro", one("ts", kind, value)))
    assert [e[1] for e in result.events] == [(event_files.START + 86_400) * 1_000_000] * 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float", 2.5),
        (logical("bytes", "decimal", precision=10, scale=2), Decimal("2.50")),
        ("string", "2.5"),
        ("bytes", b"2.5"),
    ],
)
def test_numbers(tmp_path: Path, kind: object, value: object) -> None:
    result = read(task(), written(tmp_path / "x.avro", one("amount", kind, value)))
    assert [e[4] for e in result.events] == ["[2.5]"] * 3


@pytest.mark.parametrize(
    ("kind", "value", "name"),
    [
        ("long", 2**63 - 1, str(2**63 - 1)),
        ("bytes", b"abc", "abc"),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "B", "B"),
        (logical("string", "uuid"), "12345678-1234-5678-1234-567812345678", "12345678-1234-5678-1234-567812345678"),
    ],
)
def test_entities(tmp_path: Path, kind: object, value: object, name: str) -> None:
    result = read(task(), written(tmp_path / "x.avro", one("user", kind, value)))
    assert [e[0] for e in result.events] == [name] * 3


def test_a_nested_field_is_refused(tmp_path: Path) -> None:
    result = read(task(), written(tmp_path / "x.avro", one("user", {"type": "array", "items": "string"}, ["a"])))
    assert result.ledger.reasons == (("user is a list", 3),)


def test_a_damaged_block_costs_its_rows(tmp_path: Path) -> None:
    content = bytearray(event_files.avro(ROWS))
    marks = [i for i in range(len(content)) if content.startswith(MARK, i)]
    at = marks[5] + 30
    content[at : at + 20] = b"\xff" * 20
    result = read(task(), written(tmp_path / "x.avro", bytes(content)))
    (letter,) = result.dead
    assert letter.position == f"byte {marks[5] + 16}"
    assert letter.rows > 1
    assert result.ledger.read == 2_000


def test_a_damaged_marker_costs_nothing(tmp_path: Path) -> None:
    content = bytearray(event_files.avro(ROWS))
    marks = [i for i in range(len(content)) if content.startswith(MARK, i)]
    content[marks[5]] ^= 1
    result = read(task(), written(tmp_path / "x.avro", bytes(content)))
    assert (len(result.events), result.dead) == (2_000, [])


def test_damaged_lengths_go_on_at_the_next_marker(tmp_path: Path) -> None:
    content = bytearray(event_files.avro(ROWS))
    marks = [i for i in range(len(content)) if content.startswith(MARK, i)]
    content[marks[5] + 16 : marks[5] + 20] = b"\xff" * 4
    result = read(task(), written(tmp_path / "x.avro", bytes(content)))
    assert len(result.dead) == 1
    assert 1_900 < len(result.events) < 2_000


@pytest.mark.parametrize("fields", ["", ', "fields": [{"type": "long"}]', ', "fields": 5'])
def test_a_schema_without_names_of_fields_is_one_dead_letter(tmp_path: Path, fields: str) -> None:
    schema = ('{"type": "record", "name": "event"' + fields + "}").encode()
    header = b"Obj\x01\x04\x16avro.schema" + zigzag(len(schema)) + schema + b"\x14avro.codec\x08null\0" + bytes(16)
    (letter,) = read(task(), written(tmp_path / "data.avro", header)).dead
    assert letter.reason.startswith("not a readable Avro file: ")
