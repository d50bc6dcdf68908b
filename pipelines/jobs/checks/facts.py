"""What checks find out about a launch, each thing once, so that all of them, and the run itself, speak of the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from apache_beam.io.filesystems import FileSystems

from pipelines.errors import UserError
from pipelines.events.decode import Since, Span
from pipelines.events.formats import bigquery
from pipelines.events.formats.registry import format_of
from pipelines.events.messages import Payload
from pipelines.google.subscription import SubscriptionFacts, preflight
from pipelines.jobs import memory
from pipelines.jobs.checks.findings import coded
from pipelines.jobs.checks.sample import ROWS, Looked, Sample, look, sampled
from pipelines.jobs.config import LIVE_SHARDS, ScoringFlags, StreamFlags
from pipelines.jobs.launch import Launch
from pipelines.jobs.outputs.base import Output
from pipelines.jobs.source import InputSource, Opened, opened, planned, rows, shards
from pipelines.models import registry, remote
from pipelines.models.saved.manifest import Manifest, load_manifest
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File, find, fitting

T = TypeVar("T")


class known(Generic[T]):
    """A property that is found out once; a UserError is remembered, too, and raised again."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find, self._name = find, f"_{find.__name__}"

    @overload
    def __get__(self, facts: None, owner: type) -> known[T]: ...

    @overload
    def __get__(self, facts: object, owner: type) -> T: ...

    def __get__(self, facts: object, owner: type) -> T | known[T]:
        if facts is None:
            return self
        held: dict[str, Any] = facts.__dict__
        if self._name not in held:
            try:
                held[self._name] = self._find(facts)
            except UserError as error:
                held[self._name] = error
        if isinstance(held[self._name], UserError):
            raise held[self._name]
        value: T = held[self._name]
        return value


class Facts:
    """Of one launch.

    Args:
      dry_run: queries are not run.
      launching: the launch comes next, on this machine: what it needs from elsewhere, such as a model, is fetched.
    """

    def __init__(self, launch: Launch, dry_run: bool, launching: bool = True) -> None:
        self.launch, self.dry_run, self.launching = launch, dry_run, launching
        FileSystems.set_options(launch.options)  # credentials, endpoints

    @property
    def task(self) -> Task:
        assert self.launch.task is not None, "checks that need a task are not asked without one"
        return self.launch.task

    @property
    def scoring(self) -> ScoringFlags:
        assert self.launch.scoring is not None, "checks of scoring are not asked without it"
        return self.launch.scoring

    @property
    def stream(self) -> StreamFlags:
        assert self.launch.stream is not None, "checks of a live job are not asked of others"
        return self.launch.stream

    @property
    def span(self) -> Span | Since:
        """Any of its kind where it could not be read."""
        return self.launch.span or (Since(0) if self.launch.stream else Span((0,)))

    @property
    def model_here(self) -> bool:
        """Whether the model can be looked at on this machine."""
        return self.launching or not remote.is_remote(self.launch.job.model)

    @known
    def model(self) -> Path:
        """The folder of the version that serves."""
        return registry.resolve(self.scoring.model)

    @known
    def manifest(self) -> Manifest:
        return load_manifest(self.model)

    @property
    def output(self) -> Output:
        return self.scoring.place

    @known
    def subscription(self) -> SubscriptionFacts:
        return preflight(self.stream.subscription)

    @known
    def payload(self) -> Payload:
        schema = self.stream.avro_schema
        try:
            text = Path(schema).read_text(encoding="utf-8") if schema else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--avro-schema {schema}: cannot be read: {error}") from error
        return Payload(self.stream.payload, text)

    @known
    def files(self) -> list[File]:
        """Of all patterns that stand for some; the others are told by a check."""
        format, found = self.launch.input.format if self.launch.input else None, dict[str, File]()
        for pattern in self.launch.files:
            try:
                found |= {file.path: file for file in find([pattern], format)}
            except UserError as error:
                self.lacking[pattern] = error
        return [found[path] for path in sorted(found)]

    @known
    def lacking(self) -> dict[str, UserError]:
        """Patterns without files, once `files` was looked at."""
        return {}

    @property
    def named(self) -> str:
        """The input in a few words."""
        paths = [*(f.path for f in self.files), *self.launch.tables] or list(self.launch.files)
        return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    @property
    def archives(self) -> set[str]:
        """Files of messages: they hold what came, good or bad."""
        return {f.path for f in self.files if format_of(f.format).is_archive}

    @property
    def whole(self) -> bool:
        """Whether every source has a sample."""
        return len(self.samples) == sum(f.size > 0 for f in self.files) + len(self.launch.tables)

    @known
    def looked(self) -> list[Looked]:
        """Some of the files, from the first to the last."""
        return look(self.task, self.span, self.files)

    @known
    def tables(self) -> dict[str, bigquery.BigQueryInput | UserError]:
        """Inputs of BigQuery, or why they cannot be had."""
        return {path: _or_error(bigquery.look, path) for path in self.launch.tables}

    @property
    def fitting(self) -> list[tuple[bigquery.BigQueryInput, Task]]:
        """Those that can be had and have all fields of the task, with the task as they are read with."""
        there = (t for t in self.tables.values() if isinstance(t, bigquery.BigQueryInput))
        read = ((table, fitting(self.task, self.span, table.fields)) for table in there)
        return [(table, task) for table, task in read if not {*task.columns} - {*table.fields}]

    @known
    def opened(self) -> list[Opened]:
        """Their snapshots."""
        span, workers = self.span, self.launch.config.execution.workers
        try:
            return [opened(table, task, span, workers, self.dry_run) for table, task in self.fitting]
        except UserError as error:
            raise coded(error, "input-found") from None

    @known
    def samples(self) -> list[Sample]:
        """Of those files, and of the tables that can be read as they are. A first file that lacks a field has none."""
        first = next((looked for looked in self.looked if looked.fields), None)
        files = [looked for looked in self.looked if not (looked is first and looked.lacks)]
        return [*sampled(files), *(_sample(each) for each in self.opened if each.readable)]

    @known
    def source(self) -> InputSource:
        """What the launch reads, in pieces."""
        return planned(self.files, self.opened, self.launch.config.execution)

    @known
    def need(self) -> memory.Need:
        """Of memory, as far as it can be known."""
        launch, scoring, model = self.launch, self.scoring, self._model_spec
        local = launch.runner.local
        pieces = self.source.pieces if self.launching else self.files
        events, size = rows(pieces), sum(piece.size for piece in pieces)
        if isinstance(launch.span, Span):
            return memory.scoring(
                self.task,
                launch.span.as_ofs,
                events,
                shards(scoring.execution, size),
                scoring.execution.workers,
                scoring.engine,
                scoring.batch_size,
                model,
                local,
            )
        divided = scoring.execution.shards or LIVE_SHARDS
        return memory.streaming(self.task, events, divided, scoring.engine, scoring.batch_size, model, local)

    @property
    def _model_spec(self) -> dict[str, object]:
        """The manifest's ModelSpec; the task's where there is no model to be read here."""
        if self.model_here:
            try:
                return dict(self.manifest.model)
            except UserError:  # told by a check
                pass
        return self.task.model.model_dump()


def _or_error(find: Callable[[str], T], name: str) -> T | UserError:
    try:
        return find(name)
    except UserError as error:
        return error


def _sample(table: Opened) -> Sample:
    sample = Sample(table.found.path, table.task)
    sample.take(table.snapshot.sample, ROWS)
    there = table.found.table
    sample.events = max(int(there.num_rows or 0) if there else 0, sample.rows)
    return sample
