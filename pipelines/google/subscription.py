"""A Pub/Sub subscription: the calls that reading takes, and what has to be known before a job starts."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import Exit, UserError
from pipelines.google.leases import Refused

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import SubscriberClient
    from google.cloud.pubsub_v1.types import Subscription

EMULATOR = "PUBSUB_EMULATOR_HOST"
TIMEOUT = 10.0  # s, of a request
NAME = re.compile(r"projects/[a-z0-9][a-z0-9.:-]*/subscriptions/[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
LONG_DEADLINE = 60  # s
FINAL = ("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
METHODS = ("Pull", "Acknowledge", "ModifyAckDeadline")


class Client:
    """The service. Every call raises Refused where it fails; safe among threads.

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
        """The ReceivedMessage protos that are there right now; none does not mean that there are none."""
        answer = self._call("Pull", subscription, max_messages=at_most, return_immediately=True)
        return answer.received_messages

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> None:
        self._call("Acknowledge", subscription, ack_ids=ids)

    def lease(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        """From now on for so long; 0 gives the messages back."""
        self._call("ModifyAckDeadline", subscription, ack_ids=ids, ack_deadline_seconds=seconds)

    def _call(self, method: str, subscription: str, **fields: object) -> Any:
        import grpc

        request, call = self._calls[method]
        routing = (("x-goog-request-params", f"subscription={subscription}"),)
        try:
            return call(request(subscription=subscription, **fields), timeout=TIMEOUT, metadata=routing)
        except grpc.RpcError as error:
            code = error.code().name
            raise Refused(f"{code}: {error.details()}", code in FINAL) from error


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
    """Raises UserError where the library for Pub/Sub, which is an extra, is not installed."""
    try:
        import google.cloud.pubsub_v1  # noqa: F401
    except ImportError as error:
        raise UserError("Pub/Sub needs its library: pip install 'foretide[stream]'") from error


def _connect() -> SubscriberClient:
    from google.cloud.pubsub_v1 import SubscriberClient

    return SubscriberClient()


@dataclass(frozen=True)
class Facts:
    """What a job has to know of its subscription."""

    name: str
    topic: str
    deadline: int  # s of a lease
    backoff: int  # s, at least, until a message that was given back or lost comes again
    warnings: tuple[str, ...]  # lines for the user


def preflight(name: str) -> Facts:
    """Looks at a subscription before a job starts.

    Raises:
      UserError: it is not there, may not be read, cannot be pulled from, or nobody answers.
    """
    check_name(name)
    library()
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        with _connect() as service:
            found = service.get_subscription(request={"subscription": name}, retry=None, timeout=TIMEOUT)
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise explained(name, error) from error
    check_pullable(name, found)
    return facts(name, found)


def check_name(name: str) -> None:
    """Raises UserError for what is not a full name of a subscription."""
    if NAME.fullmatch(name) is None:
        hint = " (this is a topic: give a subscription of it)" if "/topics/" in name else ""
        raise UserError(f"{name}: a subscription is named projects/PROJECT/subscriptions/NAME{hint}")


def check_pullable(name: str, found: Subscription) -> None:
    """Raises UserError for a subscription that does not hand out messages to those who ask."""
    if found.detached:
        raise UserError(f"{name} is detached from its topic and gets no messages: create another subscription")
    if found.topic == "_deleted-topic_":
        raise UserError(f"the topic of {name} was deleted: create another subscription of a topic that exists")
    for kind, setting, field in (
        ("pushes its messages", found.push_config, "push_endpoint"),
        ("writes its messages to BigQuery", found.bigquery_config, "table"),
        ("writes its messages to a bucket", found.cloud_storage_config, "bucket"),
    ):
        if getattr(setting, field):
            raise UserError(
                f"{name} {kind}, so that they cannot be pulled: create a pull subscription of {found.topic}"
            )


def facts(name: str, found: Subscription) -> Facts:
    """What matters of a subscription, with a line for each of its settings that costs something."""
    deadline = found.ack_deadline_seconds
    retry = found.retry_policy if "retry_policy" in found else None
    backoff = int(retry.minimum_backoff.total_seconds()) if retry is not None else 0
    lines = []
    if deadline + backoff > LONG_DEADLINE:
        lines.append(
            f"its ack deadline ({deadline} s) and retry delay ({backoff} s): for so long scores wait after a "
            "restart. 10 to 15 s and immediate retry suit: gcloud pubsub subscriptions update --ack-deadline=10 "
            "--clear-retry-policy"
        )
    if found.enable_message_ordering:
        lines.append("it keeps the order of messages by key, which the job does not need and which slows it down")
    if found.enable_exactly_once_delivery:
        lines.append("it delivers exactly once, which the job does not need (a message that comes again counts once)")
    if found.dead_letter_policy.dead_letter_topic:
        policy = found.dead_letter_policy
        lines.append(
            f"after {policy.max_delivery_attempts} deliveries it moves a message to {policy.dead_letter_topic}: "
            "after several failures of the job, events may be missing"
        )
    return Facts(name, found.topic, deadline, backoff, tuple(f"{name}: {line}" for line in lines))


def explained(name: str, error: Exception) -> UserError:
    """What a failed look at a subscription means to the user."""
    kind = type(error).__name__
    project, short = map(shlex.quote, (name.split("/")[1], name.rsplit("/", 1)[-1]))
    host = os.environ.get(EMULATOR)
    if kind == "NotFound":
        create = f"gcloud pubsub subscriptions create {short} --project={project} --topic=TOPIC --ack-deadline=10"
        return UserError(f"{name} does not exist{f' in the emulator at {host}' if host else f'; {create}'}")
    if kind == "PermissionDenied":
        return UserError(
            f"{name}: you may not look at it. Reading takes the roles roles/pubsub.subscriber and roles/pubsub.viewer"
        )
    if kind == "Unauthenticated" or "Credentials" in kind or kind == "RefreshError":
        return UserError(
            f"{name}: no valid credentials: run `gcloud auth application-default login`, or set "
            f"GOOGLE_APPLICATION_CREDENTIALS ({kind})"
        )
    if kind in ("ServiceUnavailable", "DeadlineExceeded", "GatewayTimeout", "RetryError") and host:
        return UserError(
            f"no Pub/Sub emulator answers at {host} ({EMULATOR}): start it, or unset that to use the real service"
        )
    return UserError(f"{name} cannot be looked at: {kind}: {error}", Exit.FAILED)
