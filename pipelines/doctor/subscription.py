"""What waits in the subscription of a live job: some messages are looked at, and given back at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from pipelines.errors import Finding
from pipelines.events.messages import Messages
from pipelines.google.leases import ServiceRefused
from pipelines.google.subscription import Client, client
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, skipped, warning
from pipelines.transforms.pulled_messages import GatheredMessages

AT_MOST = 500  # messages that are looked at
PATIENCE = 3.0  # s that a message has to show up


def messages(judge: Callable[[Facts, Messages], Iterator[Finding]], facts: Facts) -> Iterator[Finding]:
    """Some messages, each given back before anything else is done with it, and what `judge` makes of them.

    A look counts as a delivery: of a subscription with a dead letter policy, as one of its attempts.
    """
    name, attribute = facts.subscription.name, facts.stream.arrival_attribute
    try:
        batch = _pull(client(), name, attribute)
    except ServiceRefused as problem:
        if "PERMISSION_DENIED" in str(problem):
            remedy = f"Grant roles/pubsub.subscriber on {name} to the account"
            yield error(name, f"{name}: messages cannot be pulled: {problem}", remedy, code="permissions")
        else:
            yield skipped(name, f"{name}: no messages can be looked at: {problem}")
        return
    if not len(batch):
        yield skipped(name, f"{name}: no message waits there, so none can be looked at")
        return
    if attribute is not None:
        yield from _arrivals(name, attribute, batch)
    yield from judge(facts, batch.pulled().messages)


def _pull(service: Client, name: str, attribute: str | None) -> GatheredMessages:
    batch, end = GatheredMessages(name), time.monotonic() + PATIENCE
    while not len(batch) and time.monotonic() < end:
        found = service.pull(name, AT_MOST)
        if found:
            service.lease(name, [m.ack_id for m in found], 0)
        now = time.time_ns() // 1_000
        for each in found:
            message = each.message
            published = message.publish_time.seconds * 1_000_000 + message.publish_time.nanos // 1_000
            batch.add(message.data, message.message_id, published, dict(message.attributes), attribute, now)
        if not found:
            time.sleep(0.1)
    return batch


def _arrivals(name: str, attribute: str, batch: GatheredMessages) -> Iterator[Finding]:
    reasons = Counter(letter.reason for letter in batch.dead)
    for reason, count in reasons.items():
        others = sorted({key for letter in batch.dead for key, _ in letter.attributes} - {"foretide_id", attribute})
        there = f"; there are {', '.join(others)}" if others else ""
        report = error if count * 2 > len(batch) else warning
        said = f"{name}: in {count} of {len(batch)} messages, {reason}{there}"
        yield report(name, said, code="messages-arrival")
    if not reasons:
        said = f"{name}: all of {len(batch)} messages have the attribute {attribute}"
        yield ok(name, said, code="messages-arrival")
