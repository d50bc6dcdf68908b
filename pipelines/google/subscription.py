"""A Pub/Sub subscription: the calls that reading takes, and what has to be known before a job starts."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import Exit, Finding, UserError
from pipelines.google.leases import ServiceRefused
from pipelines.system.processes import listens

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import SubscriberClient
    from google.cloud.pubsub_v1.types import Subscription

EMULATOR = "PUBSUB_EMULATOR_HOST"
TIMEOUT = 10.0  # s, of a request
NAME = re.compile(r"projects/[a-z0-9][a-z0-9.:-]*/subscriptions/[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
LONG_DEADLINE = 60  # s
RETENTION = 86_400  # s of messages that an operator needs to mend what is broken, at least
FINAL = ("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
METHODS = ("Pull", "Acknowledge", "ModifyAckDeadline")


class Client:
    """A client of the service. Every call raises Refused where it fails; safe among threads.

    The calls bypass the library's wrappers around messages, which cost more than everything else, and its warning
    about `return_immediately`: a pull that waits and is cut off by its client may leave messages leased to nobody.
    """

    def __init__(self) -> None:
        from google.cloud.pubsub_v1 import types

        self._client = _connect()
        self._calls = {}
        for method in METHODS:
            request = getattr(types, f"{method}Request").pb()
            answer = types.PullResponse.pb().FromString if method == "Pull" else None
            call = self._client.transport.grpc_channel.unary_unary(
                f"/google.pubsub.v1.Subscriber/{method}", request.SerializeToString, answer
            )
            self._calls[method] = request, call

    def pull(self, subscription: str, at_most: int) -> Sequence[Any]:
        """Pulls the ReceivedMessage protos that are there right now; none does not mean that there are none."""
        answer = self._call("Pull", subscription, max_messages=at_most, return_immediately=True)
        return answer.received_messages

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> None:
        self._call("Acknowledge", subscription, ack_ids=ids)

    def lease(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        """Leases messages from now on for so long; 0 gives them back."""
        self._call("ModifyAckDeadline", subscription, ack_ids=ids, ack_deadline_seconds=seconds)

    def _call(self, method: str, subscription: str, **fields: object) -> Any:
        import grpc

        request, call = self._calls[method]
        routing = (("x-goog-request-params", f"subscription={subscription}"),)
        try:
            return call(request(subscription=subscription, **fields), timeout=TIMEOUT, metadata=routing)
        except grpc.RpcError as error:
            code = error.code().name
            raise ServiceRefused(f"{code}: {error.details()}", code in FINAL) from error


def client() -> Client:
    """The client of this process: of the emulator where PUBSUB_EMULATOR_HOST names one.

    Raises:
      UserError: the library is not installed.
    """
    library()
    return _client(os.environ.get(EMULATOR))


@functools.lru_cache(maxsize=4)
def _client(_: str | None) -> Client:
    return Client()


def library() -> None:
    """The library for Pub/Sub, which is an extra. Raises UserError where it is not installed."""
    try:
        import google.cloud.pubsub_v1  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Pub/Sub needs its library", remedy="Run pip install 'foretide[stream]'", code="pubsub"
        ) from error


def _connect() -> SubscriberClient:
    from google.cloud.pubsub_v1 import SubscriberClient

    return SubscriberClient()


@dataclass(frozen=True)
class SubscriptionFacts:
    """What a job has to know of its subscription."""

    name: str
    topic: str
    deadline: int  # s of a lease
    backoff: int  # s, at least, until a message that was given back or lost comes again
    warnings: tuple[Finding, ...]


def preflight(name: str) -> SubscriptionFacts:
    """Looks at a subscription before a job starts.

    Raises:
      UserError: it is not there, may not be read, cannot be pulled from, or nobody answers.
    """
    check_name(name)
    library()
    _check_emulator()
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        with _connect() as service:
            found = service.get_subscription(request={"subscription": name}, retry=None, timeout=TIMEOUT)
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise explained(name, error) from error
    check_pullable(name, found)
    return facts(name, found)


def _check_emulator() -> None:
    """Raises UserError where an emulator is named and does not answer: a client would wait for it."""
    host = os.environ.get(EMULATOR)
    why = listens(host) if host else None
    if why is not None:
        remedy = f"Start it, or unset {EMULATOR} to use the real service"
        raise UserError(
            f"no Pub/Sub emulator answers at {host} ({EMULATOR}): {why}", remedy=remedy, code="pubsub", subject=EMULATOR
        )


def check_name(name: str) -> None:
    """Refuses what is not the full name of a subscription. Raises UserError."""
    if NAME.fullmatch(name) is None:
        hint = " (this is a topic: give a subscription of it)" if "/topics/" in name else ""
        raise UserError(f"{name}: a subscription is named projects/PROJECT/subscriptions/NAME{hint}")


def check_pullable(name: str, found: Subscription) -> None:
    """Refuses a subscription, by UserError, that does not hand out messages to those who ask."""
    if found.detached:
        raise UserError(f"{name} is detached from its topic and gets no messages", remedy="Create another subscription")
    if found.topic == "_deleted-topic_":
        remedy = "Create another subscription of a topic that exists"
        raise UserError(f"the topic of {name} was deleted", remedy=remedy)
    for kind, setting, field in (
        ("pushes its messages", found.push_config, "push_endpoint"),
        ("writes its messages to BigQuery", found.bigquery_config, "table"),
        ("writes its messages to a bucket", found.cloud_storage_config, "bucket"),
    ):
        if getattr(setting, field):
            remedy = f"Create a pull subscription of {found.topic}"
            raise UserError(f"{name} {kind}, so that they cannot be pulled", remedy=remedy)


def facts(name: str, found: Subscription) -> SubscriptionFacts:
    """What matters of a subscription, with a warning for each of its settings that costs time or messages."""
    deadline = found.ack_deadline_seconds
    retry = found.retry_policy if "retry_policy" in found else None
    backoff = int(retry.minimum_backoff.total_seconds()) if retry is not None else 0
    costs = tuple(
        Finding("subscription-settings", "warning", name, f"{name}: {what}", _update(name, flags) if flags else "")
        for what, flags in _costs(found, deadline, backoff)
    )
    return SubscriptionFacts(name, found.topic, deadline, backoff, costs)


def _costs(found: Subscription, deadline: int, backoff: int) -> Iterator[tuple[str, str]]:
    """What a setting costs, and the flags that change it; none where it takes another subscription."""
    if deadline + backoff > LONG_DEADLINE:
        yield (
            f"its ack deadline ({deadline} s) and retry delay ({backoff} s): for so long scores wait after a restart. "
            "10 to 15 s and immediate retry suit",
            "--ack-deadline=10 --clear-retry-policy",
        )
    if found.enable_message_ordering:
        yield "it keeps the order of messages by key, which the job does not need and which slows it down", ""
    if found.enable_exactly_once_delivery:
        yield (
            "it delivers exactly once, which the job does not need (a message that comes again counts once)",
            "--no-enable-exactly-once-delivery",
        )
    if found.dead_letter_policy.dead_letter_topic:
        policy = found.dead_letter_policy
        yield (
            f"after {policy.max_delivery_attempts} deliveries it moves a message to {policy.dead_letter_topic}: "
            "after several failures of the job, events may be missing",
            "--clear-dead-letter-policy",
        )
    if found.filter:
        yield f"it has the filter {found.filter}: what that leaves out is never scored", ""
    kept = int(found.message_retention_duration.total_seconds())
    if 0 < kept < RETENTION:
        yield (
            f"it keeps messages for {kept // 60} minutes only: a job that stands still for longer loses them",
            "--message-retention-duration=7d",
        )


def _update(name: str, flags: str) -> str:
    _, project, _, short = map(shlex.quote, name.split("/"))
    return f"Run gcloud pubsub subscriptions update {short} --project={project} {flags}"


def explained(name: str, error: Exception) -> UserError:
    """What a failed look at a subscription or a topic means to the user."""
    kind, host = type(error).__name__, os.environ.get(EMULATOR)
    _, project, what, short = map(shlex.quote, name.split("/"))
    role, of = ("subscriber", " --topic=TOPIC --ack-deadline=10") if what == "subscriptions" else ("publisher", "")
    if kind == "NotFound":
        there = f" in the emulator at {host}" if host else ""
        create = f"Run gcloud pubsub {what} create {short} --project={project}{of}"
        return UserError(f"{name} does not exist{there}", remedy=create)
    if kind == "PermissionDenied":
        command = f"gcloud pubsub {what} add-iam-policy-binding {short} --project={project} --member=ACCOUNT --role="
        remedy = f"Run {command}roles/pubsub.{role}, and the same with roles/pubsub.viewer"
        return UserError(f"{name}: you may not look at it", remedy=remedy, code="permissions")
    if kind == "Unauthenticated" or "Credentials" in kind or kind == "RefreshError":
        remedy = "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
        return UserError(f"{name}: no valid credentials ({kind})", remedy=remedy, code="credentials")
    return UserError(f"{name} cannot be looked at: {kind}: {error}", Exit.FAILED, code="pubsub")
