"""`foretide gate`: scores of an as-of are checked, and published or held back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields

from pipelines.errors import UserError, unknown_option
from pipelines.evaluation.drift import Limits
from pipelines.task.fields import format_duration, parse_duration, parse_time

HELP = "check the scores of an as-of, and publish them, or hold them back"


def flags(command: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    usual = Limits()
    command.add_argument("task", metavar="TASK", help="its name, as rows have it")
    command.add_argument("--as-of", required=True, metavar="TIME", help="of the scores, such as 2024-01-01")
    command.add_argument("--candidates", required=True, metavar="PLACE", help="where `foretide score` wrote them")
    command.add_argument(
        "--output", required=True, metavar="PLACE", help="the published ones: of the same kind, written by no other job"
    )
    command.add_argument("--since", metavar="TIME", help="leave out candidates of runs that began before it")
    command.add_argument("--accept-drift", action="store_true", help="publish although scores have drifted")
    command.add_argument("--dry-run", action="store_true", help="check, and publish nothing")
    command.add_argument("--json", action="store_true", help="print run_id, attempt, ledger, drift and held as JSON")
    for name, kind, help in (
        ("max-bad-share", float, "hold back when more events, or sequences, than this were refused"),
        ("psi", float, "hold back above this population stability index"),
        ("ratio", float, "hold back when there are so many times more, or fewer, than in earlier as-ofs"),
        ("earlier", int, "published as-ofs to compare with"),
        ("score", str, "what is compared: a column, or an expression over some"),
    ):
        default = getattr(usual, name.replace("-", "_"))
        command.add_argument(f"--{name}", type=kind, default=default, metavar="X", help=f"{help} ({default})")
    recent = format_duration(usual.recent)
    command.add_argument(
        "--recent", default=recent, metavar="DURATION", help=f"count entities with events so shortly before ({recent})"
    )


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    """Runs the command. Its exit code is 3 when scores are held back."""
    if rest:
        raise unknown_option(rest, "; see foretide gate --help")
    from pipelines.jobs.gate import GateConfig, gate

    given = {f.name: getattr(args, f.name) for f in fields(Limits)}
    limits = Limits(**{**given, "recent": _parsed(parse_duration, "--recent", args.recent)})
    as_of = _parsed(parse_time, "--as-of", args.as_of)
    since = None if args.since is None else _parsed(parse_time, "--since", args.since)
    config = GateConfig(args.task, as_of, args.candidates, args.output, limits, since, args.accept_drift)
    return gate(config, args.dry_run, args.json)


def _parsed(parse: Callable[[object], int], flag: str, text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None
