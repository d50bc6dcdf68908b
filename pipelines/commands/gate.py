"""`foretide gate`: scores of an as-of are checked, and published or held back."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pipelines.commands.command import Command, filled
from pipelines.commands.flag import Flag, flag
from pipelines.commands.flags import DRY_RUN
from pipelines.evaluation.drift import Limits
from pipelines.task.as_ofs import duration_of, time_of
from pipelines.task.fields import format_duration


def limit(name: str, kind: Callable[[str], object], help: str) -> Flag:
    """A flag of what holds scores back, by the usual limit."""
    usual = getattr(Limits(), name.lstrip("-").replace("-", "_"))
    return flag(name, type=kind, default=usual, metavar="X", help=f"{help} (%(default)s)")


RECENT = format_duration(Limits().recent)
FLAGS = (
    flag("task", metavar="TASK", help="its name, as rows have it"),
    flag("--as-of", required=True, metavar="TIME", help="of the scores, such as 2024-01-01"),
    flag("--candidates", required=True, metavar="PLACE", help="where `foretide score` wrote them"),
    flag(
        "--output", required=True, metavar="PLACE", help="the published ones: of the same kind, written by no other job"
    ),
    flag("--since", metavar="TIME", help="leave out candidates of runs that began before it"),
    flag("--accept-drift", action="store_true", help="publish although scores have drifted"),
    DRY_RUN.changed(help="check, and publish nothing"),
    flag("--json", action="store_true", help="print run_id, attempt, ledger, drift and held as JSON"),
    limit("--max-bad-share", float, "hold back when more events, or sequences, than this were refused"),
    limit("--psi", float, "hold back above this population stability index"),
    limit("--ratio", float, "hold back when there are so many times more, or fewer, than in earlier as-ofs"),
    limit("--earlier", int, "published as-ofs to compare with"),
    limit("--score", str, "what is compared: a column, or an expression over some"),
    flag(
        "--recent",
        default=RECENT,
        metavar="DURATION",
        help="count entities with events so shortly before (%(default)s)",
    ),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    """Its exit code is 3 when scores are held back."""
    from pipelines.jobs.gate import GateConfig, gate

    limits = filled(Limits, args, recent=duration_of("--recent", args.recent))
    since = None if args.since is None else time_of("--since", args.since)
    config = filled(GateConfig, args, as_of=time_of("--as-of", args.as_of), limits=limits, since=since)
    return gate(config, args.dry_run, args.json)


COMMAND = Command("gate", "check the scores of an as-of, and publish them, or hold them back", run, FLAGS)
