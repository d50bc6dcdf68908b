"""Dead letters as messages of a Pub/Sub topic, from which they can be sent again. `jobs.replay` reads them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import apache_beam as beam

from pipelines.errors import UserError
from pipelines.events.messages import ID
from pipelines.google.subscription import EMULATOR, explained
from pipelines.ledger.counts import DeadLetter
from pipelines.ledger.metrics import counter

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient

log = logging.getLogger(__name__)

OURS = ("reason", "source", "position", "stage")  # attributes of a dead letter, beside ID
KEPT = "original_"  # before the name of an attribute that the event had under one of these names
SERVICE = "goog"  # prefix of the attributes of Pub/Sub itself
VALUE = 1024  # bytes of an attribute's value, at most
ATTRIBUTES = 100  # of a message, at most
BATCH = 100  # letters in a request, at most
BYTES = 5 << 20  # of them
PATIENCE = 600.0  # seconds in which the topic must take a batch
PAUSE = 1.0  # seconds between tries
TIMEOUT = 30.0  # seconds of a request


class Message(NamedTuple):
    """A message that is published: its data and attributes."""

    data: bytes
    attributes: Mapping[str, str]


@dataclass(eq=False)
class PublishLetters(beam.PTransform):
    """Publishes dead letters to a topic, each at least once, before their bundle ends.

    One that holds nothing to send again (of a file, a late event, a sequence) has its content as data and no
    `foretide_id`.
    """

    topic: str

    def expand(self, letters: beam.PCollection[DeadLetter]) -> beam.PCollection[None]:
        return letters | "Publish" >> beam.ParDo(_Publish(self.topic)).with_output_types(None)


class _Publish(beam.DoFn):
    def __init__(self, topic: str) -> None:
        self.topic = topic

    def setup(self) -> None:
        self.client, self.letters = publisher(), counter("dead_letters")

    def start_bundle(self) -> None:
        self.held: list[Message] = []

    def process(self, letter: DeadLetter) -> None:
        self.letters.inc()
        self.held.append(message(letter))
        if len(self.held) >= BATCH:
            self.finish_bundle()

    def finish_bundle(self) -> None:
        publish(self.client, self.topic, self.held)
        self.held = []


def message(letter: DeadLetter) -> Message:
    """A dead letter as a message: the attributes of its event, and what became of it."""
    told = {name: str(getattr(letter, name)) for name in OURS}
    event = {f"{KEPT}{name}" if name in OURS else name: value for name, value in letter.attributes}
    room = ATTRIBUTES - len(told) - (ID in event)
    names = [name for name in event if name != ID][:room]
    attributes = {name: event[name] for name in (*names, *([ID] if ID in event else []))}
    data = letter.raw.encode("utf-8", "backslashreplace") if letter.payload is None else letter.payload
    return Message(data, {**attributes, **{name: cut(value) for name, value in told.items()}})


def original(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes of the event, of those of a dead letter."""
    return {name.removeprefix(KEPT): value for name, value in attributes.items() if name not in OURS}


def cut(text: str) -> str:
    """Cuts text to what an attribute can hold."""
    return text.encode("utf-8", "backslashreplace")[:VALUE].decode("utf-8", "ignore")


def publisher() -> PublisherClient:
    """A client of the service, or of the emulator where PUBSUB_EMULATOR_HOST names one.

    Raises:
      UserError: the library is missing, or there are no credentials.
    """
    try:
        import grpc
        from google.auth.exceptions import DefaultCredentialsError
        from google.pubsub_v1 import PublisherClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
    except ImportError as error:
        raise UserError(
            "publishing to Pub/Sub needs its library", remedy="Run pip install 'foretide[stream]'", code="pubsub"
        ) from error
    emulator = os.environ.get(EMULATOR)
    if emulator:
        return PublisherClient(transport=PublisherGrpcTransport(channel=grpc.insecure_channel(emulator)))
    try:
        return PublisherClient()
    except DefaultCredentialsError as error:
        raise UserError(f"no credentials for Pub/Sub: {error}", code="credentials") from error


def check_topic(topic: str) -> None:
    """Checks that a topic is there, and may be seen. Raises UserError."""
    if not re.fullmatch(r"projects/[^/]+/topics/[^/]+", topic):
        raise UserError(f"{topic}: a topic is named projects/PROJECT/topics/NAME")
    with publisher() as client:
        from google.api_core.exceptions import GoogleAPICallError

        try:
            client.get_topic(request={"topic": topic}, retry=None, timeout=TIMEOUT)
        except GoogleAPICallError as error:
            raise explained(topic, error) from error


def publish(
    client: PublisherClient,
    topic: str,
    messages: Sequence[Message],
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Publishes messages, in requests of what a topic takes at once.

    A failure is tried again: it must not end the job. A message that the topic will never take is logged, and left out.

    Raises:
      GoogleAPICallError: the topic took nothing for `patience` seconds.
    """
    from google.api_core.exceptions import GoogleAPICallError, InvalidArgument

    for batch in _batches(messages):
        request = {"topic": topic, "messages": [{"data": m.data, "attributes": _own(m.attributes)} for m in batch]}
        end = time.monotonic() + patience
        while True:
            try:
                client.publish(request=request, retry=None, timeout=TIMEOUT)
                break
            except InvalidArgument as error:
                if len(batch) > 1:
                    for each in batch:
                        publish(client, topic, [each], patience, sleep)
                else:
                    log.error("a dead letter that %s does not take: %s: %s", topic, error, dict(batch[0].attributes))
                break
            except GoogleAPICallError:
                if time.monotonic() >= end:
                    raise
                sleep(PAUSE)


def _own(attributes: Mapping[str, str]) -> dict[str, str]:
    """Those that a publisher may set: Pub/Sub adds some of its own, and takes none of that kind."""
    return {name: value for name, value in attributes.items() if not name.startswith(SERVICE)}


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    first = size = 0
    for i, m in enumerate(messages):
        if i > first and (size + len(m.data) > BYTES or i - first >= BATCH):
            yield messages[first:i]
            first, size = i, 0
        size += len(m.data)
    if first < len(messages):
        yield messages[first:]
