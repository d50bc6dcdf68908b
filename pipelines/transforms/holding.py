"""Rows are held until a bundle ends, so that they are written in few and large pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.ledger import DeadLetter
from pipelines.metrics import counter
from pipelines.rows import ROW_GROUP, Run
from pipelines.transforms.inference import ScoreBlock
from pipelines.transforms.tabular import block_table, letter_fields, letter_rows, score_rows, stamped

LETTERS = 10_000  # written at once, at most


class Hold(beam.DoFn):
    """Holds what a bundle brings, and lets go of it at the end, or as soon as it is as much as `most`."""

    most: int

    def start_bundle(self) -> None:
        self.held: list[Any] = []
        self.size = 0

    def hold(self, value: object, size: int = 1) -> Iterator[Any]:
        self.held.append(value)
        self.size += size
        if self.size >= self.most:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue | TaggedOutput]:
        for out in self._flush() if self.held else ():
            # The tag goes outside: inside, it would be lost without an error.
            if isinstance(out, TaggedOutput):
                yield TaggedOutput(out.tag, GlobalWindows.windowed_value(out.value))
            else:
                yield GlobalWindows.windowed_value(out)

    def _flush(self) -> Iterator[Any]:
        held = self.held
        self.start_bundle()
        yield from self.flush(held)

    def flush(self, held: list[Any]) -> Iterable[Any]:
        """Writes what was held; gives what the DoFn gives."""
        raise NotImplementedError


class HoldScores(Hold):
    most = ROW_GROUP

    def __init__(self, run: Run, clock: Callable[[], int]) -> None:
        self.run, self.clock = run, clock

    def process(self, block: ScoreBlock) -> Iterator[Any]:
        yield from self.hold(block_table(block, self.run.outputs), len(block.entities))

    def flush(self, held: list[pa.Table]) -> Iterable[Any]:
        at = self.clock()
        return self.write(stamped(score_rows(held, self.run), at), at)

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        """Writes score rows with the time when they are written, us; gives what the DoFn gives."""
        raise NotImplementedError


class HoldLetters(Hold):
    """Dead letters of a live job; counts them."""

    most = LETTERS

    def __init__(self, run: Run, clock: Callable[[], int]) -> None:
        self.run, self.clock = run, clock

    def setup(self) -> None:
        self.letters = counter("dead_letters")

    def process(self, letter: DeadLetter) -> Iterator[Any]:
        self.letters.inc()
        yield from self.hold(letter_fields(letter))

    def flush(self, held: list[Any]) -> Iterable[Any]:
        at = self.clock()
        return self.write(stamped(letter_rows(held, self.run.run_id), at), at)

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        """As that of `HoldScores`."""
        raise NotImplementedError
