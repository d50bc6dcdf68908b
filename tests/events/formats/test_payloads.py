from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.events.block import EventBlock, concat, hash64, tidy
from pipelines.events.formats import payloads
from pipelines.events.formats.base import Unreadable
from pipelines.events.formats.json_payload import split
from pipelines.events.formats.payloads import fields
from pipelines.events.messages import Messages, Payload
from tests.support import event_files
from tests.support.event_files import SCHEMA, SPAN, read, task, written
from tests.support.sent_messages import AVRO, JSON, KINDS, NOW, messages, received, text

ROWS = event_files.records(200)
INFINITE = "amount is infinite or larger than a 32-bit float can be"


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("identity", [("id",), "none"])
@pytest.mark.parametrize("rows", [3, 16, 200], ids=str)
def test_messages_mean_what_files_mean(tmp_path: Path, kind: str, identity: object, rows: int) -> None:
    spec = task(identity=identity)
    data, payload = KINDS[kind][0](ROWS[:rows]), KINDS[kind][1]
    live = received(spec, messages(data), payload)
    file = read(spec, written(tmp_path / "data.jsonl", event_files.jsonl(ROWS[:rows])))
    assert not live.dead
    if identity == "none":
        live = live._replace(blocks=[without_ids(b) for b in live.blocks])
    assert live.events == file.events
    assert live.ledger.read == rows


def without_ids(block: EventBlock) -> EventBlock:
    assert len(set(block.id.tolist())) == len(block)
    assert block.id.all()
    return replace(block, id=np.zeros(len(block), np.uint64))


def test_with_identity_all_the_text_is_compared(tmp_path: Path) -> None:
    spec = task(identity="all")
    file = read(spec, written(tmp_path / "data.jsonl", event_files.jsonl(ROWS)))
    for kind in ("object", "object and line end", "list", "lines"):
        assert received(spec, messages(KINDS[kind][0](ROWS))).events == file.events
    twice = received(spec, messages([text(ROWS[:1])[0], json.dumps(ROWS[0], indent=1).encode()]))
    assert len({int(i) for b in twice.blocks for i in b.id}) == 2


def test_with_identity_all_avro_does_not_depend_on_its_company() -> None:
    spec = task(identity="all")
    alone = [received(spec, messages([raw]), JSON).events[0] for raw in KINDS["container of one"][0](ROWS[:9])]
    together = received(spec, messages(KINDS["everything"][0](ROWS[:9])), JSON).events
    bare = received(spec, messages(KINDS["bare record"][0](ROWS[:9])), AVRO).events
    assert sorted(alone) == bare
    assert len({event[2] for event in together} | {event[2] for event in bare}) == 18  # JSON is other text


@pytest.mark.parametrize("data", [b"", b"[]", b" [ ] ", b"\n", b"\xef\xbb\xbf"])
def test_a_heartbeat(data: bytes) -> None:
    result = received(task(), messages([data, *text(ROWS[:1]), data]))
    assert (result.ledger.read, len(result.events)) == (1, 1)


def test_a_heartbeat_in_avro() -> None:
    assert received(task(), messages([b"", event_files.avro([])]), AVRO).ledger.read == 0
    assert received(task(), messages([]), AVRO).ledger.read == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_arrival_is_that_of_the_message(kind: str) -> None:
    sent = messages(KINDS[kind][0](ROWS))
    block = concat(received(task(arrival={"field": "seen", "unit": "s"}), sent, KINDS[kind][1]).blocks)
    assert block.arrival is not None
    assert set(block.arrival.tolist()) == set(sent.arrival.tolist())


def test_the_arrival_field_is_not_read() -> None:
    data = text([{**ROWS[0], "seen": {"not": "read"}}])
    result = received(task(arrival={"field": "seen", "unit": "s"}), messages(data))
    assert len(result.events) == 1


def test_times_after_the_arrival_are_refused() -> None:
    early = messages(text(ROWS[:2]), arrival=int(str(ROWS[0]["ts"])) * 1_000_000 - 3_600_000_001)
    (letter,) = received(task(max_skew="1h"), early.take(slice(0, 1))).dead
    assert letter.reason == "ts is later than its arrival by more than events.max_skew"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"nonsense", "not a JSON object: Expecting value: line 1 column 1 (char 0)"),
        (b"17", "number instead of a JSON object"),
        (b'"text"', "list instead of a JSON object"),
        (b"{", "not a JSON object: "),
        (b'{"user": "a"}', "ts is missing or out of range"),
        (b"{} {}", "not a JSON object: Extra data"),
        (b'{"user": "\xff", "ts": 1}', "text that is not UTF-8"),
        (b"[" * 100_000, "JSON nested more than 256 deep"),
        (b'[{"user": "a"}, {"user": ]', "a JSON list that breaks off: after 1 values"),
        (b"[1] 2", "a JSON list that breaks off: after 1 values"),
        (b"[1 2]", "a JSON list that breaks off: after 1 values"),
        (b"[1,]", "a JSON list that breaks off: after 1 values"),
        (b'{\n"user": 5,\n"ts"\n}', "neither a JSON object, nor a list of them, nor JSON Lines: {"),
        (b"two\nlines", "neither a JSON object, nor a list of them, nor JSON Lines: two"),
        (b"Obj\x01 nonsense", "an Avro message that cannot be read: a damaged Avro header"),
    ],
    ids=lambda x: str(x)[:40],
)
@pytest.mark.parametrize("good", [2, 199])
def test_a_message_that_fails_costs_itself(data: bytes, reason: str, good: int) -> None:
    sent = messages([*text(ROWS[:good]), data, *text(ROWS[199:])], attributes={"region": "eu"})
    result = received(task(), sent)
    (letter,) = result.dead
    assert letter.reason.startswith(reason)
    assert (letter.stage, letter.source, letter.position, letter.rows) == ("read", "sub", f"message {1000 + good}", 1)
    assert letter.payload == data
    assert dict(letter.attributes) == {"region": "eu", "foretide_id": str(1000 + good)}
    assert len(result.events) == good + 1


@pytest.mark.parametrize("good", [3, 100])
@pytest.mark.parametrize("pretty", [None, 1])
def test_a_bad_event_of_a_list_costs_one_event(good: int, pretty: int | None) -> None:
    events: list[object] = [*ROWS[:good], {**ROWS[0], "amount": "much"}, 5, *ROWS[good : good + 3]]
    result = received(task(), messages([json.dumps(events, indent=pretty).encode()]))
    assert len(result.events) == good + 3
    told = {letter.position: letter for letter in result.dead}
    assert set(told) == {f"message 1000, event {good}", f"message 1000, event {good + 1}"}
    letter = told[f"message 1000, event {good}"]
    assert letter.reason == "amount is not a number: 'much'"
    assert json.loads(letter.payload or b"") == events[good]
    assert dict(letter.attributes) == {"foretide_id": f"1000/{good}"}
    assert told[f"message 1000, event {good + 1}"].payload == b"5"


def test_a_bad_line_costs_one_event() -> None:
    for bad in (0, 2, 5):
        parts = text(ROWS[:5])
        parts.insert(bad, b"not JSON")
        result = received(task(), messages([b"\n".join(parts)]))
        (letter,) = result.dead
        assert (letter.position, letter.payload) == (f"message 1000, event {bad}", b"not JSON")
        assert len(result.events) == 5


def test_what_was_refused_has_the_same_id_when_it_comes_again() -> None:
    """As a message of its own, after the task was mended; whatever kind of message it was in."""
    wrong, right = task(identity="none", time={"field": "ts", "unit": "iso"}), task(identity="none")
    for kind, (write, payload) in KINDS.items():
        sent = messages(write(ROWS[:60]), attributes={"foretide_id": "old", "a": "b"})
        ids = sorted(e[2] for e in received(right, sent, payload).events)  # type: ignore[type-var]
        letters = received(wrong, sent, payload).dead
        assert len(letters) == len(ids) == 60, kind
        names = [dict(letter.attributes)["foretide_id"] for letter in letters]
        again = Messages(
            tuple(letter.payload or b"" for letter in letters), tuple(names), np.full(60, NOW), ({"a": "b"},) * 60
        )
        assert sorted(e[2] for e in received(right, again, payload).events) == ids, kind  # type: ignore[type-var]


def test_ids_count_a_message_that_comes_twice_once() -> None:
    sent = messages(KINDS["list"][0](ROWS))
    spec = task(identity="none")
    both = concat([b for m in (sent, sent) for b in received(spec, m).blocks])
    assert int(both.id[0]) == hash64_of("1000/0")
    assert len(both) == 2 * len(ROWS)
    for identity in (False, True):
        assert len(tidy(both, identity)[0]) == len(ROWS)


def hash64_of(name: str) -> int:
    return int(hash64(pa.array([name]))[0])


def test_ids_are_for_tasks_without_identity() -> None:
    assert received(task(), messages(text(ROWS))).events == received(task(), messages(text(ROWS), first=5)).events


def test_damaged_containers() -> None:
    whole = event_files.avro(ROWS, "null", block=10_000)
    for raw in (whole[:-20], whole[: len(whole) // 2], whole[:-5] + b"12345"):
        result = received(task(), messages([raw, event_files.avro(ROWS[:3])]))
        (letter,) = result.dead
        assert (letter.position, letter.payload) == ("message 1000", raw)
        assert letter.reason.startswith("an Avro message that cannot be read: ")
        assert len(result.events) == 3


def test_a_container_that_promises_too_much() -> None:
    empty = {"type": "record", "name": "x", "fields": []}
    out = io.BytesIO()
    fastavro.writer(out, empty, [], sync_marker=bytes(16))
    raw = out.getvalue() + b"\xfe\xff\xff\xff\x0f" + b"\0" + bytes(16)
    (letter,) = received(task(), messages([raw])).dead
    assert letter.reason == "an Avro message that cannot be read: a block that is damaged, or too small for its records"


def test_a_container_without_a_field_of_the_task() -> None:
    schema = {**SCHEMA, "fields": [f for f in SCHEMA["fields"] if f["name"] != "amount"]}  # type: ignore[index]
    out = io.BytesIO()
    fastavro.writer(out, schema, ROWS[:3])
    (letter,) = received(task(), messages([out.getvalue()])).dead
    assert letter.reason == "column amount is missing: columns: user, ts, kind, id"


def test_bare_records_need_a_schema_that_fits() -> None:
    (raw,) = KINDS["bare record"][0](ROWS[:1])
    for payload, data, reason in (
        (Payload("avro"), raw, "it is no container, and no schema is given for bare records"),
        (AVRO, raw + b"x", "1 bytes too many"),
        (AVRO, raw[:-1], ""),
    ):
        (letter,) = received(task(), messages([data]), payload).dead
        assert letter.reason.startswith("an Avro message that cannot be read: " + reason)


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("block", [20, 2_000])
def test_a_bad_record_is_sent_again_alone_and_byte_for_byte(codec: str, block: int) -> None:
    union = {**SCHEMA, "fields": [*SCHEMA["fields"][:3], {"name": "amount", "type": ["null", "float", "double"]}, SCHEMA["fields"][4]]}  # fmt: skip  # noqa: E501
    rows = [{**row, "amount": ("double", 0.1)} for row in ROWS[:9]]
    rows[6] |= {"user": ""}
    out = io.BytesIO()
    fastavro.writer(out, union, rows, codec=codec, sync_interval=block)
    (letter,) = received(task(), messages([out.getvalue()])).dead
    assert (letter.position, letter.reason) == ("message 1000, event 6", "user is missing")
    assert dict(letter.attributes) == {"foretide_id": "1000/6"}
    (record,) = fastavro.reader(io.BytesIO(letter.payload or b""))
    assert record == {**ROWS[6], "user": "", "amount": 0.1}


def test_large_messages_are_parsed_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = received(task(), messages(text(ROWS)))
    for portion in (1, 100, 1_000, 10_000):
        monkeypatch.setattr(payloads, "PORTION", portion)
        parts = received(task(), messages(text(ROWS)))
        assert parts.events == whole.events
    assert len(parts.blocks) == 1


def test_split() -> None:
    assert split(b'[{"a": "]\xc3\xa9,"},\n{"b": [1, {"c": 2}]} ]') == [b'{"a": "]\xc3\xa9,"}', b'{"b": [1, {"c": 2}]}']
    assert split(b'{"a":\r\n1}') == [b'{"a":  1}']
    assert split(b'{"a": 1}\n{"b": 2}\n') == [b'{"a": 1}', b'{"b": 2}']
    assert split(b'{"a": {"x": 1}\n, "b": 2}') == [b'{"a": {"x": 1} , "b": 2}']
    with pytest.raises(Unreadable):
        split(b'{"a": "1\n2"}')


def test_fields() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": "y", "c": None}]
    assert fields(messages([json.dumps(rows).encode(), b""]), JSON) == {"a": "number or text", "b": "text", "c": "null"}
    there = fields(messages(KINDS["bare record"][0](ROWS[:1])), AVRO)
    assert there == fields(messages([event_files.avro(ROWS)]), JSON)
    assert there["user"] == "string"
    assert fields(messages([b"[1", b"Obj\x01", *text(ROWS[:1])]), JSON)["user"] == "text"
    with pytest.raises(Unreadable, match="a JSON list that breaks off: after 1 values"):
        fields(messages([b"[1", b"Obj\x01"]), JSON)


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([
        *text(ROWS[:3]), b"[", b"]", b",", b"{", b"}", b"\n", b'"', b"\\", b"{}", b"[]", b"null", b"\xff", b"Obj\x01",
        event_files.avro(ROWS[:2]), KINDS["bare record"][0](ROWS[:1])[0], json.dumps(ROWS[:2]).encode(),
        b"\xef\xbb\xbf",
        b'{"user": "\\ud800", "ts": 1}', b'{"ts": 1e400}', b'{"user": "a", "ts": 99999999999999999999}',
    ]),
)  # fmt: skip


@given(
    st.lists(st.lists(PIECES, max_size=4).map(b"".join), max_size=40), st.sampled_from([JSON, AVRO, Payload("avro")])
)
@example([b"\x00" * 20, b"\x80" * 20, b"[[[[", b"{" * 50], AVRO)
def test_no_payload_raises_and_every_message_is_accounted_for(data: list[bytes], payload: Payload) -> None:
    for spec in (task(), task(identity="none"), task(identity="all")):
        result = received(spec, messages(data), payload, SPAN)
        positions = [letter.position for letter in result.dead]
        assert len(set(positions)) == len(positions)
        for letter in result.dead:
            assert letter.payload is not None
        alone = [received(spec, messages([d], first=1000 + i), payload) for i, d in enumerate(data)]
        assert sum(r.ledger.read for r in alone) == result.ledger.read
        assert sorted(e for r in alone for e in r.events) == result.events  # no message changes another
        assert sorted(x.position for r in alone for x in r.dead) == sorted(positions)


@given(st.data())
def test_flipped_bytes(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    write, payload = KINDS[kind]
    raw = [bytearray(d) for d in write(ROWS[:20])]
    for _ in range(data.draw(st.integers(1, 4))):
        message = data.draw(st.sampled_from(raw))
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    received(task(), messages([bytes(d) for d in raw]), payload)


def test_values_mean_the_same_among_few_and_among_many() -> None:
    """Few messages are parsed one by one, many together."""
    values: list[object] = [1, 0.1, -0.0, 1e300, 2**53 + 1, "7", " 8 ", "NA", None, True, math.pi, [], "x"]
    for value in values:
        odd = {**ROWS[0], "amount": value}
        few, many = (received(task(), messages(text([odd, *ROWS[20 : 20 + n]]))) for n in (3, 120))
        assert [x.reason for x in few.dead] == [x.reason for x in many.dead], value
        assert set(few.events) <= set(many.events), value
