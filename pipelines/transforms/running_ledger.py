"""The ledger of a live job: a running total in the state of the job, which a runner that recovers sets back with all
the rest. With it go the rows that were appended to a table, so that they can be looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.transforms import userstate
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipelines.ledger.counts import Ledger
from pipelines.system.versioned import versioned
from pipelines.task.fields import format_time
from pipelines.transforms.coders import VersionedCoder

KEPT = 1_000  # windows, at least

Window = tuple[int, int]  # as-of in us, and revision: a live job writes such rows within a short time


@versioned("appended")
@dataclass(frozen=True)
class Appended:
    """How many rows of each window were appended to a table."""

    rows: Mapping[Window, int]


@versioned("window_rows")
@dataclass(frozen=True)
class Rows:
    """Of a window."""

    meant: int
    visible: int | None = None  # how many of them the table has; None: nobody looked since they became more

    @property
    def missing(self) -> int:
        return 0 if self.visible is None else self.meant - self.visible


Look = Callable[[Mapping[Window, int]], Mapping[Window, int]]  # rows meant -> rows visible; none if it cannot be told


@versioned("running")
@dataclass(frozen=True)
class Running:
    """The ledger of a live job, as its state keeps it."""

    attempt: str  # that began to count: a job that is updated goes on with the state, and so with the attempt
    total: Ledger
    at: int = 0  # of the last row, us
    changed: bool = False  # since then
    windows: Mapping[Window, Rows] = field(default_factory=dict)  # in the order in which they became more
    settled: int = 0  # rows of earlier windows, all of them visible

    @property
    def unseen(self) -> dict[Window, int]:
        """The rows of windows that nobody looked at since they became more."""
        return {window: rows.meant for window, rows in self.windows.items() if rows.visible is None}

    @property
    def meant(self) -> int:
        """Rows that were appended, revisions before the as-of apart."""
        return self.settled + sum(rows.meant for rows in self.windows.values())

    @property
    def visible(self) -> int | None:
        """How many of them the table has; None if not all were looked for."""
        return None if self.unseen else self.meant - sum(rows.missing for rows in self.windows.values())

    @property
    def differences(self) -> tuple[str, ...]:
        """What is missing of each as-of, in words."""
        meant, missing = Counter[int](), Counter[int]()
        for (as_of, _), rows in self.windows.items():
            meant[as_of] += rows.meant
            missing[as_of] += rows.missing
        return tuple(
            f"as of {format_time(as_of)}: {meant[as_of]} rows meant, {meant[as_of] - n} visible"
            for as_of, n in sorted(missing.items())
            if n
        )

    def counted(self, item: Ledger | Appended) -> Running:
        if isinstance(item, Ledger):
            return replace(self, total=self.total + item, changed=True)
        windows = dict(self.windows)
        for window, n in item.rows.items():
            before = windows.pop(window, Rows(0))
            windows[window] = Rows(before.meant + n)
        return replace(self, windows=windows, changed=True)

    def looked(self, visible: Mapping[Window, int]) -> Running:
        """With what was found; the windows that changed last are kept, and those that lack rows."""
        windows = {
            window: replace(rows, visible=min(visible[window], rows.meant)) if window in visible else rows
            for window, rows in self.windows.items()
        }
        old = [window for window, rows in windows.items() if rows.visible == rows.meant][: max(0, len(windows) - KEPT)]
        settled = self.settled + sum(windows.pop(window).meant for window in old)
        return replace(self, windows=windows, settled=settled)

    def written(self, at: int) -> Running:
        """At a time (us), or just after the last row if the clock was put back."""
        return replace(self, at=max(at, self.at + 1), changed=bool(self.unseen))


@dataclass(eq=False)
class RunningTotal(beam.PTransform):
    """Ledgers, and rows that were appended -> the `Running` total of all, a while after it has changed, and at the end
    of the input.

    Args:
      attempt: of this launch.
      every: seconds from a change to the total that has it.
      look: is asked for the windows that became more since it last told; what it cannot tell it is asked again.
    """

    attempt: str
    every: float
    clock: Callable[[], int]
    look: Look = dict

    def expand(self, items: beam.PCollection[Ledger | Appended]) -> beam.PCollection[Running]:
        counting = _Total(self.attempt, self.every, self.clock, self.look)
        return (
            items
            | "KeyLedger" >> beam.Map(_keyed).with_output_types(tuple[str, Ledger | Appended])
            | "Running" >> beam.ParDo(counting).with_output_types(Running)
        )


RUNNING = beam.DoFn.StateParam(userstate.ReadModifyWriteStateSpec("running", VersionedCoder(Running)))
SOON_TIMER = userstate.TimerSpec("soon", userstate.TimeDomain.REAL_TIME)
END_TIMER = userstate.TimerSpec("end", userstate.TimeDomain.WATERMARK)
SOON, END = beam.DoFn.TimerParam(SOON_TIMER), beam.DoFn.TimerParam(END_TIMER)


class _Total(beam.DoFn):
    """Adds up ledgers and rows, and tells the total a while after it has changed, and at the end of the input."""

    def __init__(self, attempt: str, every: float, clock: Callable[[], int], look: Look = dict) -> None:
        self.attempt, self.every, self.clock, self.look = attempt, every, clock, look

    def process(
        self, element: tuple[str, Ledger | Appended], state: Any = RUNNING, soon: Any = SOON, end: Any = END
    ) -> None:
        _, item = element
        if item == Ledger():
            return
        running = state.read() or Running(self.attempt, Ledger())
        if not running.changed:
            self._wait(soon)
            end.set(GlobalWindow().max_timestamp())
        counted = running.counted(item)
        if len(running.windows) <= 2 * KEPT < len(counted.windows):
            soon.set(Timestamp.of(self.clock() / 1e6))
        state.write(counted)

    @userstate.on_timer(SOON_TIMER)
    def meanwhile(self, state: Any = RUNNING, soon: Any = SOON) -> Iterator[Running]:
        for running in self._tell(state):
            if running.changed:
                self._wait(soon)
            yield running

    @userstate.on_timer(END_TIMER)
    def ending(self, state: Any = RUNNING, soon: Any = SOON) -> Iterator[Running]:
        soon.clear()
        yield from self._tell(state)

    def _wait(self, soon: Any) -> None:
        soon.set(Timestamp.of(self.clock() / 1e6 + self.every))

    def _tell(self, state: Any) -> Iterator[Running]:
        running = state.read()
        if running is not None and running.changed:
            running = running.looked(self.look(running.unseen)).written(self.clock())
            state.write(running)
            yield running


def _keyed(item: Ledger | Appended) -> tuple[str, Ledger | Appended]:
    """All under one key."""
    return "", item
