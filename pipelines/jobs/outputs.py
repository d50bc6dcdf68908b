"""Where rows go: a folder, or tables of BigQuery. What a command needs of either, around and in its pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apache_beam as beam

from pipelines.errors import UserError
from pipelines.google.tables import Table, WriteMethod, is_bigquery, parse_table
from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.bigquery import schema, staging
from pipelines.storage.folder.compaction import compacting
from pipelines.storage.folder.live import prepare, read_live_ledger, stop_file
from pipelines.storage.folder.runs import LEDGER, begin, read_outcome
from pipelines.storage.rows import Run, read_ledger
from pipelines.system.progress import quantity
from pipelines.transforms.append_by_beam import WriteByBeam
from pipelines.transforms.append_table import AppendTable
from pipelines.transforms.write_folder import AppendRun, WriteRun
from pipelines.transforms.write_table import WriteTable


@dataclass(frozen=True)
class Result:
    """What a run over files wrote."""

    status: Status
    ledger: Ledger
    differences: tuple[str, ...]  # between what should be there and what is
    note: str = ""  # on the rows that were written


class Batch(Protocol):
    """A run over files."""

    @property
    def progress(self) -> Path:
        """Where workers of this machine tell how far they are."""

    @property
    def write(self) -> beam.PTransform:
        """Takes `tabular.Inputs`."""

    def result(self) -> Result:
        """To be asked for when the pipeline has ended."""


class Live(Protocol):
    """A live job."""

    @property
    def stop(self) -> Path:
        """The file that ends its source."""

    @property
    def journal(self) -> str:
        """The folder where decoders note what they decode; ~ is the home of a worker."""

    @property
    def write(self) -> beam.PTransform:
        """Takes `tabular.Inputs`, and gives all dead letters, with those of rows that could not be written."""

    def ledger(self) -> Ledger:
        """What became of every event that the job read since it was first started."""


class Output(Protocol):
    """A place that rows can be written to."""

    def check(self, outputs: Sequence[str]) -> None:
        """Raises UserError if it does not take rows with these score columns, as far as that can be seen."""

    def plan(self, as_ofs: Sequence[int]) -> list[str]:
        """Lines on what a run over files would touch, beside the name of the place."""

    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> AbstractContextManager[Batch]:
        """Prepares for a run over files, and tidies up after it; `later`: which begins after the end of the block."""

    def live(self, run: Run, letters: bool) -> AbstractContextManager[Live]:
        """Prepares for a live job. `letters`: whether dead letters are kept here, too."""


def output(place: str, method: WriteMethod = "storage", replace_model: bool = False) -> Output:
    """What `--output` names. Raises UserError for a name that is none, and for what only tables can do."""
    if is_bigquery(place):
        return TableOutput(parse_table(place), method, replace_model)
    if method != "storage" or replace_model:
        raise UserError(f"--bigquery-method and --replace-model are for tables of BigQuery, and --output is {place}")
    return FolderOutput(place)


@dataclass(frozen=True)
class FolderOutput:
    """Parquet files in a folder, see `local.store` and `local.livestore`."""

    place: str

    def check(self, outputs: Sequence[str]) -> None:
        """Folders take all columns."""

    def plan(self, as_ofs: Sequence[int]) -> list[str]:
        return []

    @contextmanager
    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> Iterator[FolderBatch]:
        with begin(self.place, run.run_id, run.attempt) as attempt:
            yield FolderBatch(attempt.progress, WriteRun(run, attempt))

    @contextmanager
    def live(self, run: Run, letters: bool) -> Iterator[FolderLive]:
        prepare(self.place, run.run_id)
        with compacting(self.place, run.run_id):
            yield FolderLive(self.place, run, letters)


@dataclass(frozen=True)
class FolderBatch:
    progress: Path
    write: WriteRun

    def result(self) -> Result:
        outcome = read_outcome(self.write.place)
        assert outcome is not None, "the pipeline ended without publishing"
        ledger = read_ledger(self.write.place.out / outcome.path / LEDGER)
        note = "" if outcome.changed else "the same bytes as before: nothing was changed"
        return Result(outcome.status, ledger, ledger.differences, note)


@dataclass(frozen=True)
class FolderLive:
    place: str
    run: Run
    letters: bool

    @property
    def stop(self) -> Path:
        return stop_file(self.place, self.run.run_id)

    @property
    def journal(self) -> str:
        return str(self.stop.parent / "decoding")

    @property
    def write(self) -> AppendRun:
        return AppendRun(self.run, Path(self.place), self.letters)

    def ledger(self) -> Ledger:
        return read_live_ledger(self.place, self.run.run_id)


@dataclass(frozen=True)
class TableOutput:
    """Tables of BigQuery, see `bigquery`."""

    table: Table
    method: WriteMethod
    replace_model: bool

    def check(self, outputs: Sequence[str]) -> None:
        schema.check(self.table, outputs)

    def plan(self, as_ofs: Sequence[int]) -> list[str]:
        names = ", ".join((self.table.scores, self.table.dead_letters, self.table.ledger))
        read = quantity(staging.cost(self.table, as_ofs), "B")
        return [
            f"tables      {names}; in between {self.table.staging('*')}",
            f"merge       reads {read} of {self.table.scores}, and the scores of this run",
        ]

    @contextmanager
    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> Iterator[TableBatch]:
        write = WriteTable(run, self.table, tuple(as_ofs), self.method, self.replace_model)
        with tempfile.TemporaryDirectory() as progress, staging.begin(self.table, run, later):
            yield TableBatch(Path(progress), write)

    @contextmanager
    def live(self, run: Run, letters: bool) -> Iterator[TableLive]:
        with tempfile.TemporaryDirectory() as place:
            yield TableLive(self.table, run, letters, Path(place) / "stop", self.method)


@dataclass(frozen=True)
class TableBatch:
    progress: Path
    write: WriteTable

    def result(self) -> Result:
        run = self.write.run
        done = staging.read_result(self.write.table, run.run_id, run.attempt)
        note = f"{done.added:,} new, {done.replaced:,} corrected, {done.unchanged:,} equal, {done.kept:,} kept"
        merged = done.status == "published" or done.visible > 0
        return Result(done.status, done.ledger, done.differences, note if merged else "")


@dataclass(frozen=True)
class TableLive:
    table: Table
    run: Run
    letters: bool
    stop: Path
    method: WriteMethod

    @property
    def write(self) -> AppendTable:
        by = WriteByBeam(self.table, self.run) if self.method == "beam" else None
        return AppendTable(self.run, self.table, self.letters, by=by)

    @property
    def journal(self) -> str:
        return f"~/.local/state/foretide/{self.run.run_id}"

    def ledger(self) -> Ledger:
        return staging.read_live_ledger(self.table, self.run.run_id)
