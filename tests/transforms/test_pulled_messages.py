"""What is taken of a message, and which messages are refused."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.events.messages import ID
from pipelines.ledger.counts import DeadLetter
from pipelines.transforms.pulled_messages import AHEAD, MOST, MOST_BYTES, GatheredMessages, arrival_of

S = 1_000_000
SUB = "projects/project/subscriptions/sub"
NOW = 1_800_000_000 * S


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1700000000000000", 1_700_000_000 * S),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * S),
        ("2023-11-14T22:13:20.000001", 1_700_000_000 * S + 1),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000 * S),
        ("0", 0),
        ("-5", -5),
        (str(NOW + AHEAD), NOW + AHEAD),
    ],
)
def test_an_arrival_is_a_whole_number_of_us_or_an_iso_time(text: str, time: int) -> None:
    assert arrival_of({"arrived": text}, "arrived", NOW) == time


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is missing"),
        ("", "is missing"),
        ("soon", "is neither"),
        ("1.5", "is neither"),
        ("nan", "is neither"),
        ("2023-13-01", "is neither"),
        ("9" * 5_000, "is neither"),
        ("9" * 400, "is out of range or in the future"),
        ("-" + "9" * 40, "is out of range or in the future"),
        ("1700000000000000000", "is out of range or in the future"),  # ns
        (str(NOW + AHEAD + 1), "is out of range or in the future"),
    ],
)
def test_what_is_no_arrival_has_a_reason(text: str | None, reason: str) -> None:
    found = arrival_of({} if text is None else {"arrived": text}, "arrived", NOW)
    assert isinstance(found, str)
    assert found.startswith(f"attribute arrived {reason}")


def test_a_batch_takes_the_publish_time_and_the_id_that_a_message_had_before() -> None:
    batch = GatheredMessages(SUB)
    batch.add(b"a", "1", 50, {}, None, 100)
    batch.add(b"b", "2", 40, {ID: "old/3", "x": "y"}, None, 100)
    messages = batch.pulled().messages
    assert messages.data == (b"a", b"b")
    assert messages.id == ("1", "old/3")
    assert messages.arrival.tolist() == [50, 40]
    assert messages.arrival.dtype == np.int64
    assert messages.attributes == ({}, {ID: "old/3", "x": "y"})
    assert (len(batch), batch.oldest) == (2, 40)


def test_a_message_without_an_arrival_is_a_dead_letter_that_can_be_sent_again() -> None:
    batch = GatheredMessages(SUB)
    batch.add(b"\xff{}", "7", 50, {"arrived": "soon"}, "arrived", 100)
    batch.add(b"{}", "8", 60, {"arrived": "33"}, "arrived", 100)
    pulled = batch.pulled()
    reason = "attribute arrived is neither a whole number of us nor an ISO 8601 time"
    attributes = (("arrived", "soon"), (ID, "7"))
    assert pulled.dead == (DeadLetter("read", SUB, "message 7", reason, 1, "\\xff{}", b"\xff{}", attributes),)
    assert pulled.messages.arrival.tolist() == [33]
    assert len(batch) == 2


def test_a_batch_is_full_of_messages_or_of_bytes() -> None:
    batch = GatheredMessages(SUB)
    for i in range(MOST - 1):
        batch.add(b"", str(i), 1, {}, None, 100)
    assert not batch.full
    batch.add(b"", "x", 1, {}, "arrived", 100)  # dead
    assert batch.full
    batch = GatheredMessages(SUB)
    batch.add(bytes(MOST_BYTES), "1", 1, {}, None, 100)
    assert batch.full


def test_a_message_that_comes_often_is_suspect() -> None:
    batch = GatheredMessages("s")
    for deliveries in range(5):
        batch.add(b"", f"m{deliveries}", 1, {}, None, 0, deliveries)
    assert batch.pulled().messages.redelivered == ("m3", "m4")
