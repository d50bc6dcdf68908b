"""Rows of scores are held until a bundle ends, so that they are written in few and large pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.rows import ROW_GROUP, Run
from pipelines.transforms.inference import ScoreBlock
from pipelines.transforms.tabular import block_table, score_rows, stamped


class HoldScores(beam.DoFn):
    """Holds what a bundle brings, and writes it at its end, or as soon as it is as much as `most` rows."""

    most = ROW_GROUP

    def __init__(self, run: Run, clock: Callable[[], int]) -> None:
        self.run, self.clock = run, clock

    def start_bundle(self) -> None:
        self.held: list[pa.Table] = []
        self.size = 0

    def process(self, block: ScoreBlock) -> Iterator[Any]:
        self.held.append(block_table(block, self.run.outputs))
        self.size += len(block.entities)
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
        rows = stamped(score_rows(self.held, self.run), self.clock())
        self.start_bundle()
        yield from self.write(rows)

    def write(self, rows: pa.Table) -> Iterator[Any]:
        """Writes score rows with the time when they are written; gives what the DoFn gives."""
        raise NotImplementedError
