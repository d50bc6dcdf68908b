"""The scoring pipeline: event files -> sequences -> scores -> output folder. The graph, and the run around it."""

from __future__ import annotations

import time
import uuid

import apache_beam as beam

from pipelines import execution, graph, registry
from pipelines.config import ScoreConfig
from pipelines.errors import Exit
from pipelines.models.manifest import Manifest, check, load_manifest
from pipelines.progress import Progress, watch
from pipelines.report import describe_as_ofs, describe_input, score_report
from pipelines.rows import RunTarget, read_ledger
from pipelines.source import Source, find
from pipelines.store import LEDGER, begin, read_outcome
from pipelines.taskfile import describe
from pipelines.transforms.decode import Span
from pipelines.transforms.files import ReadEvents
from pipelines.transforms.inference import Infer
from pipelines.transforms.shards import Sequences
from pipelines.transforms.sink import WriteRun, now

EXITS = {"published": Exit.OK, "refused": Exit.REFUSED, "unbalanced": Exit.UNBALANCED}


def score(config: ScoreConfig) -> int:
    """Runs to the end, prints the last screen, and returns the exit code.

    Raises:
      UserError: the model does not fit the task, the input does not, or the pipeline failed.
    """
    manifest, source, infer = _prepare(config)
    device = infer.device_in_use() if execution.is_local(config.execution) else "the workers' device"
    run_id, attempt = config.run_id(manifest.version), uuid.uuid4().hex[:8]
    with begin(config.output, run_id, attempt) as run:
        started = time.monotonic()
        target = RunTarget(
            attempt=run,
            task=config.task.task,
            outputs=config.task.outputs,
            model_version=manifest.version,
            inputs=config.input.patterns,
            started_at=now(),
            max_bad_share=config.input.max_bad_share,
        )
        with watch(run.progress, {"reading": source.size, "scoring": source.shards}):
            execution.run(config.execution, lambda p: build(p, config, source, infer, target))
        outcome = read_outcome(run)
        assert outcome is not None, "the pipeline ended without publishing"
        ledger = read_ledger(run.out / outcome.path / LEDGER)
        print(score_report(config, manifest, source, ledger, outcome, device, time.monotonic() - started))
    return EXITS[outcome.status]


def build(p: beam.Pipeline, config: ScoreConfig, source: Source, infer: Infer, target: RunTarget) -> None:
    """The graph."""
    task, span, progress = config.task, Span(config.as_ofs), Progress(str(target.attempt.progress))
    read = ReadEvents(task, span, source.pieces, source.shards, progress)
    sequences = Sequences(task, span, config.input.max_bad_share, progress)
    graph.build(p, read, sequences, infer, WriteRun(target))


def plan(config: ScoreConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    manifest, source, infer = _prepare(config)
    where, on = config.execution, f"{infer.engine}, device {infer.device}, batches of {infer.batch_size}"
    print(describe(config.task))
    print(f"as of       {describe_as_ofs(config.as_ofs)}")
    print(describe_input(source, config.input))
    print(f"model       {manifest.version} in {config.model}, {on}")
    print(f"runner      {execution.runner(where)}, {where.workers} worker(s), {source.shards} shards")
    print(f"output      {config.output}, run {config.run_id(manifest.version)}")
    print("dry run: nothing was scored or written")
    return Exit.OK


def _prepare(config: ScoreConfig) -> tuple[Manifest, Source, Infer]:
    folder = registry.resolve(config.model)
    manifest = load_manifest(folder)
    check(manifest, config.task)
    infer = Infer(str(folder), config.task, config.engine, config.device, config.batch_size)
    return manifest, find(config.task, config.input, config.execution), infer
