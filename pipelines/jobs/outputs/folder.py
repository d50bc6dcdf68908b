"""A folder of Parquet files as an output, see `storage.folder`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.jobs.outputs.base import Options, Output, RunResult, StoredLetter
from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.live import make_folders, read_live_ledger, stop_file
from pipelines.storage.folder.runs import LEDGER, adopt, begin, current, read_outcome
from pipelines.storage.rows import Run, read_ledger
from pipelines.system.files import writable

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.storage.folder.query import Format
    from pipelines.transforms.write_folder import AppendRun, WriteRun


@dataclass(frozen=True)
class FolderOutput(Output):
    place: str

    here = True

    @classmethod
    def named(cls, place: str, options: Options) -> FolderOutput:
        """Raises UserError for what only tables can do."""
        if options != Options():
            raise UserError(
                f"--bigquery-method and --replace-model are for tables of BigQuery, and --output is {place}"
            )
        return cls(place)

    def __str__(self) -> str:
        return self.place

    def check(self, outputs: Sequence[str]) -> str:
        """Does nothing: a folder takes all columns."""
        return writable(self.place, "--output")

    @contextmanager
    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> Iterator[FolderBatch]:
        from pipelines.transforms.write_folder import WriteRun

        with begin(self.place, run.run_id, run.attempt) as attempt:
            yield FolderBatch(attempt.progress, WriteRun(run, attempt))

    @contextmanager
    def live(self, run: Run, letters: bool) -> Iterator[FolderLive]:
        from pipelines.storage.folder.compaction import compacting

        make_folders(self.place, run.run_id)
        with compacting(self.place, run.run_id):
            yield FolderLive(self.place, run, letters)

    def letters(self) -> Iterator[StoredLetter]:
        from pipelines.storage.folder.query import select

        rows = select(self.place, f"SELECT {', '.join(StoredLetter._fields)} FROM dead_letters").rows
        return (StoredLetter(*row) for row in rows)  # type: ignore[arg-type]

    def view(self, name: str) -> str:
        return name if name in ("dead_letters", "ledger") else "scores" if name == "current" else f"scores_{name}"

    def rows(self, sql: str) -> list[dict[str, Any]]:
        from pipelines.storage.folder.query import select

        if not Path(self.place, "current").is_dir():
            return []
        result = select(self.place, sql)
        return [dict(zip(result.names, row, strict=True)) for row in result.rows]

    def adopt(self, other: FolderOutput, where: str, run_id: str, attempt: str) -> bool:
        there = [row["run_id"] for row in self.rows(f"SELECT DISTINCT run_id FROM scores WHERE {where}")]
        if there not in ([], [run_id]):
            raise FileExistsError
        return adopt(self.place, current(Path(other.place).resolve())[run_id])

    def ask(self, view: str, rest: str) -> str:
        return f'foretide query --output {shlex.quote(self.place)} "SELECT * FROM {self.view(view)} {rest}"'

    def arrow(self, sql: str) -> pa.Table:
        from pipelines.storage.folder.query import table

        return table(self.place, sql)

    def query(self, sql: str, format: Format, limit: int) -> None:
        from pipelines.storage.folder.query import query

        query(self.place, sql, format, limit)


@dataclass(frozen=True)
class FolderBatch:
    progress: Path
    write: WriteRun

    def result(self) -> RunResult:
        outcome = read_outcome(self.write.place)
        assert outcome is not None, "the pipeline ended without publishing"
        ledger = read_ledger(self.write.place.out / outcome.path / LEDGER)
        note = "" if outcome.changed else "the same bytes as before: nothing was changed"
        return RunResult(outcome.status, ledger, ledger.differences, note)


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
        from pipelines.transforms.write_folder import AppendRun

        return AppendRun(self.run, Path(self.place), self.letters)

    def ledger(self) -> Ledger:
        return read_live_ledger(self.place, self.run.run_id)
