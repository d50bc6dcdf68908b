"""The subscription of a live job: what it is, and what waits in it, which is looked at and given back at once."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.doctor.findings import Finding, error, ok, skipped, told, warning
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.events.messages import Messages, Payload
from pipelines.google.leases import Refused
from pipelines.google.subscription import (
    EMULATOR,
    TIMEOUT,
    Client,
    check_name,
    check_pullable,
    client,
    explained,
    facts,
    library,
)
from pipelines.system.processes import listens
from pipelines.transforms.publish_letters import check_topic
from pipelines.transforms.pulled_messages import Batch

AT_MOST = 500  # messages that are looked at
PATIENCE = 3.0  # s that a message has to show up
RETENTION = 86_400  # s of it that an operator needs to mend what is broken, at least


@dataclass(frozen=True)
class Peeked:
    """Messages that wait in a subscription, and what was found about them."""

    findings: tuple[Finding, ...]
    messages: Messages | None = None
    payload: Payload | None = None


def subscription(launch: Launch) -> Iterator[Finding]:
    """Findings about the subscription and its settings."""
    name = launch.subscription or ""
    try:
        check_name(name)
        library()
    except UserError as problem:
        yield told("pubsub" if "library" in str(problem) else "subscription", name, problem)
        return
    host = os.environ.get(EMULATOR)
    why = listens(host) if host else None
    if why is not None:
        remedy = f"Start it, or unset {EMULATOR} to use the real service"
        yield error("pubsub", EMULATOR, f"no Pub/Sub emulator answers at {host}: {why}", remedy)
        return
    yield from _settings(name)
    if launch.dead_letters is not None:
        try:
            check_topic(launch.dead_letters)
            yield ok("dead-letter-topic", launch.dead_letters, f"{launch.dead_letters} is there")
        except UserError as problem:
            yield _refused("dead-letter-topic", launch.dead_letters, problem, "pubsub.publisher")


def _settings(name: str) -> Iterator[Finding]:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.pubsub_v1 import SubscriberClient

    try:
        with SubscriberClient() as service:
            found = service.get_subscription(request={"subscription": name}, retry=None, timeout=TIMEOUT)
        check_pullable(name, found)
    except (GoogleAPICallError, GoogleAuthError) as problem:
        failure = explained(name, problem)
        failure.__cause__ = problem
        yield _refused("subscription", name, failure, "pubsub.subscriber")
        return
    except UserError as problem:
        yield told("subscription", name, problem)
        return
    facts_ = facts(name, found)
    yield ok("subscription", name, f"{name} of {found.topic}, ack deadline {facts_.deadline} s")
    lines = [line.removeprefix(f"{name}: ") for line in facts_.warnings]
    if found.filter:
        lines.append(f"it has the filter {found.filter}: what that leaves out is never scored")
    kept = int(found.message_retention_duration.total_seconds())
    if 0 < kept < RETENTION:
        lines.append(f"it keeps messages for {kept // 60} minutes only: a job that stands still for longer loses them")
    for line in lines:
        yield warning("subscription-settings", name, f"{name}: {line}", _change(name, line))
    if not lines:
        yield ok("subscription-settings", name, f"{name}: nothing that costs time or messages")


def _change(name: str, line: str) -> str:
    """The command that changes the setting that a line is about; empty where another subscription is needed."""
    _, project, _, short = map(shlex.quote, name.split("/"))
    flags = {
        "its ack deadline": "--ack-deadline=10 --clear-retry-policy",
        "it delivers exactly once": "--no-enable-exactly-once-delivery",
        "after ": "--clear-dead-letter-policy",
        "it keeps messages for": "--message-retention-duration=7d",
    }
    flag = next((flag for start, flag in flags.items() if line.startswith(start)), None)
    return "" if flag is None else f"Run gcloud pubsub subscriptions update {short} --project={project} {flag}"


def _refused(code: str, name: str, problem: UserError, role: str) -> Finding:
    """What Pub/Sub answers about a subscription or topic."""
    kind = type(problem.__cause__).__name__
    if kind == "PermissionDenied":
        _, project, what, short = map(shlex.quote, name.split("/"))
        command = f"gcloud pubsub {what} add-iam-policy-binding {short} --project={project} --member=ACCOUNT --role="
        remedy = f"Run {command}roles/{role}, and the same with roles/pubsub.viewer"
        return error("permissions", name, f"{name}: you may not look at it; that is in roles/pubsub.viewer", remedy)
    if kind == "NotFound":
        _, project, what, short = map(shlex.quote, name.split("/"))
        of = " --topic=TOPIC --ack-deadline=10" if what == "subscriptions" else ""
        remedy = f"Run gcloud pubsub {what} create {short} --project={project}{of}"
        host = os.environ.get(EMULATOR)
        return error(code, name, f"{name} does not exist{f' in the emulator at {host}' if host else ''}", remedy)
    if kind == "Unauthenticated" or "Credentials" in kind or kind == "RefreshError":
        return error("credentials", name, f"{name}: no valid credentials ({kind})")
    return told("pubsub" if kind != "NoneType" else code, name, problem)


def peek(launch: Launch) -> Peeked:
    """Pulls some messages, and gives each back before anything else is done with it.

    A look counts as a delivery: of a subscription with a dead letter policy, as one of its attempts.
    """
    name = launch.subscription or ""
    try:
        schema = Path(launch.avro_schema).read_text(encoding="utf-8") if launch.avro_schema else ""
        payload = Payload(launch.payload, schema)
    except (OSError, UnicodeDecodeError, UserError) as problem:
        return Peeked((error("messages", "--avro-schema", f"--avro-schema {launch.avro_schema}: {problem}"),))
    try:
        batch = _pull(client(), name, launch.arrival_attribute)
    except Refused as problem:
        if "PERMISSION_DENIED" in str(problem):
            remedy = f"Grant roles/pubsub.subscriber on {name} to the account"
            return Peeked((error("permissions", name, f"{name}: messages cannot be pulled: {problem}", remedy),))
        return Peeked((skipped("messages", name, f"{name}: no messages can be looked at: {problem}"),))
    if not len(batch):
        return Peeked((skipped("messages", name, f"{name}: no message waits there, so none can be looked at"),))
    return Peeked(tuple(_arrivals(launch, batch)), batch.pulled().messages, payload)


def _pull(service: Client, name: str, attribute: str | None) -> Batch:
    batch, end = Batch(name), time.monotonic() + PATIENCE
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


def _arrivals(launch: Launch, batch: Batch) -> Iterator[Finding]:
    name, attribute = launch.subscription or "", launch.arrival_attribute
    if attribute is None:
        return
    reasons = Counter(letter.reason for letter in batch.dead)
    for reason, count in reasons.items():
        others = sorted({key for letter in batch.dead for key, _ in letter.attributes} - {"foretide_id", attribute})
        there = f"; there are {', '.join(others)}" if others else ""
        report = error if count * 2 > len(batch) else warning
        yield report("messages-arrival", name, f"{name}: in {count} of {len(batch)} messages, {reason}{there}")
    if not reasons:
        yield ok("messages-arrival", name, f"{name}: all of {len(batch)} messages have the attribute {attribute}")
