"""The live job: messages of a subscription -> sequences -> scores -> output folder, until it is drained."""

from __future__ import annotations

import shlex
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam

from pipelines.errors import Exit
from pipelines.events.decode import Since
from pipelines.events.messages import Payload
from pipelines.events.terms import Terms
from pipelines.google.subscription import SubscriptionFacts
from pipelines.jobs import graph, memory
from pipelines.jobs.checks.before import checked
from pipelines.jobs.config import StreamConfig
from pipelines.jobs.launch import Launch
from pipelines.jobs.outputs.base import Live
from pipelines.jobs.report import describe_input, live_report
from pipelines.jobs.source import InputSource
from pipelines.ledger.counts import DeadLetter
from pipelines.ledger.figures import last_screen
from pipelines.models import registry
from pipelines.models.engines.loading import import_framework
from pipelines.models.saved.manifest import Manifest
from pipelines.runners import portable
from pipelines.system.clock import onward
from pipelines.system.progress import Progress
from pipelines.task.fields import format_duration, format_time
from pipelines.task.file import describe
from pipelines.transforms.archive import Archive, compacting_archive
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.decode_messages import DecodeMessages
from pipelines.transforms.infer import InferBatches
from pipelines.transforms.live_sequences import LiveSettings
from pipelines.transforms.output_rows import Inputs, begun
from pipelines.transforms.publish_letters import PublishLetters
from pipelines.transforms.read_files import ReadPieces
from pipelines.transforms.read_messages import ReadMessages, SubscriptionSource

WATCH = 5.0  # seconds between two looks at which version of the model serves


@dataclass(frozen=True)
class Prepared:
    """What was found before the job starts."""

    manifest: Manifest
    infer: InferBatches
    facts: SubscriptionFacts
    payload: Payload
    history: InputSource | None


def stream(config: StreamConfig) -> int:
    """Runs until it is drained, prints the last screen, and returns the exit code.

    Raises:
      UserError: the model, the history or the subscription will not do, or the pipeline failed.
    """
    ready, need, warnings = _prepare(config)
    print("\n".join([*warnings, _beginning(config, ready, need)]), flush=True)
    if config.runner.local:
        import_framework(config.engine)  # here, and not in a thread of the job
    archive = compacting_archive(config.archive) if config.archive else nullcontext()
    letters = config.dead_letters is None  # otherwise they go to their topic
    explained = memory.explained(need)
    unchanged = ready.history.unchanged() if ready.history else nullcontext()
    inputs = config.subscription, *(config.bootstrap.patterns if config.bootstrap else ())
    run = begun(config.task, config.run_id, inputs)
    with config.place.live(run, letters) as live, archive, explained, unchanged:
        result = portable.run_stream(
            config.execution, lambda p: build(p, config, ready, live), live.stop, config.job_name
        )
        print(last_screen(result.figures, result.seconds))
        print(live_report(config, live.ledger()))
    return Exit.INTERRUPTED if result.state == "cancelled" else Exit.OK


def plan(config: StreamConfig) -> int:
    """Checks all that a job checks, and prints what it would do."""
    ready, need, warnings = _prepare(config, dry_run=True)
    done = "dry run: nothing was read, scored or written"
    print("\n".join([describe(config.task), _beginning(config, ready, need), *warnings, done]))
    return Exit.OK


def build(p: beam.Pipeline, config: StreamConfig, ready: Prepared, live: Live) -> None:
    """Builds the graph of a live job."""
    task, since = config.task, Since(config.first)
    clock = onward if config.runner.local else time.time  # as emulators/prism has it
    judge = LiveSettings(config.subscription, config.early, not config.runner.reads_pubsub, clock, config.shards)
    read, write = ReadLive(config, ready, live.stop, live.journal), WriteLive(config, live.write)
    # Dataflow asks for the names of a job's steps before it lets another one take its place, Flink does not tell why.
    kept = "" if not config.runner.replaces_jobs else Terms.of(task, since, config.shards).digest.hex()
    graph.build(p, read, Sequences(task, since, live=judge), ready.infer, write, kept)


class LiveEventsRead(NamedTuple):
    """What reading a subscription gives, see `graph.Events`."""

    blocks: beam.PCollection[tuple[int, bytes]]
    dead: beam.PCollection
    ledger: beam.PCollection


@dataclass(eq=False)
class ReadLive(beam.PTransform):
    """-> `LiveEventsRead` of the subscription, and of the history before it."""

    config: StreamConfig
    ready: Prepared
    stop: Path
    journal: str

    def expand(self, p: beam.pvalue.PBegin) -> LiveEventsRead:
        config, task, since = self.config, self.config.task, Since(self.config.first)
        pulled = p | "Pull" >> ReadMessages(self._source(), config.runner, config.pullers)
        if config.archive is not None:
            pulled.messages | "Archive" >> Archive(config.archive, self.ready.payload)
        how = config.subscription, config.max_bad_share, self.ready.payload, self.journal
        decoded = pulled.messages | DecodeMessages(task, since, config.shards, *how)
        parts = [LiveEventsRead(decoded.blocks, decoded.dead, decoded.ledger)]
        history = self.ready.history
        if history is not None:
            old = p | "History" >> ReadPieces(task, since, history.pieces, config.shards, Progress())
            parts.append(LiveEventsRead(old.blocks, old.dead, old.ledger))
        return LiveEventsRead(
            tuple(e.blocks for e in parts) | "Blocks" >> beam.Flatten(),
            (pulled.dead, *(e.dead for e in parts)) | "Dead" >> beam.Flatten(),
            (pulled.ledger, *(e.ledger for e in parts)) | "Ledgers" >> beam.Flatten(),
        )

    def _source(self) -> SubscriptionSource:
        task, facts = self.config.task, self.ready.facts
        return SubscriptionSource(
            subscription=self.config.subscription,
            first=self.config.first,
            every=task.score.every,
            deadline_s=facts.deadline,
            backoff_s=facts.backoff,
            arrival_attribute=self.config.arrival_attribute,
            stop=str(self.stop),
        )


@dataclass(eq=False)
class WriteLive(beam.PTransform):
    """(scores, dead letters, ledgers) -> the output, and dead letters to their topic where there is one."""

    config: StreamConfig
    write: beam.PTransform

    def expand(self, inputs: Inputs) -> beam.PCollection[DeadLetter]:
        dead = inputs | "Append" >> self.write
        if self.config.dead_letters is not None:
            dead | "Letters" >> PublishLetters(self.config.dead_letters)
        return dead


def _prepare(config: StreamConfig, dry_run: bool = False) -> tuple[Prepared, memory.Need, list[str]]:
    """What was found, what the job takes of memory, and warnings. Raises UserError where a check does not pass."""
    facts, warnings = checked(Launch.of(config), dry_run)
    infer = InferBatches(config.model, config.task, config.engine, config.device, config.batch_size, WATCH)
    history = facts.source if config.bootstrap is not None else None
    return Prepared(facts.manifest, infer, facts.subscription, facts.payload, history), facts.need, warnings


def _beginning(config: StreamConfig, ready: Prepared, need: memory.Need) -> str:
    """What the job is going to do."""
    task, attribute = config.task, config.arrival_attribute
    clock = f"attribute {attribute}" if attribute else "publish time"
    every, open_for = format_duration(task.score.every), format_duration(task.score.allowed_lateness)
    early = f", early ones after {format_duration(config.early)}" if config.early else ""
    watched = "" if registry.is_version(config.model) else ", the version that serves is followed"
    due = f"every {every}, open for {open_for}{early}"
    lines = [
        f"task        {task.task} live: first as of {format_time(config.first)}, {due}",
        f"messages    {config.subscription} by {clock}, {config.payload}",
        *([describe_input(ready.history, config.bootstrap)] if ready.history and config.bootstrap else []),
        f"model       {ready.manifest.version} in {config.model}{watched}",
        f"runner      {config.runner.name}, {config.shards} shards, {config.pullers} puller(s)",
        need.line(),
        f"output      {config.output}, run {config.run_id}",
    ]
    if config.archive is not None:
        lines.append(f"archive     {config.archive}: start again with --bootstrap {shlex.quote(config.archive)}")
    elif config.runner.local:
        lines.append("archive     none: what this process knows is gone when it ends (--archive FOLDER keeps it)")
    return "\n".join(lines)
