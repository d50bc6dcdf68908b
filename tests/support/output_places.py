"""A place of each kind of output for tests, and how its rows are looked at. `PLACES` lists them, as `kinds` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pipelines.google.tables import Table
from pipelines.jobs.outputs.base import Output
from pipelines.jobs.outputs.kinds import output
from pipelines.storage.folder.query import connect
from tests.support.warehouse import PROJECT, Warehouse

Row = dict[str, Any]


class Place(Protocol):
    output: Output
    broken: Output  # a place that nobody can write to
    says_unchanged: str  # what a run notes that found its own rows

    def rows(self, view: str, order: str) -> list[Row]:
        """Of `current`, `history`, `dead_letters` or `ledger`."""


class Folder:
    says_unchanged = "the same bytes as before: nothing was changed"

    def __init__(self, folder: Path, warehouse: Callable[[], Warehouse]) -> None:
        self.out = folder / "out"
        (folder / "file").write_text("")
        self.output, self.broken = output(str(self.out)), output(str(folder / "file" / "out"))

    def rows(self, view: str, order: str) -> list[Row]:
        name = view if view in ("dead_letters", "ledger") else f"scores_{view}"
        found = connect(self.out).execute(f"SELECT * FROM {name} ORDER BY {order}")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


class Tables:
    says_unchanged = "0 new, 0 corrected, 50 equal, 0 kept"

    def __init__(self, folder: Path, warehouse: Callable[[], Warehouse]) -> None:
        self.warehouse = warehouse()
        self.table = self.warehouse.scores_tables("churn")
        self.output, self.broken = output(str(self.table)), output(str(Table(PROJECT, "nowhere", "scores")))

    def rows(self, view: str, order: str) -> list[Row]:
        return self.warehouse.sql(f"SELECT * FROM `{self.table.named(f'_{view}')}` ORDER BY {order}")


PLACES: dict[str, Callable[[Path, Callable[[], Warehouse]], Place]] = {"folder": Folder, "bigquery": Tables}
