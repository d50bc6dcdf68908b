"""The scoring pipeline: event files -> sequences -> scores -> output folder. The graph, and the run around it."""

from __future__ import annotations

import time

import apache_beam as beam

from pipelines.errors import Exit
from pipelines.events.decode import Span
from pipelines.jobs import graph, memory
from pipelines.jobs.checks.before import checked
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.config import ScoreConfig
from pipelines.jobs.launch import Launch
from pipelines.jobs.report import describe_as_ofs, describe_input, score_report
from pipelines.jobs.source import InputSource
from pipelines.models import remote
from pipelines.runners import bounded
from pipelines.storage.rows import Run
from pipelines.system.progress import Progress, watch
from pipelines.task.file import describe
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.infer import InferBatches
from pipelines.transforms.output_rows import begun
from pipelines.transforms.read_files import ReadPieces

EXITS = {"published": Exit.OK, "refused": Exit.REFUSED, "unbalanced": Exit.UNBALANCED}


def score(config: ScoreConfig) -> int:
    """Runs to the end, prints the last screen, and returns the exit code.

    Raises:
      UserError: the model does not fit the task, the input does not, or the pipeline failed.
    """
    facts, infer, warnings = _prepare(config)
    manifest, source, need = facts.manifest, facts.source, facts.need
    print("\n".join([need.line(), *warnings]), flush=True)
    device = infer.device_in_use() if config.runner.local else "the workers' device"
    run = run_of(config, manifest.version)
    started, template = time.monotonic(), config.runner.template
    with config.place.batch(run, config.as_ofs, later=template) as batch:
        with watch(batch.progress, {"reading": source.size, "scoring": source.shards}), source.unchanged():
            progress = Progress(str(batch.progress))
            with memory.explained(need):
                bounded.run(config.execution, lambda p: build(p, config, source, infer, batch.write, progress))
        if template:
            print(f"described   run {run.run_id}, attempt {run.attempt}: its row of the ledger tells how it ended")
            return Exit.OK
        result = batch.result()
        print(score_report(config, manifest, source, result, device, time.monotonic() - started))
    return EXITS[result.status]


def run_of(config: ScoreConfig, version: str) -> Run:
    """What the rows say of a run by this version of the model that begins now."""
    return begun(config.task, config.run_id(version), config.input.patterns, version, config.max_bad_share)


def build(
    p: beam.Pipeline,
    config: ScoreConfig,
    source: InputSource,
    infer: InferBatches,
    write: beam.PTransform,
    progress: Progress,
) -> None:
    """Builds the graph of a run over files."""
    task, span = config.task, Span(config.as_ofs)
    read = ReadPieces(task, span, source.pieces, source.shards, progress)
    sequences = Sequences(task, span, config.max_bad_share, progress)
    graph.build(p, read, sequences, infer, write)


def plan(config: ScoreConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    facts, infer, warnings = _prepare(config, dry_run=True)
    manifest, source = facts.manifest, facts.source
    where, on = config.execution, f"{infer.engine}, device {infer.device}, batches of {infer.batch_size}"
    print(describe(config.task))
    print(f"as of       {describe_as_ofs(config.as_ofs)}")
    print(describe_input(source, config.input))
    print(f"model       {manifest.version} in {config.model}, {on}")
    print(f"runner      {config.runner.name}, {where.workers} worker(s), {source.shards} shards")
    print("\n".join([facts.need.line(), *warnings]))
    print(f"output      {config.output}, run {config.run_id(manifest.version)}")
    print("\n".join([*config.place.plan(config.as_ofs), "dry run: nothing was scored or written"]))
    return Exit.OK


def _prepare(config: ScoreConfig, dry_run: bool = False) -> tuple[Facts, InferBatches, list[str]]:
    """What is known of the run, the model in it, and warnings. Raises UserError where a check does not pass."""
    facts, warnings = checked(Launch.of(config), dry_run)
    model = remote.origin(facts.model)
    infer = InferBatches(model, config.task, config.engine, config.device, config.batch_size)
    infer.with_resource_hints(**config.runner.hints)
    return facts, infer, warnings
