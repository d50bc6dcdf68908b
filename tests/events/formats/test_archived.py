from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.events.block import EventBlock
from pipelines.events.formats import archived as archive
from pipelines.events.formats.archived import EXTENSION, PAYLOAD, READER, from_table, payload_of, schema, table
from pipelines.events.formats.base import Unreadable
from pipelines.events.messages import Messages, Payload
from pipelines.transforms.archive import write_messages
from pipelines.transforms.read_files import File, find, plan, read_piece
from tests.support import event_files
from tests.support.checked import checked
from tests.support.event_files import START, Result, read, task, written
from tests.support.sent_messages import AVRO, JSON, KINDS, messages, received, text

ROWS = event_files.records(200)


def stored(folder: Path, sent: Messages, payload: Payload = JSON, row_group: int = 1 << 20) -> Path:
    path = folder / f"data{EXTENSION}"
    pq.write_table(table(sent, payload), path, row_group_size=row_group)
    return path


def load(path: Path, spec: object = None) -> Result:
    return read(spec or task(), path)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("identity", [("id",), "none", "all"])
def test_a_backfill_reads_what_live_read(tmp_path: Path, kind: str, identity: object) -> None:
    write, payload = KINDS[kind]
    sent = messages([*write(ROWS), b"bad"], attributes={"region": "eu"})
    live = received(task(identity=identity), sent, payload)
    later = load(stored(tmp_path, sent, payload, 50), task(identity=identity))
    assert later.events == live.events
    assert sorted(a for b in later.blocks for a in b.arrival.tolist()) == sorted(  # type: ignore[union-attr]
        a
        for b in live.blocks
        for a in b.arrival.tolist()  # type: ignore[union-attr]
    )
    assert [(d.position, d.reason, d.payload, d.attributes) for d in later.dead] == [
        (d.position, d.reason, d.payload, d.attributes) for d in live.dead
    ]


def test_table_and_back() -> None:
    sent = messages([b"\xff\0", b"{}"], attributes={"a": "b"})
    back = from_table(table(sent, AVRO))
    assert (back.data, back.id, back.attributes) == (sent.data, sent.id, sent.attributes)
    np.testing.assert_array_equal(back.arrival, sent.arrival)
    assert payload_of(schema(AVRO).metadata) == AVRO
    assert payload_of(None) == JSON
    assert payload_of({}) == JSON
    with pytest.raises(Unreadable, match="the payload format is"):
        payload_of({PAYLOAD: b'{"format": "avro", "schema": "x"}'})


def test_the_extension_wins_over_parquet(tmp_path: Path) -> None:
    write_messages(tmp_path, messages(text(ROWS)))
    (file,) = find([str(tmp_path)])
    assert (file.format, file.path.endswith(EXTENSION)) == ("messages", True)
    (piece,) = plan([file])
    assert piece.format == "messages"
    checked(task(), tmp_path)
    checked(task(arrival={"field": "seen", "unit": "s"}), tmp_path)
    with pytest.raises(UserError, match=r"field usr, .* did you mean user\? .*Fields: .*ts \(number\)"):
        checked(task(entity="usr"), tmp_path)
    checked(task(time={"field": "ts", "unit": "ms"}), tmp_path)  # an archive has what came, good or bad


def test_fields(tmp_path: Path) -> None:
    assert READER.fields(str(stored(tmp_path, messages(text(ROWS)))))["user"] == "text"
    assert READER.fields(str(stored(tmp_path, messages(KINDS["bare record"][0](ROWS)), AVRO)))["user"] == "string"
    assert READER.fields(str(stored(tmp_path, messages([])))) == {}


def test_other_files(tmp_path: Path) -> None:
    other = written(tmp_path / f"data{EXTENSION}", event_files.parquet(ROWS))
    with pytest.raises(UserError, match="not a readable messages file: column message_id is missing, not string"):
        checked(task(), other)
    result = load(other)
    assert [d.reason for d in result.dead] == [
        "not a readable archive of messages: column message_id is missing, not string"
    ]
    broken = written(tmp_path / f"data{EXTENSION}", b"nonsense")
    assert load(broken).dead[0].reason.startswith("not a readable archive of messages: ")


def test_a_message_without_data_is_no_message(tmp_path: Path) -> None:
    rows = table(messages(text(ROWS[:3])), JSON)
    rows = rows.set_column(2, "data", pa.array([b"{}", None, b"{}"]))
    pq.write_table(rows, tmp_path / f"data{EXTENSION}")
    before, letter, after = load(tmp_path / f"data{EXTENSION}").dead
    assert (letter.position, letter.rows) == ("row 1", 1)
    assert letter.reason == "no message: a message without message_id, arrival or data"
    assert (before.position, after.position) == ("message 1000", "message 1002")


def test_a_damaged_row_group_costs_itself(tmp_path: Path) -> None:
    path = stored(tmp_path, messages(text(ROWS)), row_group=100)
    group = pq.ParquetFile(path).metadata.row_group(0).column(2)
    raw = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    raw[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(bytes(raw))
    result = load(path)
    assert len(result.events) == 100
    assert [(d.position, d.rows) for d in result.dead] == [("row 0", 100)]
    assert result.ledger.bad_files == 1


def test_among_other_files_events_arrive_at_their_time(tmp_path: Path) -> None:
    piece = plan([File(str(written(tmp_path / "data.jsonl", event_files.jsonl(ROWS))), 10_000_000, "jsonl")])[0]
    (block,) = [b for b in read_piece(task(), event_files.SPAN, piece, timed=True) if isinstance(b, EventBlock)]
    np.testing.assert_array_equal(block.arrival, block.time)


def test_event_times_after_the_message_are_refused(tmp_path: Path) -> None:
    sent = messages([json.dumps({**ROWS[0], "ts": START}).encode()], arrival=START * 1_000_000 - 2 * 86_400_000_000)
    (letter,) = load(stored(tmp_path, sent)).dead
    assert letter.reason == "ts is later than its arrival by more than events.max_skew"


def test_no_arrival_in_the_payload_is_needed(tmp_path: Path) -> None:
    spec = task(arrival={"field": "seen", "unit": "s"})
    assert len(load(stored(tmp_path, messages(text(ROWS))), spec).events) == len(ROWS)
    assert archive.SCHEMA.names == ["message_id", "arrival", "data", "attributes"]
