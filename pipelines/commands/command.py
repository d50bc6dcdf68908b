"""A command: its name, its flags and what it runs; and how configs are made of what was given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.commands.flag import Flag, OneOf
from pipelines.commands.flags import EVERY
from pipelines.runners.execution import Execution

if TYPE_CHECKING:
    from pipelines.task.spec import Task

C = TypeVar("C")
Run = Callable[[argparse.Namespace, tuple[str, ...]], int]

EXIT_CODES = """exit codes: 0 done; 1 the program or the machine failed; 2 a wrong flag, task file or input;
3 too many bad rows or drift, no score published; 4 the ledger does not add up, no score published;
5 the model does not fit the task; 6 the doctor found errors; 130 interrupted (SIGINT), 143 (SIGTERM)"""
TO_BEAM = "other options go to Beam, such as --runner=FlinkRunner"


@dataclass(frozen=True)
class Command:
    """A command of `foretide`.

    Args:
      run: takes what was given, and words that no flag takes; returns the exit code. Whatever takes long to load it
        imports itself, after what may be wrong in the arguments.
      rest: where other words go, as its help says; None where there must be none.
    """

    name: str
    help: str
    run: Run
    flags: tuple[Flag | OneOf, ...]
    rest: str | None = None

    def add(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        epilog = f"{self.rest}; {EXIT_CODES}" if self.rest else EXIT_CODES
        parser = commands.add_parser(
            self.name, help=self.help, description=self.help, epilog=epilog, allow_abbrev=False
        )
        parser.set_defaults(run=self.run, rest=self.rest, flags=[flag for each in self.flags for flag in each.flags])
        for each in (*EVERY, *self.flags):
            each.add(parser)


@dataclass(frozen=True)
class CommandGroup:
    """A command that is followed by the name of another one."""

    name: str
    help: str
    dest: str
    commands: tuple[Command, ...]

    def add(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        parser = commands.add_parser(self.name, help=self.help, epilog=EXIT_CODES, allow_abbrev=False)
        inner = parser.add_subparsers(dest=self.dest, required=True, metavar="|".join(c.name for c in self.commands))
        for command in self.commands:
            command.add(inner)


def filled(kind: type[C], given: object, **made: Any) -> C:
    """A config: each field is what `made` says, or else what a flag of that name was given, or another config has; or
    else its default."""
    values = {f.name: getattr(given, f.name) for f in fields(kind) if hasattr(given, f.name)}  # type: ignore[arg-type]
    return kind(**{**values, **made})


def load(args: argparse.Namespace) -> Task:
    """The task. Raises UserError."""
    from pipelines.task.file import load_task

    return load_task(args.task)


def execution(args: argparse.Namespace, rest: tuple[str, ...]) -> Execution:
    """Where the job runs.

    Raises:
      UserError: Beam does not know one of the other options, or a number that nobody means.
    """
    if rest:
        from pipelines.runners.kinds import check_beam_args

        check_beam_args(rest)
    found = filled(Execution, args, beam_args=rest)
    found.check()
    return found
