"""`foretide doctor`: all that a launch needs is looked at before it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pipelines.commands import score, stream
from pipelines.commands.command import TO_BEAM, Command, CommandGroup, execution, filled, load
from pipelines.commands.flag import flag
from pipelines.errors import Finding, UserError
from pipelines.runners.execution import Execution

if TYPE_CHECKING:
    from pipelines.jobs.launch import Launch

T = TypeVar("T")

JSON = flag("--json", action="store_true", help="findings for programs, as docs/doctor.md says")


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.doctor.doctor import doctor

    return doctor(launch(args, rest), args.json)


def launch(args: argparse.Namespace, rest: tuple[str, ...]) -> Launch:
    """All that can be read of a launch: what is wrong in one argument does not hide what is wrong elsewhere."""
    from pipelines.jobs.checks.findings import coded
    from pipelines.jobs.launch import Launch

    problems: list[Finding] = []

    def tried(code: str, subject: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except UserError as problem:
            problems.extend(replace(f, subject=subject) for f in coded(problem, code).findings)
            return None

    task = tried("task-file", args.task, lambda: load(args))
    tried("runner-options", "options of Beam", lambda: execution(args, rest))
    where = filled(Execution, args, beam_args=rest)
    asked = score if args.launch == "score" else stream
    flags = asked.alone(args, where)
    if task is not None:
        flags = tried("arguments", "arguments", lambda: asked.whole(args, flags, task)) or flags
    return Launch(flags, task, tuple(problems))


COMMAND = CommandGroup(
    "doctor",
    "check all that a launch needs, and say what to do",
    "launch",
    tuple(
        Command(of.name, f"before `foretide {of.name}` with the same arguments", run, (JSON, *of.flags), TO_BEAM)
        for of in (score.COMMAND, stream.COMMAND)
    ),
)
