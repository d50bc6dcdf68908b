"""How far a local run is: worker processes add up what they have done, the launching process shows it.

Each process keeps one small file per stage with its own total, so nobody waits for anybody. Progress is a courtesy:
a file that cannot be written is no error, and a bundle that is repeated counts twice.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from tqdm import tqdm

from pipelines.system.background import repeating
from pipelines.system.files import PRIVATE_FILE
from pipelines.system.screen import behind, duration, quantity, tell

TOTAL = struct.Struct("<q")
UNITS = {"reading": "B", "scoring": "shards"}  # what a stage counts in

_done: dict[tuple[int, str], int] = {}  # (process, file): what this process has done; a fork starts at 0
_lock = threading.Lock()


@dataclass(frozen=True)
class Progress:
    """What a worker reports to; an empty path reports nothing. To be called a few times a second at most."""

    path: str = ""

    def add(self, stage: str, units: int) -> None:
        """Counts `units` more of `stage` (bytes, sequences, ...) as done."""
        if not self.path:
            return
        file = os.path.join(self.path, f"{stage}.{os.getpid()}")
        with _lock, suppress(OSError):
            total = _done[os.getpid(), file] = _done.get((os.getpid(), file), 0) + units
            fd = os.open(file, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE)
            try:
                os.pwrite(fd, TOTAL.pack(total), 0)
            finally:
                os.close(fd)


def read(path: str | os.PathLike[str]) -> dict[str, int]:
    """What all processes have done, by stage."""
    done: dict[str, int] = {}
    with suppress(OSError):
        for entry in os.scandir(path):
            stage = entry.name.rpartition(".")[0]
            with open(entry.path, "rb") as f:
                content = f.read(TOTAL.size)
            if stage and len(content) == TOTAL.size:
                done[stage] = done.get(stage, 0) + TOTAL.unpack(content)[0]
    return done


@dataclass(frozen=True)
class Reading:
    """The state of one stage. `total` is 0 and `left` None where they are not known; `rate` is units a second."""

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.total and self.rate else None


@dataclass
class Meter:
    """Turns totals into readings: the current stage is the last, in the order of `totals`, that has begun."""

    totals: Mapping[str, int]
    started: dict[str, float] = field(default_factory=dict)  # the last moment when the stage stood at 0

    def update(self, now: float, done: Mapping[str, int]) -> Reading | None:
        """The line to show now; None before anything is done."""
        for stage in self.totals:
            if not done.get(stage) or stage not in self.started:
                self.started[stage] = now
        begun = [stage for stage in self.totals if done.get(stage)]
        if not begun:
            return None
        stage, total = begun[-1], self.totals[begun[-1]]
        count = min(done[stage], total) if total else done[stage]
        return Reading(stage, count, total, now - self.started[stage])


class Display(Protocol):
    """Shows readings, one after the other."""

    def show(self, now: float, reading: Reading) -> None: ...

    def close(self) -> None: ...


@dataclass
class ProgressLines:
    """One line every `every` seconds, and one for the end of each stage."""

    stream: TextIO
    every: float
    due: float
    last: Reading | None = None

    def show(self, now: float, reading: Reading) -> None:
        if self.last is not None and self.last.stage != reading.stage:
            self._finish()
        if now >= self.due:
            tell(self.stream, line(reading))
            self.due = now + self.every
        self.last = reading

    def close(self) -> None:
        if self.last is not None:
            self._finish()

    def _finish(self) -> None:
        if self.last is not None:
            tell(self.stream, finished(self.last))
            self.last = None


@dataclass
class Bar:
    """One tqdm bar, for the current stage."""

    stream: TextIO
    bar: tqdm | None = None
    stage: str = ""

    def show(self, now: float, reading: Reading) -> None:
        if self.bar is None or self.stage != reading.stage:
            self.close()
            unit = UNITS.get(reading.stage, "")
            options = {"unit": unit if unit == "B" else f" {unit}", "unit_scale": True, "file": behind(self.stream)}
            self.bar = tqdm(total=reading.total or None, desc=reading.stage, **options)
            self.bar.start_t -= reading.seconds  # the stage began before it was first seen
            self.stage = reading.stage
        self.bar.update(reading.done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextmanager
def watch(
    path: str | os.PathLike[str],
    totals: Mapping[str, int],
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    poll: float = 0.2,
    every: float = 10.0,
) -> Iterator[None]:
    """Shows on `stream` (default: standard error) how far the workers are, until the end of the block.

    Args:
        path: what the workers' `Progress` has; empty for none.
        totals: the stages in order, with the units that each has to do, 0 where that is not known; it may change.
        poll: seconds between two looks.
        every: seconds between two lines, where the stream is not a terminal.
    """
    if not os.fspath(path):
        yield
        return
    to = stream or sys.stderr
    display: Display = Bar(to) if to.isatty() else ProgressLines(to, every, clock() + every)
    meter = Meter(totals)

    def look() -> int:
        now = clock()
        reading = meter.update(now, read(path))
        if reading is not None:
            display.show(now, reading)
        return 0

    look()
    try:
        with repeating(look, poll, "showing the progress"):
            yield
    finally:
        look()
        display.close()


def line(reading: Reading) -> str:
    """A line on how far a stage is, such as `reading 45 % of 1.2 GB, 61 MB/s, 12 s left`."""
    unit = UNITS.get(reading.stage, "")
    if reading.total:
        amount = f"{100 * reading.done // reading.total} % of {quantity(reading.total, unit)}"
    else:
        amount = quantity(reading.done, unit)
    left = "" if reading.left is None else f", {duration(reading.left)} left"
    return f"{reading.stage} {amount}, {quantity(reading.rate, unit)}/s{left}"


def finished(reading: Reading) -> str:
    """The last line of a stage, such as `reading done: 1.2 GB in 20 s, 61 MB/s`."""
    unit = UNITS.get(reading.stage, "")
    amount, rate = quantity(reading.done, unit), quantity(reading.rate, unit)
    return f"{reading.stage} done: {amount} in {duration(reading.seconds)}, {rate}/s"
