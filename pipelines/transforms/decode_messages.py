"""From messages to packed event blocks by shard, stamped with their arrival, as `read_files` makes them of files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from pipelines.events.block import EventBlock, Ints, split
from pipelines.events.decode import Since, without_arrival
from pipelines.events.formats.base import Refusal, Rows, Sent, readable
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import ID, BlockOrTick, Messages, Payload, Tick, quality
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.ledger.metrics import counter, distribution
from pipelines.task.spec import Task
from pipelines.transforms.suspects import Journal, MessageTrial, fatal

_LOGGER = logging.getLogger(__name__)
COUNTED = {"events": "read", "rejected": "rejected", "outside": "outside", "filtered": "filtered"}  # metric: count


@dataclass(eq=False)
class DecodeMessages(beam.PTransform):
    """Messages -> `blocks`: (shard, packed EventBlock), each at the earliest arrival in it, and (shard, Tick) for every
    shard, at its own time, for a tick of the source; tagged `dead`: DeadLetter, and `ledger`: one Ledger for all
    Messages but those without an event.

    Too large a share of refused events pauses the source, see `messages.Quality`.
    """

    task: Task
    span: Since
    shards: int
    subscription: str
    max_bad_share: float  # see `jobs.config.Asked`
    payload: Payload = field(default_factory=Payload)
    journal: str | None = None  # a folder, see `suspects`; without one, a message that ends the process always does

    def expand(self, messages: beam.PCollection[Messages]) -> beam.pvalue.DoOutputsTuple:
        decode = beam.ParDo(_Decode(self)).with_output_types(tuple[int, BlockOrTick], dead=DeadLetter, ledger=Ledger)
        return messages | "Decode" >> decode.with_outputs("dead", "ledger", main="blocks")


class _Decode(beam.DoFn):
    def __init__(self, settings: DecodeMessages) -> None:
        self.task, self.span, self.shards = without_arrival(settings.task), settings.span, settings.shards
        self.subscription, self.payload = settings.subscription, settings.payload
        self.max_bad_share, self.folder = settings.max_bad_share, settings.journal

    def setup(self) -> None:
        self.journal = Journal(self.folder) if self.folder else None
        self.quality = quality(self.subscription)
        self.counters = {name: counter(metric) for metric, name in COUNTED.items()}
        self.lag = distribution("event_lag_ms")

    def teardown(self) -> None:
        if self.journal is not None:
            self.journal.close()

    def process(self, messages: Messages) -> Iterator[TimestampedValue | TaggedOutput]:
        example = ""
        for part in self._decoded(messages):
            if isinstance(part, EventBlock):
                yield from self._blocks(part)
            elif isinstance(part, DeadLetter):
                example = example or part.position
                yield TaggedOutput("dead", part)
            elif part.read:
                self._note(part, example)
                yield TaggedOutput("ledger", part)
        if messages.tick is not None:
            yield from ticks(self.shards, messages.tick)

    def _decoded(self, messages: Messages) -> Iterator[EventBlock | DeadLetter | Ledger]:
        """What messages hold; with a journal, all of it before the first is given out."""
        if self.journal is None or not len(messages):
            yield from self._taken(parse(self.task, messages, self.payload))
            return
        suspects = self.journal.suspects().union(messages.redelivered)
        rows = [i for i, name in enumerate(messages.id) if name in suspects]
        if rows:
            yield from self._suspects(messages.pick(rows), self.journal)
            messages = messages.pick([i for i, name in enumerate(messages.id) if name not in suspects])
        with self.journal.noted(messages.id):
            parts = list(self._taken(parse(self.task, messages, self.payload)))
        yield from parts

    def _suspects(self, messages: Messages, journal: Journal) -> Iterator[EventBlock | DeadLetter | Ledger]:
        """Messages that may have ended a process before: those that do end one are refused, the others decoded."""
        ending = fatal(MessageTrial(self.task, self.span, self.payload, self.subscription, messages))
        letters = [ended(messages, row, how) for row, how in ending.items()]
        _LOGGER.warning("of %d messages that may have ended a process, %d do", len(messages), len(letters))
        good = messages.pick([i for i in range(len(messages)) if i not in ending])
        with journal.noted(good.id):
            parts = list(self._taken([*letters, *parse(self.task, good, self.payload)]))
        journal.settle(messages.id)
        yield from parts

    def _taken(self, rows: Iterable[Rows | Refusal]) -> Iterator[EventBlock | DeadLetter | Ledger]:
        return take_in(self.task, self.span, rows, self.subscription)

    def _blocks(self, block: EventBlock) -> Iterator[TimestampedValue]:
        for value in lags(block):
            self.lag.update(value)
        for shard, part in split(block, self.shards):
            assert part.arrival is not None, "events of messages have an arrival"
            yield TimestampedValue((shard, part.pack()), Timestamp(micros=int(part.arrival.min())))

    def _note(self, ledger: Ledger, example: str) -> None:
        self.quality.judge(ledger.read, ledger.reasons, example, self.max_bad_share)
        for name, each in self.counters.items():
            count = getattr(ledger, name)
            if count:
                each.inc(count)


def ended(messages: Messages, row: int, how: str) -> Refusal:
    """The refusal of a message that no process survives."""
    data, name = messages.data[row], messages.id[row]
    sent = Sent(f"message {name}", data, tuple({**messages.attributes[row], ID: name}.items()))
    return sent.refusal("a message that ends the process that decodes it", how, readable(data))


def lags(block: EventBlock) -> list[int]:
    """Arrival after event time in ms: the least, the middle and the largest of a block, which tell enough of all."""
    arrival = block.time if block.arrival is None else block.arrival
    lag: Ints = np.sort(arrival - block.time) // 1_000
    return [int(lag[0]), int(lag[len(lag) // 2]), int(lag[-1])]


def ticks(shards: int, tick: int) -> Iterator[TimestampedValue]:
    """A tick for every shard."""
    for shard in range(shards):
        yield TimestampedValue((shard, Tick(tick)), Timestamp(micros=tick))
