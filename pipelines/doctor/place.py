"""Where rows go, and what BigQuery refuses."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.doctor.findings import Finding, error, ok, skipped, told
from pipelines.doctor.google import Google
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.system.files import writable


def places(launch: Launch, google: Google) -> Iterator[Finding]:
    """The output, and the archive of a live job."""
    if launch.archive is not None:
        try:
            yield ok("output-place", "--archive", writable(launch.archive, "--archive"))
        except UserError as problem:
            yield told("output-place", "--archive", problem)
    place = launch.place
    if isinstance(place, UserError):
        yield told("output-place", "--output", place)
        return
    subject = "--output" if place.here else str(place)
    if launch.task is None:
        yield skipped(place.code, subject, "the task is not known")
        return
    try:
        yield ok(place.code, subject, place.check(launch.task.outputs))
    except UserError as problem:
        yield from refused(place.code, subject, problem, google)


def refused(code: str, subject: str, problem: UserError, google: Google) -> Iterator[Finding]:
    """What BigQuery, or a check of its tables, refuses: a line a finding."""
    cause = type(problem.__cause__).__name__
    if problem.about:
        yield told(problem.about, subject, problem)
    elif cause == "ImportError":
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


def _split(problem: UserError) -> tuple[str, str]:
    what, _, how = str(problem).rpartition(": ")
    return what, f"Run {how}"
