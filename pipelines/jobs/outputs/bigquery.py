"""Tables of BigQuery as an output, see `storage.bigquery`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.errors import UserError
from pipelines.google.bigquery import answers, client, execute, explained
from pipelines.google.permissions import Grants, output_grants
from pipelines.google.tables import Table, WriteMethod, parse_table
from pipelines.jobs.outputs.base import Options, Output, RunResult, StoredLetter
from pipelines.ledger.counts import Ledger
from pipelines.storage.bigquery import schema, staging
from pipelines.storage.rows import Run
from pipelines.system.screen import quantity
from pipelines.task.spec import Task

if TYPE_CHECKING:
    from pipelines.runners.base import Runner
    from pipelines.storage.folder.query import Format
    from pipelines.transforms.append_table import AppendTable
    from pipelines.transforms.write_table import WriteTable


@dataclass(frozen=True)
class TableOutput(Output):
    table: Table
    method: WriteMethod
    replace_model: bool

    here = False
    code = "output-tables"

    @classmethod
    def named(cls, place: str, options: Options) -> TableOutput:
        """Raises UserError for a name that is none."""
        return cls(parse_table(place), *options)

    def __str__(self) -> str:
        return str(self.table)

    def check(self, outputs: Sequence[str]) -> str:
        answers()
        schema.check(self.table, outputs)
        return f"{self.table} has the columns {', '.join(outputs)}"

    def check_runner(self, runner: Runner) -> None:
        if self.method == "beam":
            from pipelines.transforms import append_by_beam

            append_by_beam.check(runner)

    def grants(self) -> Sequence[Grants]:
        return output_grants(self.table)

    def prepare(self, task: Task, dry_run: bool) -> int:
        return schema.schema_apply(self.table, task, dry_run)

    def plan(self, as_ofs: Sequence[int]) -> Sequence[str]:
        names = ", ".join((self.table.scores, self.table.dead_letters, self.table.ledger))
        read = quantity(staging.cost(self.table, as_ofs), "B")
        return [
            f"tables      {names}; in between {self.table.staging('*')}",
            f"merge       reads {read} of {self.table.scores}, and the scores of this run",
        ]

    @contextmanager
    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> Iterator[TableBatch]:
        from pipelines.transforms.write_table import WriteTable

        write = WriteTable(run, self.table, tuple(as_ofs), self.method, self.replace_model)
        with tempfile.TemporaryDirectory() as progress, staging.begin(self.table, run, later):
            yield TableBatch(Path(progress), write)

    @contextmanager
    def live(self, run: Run, letters: bool) -> Iterator[TableLive]:
        with tempfile.TemporaryDirectory() as place:
            yield TableLive(self.table, run, letters, Path(place) / "stop", self.method)

    def letters(self) -> Iterator[StoredLetter]:
        name = self.table.dead_letters
        with explained(name):
            rows = execute(self.table.project, f"SELECT {', '.join(StoredLetter._fields)} FROM `{name}`").result()
        return (StoredLetter(*row) for row in rows)

    def view(self, name: str) -> str:
        return f"`{self.table.view(name)}`"

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with explained(str(self)):
            return [dict(row) for row in execute(self.table.project, sql).result()]

    def adopt(self, other: TableOutput, where: str, run_id: str, attempt: str) -> bool:
        scores = other.view("current")
        added = self._insert(self.table.scores, f"FROM {scores} WHERE {where}", where)
        columns = ", ".join(c for c in self._columns(self.table.scores) if c not in ("`run_id`", "`scored_at`"))
        ours, theirs = (f"SELECT {columns} FROM {name} WHERE {where}" for name in (scores, self.view("current")))
        if self.rows(f"({ours} EXCEPT DISTINCT {theirs}) UNION ALL ({theirs} EXCEPT DISTINCT {ours}) LIMIT 1"):
            raise FileExistsError
        this = f"run_id = '{run_id}'"
        self._insert(self.table.ledger, f"FROM `{other.table.ledger}` WHERE {this} AND attempt = '{attempt}'", this)
        return added > 0

    def _insert(self, name: str, source: str, there: str) -> int:
        """Adds rows in one step if there are none yet of those that the condition names. Returns how many."""
        columns = ", ".join(self._columns(name))
        absent = f"NOT EXISTS (SELECT 1 FROM `{name}` WHERE {there})"
        sql = f"INSERT INTO `{name}` ({columns}) SELECT {columns} {source} AND {absent}"
        with explained(name):
            return int(execute(self.table.project, sql).num_dml_affected_rows or 0)

    def _columns(self, name: str) -> list[str]:
        with explained(name):
            return [f"`{field.name}`" for field in client(self.table.project).get_table(name).schema]

    def ask(self, view: str, rest: str) -> str:
        return f"bq query --nouse_legacy_sql 'SELECT * FROM {self.view(view)} {rest}'"

    def arrow(self, sql: str) -> NoReturn:
        how = f"ask BigQuery itself: {self.ask('current', 'LIMIT 10')}"
        raise UserError(f"{self}: `foretide query` reads folders of this machine; {how}")

    def query(self, sql: str, format: Format, limit: int) -> None:
        self.arrow(sql)


@dataclass(frozen=True)
class TableBatch:
    progress: Path
    write: WriteTable

    def result(self) -> RunResult:
        run = self.write.run
        done = staging.read_result(self.write.table, run.run_id, run.attempt)
        note = f"{done.added:,} new, {done.replaced:,} corrected, {done.unchanged:,} equal, {done.kept:,} kept"
        merged = done.status == "published" or done.visible > 0
        return RunResult(done.status, done.ledger, done.differences, note if merged else "")


@dataclass(frozen=True)
class TableLive:
    table: Table
    run: Run
    letters: bool
    stop: Path
    method: WriteMethod

    @property
    def write(self) -> AppendTable:
        from pipelines.transforms.append_by_beam import WriteByBeam
        from pipelines.transforms.append_table import AppendTable

        by = WriteByBeam(self.table, self.run) if self.method == "beam" else None
        return AppendTable(self.run, self.table, self.letters, by=by)

    @property
    def journal(self) -> str:
        return f"~/.local/state/foretide/{self.run.run_id}"

    def ledger(self) -> Ledger:
        return staging.read_live_ledger(self.table, self.run.run_id)
