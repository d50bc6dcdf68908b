"""A small stream: numbers from a splittable source that ends at a stop file, counted in state, with a timer.

`python -m tests.support.ticking_stream STOP OUT [beam options]` runs it as the command line would.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from pipelines.errors import UserError
from pipelines.ledger.figures import last_screen
from pipelines.ledger.metrics import counter, distribution
from pipelines.runners.execution import Execution
from pipelines.runners.portable import run_stream

END = 1 << 60
KEYS = 4


class Rounds(beam.transforms.core.RestrictionProvider):
    def initial_restriction(self, element: bytes) -> OffsetRange:
        return OffsetRange(0, END)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: bytes, restriction: OffsetRange) -> int:
        return 1


class Tick(beam.DoFn):
    """(key, number) for the numbers from 0, a few hundred a second, until `stop` exists."""

    def __init__(self, stop: Path, bad: int | None) -> None:
        self.stop, self.bad = stop, bad

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: bytes,
        tracker: Any = beam.DoFn.RestrictionParam(Rounds()),  # noqa: B008
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008
    ) -> Iterator[TimestampedValue]:
        if self.stop.exists():
            tracker.try_claim(END - 1)
            tracker.try_claim(END)
            return
        i = tracker.current_restriction().start
        for n in range(i, i + 10):
            if not tracker.try_claim(n):
                return
            if n == self.bad:
                raise LookupError("the shelf is empty")
            yield TimestampedValue((n % KEYS, n), Timestamp.now())
        counter("messages").inc(10)
        distribution("watermark_lag_ms").update(1500)
        watermark.set_watermark(Timestamp.now())
        tracker.defer_remainder(Duration.of(0.02))


class Count(beam.DoFn):
    """(key, how many) for every second of event time, and for what is left at the end."""

    SEEN = BagStateSpec("seen", VarIntCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[int, int],
        t: Timestamp = beam.DoFn.TimestampParam,
        seen: Any = beam.DoFn.StateParam(SEEN),  # noqa: B008
        due: Any = beam.DoFn.TimerParam(DUE),  # noqa: B008
    ) -> None:
        seen.add(element[1])
        due.set(Timestamp(int(t.micros // 1_000_000) + 1))

    @on_timer(DUE)
    def emit(self, key: int = beam.DoFn.KeyParam, seen: Any = beam.DoFn.StateParam(SEEN)) -> Iterator[tuple[int, int]]:  # noqa: B008
        n = len(list(seen.read()))
        seen.clear()
        counter("scores_on_time").inc(n)
        yield key, n


def write(row: tuple[int, int], out: Path) -> None:
    with open(out, "a") as f:
        f.write(f"{row[0]} {row[1]}\n")


def build(p: beam.Pipeline, stop: Path, out: Path, bad: int | None = None) -> None:
    numbers = p | beam.Impulse() | beam.ParDo(Tick(stop, bad)).with_output_types(tuple[int, int])
    _ = numbers | beam.ParDo(Count()).with_output_types(tuple[int, int]) | beam.Map(write, out)


def main() -> int:
    logging.basicConfig(level=logging.CRITICAL)
    stop, out, bad = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    execution = Execution(1, None, tuple(sys.argv[4:]), False)
    began = time.monotonic()
    try:
        result = run_stream(execution, lambda p: build(p, stop, out, None if bad < 0 else bad), stop)
    except UserError as error:
        print(f"ticking: {error}", file=sys.stderr)
        return int(error.exit)
    print(result.state, result.figures.count("messages"), f"{time.monotonic() - began:.1f} s")
    print(last_screen(result.figures, result.seconds))
    return 0


if __name__ == "__main__":
    from tests.support import ticking_stream  # classes of __main__ would be pickled with all they refer to

    sys.exit(ticking_stream.main())
