"""`foretide replay`: dead letters are sent to their topic again, once what was wrong with them is mended."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from pipelines.errors import Exit, UserError
from pipelines.events.messages import ID
from pipelines.google.leases import ServiceRefused
from pipelines.google.subscription import Client, check_name, client
from pipelines.jobs.outputs.kinds import output
from pipelines.system.screen import one_line
from pipelines.transforms.publish_letters import Message, check_topic, original, publish, publisher

BATCH = 1_000  # letters at once
EMPTY = 3  # pulls without a new letter, after which there are no more: one proves nothing on the real service
PAUSE = 1.0  # seconds between them
LEASE = 600  # seconds for which letters are taken from a subscription


@dataclass(frozen=True)
class ReplayConfig:
    """Which dead letters to send again, and where to."""

    output: str | None  # folder or table of a run; or else
    subscription: str | None  # of the topic that dead letters go to
    topic: str  # that the job's own subscription listens to
    reason: str | None = None  # only those whose reason has this text
    dry_run: bool = False

    def __post_init__(self) -> None:
        if (self.output is None) == (self.subscription is None):
            raise UserError("give either --output or --subscription")


class ReplayedLetter(NamedTuple):
    """A dead letter, and the message that it was."""

    reason: str
    message: Message | None  # None where there is nothing to send
    ack_id: str = ""  # where it came from a subscription


@dataclass
class Choice:
    """Which letters are sent, and how many are not."""

    reason: str | None
    sent: Counter[str] = field(default_factory=Counter)  # by reason
    copies: int = 0  # of an event that was sent already
    other: int = 0  # of another reason
    empty: int = 0  # with nothing to send: of files, late events and scores
    _seen: set[str] = field(default_factory=set)

    def of(self, letters: Sequence[ReplayedLetter]) -> tuple[list[Message], list[ReplayedLetter]]:
        """(what to send, the letters that are settled by it)."""
        messages: list[Message] = []
        settled: list[ReplayedLetter] = []
        for letter in letters:
            if self.reason is not None and self.reason not in letter.reason:
                self.other += 1
            elif letter.message is None:
                self.empty += 1
            else:
                settled.append(letter)
                if letter.message.attributes[ID] in self._seen:
                    self.copies += 1
                    continue
                self._seen.add(letter.message.attributes[ID])
                self.sent[letter.reason.partition(": ")[0]] += 1
                messages.append(letter.message)
        return messages, settled


def replay(config: ReplayConfig, pause: float = PAUSE) -> int:
    """Sends the letters, prints what was done, and returns the exit code.

    An event keeps its `foretide_id`, so that sent twice it counts once. What is taken from a subscription is
    acknowledged when it has been sent; all other letters stay in it.

    Raises:
      UserError: there is no such folder, subscription or topic, or the service refuses.
    """
    choice, send = Choice(config.reason), _sender(config)
    if config.output is not None:
        found = (
            ReplayedLetter(each.reason, _again(each.payload, each.attributes))
            for each in output(config.output).letters()
        )
        while part := list(islice(found, BATCH)):
            send(choice.of(part)[0])
    else:
        assert config.subscription is not None
        try:
            _from_subscription(config.subscription, client(), choice, send, not config.dry_run, pause)
        except ServiceRefused as error:
            raise UserError(f"{config.subscription}: {error}") from error
    print(report(config, choice))
    return Exit.OK


def report(config: ReplayConfig, choice: Choice) -> str:
    """What was done, in words."""
    total = choice.sent.total()
    done = f"{total:,} would be sent" if config.dry_run else f"sent {total:,}"
    lines = [f"dead letters: {done} to {config.topic}"]
    lines += [f"  {count:,}  {one_line(reason)}" for reason, count in choice.sent.most_common()]
    skipped = [(choice.copies, "more of the same events"), (choice.other, "of another reason")]
    skipped.append((choice.empty, "with nothing to send (of files, late events, scores)"))
    lines += [f"skipped {count:,} {what}" for count, what in skipped if count]
    return "\n".join(lines)


def _sender(config: ReplayConfig) -> Callable[[Sequence[Message]], None]:
    if config.dry_run:
        return lambda messages: None
    check_topic(config.topic)
    connection = publisher()
    return lambda messages: publish(connection, config.topic, messages)


def _again(payload: bytes | None, attributes: str | None) -> Message | None:
    told = json.loads(attributes or "{}")
    return Message(bytes(payload), told) if payload is not None and ID in told else None


def _from_subscription(
    name: str,
    service: Client,
    choice: Choice,
    send: Callable[[Sequence[Message]], None],
    settle: bool,
    pause: float,
) -> None:
    """Every letter is looked at once; what is not settled is given back at the end, so that none comes again before."""
    check_name(name)
    kept, known, quiet = set[str](), set[str](), 0
    try:
        while quiet < EMPTY:
            pulled = service.pull(name, BATCH)
            kept.update(m.ack_id for m in pulled)
            if pulled:
                service.lease(name, [m.ack_id for m in pulled], LEASE)
            fresh = [m for m in pulled if m.message.message_id not in known]
            known.update(m.message.message_id for m in fresh)
            quiet = 0 if fresh else quiet + 1
            messages, settled = choice.of([_of_message(m) for m in fresh])
            send(messages)
            if settle and settled:
                done = [letter.ack_id for letter in settled]
                service.acknowledge(name, done)
                kept.difference_update(done)
            if not fresh and quiet < EMPTY:
                time.sleep(pause)
    finally:
        back = list(kept)
        for first in range(0, len(back), BATCH):
            service.lease(name, back[first : first + BATCH], 0)


def _of_message(received: Any) -> ReplayedLetter:
    attributes = dict(received.message.attributes)
    again = Message(bytes(received.message.data), original(attributes)) if ID in attributes else None
    return ReplayedLetter(attributes.get("reason", ""), again, received.ack_id)
