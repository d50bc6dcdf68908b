"""Messages as they are gathered from a subscription, and those whose arrival nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from pipelines.events.messages import ID, Messages
from pipelines.events.times import FARTHEST
from pipelines.ledger.counts import DeadLetter
from pipelines.system.versioned import versioned
from pipelines.task.fields import EPOCH, parse_time

MOST, MOST_BYTES = 5_000, 16 << 20  # of a batch: it is full beyond them
OFTEN = 3  # deliveries after which a message may have ended those who decoded it
AHEAD = 86_400_000_000  # us that an arrival may lie after the present: beyond it, its unit is wrong


@versioned("pulled")
@dataclass(frozen=True)
class Pulled:
    """What one bundle of a puller yields."""

    messages: Messages
    dead: tuple[DeadLetter, ...] = ()


@dataclass
class GatheredMessages:
    """Messages as they are gathered."""

    source: str
    data: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    attributes: list[Mapping[str, str]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    redelivered: set[str] = field(default_factory=set)
    size: int = 0  # bytes
    oldest: int | None = None  # publish time, us, also of the dead
    backlog: bool = False  # more is to be had at once

    def __len__(self) -> int:
        return len(self.data) + len(self.dead)

    @property
    def full(self) -> bool:
        return len(self) >= MOST or self.size >= MOST_BYTES

    def add(
        self,
        data: bytes,
        id: str,
        published: int,
        attributes: Mapping[str, str],
        by: str | None,
        now: int,
        deliveries: int = 0,
    ) -> None:
        """Takes a message in. By an attribute, one that does not say when it arrived is a dead letter.

        Args:
          deliveries: which one this is, from 1; 0 where the subscription does not count them.
        """
        arrival = published if by is None else arrival_of(attributes, by, now)
        self.size += len(data)
        self.oldest = published if self.oldest is None else min(self.oldest, published)
        if isinstance(arrival, str):
            raw = data.decode("utf-8", "backslashreplace")
            kept = tuple(sorted({ID: id, **attributes}.items()))
            self.dead.append(DeadLetter("read", self.source, f"message {id}", arrival, 1, raw, data, kept))
            return
        self.data.append(data)
        self.ids.append(attributes.get(ID, id))
        if deliveries >= OFTEN:
            self.redelivered.add(self.ids[-1])
        self.arrivals.append(arrival)
        self.attributes.append(attributes)

    def pulled(self, tick: int | None = None) -> Pulled:
        arrival = np.array(self.arrivals, np.int64)
        columns = tuple(self.data), tuple(self.ids), arrival, tuple(self.attributes)
        return Pulled(Messages(*columns, tick, tuple(sorted(self.redelivered))), tuple(self.dead))


def arrival_of(attributes: Mapping[str, str], by: str, now: int) -> int | str:
    """Reads an arrival, us: a whole number of us or an ISO 8601 time. Text says why there is none."""
    text = attributes.get(by)
    if not text:
        return f"attribute {by} is missing"
    try:
        time = int(text)
    except ValueError:
        try:
            time = parse_time(text)
        except ValueError:
            return f"attribute {by} is neither a whole number of us nor an ISO 8601 time"
    if not -FARTHEST <= time <= now + AHEAD:
        return f"attribute {by} is out of range or in the future"
    return time


def micros_of(moment: datetime) -> int:
    """A time with a zone as us since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)
