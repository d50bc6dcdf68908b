"""Permissions that a launch needs of services of Google's, and the commands that grant them. Nothing is asked here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipelines.google.bigquery import EMULATOR
from pipelines.google.tables import NAME, QUERY, Table

READ = ("bigquery.tables.get", "bigquery.tables.getData")
WRITE = (*READ, "bigquery.tables.updateData")
WHO = " --member={member} --role={role}"


@dataclass(frozen=True)
class Grants:
    """Permissions that are needed on something, and where they are asked for."""

    subject: str
    service: str
    path: str  # of the resource
    permissions: tuple[str, ...]
    grant: str  # the command that gives a role, of which {role} and {member} are the parts


def on_project(project: str, *wanted: str) -> Grants:
    command = f"gcloud projects add-iam-policy-binding {shlex.quote(project)}{WHO}"
    return Grants(f"project {project}", "cloudresourcemanager", f"v1/projects/{project}", wanted, command)


def merged(grants: Iterable[Grants]) -> list[Grants]:
    """All that is needed of each thing at once."""
    found: dict[tuple[str, str], Grants] = {}
    for each in grants:
        before = found.get((each.service, each.path), each).permissions
        wanted = tuple(dict.fromkeys((*before, *each.permissions)))
        found[each.service, each.path] = replace(each, permissions=wanted)
    return list(found.values())


def input_grants(path: str) -> list[Grants]:
    """What has to be granted to read a table or query of BigQuery; nothing for another name, or an emulator."""
    found = QUERY.fullmatch(path) or NAME.fullmatch(path)
    if found is None or EMULATOR in os.environ:
        return []
    jobs = on_project(found[1], "bigquery.jobs.create", "bigquery.readsessions.create")
    return [jobs, *([_on_table(*found.groups(), wanted=READ)] if NAME.fullmatch(path) else [])]


def output_grants(table: Table) -> list[Grants]:
    """What has to be granted to write into the tables of an output; nothing for an emulator."""
    if EMULATOR in os.environ:
        return []
    names = (table.scores, table.dead_letters, table.ledger)
    tables = [_on_table(*name.rsplit(".", 2), wanted=WRITE) for name in names]
    return [on_project(table.project, "bigquery.jobs.create"), *tables]


def _on_table(project: str, dataset: str, name: str, *, wanted: tuple[str, ...]) -> Grants:
    path = f"bigquery/v2/projects/{project}/datasets/{dataset}/tables/{name}"
    command = f"bq add-iam-policy-binding{WHO} {shlex.quote(f'{project}:{dataset}.{name}')}"
    return Grants(f"{project}.{dataset}.{name}", "bigquery", path, wanted, command)
