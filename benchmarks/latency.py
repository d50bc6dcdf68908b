"""From the publication of an event to its entity's score, through an emulator, Prism and a live job with early scores:
`python -m benchmarks.latency RATE`, messages a second.

`TRACKED` messages a second are of an entity that has no other. The latency of such a one is the time from just before
its publication to the first score of its entity, early or on time, on the disk; that is when a reader sees it. The
start of the job does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from benchmarks import feed
from benchmarks import workload as w
from benchmarks.live_model import put_models
from benchmarks.measure import Meter
from pipelines.models import registry
from pipelines.sandbox.pubsub_emulator import emulator
from pipelines.storage.folder.live import level, read_rows

SECONDS = 60.0  # that are measured
WARM = 20.0  # s before that, from the first score on, in which it takes what waited for its start
LIMIT = 300.0  # s of all
TRACKED = 20.0  # messages a second
EARLY = "1s"
LOOK = 5.0  # s between two looks at the new files, which stay for a minute
NAME = "tracked "


class Tracked:
    """A feed with tracked messages in it, and when each was published, s since 1970."""

    def __init__(self, rate: float) -> None:
        self.source, self.share = feed.Feed(), TRACKED / rate
        self.published: list[float] = []
        self._owed = 0.0

    def take(self, n: int, now: float) -> list[bytes]:
        self._owed += n * self.share
        tracked = min(int(self._owed), n)
        self._owed -= tracked
        out = self.source.take(n - tracked, now)
        for _ in range(tracked):
            event = (
                f'{{"user": "{NAME}{len(self.published)}", "at": {int(now * 1000)}, "id": "t{len(self.published)}", '
            )
            out.append(f'{event}"amount": 1, "price": 1}}'.encode())
            self.published.append(now)
        return out


class Seen:
    """When the first score of each tracked entity was on the disk, s since 1970."""

    def __init__(self, out: Path) -> None:
        self.out, self.at, self._known = out, dict[int, float](), set[str]()

    def look(self) -> None:
        for path in self._new():
            at = path.stat().st_ctime
            entities = read_rows(path)["entity_id"]
            for name in entities.filter(pc.starts_with(entities, NAME)).to_pylist():
                number = int(name.removeprefix(NAME))
                self.at[number] = min(at, self.at.get(number, at))

    def _new(self) -> Iterator[Path]:
        """Files as they were appended, not those that they were merged into."""
        for path in self.out.glob("scores/live/*/scores/*.parquet"):
            if level(path.name) == 0 and path.name not in self._known:
                self._known.add(path.name)
                yield path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rate", type=float)
    args = parser.parse_args()
    tracked = Tracked(args.rate)
    with tempfile.TemporaryDirectory() as name, emulator() as pubsub:
        out, topic = Path(name), pubsub.topic("events")
        (version,) = put_models(out / "models", range(1))
        (folder,) = (out / "models").iterdir()
        registry.promote(folder, version)
        seen, looked, ready = Seen(out), 0.0, LIMIT
        meter, began = Meter(), time.time()
        with feed.live(pubsub, topic, folder, out, "--early", EARLY) as job:
            for passed in feed.publish(pubsub, topic, args.rate, LIMIT, tracked.take):
                feed.check(job, out)
                if passed > looked + LOOK:
                    seen.look()
                    looked = passed
                    ready = min(ready, passed) if seen.at else LIMIT
                if passed > ready + WARM + SECONDS:
                    break
            ended = time.time()
            while len(seen.at) < len(tracked.published) and time.time() < ended + WARM:
                time.sleep(1)
                seen.look()
            feed.drain(job, out)
    late = latencies(tracked.published, seen.at, began + ready + WARM)
    p50, p99 = np.percentile(late, [50, 99])
    meter.report(None, p50=float(p50), p99=float(p99), most=float(late.max()), tracked=len(late))


def latencies(published: list[float], seen: dict[int, float], since: float) -> w.Doubles:
    """(n) s, of what was published since a time; infinite where no score came."""
    return np.array([seen.get(i, np.inf) - at for i, at in enumerate(published) if at >= since])


if __name__ == "__main__":
    main()
