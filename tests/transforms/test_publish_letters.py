from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.api_core.exceptions import InvalidArgument, ServiceUnavailable

from pipelines.errors import UserError
from pipelines.ledger.counts import DeadLetter
from pipelines.transforms import publish_letters as letters
from pipelines.transforms.publish_letters import (
    ATTRIBUTES,
    VALUE,
    Message,
    PublishLetters,
    check_topic,
    message,
    original,
    publish,
    publisher,
)
from tests.support.services import Emulator

REFUSED = DeadLetter(
    "read",
    "projects/p/subscriptions/s",
    "message 7, event 2",
    "amount is not a number: 'x'",
    1,
    '{"amount": "x"}',
    b'{"amount": "x"}',
    (("region", "eu"), ("foretide_id", "7/2")),
)
LATE = DeadLetter("late", "projects/p/subscriptions/s", "u1", "too late", 1, "")


def pulled(service: Emulator, subscription: str) -> list[tuple[bytes, dict[str, str]]]:
    with service.subscriber() as client:
        got = client.pull(request={"subscription": subscription, "max_messages": 1000}, timeout=30).received_messages
        return sorted((m.message.data, dict(m.message.attributes)) for m in got)


def test_message() -> None:
    assert message(REFUSED) == Message(
        b'{"amount": "x"}',
        {
            "region": "eu",
            "foretide_id": "7/2",
            "reason": "amount is not a number: 'x'",
            "source": "projects/p/subscriptions/s",
            "position": "message 7, event 2",
            "stage": "read",
        },
    )
    told = message(LATE)
    assert told.data == b""
    assert "foretide_id" not in told.attributes


def test_attributes_survive() -> None:
    mine = {"reason": "refund", "stage": "", "foretide_id": "7/2", "x": "é" * 500}
    letter = replace(REFUSED, attributes=tuple(mine.items()))
    sent = message(letter).attributes
    assert sent["reason"] == REFUSED.reason
    assert original(sent) == mine


def test_what_a_topic_does_not_take_is_cut() -> None:
    many = tuple((f"a{i}", "x") for i in range(ATTRIBUTES))
    letter = DeadLetter("read", "s", "p", "\ud800é" * VALUE, 1, "", b"x", (*many, ("foretide_id", "7")))
    attributes = message(letter).attributes
    assert len(attributes) == ATTRIBUTES
    assert attributes["foretide_id"] == "7"
    assert len(attributes["reason"].encode()) <= VALUE


def test_publish_letters(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in pubsub.environment.items():
        monkeypatch.setenv(name, value)
    topic = pubsub.topic("letters")
    subscription = pubsub.subscription(topic)
    found = [REFUSED, LATE] * 130
    p = beam.Pipeline(FnApiRunner())
    p | beam.Create(found, reshuffle=False) | PublishLetters(topic)
    result = p.run()
    result.wait_until_finish()
    [counted] = result.metrics().query(MetricsFilter().with_name("dead_letters"))["counters"]
    assert counted.committed == len(found)
    expected = sorted((m.data, dict(m.attributes)) for m in map(message, found))
    assert pulled(pubsub, subscription) == expected


def test_check_topic(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in pubsub.environment.items():
        monkeypatch.setenv(name, value)
    check_topic(pubsub.topic("there"))
    with pytest.raises(UserError, match="projects/test/topics/nowhere does not exist"):
        check_topic("projects/test/topics/nowhere")
    with pytest.raises(UserError, match="a topic is named"):
        check_topic("nowhere")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.pubsub_v1", None)
    with pytest.raises(UserError, match=r"pip install 'foretide\[stream\]'"):
        publisher()


def down() -> Exception:
    return ServiceUnavailable("down")  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


class Service:
    """Answers as it is told."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.published, self.calls = list(answers), list[bytes](), 0
        self.attributes: set[str] = set()

    def publish(self, request: Mapping[str, Any], retry: object, timeout: float) -> None:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if any(m["data"] == b"poison" for m in request["messages"]):
            answer = InvalidArgument("attributes")  # type: ignore[no-untyped-call]
        if answer is not None:
            raise answer
        self.published += [m["data"] for m in request["messages"]]
        self.attributes.update(*(m["attributes"] for m in request["messages"]))


def given(*data: bytes) -> Sequence[Message]:
    return [Message(d, {"reason": "r"}) for d in data]


def test_a_failure_is_tried_again() -> None:
    service, slept = Service(down(), down()), list[float]()
    publish(service, "t", given(b"a", b"b"), sleep=slept.append)  # type: ignore[arg-type]
    assert service.published == [b"a", b"b"]
    assert len(slept) == 2


def test_patience_ends() -> None:
    with pytest.raises(ServiceUnavailable):
        publish(Service(*[down()] * 9), "t", given(b"a"), patience=0, sleep=lambda _: None)  # type: ignore[arg-type]


def test_a_letter_that_is_never_taken_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    publish(service, "t", given(b"a", b"poison", b"b"))  # type: ignore[arg-type]
    assert service.published == [b"a", b"b"]
    assert "a dead letter that t does not take" in caplog.text


def test_requests_are_as_large_as_a_topic_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "BYTES", 10)
    service = Service()
    publish(service, "t", given(*[b"abcd"] * 5, bytes(100), *[b"x"] * 101))  # type: ignore[arg-type]
    assert service.published == [b"abcd"] * 5 + [bytes(100)] + [b"x"] * 101
    assert service.calls == 3 + 1 + 11
    publish(service, "t", [])  # type: ignore[arg-type]
    assert service.calls == 15


def test_attributes_of_the_service_are_not_sent() -> None:
    service = Service()
    publish(service, "t", [Message(b"a", {"googclient_schemaencoding": "BINARY", "region": "eu"})])  # type: ignore[arg-type]
    assert service.attributes == {"region"}
