"""The running total of a live job's ledgers, in the state of the job: what it adds up is in `ledger.counts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms import userstate
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipelines.ledger.counts import KEPT, Appended, Ledger, Running, Window
from pipelines.transforms.coders import VersionedCoder

Look = Callable[[Mapping[Window, int]], Mapping[Window, int]]  # rows meant -> rows visible; none if it cannot be told


@dataclass(eq=False)
class RunningTotal(beam.PTransform):
    """Ledgers, and rows that were appended -> the `Running` total of all, a while after it has changed, and at the end
    of the input.

    Args:
      attempt: of this launch.
      every_s: seconds from a change to the total that has it.
      look: is asked for the windows that became more since it last told; what it cannot tell it is asked again.
    """

    attempt: str
    every_s: float
    clock: Callable[[], int]
    look: Look = dict

    def expand(self, items: beam.PCollection[Ledger | Appended]) -> beam.PCollection[Running]:
        counting = _Total(self.attempt, self.every_s, self.clock, self.look)
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

    def __init__(self, attempt: str, every_s: float, clock: Callable[[], int], look: Look = dict) -> None:
        self.attempt, self.every_s, self.clock, self.look = attempt, every_s, clock, look

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
        soon.set(Timestamp.of(self.clock() / 1e6 + self.every_s))

    def _tell(self, state: Any) -> Iterator[Running]:
        running = state.read()
        if running is not None and running.changed:
            running = running.looked(self.look(running.unseen)).written(self.clock())
            state.write(running)
            yield running


def _keyed(item: Ledger | Appended) -> tuple[str, Ledger | Appended]:
    """Puts all values under one key."""
    return "", item
