"""Small files and messages that would end a process: each costs itself, and what stands beside it is read."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.events.formats import avro_schema as avroschema
from pipelines.events.formats import codecs, rowgroups, thrift
from pipelines.events.formats.base import Unreadable
from pipelines.events.messages import Payload
from tests.support import event_files
from tests.support.event_files import read, task, written
from tests.support.structure_fuzzer import SYNC, zigzag
from tests.support.structure_fuzzer import _event as event

ROWS = event_files.records(20)
NULLS = {"type": "array", "items": "null"}


def container(extra: object, odd: bytes, count: int = 1, codec: bytes = b"null", pairs: int = 2) -> bytes:
    """A good block, an odd one, and a good one again, of events with one more field, which is no list in the good."""
    fields = [*event_files.SCHEMA["fields"], {"name": "x", "type": ["null", extra]}]
    schema = json.dumps({"type": "record", "name": "event", "fields": fields}).encode()
    good = b"".join(event(row) + zigzag(0) for row in ROWS)
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    good = engine.compress(good) + engine.flush() if codec == b"deflate" else good
    block = zigzag(len(ROWS)) + zigzag(len(good)) + good + SYNC
    head = zigzag(pairs) + b"".join(zigzag(len(t)) + t for t in (b"avro.schema", schema, b"avro.codec", codec))
    bad = zigzag(count) + zigzag(len(odd)) + odd + SYNC
    return b"Obj\x01" + head + zigzag(0) + SYNC + block + bad + block


BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB_DATA = BOMB.compress(bytes(codecs.LARGEST + 10)) + BOMB.flush()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (container(NULLS, event(ROWS[0]) + zigzag(1) + zigzag(4 * 10**8) + zigzag(0)), "more than 512 MiB"),
        (container("event", event(ROWS[0]) + (zigzag(1) + event(ROWS[0])) * 5_000 + zigzag(0)), "more than 64 deep"),
        (container("string", BOMB_DATA, codec=b"deflate"), "more than 64 MiB in a block"),
        (container("string", event(ROWS[0]) + zigzag(0), count=50), "too short for their records"),
        (
            container({"type": "array", "items": {"type": "fixed", "name": "f", "size": 9}},
                      event(ROWS[0]) + zigzag(1) + zigzag(10**9) + zigzag(0)), "more than 512 MiB"),
        (
            container({"type": "bytes", "logicalType": "decimal", "precision": 9},
                      event(ROWS[0]) + zigzag(1) + zigzag(10**6) + b"\x7f" * 10**6), "a decimal number of"),
    ],
    ids=["nulls", "recursion", "deflate", "promise", "fixed", "decimal"],
)  # fmt: skip
def test_an_avro_block_costs_itself(tmp_path: Path, content: bytes, reason: str) -> None:
    result = read(task(identity="none"), written(tmp_path / "x.avro", content))
    (letter,) = result.dead
    assert reason in letter.reason
    assert len(result.events) == 2 * len(ROWS)


def test_a_header_that_promises_a_huge_map(tmp_path: Path) -> None:
    result = read(task(), written(tmp_path / "x.avro", container("null", b"", pairs=10**12)))
    assert [d.reason for d in result.dead] == ["not a readable Avro file: a damaged Avro header"]


def nested(depth: int) -> object:
    return {"type": "array", "items": nested(depth - 1)} if depth else "null"


def doubled(depth: int) -> list[dict[str, object]]:
    """Records of which each has the one before it twice: of no bytes, and 2**depth in memory."""
    first: list[dict[str, object]] = [{"name": "f0", "type": {"type": "record", "name": "r0", "fields": []}}]
    for i in range(1, depth):
        inner = [{"name": n, "type": f"r{i - 1}"} for n in "ab"]
        first.append({"name": f"f{i}", "type": {"type": "record", "name": f"r{i}", "fields": inner}})
    return first


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([{"name": "x", "type": nested(200)}], "deep"),
        ([{"name": "x", "type": "r"}], "always holds itself"),
        ([{"name": "x", "type": {"type": "fixed", "name": "f", "size": -1}}], "fixed size"),
        ([{"name": "x", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10**9}}], "precision"),
        ([{"name": "x", "type": "nowhere"}], "without the type nowhere"),
        ([{"name": "x", "type": "int", "doc": json.loads("[" * 300 + "]" * 300)}], "nested more than 256 deep"),
        ([{"name": f"x{i}", "type": ["null", "int"]} for i in range(5_000)], "more than 10,000 types"),
    ],
)
def test_a_schema_is_held_against_bounds(fields: list[object], reason: str) -> None:
    text = json.dumps({"type": "record", "name": "r", "fields": fields})
    with pytest.raises(Unreadable, match=reason):
        avroschema.shape(text)
    with pytest.raises(UserError, match=reason):
        Payload("avro", text)


def test_records_that_double(tmp_path: Path) -> None:
    shape = avroschema.shape(json.dumps({"type": "record", "name": "r", "fields": doubled(40)}))
    with pytest.raises(Unreadable, match="more than 512 MiB"):
        shape.memory(b"", 1)


@pytest.mark.parametrize("codec", sorted(set(codecs.CODECS) - {"null"}))
def test_a_block_decompresses_to_no_more_than_there_is_room_for(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.structure_fuzzer import _compressed as compressed

    monkeypatch.setattr(codecs, "LARGEST", 1_000)
    assert codecs.decompress(compressed(codec.encode(), b"x" * 1_000), codec) == b"x" * 1_000
    with pytest.raises(Unreadable, match="MiB in a block"):
        codecs.decompress(compressed(codec.encode(), b"x" * 1_001), codec)
    with pytest.raises(Unreadable, match="or damaged"):
        codecs.decompress(compressed(codec.encode(), b"x" * 1_000)[:-9], codec)


@pytest.mark.parametrize("identity", ["all", ("id",)])
@pytest.mark.parametrize("length", [100, 20_000])
def test_a_long_value_of_a_dictionary_is_not_repeated_in_memory(
    tmp_path: Path, identity: object, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowgroups, "TOGETHER", 1 << 20)
    table = pa.Table.from_pylist([dict(r) for r in event_files.records(2_000)])
    table = table.append_column("note", pa.array(["v" * length] * 2_000))
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    with pq.ParquetFile(tmp_path / "x.parquet") as file, (tmp_path / "x.parquet").open("rb") as raw:
        found = rowgroups.groups(file.metadata, table.column_names, 0, 1)
        sizes = [t.nbytes for t in rowgroups.tables(raw, file.metadata, found, table.column_names, [])]
    assert max(sizes) < 2 << 20
    assert len(read(task(identity=identity), tmp_path / "x.parquet").events) == 2_000


def test_small_row_groups_are_read_together_and_a_damaged_one_alone(tmp_path: Path) -> None:
    rows = event_files.records(300)
    content = bytearray(event_files.parquet(rows, row_group=1))
    with pq.ParquetFile(io.BytesIO(content)) as file:
        at = file.metadata.row_group(7).column(0).data_page_offset
        runs = list(rowgroups.runs(rowgroups.groups(file.metadata, ["user", "ts"], 0, 300)))
    assert len(runs) == 1
    content[at : at + 4] = b"\xff\xff\xff\xff"
    result = read(task(), written(tmp_path / "x.parquet", bytes(content)))
    assert [(d.position, d.rows) for d in result.dead] == [("row 7", 1)]
    assert len(result.events) == 299


def test_a_page_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowgroups, "PAGE", 1_000)
    monkeypatch.setattr(rowgroups, "FEW", 10)
    result = read(
        task(), written(tmp_path / "x.parquet", event_files.parquet(event_files.records(2_000), row_group=1_000))
    )
    assert [d.rows for d in result.dead] == [1_000, 1_000]
    assert "a page of" in result.dead[0].reason


def deep_columns(levels: int) -> bytes:
    """A Parquet file without rows, with a column within columns."""
    struct_ = b"\x35\x02\x18\x01a\x15\x02\x00"  # optional, named a, one child
    leaf = b"\x15\x02\x25\x02\x18\x01x\x00"
    count = levels + 2
    size = bytes([count & 127 | 128, count >> 7 & 127 | 128, count >> 14])
    schema = b"\x19\xfc" + size + b"\x48\x01r\x15\x02\x00" + struct_ * levels + leaf
    footer = b"\x15\x02" + schema + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def test_columns_nested_so_deep_that_a_reader_runs_out_of_stack(tmp_path: Path) -> None:
    for levels in (201, 100_000):
        result = read(task(), written(tmp_path / "x.parquet", deep_columns(levels)))
        assert [d.reason for d in result.dead] == ["not a readable Parquet file: columns nested more than 200 deep"]
    thrift.check_columns(deep_columns(100)[4:-8])


def test_json_of_any_depth(tmp_path: Path) -> None:
    """A line means the same alone and beside others, wherever its depth is."""
    good = event_files.jsonl(ROWS).splitlines()
    for text in ("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, '["]",' * 300 + "1" + "]" * 300):
        odd = b'{"x": ' + text.encode() + b"," + good[0][1:]
        for lines in (good * 5 + [odd] + good, [odd], [odd, b"no json"]):
            result = read(task(), written(tmp_path / "x.jsonl", b"\n".join(lines)))
            assert "JSON nested more than 256 deep" in [d.reason for d in result.dead]
    text = "[" + '"[[[", ' * 300 + "1]"
    result = read(task(), written(tmp_path / "x.jsonl", b'{"x": ' + text.encode() + b"," + good[0][1:]))
    assert len(result.events) == 1
