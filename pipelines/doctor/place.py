"""Where rows go: folders that can be written to, and the tables of BigQuery."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.findings import Finding, error, ok, skipped, told
from pipelines.doctor.google import Google
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.google import bigquery as client
from pipelines.google.tables import is_bigquery, parse_table
from pipelines.jobs.outputs import output
from pipelines.storage.bigquery import schema
from pipelines.system.processes import listens


def places(launch: Launch, google: Google) -> Iterator[Finding]:
    """The output, and the archive of a live job."""
    if launch.archive is not None:
        yield _folder(launch.archive, "--archive")
    try:
        output(launch.config.output, launch.config.method, launch.replace_model)
    except UserError as problem:
        yield told("output-place", "--output", problem)
        return
    if is_bigquery(launch.config.output):
        yield from _tables(launch, google)
    else:
        yield _folder(launch.config.output, "--output")


def _folder(place: str, flag: str) -> Finding:
    if "://" in place:
        return error("output-place", flag, f"{flag} {place} is no folder of this machine, nor a table of BigQuery")
    folder = Path(os.path.realpath(place))
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        return error("output-place", flag, f"{flag} {place}: {there} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        return error("output-place", flag, f"{flag} {place}: cannot write to {there}: {problem.strerror or problem}")
    return ok("output-place", flag, f"{folder} can be {'written to' if there == folder else 'made'}")


def bigquery_answers() -> Finding | None:
    """An emulator that does not answer, which a client would wait for; None where one does, or there is none."""
    host = os.environ.get(client.EMULATOR)
    if host is None:
        return None
    why = listens(host.rpartition("//")[2].rstrip("/"))
    if why is None:
        return None
    remedy = f"Start it, or unset {client.EMULATOR} to use the real service"
    return error("bigquery", client.EMULATOR, f"no BigQuery emulator answers at {host}: {why}", remedy)


def refused(code: str, subject: str, problem: UserError, google: Google) -> Iterator[Finding]:
    """What BigQuery, or a check of its tables, refuses: a line a finding."""
    cause = type(problem.__cause__).__name__
    if cause == "ImportError":
        yield error("bigquery", subject, *_split(problem))
    elif cause == "Forbidden":
        try:
            account = google.account
        except UserError:
            account = "user:YOUR_ACCOUNT"
        roles = "roles/bigquery.dataEditor and roles/bigquery.jobUser"
        command = "gcloud projects add-iam-policy-binding PROJECT --member={} --role=ROLE"
        remedy = f"Grant {roles} to {account}: {command.format(account)}"
        yield error("permissions", subject, f"{problem}: it takes {roles}", remedy)
    elif cause.endswith(("CredentialsError", "RefreshError")):
        yield error("credentials", subject, str(problem))
    elif cause in ("NoneType", "NotFound"):
        for line in str(problem).removeprefix(f"{subject}: ").split("\n"):
            yield told(code, subject, UserError(line))
    else:
        yield error("bigquery", subject, str(problem), "Try again, or see the message")


def _tables(launch: Launch, google: Google) -> Iterator[Finding]:
    table = parse_table(launch.config.output)
    unreached = bigquery_answers()
    if unreached is not None or launch.task is None:
        yield skipped("output-tables", str(table), "the task is not known" if unreached is None else unreached.message)
        return
    try:
        schema.check(table, launch.task.outputs)
    except UserError as problem:
        yield from refused("output-tables", str(table), problem, google)
        return
    yield ok("output-tables", str(table), f"{table} has the columns {', '.join(launch.task.outputs)}")


def _split(problem: UserError) -> tuple[str, str]:
    what, _, how = str(problem).rpartition(": ")
    return what, f"Run {how}"
