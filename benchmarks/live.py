"""Foretide's stateful path without a runner, bundle by bundle: `python -m benchmarks.live SIZE`, messages in a bundle.

What a live job does with `STREAM` messages between its source and its model: decode, split and pack them by shard, keep
the blocks, and at each boundary build the tensors that are due. Only the state is held in lists.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks import feed
from benchmarks.live_naive import Sums
from benchmarks.measure import Meter
from pipelines.events.block import EventBlock, split
from pipelines.events.decode import Since, without_arrival
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import Messages, Payload
from pipelines.jobs.config import LIVE_SHARDS
from pipelines.task.file import load_task
from pipelines.transforms.live_sequences import Core, Shard, ShardClock


@dataclass
class Held:
    """A bag in a list."""

    raws: list[bytes] = field(default_factory=list)

    def read(self) -> Iterable[bytes]:
        return self.raws

    def add(self, raw: bytes) -> None:
        self.raws.append(raw)

    def clear(self) -> None:
        self.raws = []


@dataclass
class Spent:
    """CPU seconds of each part."""

    by_part: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _since: float = 0.0

    def begin(self) -> None:
        self._since = time.process_time()

    def end(self, part: str) -> None:
        now = time.process_time()
        self.by_part[part] += now - self._since
        self._since = now


class Job:
    """The stages of a live job, one after the other."""

    def __init__(self) -> None:
        self.task, self.payload = load_task(feed.TASK), Payload()
        self.since = Since(feed.START)
        self.read = without_arrival(self.task)
        self.core = Core(self.task, self.since, previews=False, by_ticks=False)
        self.shards = [Shard(ShardClock(), Held(), Held(), Held()) for _ in range(LIVE_SHARDS)]

    def blocks(self, messages: Messages) -> list[tuple[int, bytes]]:
        """What `DecodeMessages` makes of a bundle."""
        rows = parse(self.read, messages, self.payload)
        parts = take_in(self.read, self.since, rows, "")
        blocks = [part for part in parts if isinstance(part, EventBlock)]
        return [(shard, part.pack()) for block in blocks for shard, part in split(block, LIVE_SHARDS)]

    def receive(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """What a shard does with each of them."""
        for number, raw in blocks:
            shard = self.shards[number]
            shard.clock = self.core.received(ShardClock.unpack(shard.clock.pack()), raw)
            shard.arrived.add(raw)

    def boundary(self, at: int, sums: Sums) -> None:
        """What all shards do when the watermark has passed a time (us)."""
        for shard in self.shards:
            for passed in self.core.boundaries(shard, at, at):
                for batch in passed.due.batches:
                    if batch.as_of == passed.due.boundary:
                        sums.add(batch.tensor)
                    else:
                        sums.corrected += len(batch.entities)


def bundles(messages: Messages, size: int) -> Iterator[Messages]:
    for first in range(0, len(messages), size):
        yield messages.take(slice(first, first + size))


def run(messages: Messages, size: int, spent: Spent) -> Sums:
    """Takes the messages bundle by bundle, and adds up what it builds on time."""
    job, sums = Job(), Sums()
    every = job.task.score.every
    due = feed.START + every
    for bundle in bundles(messages, size):
        spent.begin()
        blocks = job.blocks(bundle)
        spent.end("intake")
        job.receive(blocks)
        spent.end("receive")
        while int(bundle.arrival[-1]) >= due:  # all that had arrived by then has come
            job.boundary(due, sums)
            due += every
        spent.end("boundary")
    return sums


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    args = parser.parse_args()
    messages, spent = feed.stream(), Spent()
    run(messages.take(slice(0, feed.WARM)), args.size, Spent())
    meter = Meter()
    sums = run(messages, args.size, spent)
    meter.report(sums, messages=len(messages), corrected=sums.corrected, **spent.by_part)


if __name__ == "__main__":
    main()
