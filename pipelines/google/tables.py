"""Names of what a `bq://project.dataset.table` stands for. No library of Google's here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import UserError

SCHEME = "bq://"
WriteMethod = Literal["storage", "load", "beam"]  # by the Storage Write API, load jobs, or Beam's own sink
NAME = re.compile(r"bq://([a-z0-9.:-]+)\.(\w+)\.([\w-]+)")
QUERY = re.compile(r"bq://([a-z0-9.:-]+)\?(.+)", re.DOTALL)


def is_bigquery(text: str) -> bool:
    """Whether an input is meant to be in BigQuery; `bq:/` is no folder."""
    return text.startswith("bq:")


@dataclass(frozen=True)
class Table:
    """A table of scores, and by its name all that belongs to it, in the same dataset.

    Names are of the form `project.dataset.table`, as SQL has them between backquotes.
    """

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.scores}"

    @property
    def scores(self) -> str:
        """The table of score rows: of runs over files one of each score_id, of live jobs all that they ever wrote."""
        return self.named("")

    @property
    def dead_letters(self) -> str:
        return self.named("_dead_letters")

    @property
    def ledger(self) -> str:
        """The table of ledgers: a row of each attempt of a run, and many of a live job, the last of which counts."""
        return self.named("_ledger")

    def view(self, name: str) -> str:
        """The name of a view: `current`, `history`, `forecasts`, `movers` or `calibration`."""
        return self.named(f"_{name}")

    def staging(self, attempt: str) -> str:
        """The table where the rows of one attempt wait until they are merged."""
        return self.named(f"_staging_{attempt}")

    def named(self, suffix: str) -> str:
        return f"{self.project}.{self.dataset}.{self.table}{suffix}"


def parse_table(text: str) -> Table:
    """`bq://project.dataset.table`. Raises UserError for anything else."""
    match = NAME.fullmatch(text)
    if match is None:
        raise UserError(f"--output {text}: a table of BigQuery is named bq://PROJECT.DATASET.TABLE")
    return Table(*match.groups())


def resource(name: str) -> str:
    """`project.dataset.table` as the Storage APIs have it."""
    project, dataset, table = name.rsplit(".", 2)
    return f"projects/{project}/datasets/{dataset}/tables/{table}"
