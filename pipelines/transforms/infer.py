"""From sequences to scores: full batches of one fixed shape, where a bad row or a full device costs only itself.

`guarded` is the arithmetic, and `InferBatches` wires it to rows and the model. Which model that is: `models.serving`.
What an engine is: `models.engines.base`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.events.sequences import SequenceBatch
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.ledger.metrics import counter, distribution
from pipelines.models.engines.base import DeviceName, EngineName, Floats, OutOfMemory, aligned, halved
from pipelines.models.serving import CHANGES, Loader, Serving
from pipelines.system.versioned import versioned
from pipelines.task.fields import format_time
from pipelines.task.spec import Task

Predict = Callable[[Floats], Floats]


@versioned("scores")
@dataclass(frozen=True)
class ScoreBlock:
    """Scores of n entities, of any as-ofs."""

    entities: list[str]
    as_of: npt.NDArray[np.int64]  # (n) us
    revision: npt.NDArray[np.int32]  # (n)
    scores: Floats  # (n, outputs), finite
    n_events: npt.NDArray[np.int64]  # (n)
    last_event_time: npt.NDArray[np.int64]  # (n) us
    version: str  # of the model that made them


def guarded(predict: Predict, x: Floats, outputs: int, size: int) -> tuple[Floats, dict[int, str], int]:
    """Scores every row that can be scored.

    Args:
      predict: f4 (size, ...) -> f4 (size, outputs). It only ever sees `size` rows, padded with zeros: the bits of a
        score then depend on nothing but its row.
      x: f4 (n, ...), any n.
      size: rows of a call, a multiple of ALIGNMENT.

    Returns:
      f4 (n, outputs), NaN for the rows that failed; {row: reason}; and the size to go on with, which is smaller than
      `size` after the device ran out of memory.

    Raises:
      OutOfMemory, MemoryError: not even ALIGNMENT rows fit.
      Exception: what the model raises on a batch of zeros: the fault is not in a row.
    """
    y = np.full((len(x), outputs), np.nan, np.float32)
    finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    failed = {int(i): "the sequence has a value that is not finite" for i in np.flatnonzero(~finite)}
    todo = [np.flatnonzero(finite)] if finite.any() else []
    while todo:
        rows = todo.pop()
        if len(rows) > size:
            todo += [rows[i : i + size] for i in range(0, len(rows), size)]
            continue
        try:
            y[rows] = _padded(predict, x[rows], size)
        except (OutOfMemory, MemoryError):
            if not halved(size):
                raise
            size = halved(size)
            todo.append(rows)
        except Exception as error:  # a model may raise anything
            if len(rows) > 1:
                todo += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
                continue
            predict(np.zeros((size, *x.shape[1:]), np.float32))
            failed[int(rows[0])] = f"{type(error).__name__}: {error}"[:200]
    for i in np.flatnonzero(finite & ~np.isfinite(y).all(axis=1)).tolist():
        failed.setdefault(i, "the model gave a score that is not finite")
    return y, failed, size


def _padded(predict: Predict, x: Floats, size: int) -> Floats:
    if len(x) == size:
        return predict(x)
    padding = np.zeros((size - len(x), *x.shape[1:]), np.float32)
    return predict(np.concatenate([x, padding]))[: len(x)]


@dataclass(eq=False)
class InferBatches(beam.PTransform):
    """SequenceBatch -> `scores`: ScoreBlock, `dead`: DeadLetter of each sequence without a finite score, and `ledger`:
    one Ledger a bundle, which counts scored and failed sequences.

    Args:
      model: the folder of a version; or of a task's versions, where the one that serves is followed.
      batch_size: rows of a call of the model, at most; it becomes a multiple of ALIGNMENT.
      watch: seconds between two looks at which version serves. None: `model` is a version's own folder.
    """

    model: str
    task: Task
    engine: EngineName
    device: DeviceName
    batch_size: int
    watch: float | None = None

    def __post_init__(self) -> None:
        self.batch_size = aligned(self.batch_size)
        if "://" not in self.model:
            self.model = os.path.abspath(self.model)  # workers may have another working directory

    def device_in_use(self) -> str:
        """The device of this process, in words. Loads the model.

        Raises:
          UserError: the model cannot serve, and neither can any that served before it.
        """
        return _serving(self).device

    def expand(self, sequences: beam.PCollection[SequenceBatch]) -> beam.pvalue.DoOutputsTuple:
        score = beam.ParDo(_Score(self)).with_output_types(ScoreBlock, dead=DeadLetter, ledger=Ledger)
        return sequences | "Score" >> score.with_outputs("dead", "ledger", main="scores")


_starting = threading.Lock()
_started: dict[tuple[object, ...], Serving] = {}  # DoFns and threads of a process share its models


def _serving(infer: InferBatches) -> Serving:
    key = (infer.model, infer.task.digest, infer.engine, infer.device, infer.batch_size, infer.watch)
    with _starting:
        if key not in _started:
            loader = Loader(infer.task, infer.engine, infer.device, infer.batch_size)
            _started[key] = Serving(infer.model, loader, infer.watch)
        return _started[key]


class _Score(beam.DoFn):
    """Gathers rows over shards and as-ofs of a bundle, and calls the model on full batches."""

    def __init__(self, infer: InferBatches) -> None:
        self.infer = infer
        self.fill, self.ms = distribution("batch_fill_percent"), distribution("model_ms")
        self.changes, self.unscored = {name: counter(name) for name in CHANGES}, counter("unscored")

    def setup(self) -> None:
        self.serving = _serving(self.infer)

    def start_bundle(self) -> None:
        self.serving.look()
        self.held: list[SequenceBatch] = []
        self.rows = 0
        self.ledger = Ledger()

    def process(self, batch: SequenceBatch) -> Iterator[ScoreBlock | TaggedOutput]:
        self.held.append(batch)
        self.rows += len(batch.entities)
        while self.rows >= (size := self.serving.size):
            yield from self._score(self._take(size))

    def finish_bundle(self) -> Iterator[WindowedValue | TaggedOutput]:
        last = list(self._score(self._take(self.rows))) if self.rows else []
        for change in self.serving.changes():  # counted here: a metric is lost outside of a bundle
            self.changes[change].inc()
        yield from map(windowed, (*last, TaggedOutput("ledger", self.ledger)))

    def _take(self, n: int) -> list[SequenceBatch]:
        """The first n rows held."""
        taken = []
        self.rows -= n
        while n:
            batch = self.held.pop(0)
            if len(batch.entities) > n:
                self.held.insert(0, _rows(batch, slice(n, None)))
                batch = _rows(batch, slice(n))
            taken.append(batch)
            n -= len(batch.entities)
        return taken

    def _score(self, batches: list[SequenceBatch]) -> Iterator[ScoreBlock | TaggedOutput]:
        x = batches[0].tensor if len(batches) == 1 else np.concatenate([b.tensor for b in batches])
        with self.serving.model() as model:
            start, size, version = time.perf_counter(), model.size, model.version
            y, failed, model.size = guarded(model.engine.predict, x, model.engine.outputs, size)
            self.ms.update(round(1000 * (time.perf_counter() - start)))
        self.fill.update(100 * len(x) // (-(-len(x) // size) * size))
        scored = joined(batches, y, version)
        for i, reason in sorted(failed.items()):
            position = f"{scored.entities[i]} as of {format_time(int(scored.as_of[i]))}"
            self.unscored.inc()
            yield TaggedOutput("dead", DeadLetter("infer", version, position, reason, 1, ""))
        self.ledger += Ledger(scored=len(x) - len(failed), failed=len(failed))
        if len(failed) < len(x):
            yield without(scored, failed) if failed else scored


def windowed(out: object) -> WindowedValue | TaggedOutput:
    """What a bundle gives at its end, as Beam wants it: the tag goes outside. Inside, it would be lost without an
    error."""
    if isinstance(out, TaggedOutput):
        return TaggedOutput(out.tag, GlobalWindows.windowed_value(out.value))
    return GlobalWindows.windowed_value(out)


def joined(batches: list[SequenceBatch], scores: Floats, version: str) -> ScoreBlock:
    """The rows of all batches, in order, with their scores (n, outputs), which one model made."""
    return ScoreBlock(
        [entity for b in batches for entity in b.entities],
        np.repeat(np.array([b.as_of for b in batches], np.int64), [len(b.entities) for b in batches]),
        np.concatenate([b.revision for b in batches]),
        scores,
        np.concatenate([b.n_events for b in batches]),
        np.concatenate([b.last_event_time for b in batches]),
        version,
    )


def without(block: ScoreBlock, rows: Collection[int]) -> ScoreBlock:
    """The block less some rows."""
    keep = np.delete(np.arange(len(block.entities)), list(rows))
    entities = [block.entities[i] for i in keep.tolist()]
    return ScoreBlock(
        entities,
        block.as_of[keep],
        block.revision[keep],
        block.scores[keep],
        block.n_events[keep],
        block.last_event_time[keep],
        block.version,
    )


def _rows(b: SequenceBatch, rows: slice) -> SequenceBatch:
    return SequenceBatch(
        b.entities[rows], b.as_of, b.revision[rows], b.tensor[rows], b.n_events[rows], b.last_event_time[rows]
    )
