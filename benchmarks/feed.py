"""What the benchmarks of a live job work on: a task of short steps, its events, a steady publisher, and the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import workload as w
from pipelines.events.messages import Messages
from pipelines.sandbox.pubsub_emulator import Emulator

TASK = w.HERE / "live.yaml"
ENTITIES = 5_000
TWICE = 0.03  # of the events, published again
LATE = 0.02  # of the events, whose time lies back by up to `BACK`
BACK = 20.0  # s: half of them after the score that should have seen them is closed
PULSE = 0.05  # s between two publications
KEPT = 5_000  # messages that may come again
SEED = 7

STREAM = 100_000  # messages of a stream that nobody publishes
WARM = 5_000  # the first of them, which are not measured
START = w.START  # us, when it begins
RATE = 2_000  # messages a second of its own time


@dataclass
class Feed:
    """Events that happen as they are published, by `ENTITIES` users, with copies and late ones among them."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))
    made: int = 0
    copies: int = 0
    _recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT))

    def take(self, n: int, now: float) -> list[bytes]:
        """n messages, at a time in s since 1970."""
        twice, late = self.random.random(n) < TWICE, self.random.random(n) < LATE
        back = np.where(late, self.random.random(n) * BACK, 0)
        user, price = self.random.integers(0, ENTITIES, n), 100 + self.random.normal(0, 1, n)
        amount = self.random.normal(0, 20, n)
        out = []
        for i in range(n):
            if twice[i] and self._recent:
                out.append(self._recent[int(self.random.integers(len(self._recent)))])
                self.copies += 1
                continue
            event = {
                "user": f"user {user[i]}",
                "at": int((now - back[i]) * 1000),
                "id": f"e{self.made}",
                "amount": round(float(amount[i]), 2),
                "price": round(float(price[i]), 2),
            }
            out.append(json.dumps(event).encode())
            self._recent.append(out[-1])
            self.made += 1
        return out


def stream(messages: int = STREAM) -> Messages:
    """The first messages of a stream of `RATE` a second from `START` on."""
    source, together = Feed(), int(RATE * PULSE)
    arrival = START + np.arange(messages) * 1_000_000 // RATE
    parts = [source.take(together, int(arrival[i]) / 1e6) for i in range(0, messages, together)]
    data = tuple(payload for part in parts for payload in part)
    return Messages(data[:messages], tuple(map(str, range(messages))), arrival, ({},) * messages)


@contextmanager
def live(pubsub: Emulator, topic: str, model: Path, out: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A live job that writes to `out`/scores, and says what happens in `out`/job.log; killed if it is not drained."""
    command = [
        *(sys.executable, "-m", "pipelines.cli", "stream", "--task", str(TASK), "--model", str(model)),
        *("--subscription", pubsub.subscription(topic), "--output", str(out / "scores"), *arguments),
    ]
    with (out / "job.log").open("wb") as log:
        job = subprocess.Popen(command, env={**os.environ, **pubsub.environment}, stdout=log, stderr=log)
        try:
            yield job
        finally:
            job.kill()
            job.wait()


def drain(job: subprocess.Popen[bytes], out: Path) -> None:
    """Ends a job as an operator does; RuntimeError if it failed."""
    job.send_signal(signal.SIGTERM)
    job.wait(300)
    check(job, out)


def check(job: subprocess.Popen[bytes], out: Path) -> None:
    """RuntimeError, with what it said last, if the job failed."""
    if job.poll():
        raise RuntimeError(f"the job ended with {job.returncode}: {(out / 'job.log').read_text()[-2000:]}")


def publish(
    pubsub: Emulator, topic: str, rate: float, seconds: float, take: Callable[[int, float], list[bytes]]
) -> Iterator[float]:
    """Publishes `rate` messages a second, and yields after each publication the seconds since the first."""
    with pubsub.publisher() as client:
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            due = min(int(passed * rate) - sent, 1_000)
            if due:
                messages = [{"data": data} for data in take(due, time.time())]
                client.publish(request={"topic": topic, "messages": messages})
                sent += due
            yield passed
            time.sleep(PULSE)
