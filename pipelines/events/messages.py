"""Messages of a subscription in columns, and how good the events in them are. No Beam, no Pub/Sub.

What messages hold is in `formats.payloads`; where they come from, in `transforms.read_messages`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

import numpy as np

from pipelines.errors import UserError
from pipelines.events.block import Ints
from pipelines.events.formats.registry import PAYLOADS, payload_format
from pipelines.system.versioned import versioned

ID = "foretide_id"  # attribute of a message that is sent again: what names its event
RECENT = 1_000  # rows that are judged, the last ones
LEAST = 100  # fewer rows than this are no evidence


@versioned("messages")
@dataclass(frozen=True)
class Messages:
    """n messages in columns, as they were pulled together."""

    data: tuple[bytes, ...]
    id: tuple[str, ...]  # message id, or the attribute `ID`, which a replay of dead letters sets
    arrival: Ints  # (n) us
    attributes: tuple[Mapping[str, str], ...]
    tick: int | None = None  # us: the clock of arrivals has reached this time; such Messages may be empty (n = 0)
    redelivered: tuple[str, ...] = ()  # ids of those that came so often that they may end who decodes them

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: slice) -> Messages:
        """Some of the messages."""
        return Messages(self.data[rows], self.id[rows], self.arrival[rows], self.attributes[rows], self.tick)

    def pick(self, rows: Sequence[int]) -> Messages:
        """Some of the messages, by number."""
        data, ids, attributes = (tuple(column[i] for i in rows) for column in (self.data, self.id, self.attributes))
        return Messages(data, ids, self.arrival[np.array(rows, np.int64)], attributes, self.tick)  # type: ignore[arg-type]


@versioned("tick")
@dataclass(frozen=True)
class Tick:
    """Says that the clock of arrivals has reached a time: all that arrived before it has come."""

    time: int  # us


BlockOrTick: TypeAlias = bytes | Tick  # what a shard of a live job receives: a packed `EventBlock`, or a tick


@dataclass(frozen=True)
class Payload:
    """How events are written in messages. An Avro container tells by its first bytes, and is read in either format.

    Raises:
      UserError: the schema is none, or not that of a record.
    """

    format: str = "json"  # one of `registry.PAYLOADS`
    schema: str = ""  # JSON text: the Avro schema of messages that are one bare record; none for containers only

    def __post_init__(self) -> None:
        if self.format not in PAYLOADS:
            raise UserError(f"messages are in one of {', '.join(PAYLOADS)}, not in {self.format}")
        if self.schema:
            payload_format(self.format).check_schema(self.schema)


def event_id(message: str, event: int) -> str:
    """What names an event (from 0) of a message: `<message>/<event>`. An id with a slash is that of an event already,
    which was refused and comes again as a message of its own: it keeps the name that it had."""
    return message if event == 0 and "/" in message else f"{message}/{event}"


def event_ids(messages: Messages, message: Ints, event: Ints) -> list[str]:
    """`event_id` of (n) events, by index of the message and number in it."""
    pairs = zip(message.tolist(), event.tolist(), strict=True)
    return [event_id(messages.id[m], k) for m, k in pairs]


@dataclass
class Quality:
    """The share of bad rows among the last ones of a subscription that this process has read.

    Once it is too high it stays so: nothing is pulled any more, so no better rows would show. Safe to share by threads.
    """

    subscription: str
    paused: str | None = None  # why nothing is to be pulled any more, for people
    _recent: deque[tuple[int, int, Sequence[tuple[str, int]], str]] = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    def judge(self, rows: int, reasons: Sequence[tuple[str, int]], example: str, max_bad_share: float) -> None:
        """Takes note of rows that were read together.

        Args:
          reasons: why some of them were refused, and how many for each reason.
          example: the position of one that was refused; empty where none was.
        """
        bad = sum(count for _, count in reasons)
        with self._lock:
            self._recent.append((rows, bad, reasons, example))
            total = sum(n for n, _, _, _ in self._recent)
            while total - self._recent[0][0] >= RECENT:
                total -= self._recent.popleft()[0]
            refused = sum(n for _, n, _, _ in self._recent)
            if self.paused is None and total >= LEAST and refused > max_bad_share * total:
                self.paused = self._explained(total, refused, max_bad_share)

    def _explained(self, total: int, refused: int, max_bad_share: float) -> str:
        counts: Counter[str] = Counter()
        for _, _, reasons, _ in self._recent:
            counts.update(dict(reasons))
        (reason, count), *_ = counts.most_common(1)
        example = next(e for _, _, reasons, e in reversed(self._recent) if reason in dict(reasons))
        return (
            f"{refused / total:.1%} of the last {total:,} events of {self.subscription} were refused, more than "
            f"--max-bad-share {max_bad_share:g}; most often ({count:,} times): {reason}, such as {example}. No more is "
            "pulled, and messages wait in the subscription. Mend the publisher or the task file and start again, or "
            "start again with a higher --max-bad-share; then `foretide replay` sends the refused events once more."
        )


_QUALITIES: dict[str, Quality] = {}
_LOCK = Lock()


def quality(subscription: str) -> Quality:
    """The `Quality` of this process for a subscription."""
    with _LOCK:
        return _QUALITIES.setdefault(subscription, Quality(subscription))
