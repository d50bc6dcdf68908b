"""What the account of a launch must be allowed to do in BigQuery; nothing where an emulator stands for it."""

from __future__ import annotations

import os
import shlex

from pipelines.google.bigquery import EMULATOR
from pipelines.google.tables import NAME, QUERY, Table
from pipelines.grants import WHO, Grants, on_project

READ = ("bigquery.tables.get", "bigquery.tables.getData")
WRITE = (*READ, "bigquery.tables.updateData")


def input_grants(path: str) -> list[Grants]:
    """To read a table or a query; nothing for a name that is neither."""
    found = QUERY.fullmatch(path) or NAME.fullmatch(path)
    if found is None or EMULATOR in os.environ:
        return []
    jobs = on_project(found[1], "bigquery.jobs.create", "bigquery.readsessions.create")
    return [jobs, *([_on_table(*found.groups(), wanted=READ)] if NAME.fullmatch(path) else [])]


def output_grants(table: Table) -> list[Grants]:
    """To write into the tables of an output."""
    if EMULATOR in os.environ:
        return []
    names = (table.scores, table.dead_letters, table.ledger)
    tables = [_on_table(*name.rsplit(".", 2), wanted=WRITE) for name in names]
    return [on_project(table.project, "bigquery.jobs.create"), *tables]


def _on_table(project: str, dataset: str, name: str, *, wanted: tuple[str, ...]) -> Grants:
    path = f"bigquery/v2/projects/{project}/datasets/{dataset}/tables/{name}"
    command = f"bq add-iam-policy-binding{WHO} {shlex.quote(f'{project}:{dataset}.{name}')}"
    return Grants(f"{project}.{dataset}.{name}", "bigquery", path, wanted, command)
