"""The command line `foretide`: takes a command and its flags apart, runs it, and says how it ended.

Each command, with its flags, is a file of `pipelines.commands`. Everything below receives a frozen config.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

from pipelines.commands import (
    doctor,
    examples,
    gate,
    models,
    option_files,
    query,
    rehearse,
    replay,
    savepoint,
    schema,
    score,
    stream,
    train,
    tune,
)
from pipelines.commands.command import EXIT_CODES
from pipelines.errors import Exit, UserError, unknown_option
from pipelines.system import interrupts
from pipelines.system.screen import shown_streams

COMMANDS = (  # in the order of `foretide --help`
    score.COMMAND,
    gate.COMMAND,
    stream.COMMAND,
    doctor.COMMAND,
    rehearse.COMMAND,
    replay.COMMAND,
    examples.COMMAND,
    train.COMMAND,
    tune.COMMAND,
    models.COMMAND,
    schema.COMMAND,
    savepoint.COMMAND,
    query.COMMAND,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    with shown_streams():
        try:
            given = option_files.expanded(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"foretide: {error}", file=sys.stderr)
            return int(error.exit)
        args, rest = parser().parse_known_args(given)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if args.debug else "3")
        logging.basicConfig(
            level=logging.INFO if args.debug else logging.CRITICAL, format="%(asctime)s %(levelname)s %(message)s"
        )
        code = _run(args, tuple(rest))
    number = interrupts.received()
    return code if number is None else 128 + number


def entry() -> None:
    """Runs the program `foretide`. Whatever ends the process by a signal is told where standard error goes now."""
    interrupts.install()
    with suppress(OSError):  # there is none
        faulthandler.enable(os.dup(2))
    try:
        code = main()
    except KeyboardInterrupt:  # once more, or before there was a command
        code = 128 + (interrupts.received() or signal.SIGINT)
    if interrupts.received() is not None:
        interrupts.leave(code)
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line: every command with its flags."""
    found = argparse.ArgumentParser(
        prog="foretide",
        description="A score for every customer, player or instrument, from event logs.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    found.add_argument("--version", action=_Version, nargs=0, help="print the version, and do nothing")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return found


class _Version(argparse.Action):
    """Prints which version is installed; it is looked up for no other command."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        print(f"foretide {metadata.version('foretide')}")
        parser.exit()


def _run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    try:
        _check_places(args)
        if rest and args.rest is None:
            raise unknown_option(rest, f"; see foretide {args.command} --help")
        code = int(args.run(args, rest))
        sys.stdout.flush()  # here, where a reader who has gone is no surprise
        return code
    except UserError as error:
        print(f"foretide {args.command}: {error}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:  # also of SIGTERM
        print(f"foretide {args.command}: interrupted; the same command starts it anew", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:  # as `| head` does: an answer cut short is fine, a run cut short is not
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK if args.command == "query" else Exit.FAILED)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"foretide {args.command}: {type(error).__name__}: {error} (--debug shows the trace)", file=sys.stderr)
        return int(Exit.FAILED)


def _check_places(args: argparse.Namespace) -> None:
    """Raises UserError for an empty path, as a variable that is not set leaves it: it would mean this folder."""
    for flag in args.flags:
        if flag.is_place and "" in (value if isinstance(value := getattr(args, flag.parameter), list) else [value]):
            raise UserError(f"{flag.name}: is empty; name a file or folder")


if __name__ == "__main__":
    entry()
