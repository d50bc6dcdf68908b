"""Reference for `live`: the consumer that one writes first, a dict for each event: `python -m benchmarks.live_naive`.

It takes one message after the other, keeps sums for each entity and step, and makes a tensor of them at each boundary.
It does less: what comes late for a step counts from the next score on, and no score is made again for it.
"""

from __future__ import annotations

import json

import numpy as np

from benchmarks import feed
from benchmarks import workload as w
from benchmarks.measure import Meter
from pipelines.events.messages import Messages
from pipelines.task.file import load_task

BATCH = 256


class Sums:
    """What two programs share if, and all but only if, they built the same tensors."""

    def __init__(self) -> None:
        self.sequences = self.corrected = 0
        self._features = np.zeros(4)

    def add(self, tensor: w.Floats) -> None:
        """A batch (n, steps, 4)."""
        self.sequences += len(tensor)
        self._features += tensor.sum(axis=(0, 1), dtype=np.float64)

    def numbers(self) -> list[float]:
        return [self.sequences, *(float(x) for x in self._features)]


class Step:
    """The events of an entity in a step."""

    __slots__ = ("amount", "at", "count", "price")

    def __init__(self) -> None:
        self.count, self.amount, self.price, self.at = 0, 0.0, 0.0, -1


def run(messages: Messages) -> Sums:
    """Takes the messages one by one, and adds up what it builds."""
    task, sums = load_task(feed.TASK), Sums()
    step, steps, every = task.sequence.step // 1000, task.sequence.steps, task.score.every
    users: dict[str, dict[int, Step]] = {}
    seen: dict[str, int] = {}
    due = feed.START + every
    for data, arrival in zip(messages.data, messages.arrival.tolist(), strict=True):
        while arrival >= due:
            boundary(users, due // 1000 // step, steps, sums)
            forget(seen, due // 1000 - step * (steps + 2))
            due += every
        event = json.loads(data)
        if event["id"] in seen:
            continue
        seen[event["id"]] = event["at"]
        row = users.setdefault(event["user"], {}).setdefault(event["at"] // step, Step())
        row.count += 1
        row.amount += event["amount"]
        if event["at"] >= row.at:
            row.price, row.at = event["price"], event["at"]
    return sums


def boundary(users: dict[str, dict[int, Step]], end: int, steps: int, sums: Sums) -> None:
    """The tensors of all who have an event in the steps before `end`, and away with what is older."""
    rows: list[list[list[float]]] = []
    for user in list(users):
        held = users[user]
        for old in [number for number in held if number < end - steps]:
            del held[old]
        if not held:
            del users[user]
        elif min(held) < end:
            rows.append(tensor(held, end - steps, end))
        if len(rows) == BATCH:
            sums.add(np.array(rows, np.float32))
            rows = []
    if rows:
        sums.add(np.array(rows, np.float32))


def tensor(held: dict[int, Step], first: int, end: int) -> list[list[float]]:
    out, price = [], 0.0
    for number in range(first, end):
        row = held.get(number)
        if row is None:
            out.append([0.0, 0.0, price, 0.0])
        else:
            price = row.price
            out.append([row.count, row.amount, price, row.amount / row.count])
    return out


def forget(seen: dict[str, int], before: float) -> None:
    for name in [name for name, at in seen.items() if at < before]:
        del seen[name]


def main() -> None:
    messages = feed.stream()
    run(messages.take(slice(0, feed.WARM)))
    meter = Meter()
    sums = run(messages)
    meter.report(sums, messages=len(messages))


if __name__ == "__main__":
    main()
