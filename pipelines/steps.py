"""Steps for a pipeline of Beam of your own: the graph of `foretide score`, to take apart and to build upon.

with WriteScores(task, "scores", inputs=events, as_of=day, model=model) as write, beam.Pipeline() as p:
    p | ReadEvents(task, events, as_of=day) | BuildSequences(task, as_of=day) | Infer(task, model) | write
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Generic, NamedTuple, Self, TypeVar

import apache_beam as beam
from apache_beam.pvalue import PBegin

from pipelines.api import Inputs, scoring
from pipelines.events.decode import Span
from pipelines.events.sequences import SequenceBatch
from pipelines.jobs.checks.before import CHECKS, passed
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.launch import Launch
from pipelines.jobs.outputs.base import Batch, RunResult
from pipelines.jobs.outputs.kinds import output as output_of
from pipelines.jobs.score import run_of
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.models import registry, remote
from pipelines.models.engines.base import DeviceName, EngineName
from pipelines.models.saved.manifest import Manifest, check, load_manifest
from pipelines.models.saved.operations import check_operations
from pipelines.storage.rows import Run
from pipelines.system.progress import Progress
from pipelines.task.as_ofs import parse_as_ofs
from pipelines.task.spec import Task
from pipelines.transforms import build_sequences, coders, infer, read_files
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, score_rows

T = TypeVar("T")
EventBlocks = tuple[int, bytes]  # a shard of entities, and packed events of it


class Accounted(NamedTuple, Generic[T]):
    """What a step gives, with all that it and the steps before it refused and counted."""

    main: beam.PCollection[T]
    dead: beam.PCollection[DeadLetter]
    ledgers: beam.PCollection[Ledger]  # their sum tells what became of every event

    def then(self, main: beam.PCollection, dead: beam.PCollection, ledger: beam.PCollection) -> Accounted[Any]:
        """What the next step gives."""
        letters = (self.dead, dead) | "Dead" >> beam.Flatten()
        return Accounted(main, letters, (self.ledgers, ledger) | "Ledgers" >> beam.Flatten())


class ReadEvents(beam.PTransform[PBegin, Accounted[EventBlocks]]):
    """Reads the events that scores as of some times can use.

    Raises:
      UserError: there are no such inputs, or they do not fit the task.
    """

    def __init__(self, task: Task, inputs: Inputs, *, as_of: str, format: str | None = None) -> None:
        super().__init__()
        config = scoring(task, inputs, as_of, "", "", format=format)
        span = Span(config.as_ofs)
        facts = Facts(Launch.of(config), dry_run=False)
        passed(facts, [check for check in CHECKS if "input" in check.needs])
        source = facts.source
        self._read = read_files.ReadPieces(task, span, source.pieces, source.shards, Progress())

    def expand(self, begin: PBegin) -> Accounted[EventBlocks]:
        coders.install()
        events = begin | "Read" >> self._read
        return Accounted(events.blocks, events.dead, events.ledger)


class BuildSequences(beam.PTransform[Accounted[EventBlocks], Accounted[SequenceBatch]]):
    """Makes the sequence of each entity as of each time; none when a larger share of the rows read is bad."""

    def __init__(self, task: Task, *, as_of: str, max_bad_share: float = 0.05) -> None:
        super().__init__()
        self._build = build_sequences.Sequences(task, Span(parse_as_ofs(task, str(as_of), "as_of")), max_bad_share)

    def expand(self, events: Accounted[EventBlocks]) -> Accounted[SequenceBatch]:
        built = (events.main, events.ledgers) | "Sequences" >> self._build
        return events.then(built.sequences, built.dead, built.ledger)


class Infer(beam.PTransform[Accounted[SequenceBatch], Accounted[ScoreBlock]]):
    """Scores sequences by a model, in full batches.

    Raises:
      UserError: the model does not fit the task.
    """

    def __init__(
        self,
        task: Task,
        model: str | os.PathLike[str],
        *,
        engine: EngineName = "tensorflow",
        device: DeviceName = "auto",
        batch_size: int = 240,
    ) -> None:
        super().__init__()
        self._infer = infer.InferBatches(fitting(task, os.fspath(model))[1], task, engine, device, batch_size)

    def expand(self, sequences: Accounted[SequenceBatch]) -> Accounted[ScoreBlock]:
        scored = sequences.main | "Infer" >> self._infer
        return sequences.then(scored.scores, scored.dead, scored.ledger)


class ScoreRows(beam.PTransform[Accounted[ScoreBlock], beam.PCollection[dict[str, Any]]]):
    """Makes a dict of each score: `score_id`, `entity_id`, `as_of`, the scores, ..., as the view `scores` has them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._run = Run("", "", task.task, task.outputs, (), 0)

    def expand(self, scored: Accounted[ScoreBlock]) -> beam.PCollection[dict[str, Any]]:
        return scored.main | "Rows" >> beam.FlatMap(_rows, self._run)


class WriteScores(beam.PTransform[Accounted[ScoreBlock], beam.PCollection]):
    """Publishes scores, dead letters and ledger, all at once, into what `foretide score --output` takes.

    The pipeline runs inside its `with` block. The arguments are those of the other steps: the same question is the same
    run, and replaces its own scores.
    """

    def __init__(
        self,
        task: Task,
        output: str | os.PathLike[str],
        *,
        inputs: Inputs,
        as_of: str,
        model: str | os.PathLike[str],
        engine: EngineName = "tensorflow",
        max_bad_share: float = 0.05,
    ) -> None:
        super().__init__()
        self._config = scoring(task, inputs, as_of, model, output, engine, max_bad_share=max_bad_share)
        self._stack = ExitStack()
        self._batch: Batch | None = None

    def __enter__(self) -> Self:
        config = self._config
        manifest, _ = fitting(config.task, config.model)
        place = output_of(config.output)
        place.check(config.task.outputs)
        run = run_of(config, manifest.version)
        self._batch = self._stack.enter_context(place.batch(run, config.as_ofs))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def expand(self, scored: Accounted[ScoreBlock]) -> beam.PCollection:
        return tuple(scored) | "Write" >> self._open.write

    def result(self) -> RunResult:
        """How the run ended, and its ledger: to be asked inside the block, when the pipeline has ended."""
        return self._open.result()

    @property
    def _open(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("WriteScores is to be used in a `with` statement, around the pipeline")
        return self._batch


def fitting(task: Task, model: str) -> tuple[Manifest, str]:
    """What is known of a model, and where workers find it. Raises UserError if it does not fit the task."""
    folder = registry.resolve(model)
    manifest = load_manifest(folder)
    check(manifest, task)
    check_operations(folder / "saved_model", folder)
    return manifest, remote.origin(folder)


def _rows(block: ScoreBlock, run: Run) -> Iterator[dict[str, Any]]:
    table = score_rows([block_table(block, run.outputs)], run)
    yield from table.drop_columns(["run_id"]).to_pylist()
