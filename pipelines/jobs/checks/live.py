"""What only a live job has: a subscription, a format of messages, a topic of dead letters."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import ok
from pipelines.transforms.publish_letters import check_topic


def subscription(facts: Facts) -> Iterator[Finding]:
    """Whether it is there, and can be pulled from."""
    found = facts.subscription
    yield ok(found.name, f"{found.name} of {found.topic}, ack deadline {found.deadline} s")


def settings(facts: Facts) -> Iterator[Finding]:
    """What of its settings costs time or messages."""
    found = facts.subscription
    yield from found.warnings
    if not found.warnings:
        yield ok(found.name, f"{found.name}: nothing that costs time or messages")


def payload(facts: Facts) -> Iterator[Finding]:
    """Whether messages can be read as they are said to be."""
    assert facts.payload  # what it cannot be is told here
    yield from ()


def letters(facts: Facts) -> Iterator[Finding]:
    """Whether the topic of dead letters is there, where one is named."""
    topic = facts.stream.dead_letters
    if topic is not None:
        check_topic(topic)
        yield ok(topic, f"{topic} is there")
