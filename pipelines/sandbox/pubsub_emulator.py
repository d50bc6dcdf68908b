"""A Pub/Sub emulator as a process of this one, on loopback: for rehearsals and tests.

The program lies next to the interpreter, where `make services` puts it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from pipelines.errors import UserError
from pipelines.system.processes import bound

PROJECT = "projects/test"
MAX_MESSAGES, MAX_BYTES = 1000, 3 << 20  # of one publish request


def binary(name: str) -> Path:
    """A program next to the interpreter."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise UserError(f"{path} is missing: run `make services`, which builds it")
    return path


@dataclass(frozen=True)
class TopicCounts:
    """What became of the messages of a topic; those of all its subscriptions are added up."""

    messages: int  # published
    acked: int  # messages with at least one acknowledgement
    acks: int
    deliveries: int

    @property
    def outstanding(self) -> int:
        """Messages that nobody has acknowledged."""
        return self.messages - self.acked


@dataclass
class Emulator:
    """A Pub/Sub service in memory. What it holds is gone when its process ends, unless it keeps a journal."""

    address: str = "127.0.0.1:0"  # host:port; kept over a restart
    journal: Path | None = None  # a file
    process: subprocess.Popen[str] | None = None
    _counts: str = ""
    _channels: list[grpc.Channel] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs in its environment."""
        return {"PUBSUB_EMULATOR_HOST": self.address}

    def start(self) -> None:
        """Starts the process; after `kill` or `stop`, at the same address, and empty or as the journal has it."""
        command = [str(binary("pubsub-emulator")), "-addr", self.address]
        command += [f"-journal={self.journal}"] if self.journal else []
        self.process = bound(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise UserError(f"{' '.join(command)} ended with {self.process.wait()}")
        self.address = ready[1]
        self._counts = self.process.stdout.readline().split()[1]

    def kill(self) -> None:
        """Ends the emulator as `kill -9` does."""
        self._end("kill")

    def stop(self) -> None:
        self._end("terminate")

    def pause(self) -> None:
        """Answers nothing until `resume`, while connections stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def publisher(self) -> PublisherClient:
        """A publisher for this process; it needs no environment variable."""
        return PublisherClient(transport=PublisherGrpcTransport(channel=self._channel()))

    def subscriber(self) -> SubscriberClient:
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel()))

    def topic(self, name: str) -> str:
        """Creates a topic. Returns its full name."""
        with self.publisher() as client:
            return str(client.create_topic(request={"name": f"{PROJECT}/topics/{name}"}).name)

    def subscription(self, topic: str, name: str = "", **settings: Any) -> str:
        """Creates one, named as the topic unless told, with an ack deadline of 10 s. Returns its full name."""
        full = f"{PROJECT}/subscriptions/{name or topic.rsplit('/', 1)[-1]}"
        request = {"name": full, "topic": topic, "ack_deadline_seconds": 10, **settings}
        with self.subscriber() as client:
            return str(client.create_subscription(request=request).name)

    def publish(
        self, topic: str, payloads: Sequence[bytes], attributes: Sequence[Mapping[str, str]] | None = None
    ) -> list[str]:
        """Publishes all of them in as few requests as the service allows. Returns the message ids."""
        ids: list[str] = []
        with self.publisher() as client:
            for chunk in _chunks(payloads):
                messages = [
                    {"data": payloads[i], "attributes": dict(attributes[i]) if attributes else {}} for i in chunk
                ]
                ids += client.publish(request={"topic": topic, "messages": messages}).message_ids
        return ids

    def counts(self, topic: str) -> TopicCounts:
        """What became of the messages of a topic."""
        query = urllib.parse.urlencode({"topic": topic})
        with urllib.request.urlopen(f"{self._counts}?{query}", timeout=30) as answer:
            return TopicCounts(**json.load(answer))

    def wait_until_acked(self, topic: str, timeout: float = 60, messages: int = 0) -> TopicCounts:
        """Waits until no message is outstanding and at least `messages` were published; TimeoutError otherwise."""
        end = time.monotonic() + timeout
        while (counts := self.counts(topic)).outstanding or counts.messages < messages:
            if time.monotonic() > end:
                raise TimeoutError(f"{topic}: {counts}")
            time.sleep(0.05)
        return counts

    def _channel(self) -> grpc.Channel:
        self._channels.append(grpc.insecure_channel(self.address))
        return self._channels[-1]

    def _end(self, how: str) -> None:
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        if self.process is not None:
            getattr(self.process, how)()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@contextmanager
def emulator(address: str | None = None, journal: Path | None = None) -> Iterator[Emulator]:
    """A running emulator, on a free port unless told, which ends with this process."""
    service = Emulator(address or Emulator.address, journal)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def _chunks(payloads: Sequence[bytes]) -> Iterator[range]:
    first, size = 0, 0
    for i, payload in enumerate(payloads):
        if i > first and (i - first == MAX_MESSAGES or size + len(payload) > MAX_BYTES):
            yield range(first, i)
            first, size = i, 0
        size += len(payload)
    if first < len(payloads):
        yield range(first, len(payloads))
