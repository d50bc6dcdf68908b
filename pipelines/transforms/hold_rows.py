"""Base classes of what writes rows bundle by bundle: held until it ends, they are written in few and large pieces.

Where they are written to, a subclass of each sink says: `write_folder`, `write_table`, `append_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.ledger.counts import DeadLetter
from pipelines.ledger.metrics import counter
from pipelines.storage.rows import ROW_GROUP, Run
from pipelines.transforms.infer import ScoreBlock, windowed
from pipelines.transforms.output_rows import block_table, letter_fields, letter_rows, score_rows, stamped

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
        yield from map(windowed, self._flush() if self.held else ())

    def _flush(self) -> Iterator[Any]:
        held = self.held
        self.start_bundle()
        yield from self.flush(held)

    def flush(self, held: list[Any]) -> Iterable[Any]:
        """Writes what was held; gives what the DoFn gives."""
        raise NotImplementedError


class HoldRows(Hold):
    """Holds rows of a table, which are made and stamped when they are written."""

    def __init__(self, run: Run, clock: Callable[[], int]) -> None:
        self.run, self.clock = run, clock

    def flush(self, held: list[Any]) -> Iterable[Any]:
        at = self.clock()
        return self.write(stamped(self.rows(held), at), at)

    def rows(self, held: list[Any]) -> pa.Table:
        """Makes rows of what was held, without the time when they are written."""
        raise NotImplementedError

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        """Writes rows with the time when they are written, us; gives what the DoFn gives."""
        raise NotImplementedError


class HoldScores(HoldRows):
    most = ROW_GROUP

    def process(self, block: ScoreBlock) -> Iterator[Any]:
        yield from self.hold(block_table(block, self.run.outputs), len(block.entities))

    def rows(self, held: list[Any]) -> pa.Table:
        return score_rows(held, self.run)


class HoldLetters(HoldRows):
    """Dead letters of a live job; counts them."""

    most = LETTERS

    def setup(self) -> None:
        self.letters = counter("dead_letters")

    def process(self, letter: DeadLetter) -> Iterator[Any]:
        self.letters.inc()
        yield from self.hold(letter_fields(letter))

    def rows(self, held: list[Any]) -> pa.Table:
        return letter_rows(held, self.run.run_id)
