"""`foretide doctor`: looks at all that a launch needs, and tells everything that it finds. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from pipelines.doctor import events, google, model, subscription, versions
from pipelines.doctor.findings import CODES, as_json, healthy, text
from pipelines.errors import Exit, Finding, UserError
from pipelines.jobs.checks import before
from pipelines.jobs.checks.before import Check
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.launch import Launch


def doctor(launch: Launch, json: bool = False) -> int:
    """Prints the findings, as text or as JSON, and returns the exit code: OK unless one of them is an error."""
    findings = examine(launch)
    print(as_json(launch.command, launch.task.task if launch.task else None, findings) if json else text(findings))
    return Exit.OK if healthy(findings) else Exit.UNFIT


def checks(services: google.Google) -> tuple[Check, ...]:
    """What a launch must pass, and what else can be looked at. To add a check, write it and give it a line here or,
    where a launch must pass it, in `before`."""
    data = ("input", "task")
    return (
        *before.CHECKS,
        Check("input-rows", events.rows, data),
        *(Check(code, partial(events.of_input, judge), data) for code, judge in events.JUDGES),
        Check("model-loads", model.engine, ("scoring",)),
        Check("messages", partial(subscription.messages, events.of_messages), ("stream",)),
        Check("worker-image", partial(versions.image, services)),
        Check("versions", versions.here),
        Check("credentials", partial(google.credentials, services)),
        Check("permissions", partial(google.permissions, services)),
        Check("runner-reachable", partial(google.dataflow, services)),
        Check("accelerators", partial(google.accelerators, services)),
    )


def examine(launch: Launch) -> list[Finding]:
    """All findings: those of the arguments, of the data, of the model, of where rows go and of where the job runs."""
    services, facts = google.Google(), Facts(launch, dry_run=True, launching=False)
    found = list(launch.problems)
    for check in checks(services):
        found += _all(check, facts)
    return list(dict.fromkeys(map(partial(_complete, services), found)))


def _all(check: Check, facts: Facts) -> Iterator[Finding]:
    """What a check finds or raises. The others are still worth having where it fails itself."""
    try:
        yield from check.findings(facts)
    except UserError as error:
        yield from error.findings
    except Exception as problem:
        if facts.launch.config.execution.debug:
            raise
        said = f"it could not be looked at: {type(problem).__name__}: {problem}"
        yield Finding(check.code, "error", check.code, said, "Report it, with the trace that --debug shows")


def _complete(services: google.Google, found: Finding) -> Finding:
    """Warnings and errors have a remedy: that of their code where they have none of their own."""
    if found.severity not in ("warning", "error"):
        return found
    remedy = found.remedy or CODES[found.code].remedy
    if "=ACCOUNT" in remedy:
        remedy = remedy.replace("=ACCOUNT", f"={services.whom}")
    return replace(found, remedy=remedy)
