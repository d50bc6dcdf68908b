from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.events.messages import LEAST, RECENT, Messages, Payload, Quality, event_id, event_ids, quality

SUB = "projects/p/subscriptions/s"


def judged(quality: Quality, rows: int, bad: int, reason: str = "ts is not a number") -> None:
    quality.judge(rows, ((reason, bad),) if bad else (), "message 7, event 2" if bad else "", 0.05)


def test_event_ids() -> None:
    assert event_id("17", 0) == "17/0"
    assert event_id("17", 3) == "17/3"
    assert event_id(event_id("17", 3), 0) == "17/3"  # sent again as a message of its own
    assert event_id(event_id("17", 3), 1) == "17/3/1"
    messages = Messages((b"", b""), ("17", "18/2"), np.zeros(2, np.int64), ({}, {}))
    assert event_ids(messages, np.array([0, 0, 1]), np.array([0, 1, 0])) == ["17/0", "17/1", "18/2"]


def test_take() -> None:
    messages = Messages((b"a", b"b"), ("1", "2"), np.array([3, 4]), ({"x": "y"}, {}), 9)
    part = messages.take(slice(1, None))
    assert (part.data, part.id, part.arrival.tolist(), part.attributes, part.tick) == ((b"b",), ("2",), [4], ({},), 9)


def test_good_rows_do_not_pause() -> None:
    quality = Quality(SUB)
    for _ in range(100):
        judged(quality, 100, 5)
    assert quality.paused is None


def test_too_few_rows_are_no_evidence() -> None:
    quality = Quality(SUB)
    judged(quality, LEAST - 1, LEAST - 1)
    assert quality.paused is None
    judged(quality, 1, 0)
    assert quality.paused is not None


def test_only_the_last_rows_count() -> None:
    quality = Quality(SUB)
    judged(quality, 100_000, 0)
    judged(quality, RECENT, 49)
    judged(quality, RECENT // 2, 0)
    assert quality.paused is None
    judged(quality, RECENT, RECENT // 5)
    assert quality.paused is not None


def test_the_reason_for_a_pause() -> None:
    quality = Quality(SUB)
    judged(quality, 500, 2, "user is missing")
    judged(quality, 500, 100)
    told = quality.paused
    assert told is not None
    for words in (
        "10.2% of the last 1,000 events of projects/p/subscriptions/s",
        "--max-bad-share 0.05",
        "(100 times): ts is not a number, such as message 7, event 2",
        "foretide replay",
    ):
        assert words in told
    judged(quality, 100_000, 0)
    assert quality.paused == told  # nothing is pulled that could make it better


def test_one_quality_a_subscription() -> None:
    assert quality(SUB) is quality(SUB)
    assert quality(SUB) is not quality(f"{SUB}2")


@pytest.mark.parametrize(
    ("format", "schema", "problem"),
    [
        ("avro", "nonsense", "the Avro schema cannot be read"),
        ("avro", '{"type": "record", "name": "x"}', "must be that of a record with fields"),
        ("avro", '"string"', "must be that of a record"),
        ("json", '{"type": "record", "name": "x", "fields": []}', "goes with the payload format avro"),
    ],
)
def test_payloads_that_cannot_be(format: str, schema: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Payload(format, schema)


def test_payload() -> None:
    schema = {"type": "record", "name": "x", "fields": [{"name": "a", "type": "long"}]}
    assert Payload("avro", json.dumps(schema)).schema
    with pytest.raises(UserError, match="in one of json, avro, not in xml"):
        Payload("xml")
    assert Payload("avro").schema == ""
