"""`foretide doctor`: looks at all that a launch needs, and tells everything that it finds. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from apache_beam.io.filesystems import FileSystems

from pipelines.doctor import events, google, memory, model, place, runner, subscription, versions
from pipelines.doctor.findings import Finding, as_json, error, healthy, text
from pipelines.doctor.launch import Launch
from pipelines.errors import Exit

Look = Callable[[], Iterator[Finding]]


def doctor(launch: Launch, json: bool = False) -> int:
    """Prints the findings, as text or as JSON, and returns the exit code: OK unless one of them is an error."""
    findings = examine(launch)
    print(as_json(launch.command, launch.task.task if launch.task else None, findings) if json else text(findings))
    return Exit.OK if healthy(findings) else Exit.UNFIT


def examine(launch: Launch) -> list[Finding]:
    """All findings: those of the arguments, of the data, of the model, of where rows go and of where the job runs."""
    found = list(launch.problems)
    services = google.Google()
    FileSystems.set_options(launch.options)
    for code, look in _looks(launch, services):
        try:
            found += look()
        except Exception as problem:  # the others are still worth having
            if launch.config.execution.debug:
                raise
            said = f"it could not be looked at: {type(problem).__name__}: {problem}"
            found.append(error(code, code, said, "Report it, with the trace that --debug shows"))
    return list(dict.fromkeys(found))


def _looks(launch: Launch, services: google.Google) -> Iterator[tuple[str, Look]]:
    """Each with the code under which it is told that it failed itself."""
    yield "data-columns", lambda: events.events(launch, services)
    yield "model-loads", lambda: model.model(launch)
    yield "memory", lambda: memory.memory(launch)
    yield "output-place", lambda: place.places(launch, services)
    if launch.config.live:
        yield "subscription", lambda: _subscription(launch)
    yield "runner-options", lambda: runner.options(launch)
    yield "runner-reachable", lambda: runner.reachable(launch)
    yield "worker-image", lambda: versions.image(launch, services)
    yield "versions", versions.here
    yield "credentials", lambda: google.credentials(launch, services)
    yield "permissions", lambda: google.permissions(launch, services)
    if launch.runner.on_google:
        yield "runner-reachable", lambda: google.dataflow(launch, services)
        yield "accelerators", lambda: google.accelerators(launch, services)


def _subscription(launch: Launch) -> Iterator[Finding]:
    """What it is and, if that can be read from, what waits in it."""
    found = list(subscription.subscription(launch))
    yield from found
    if healthy(found):
        yield from events.messages(launch, subscription.peek(launch))
