"""`foretide gate`: scores of an as-of are checked, and published or held back."""

from __future__ import annotations

import argparse
from dataclasses import fields

from pipelines.commands.command import Command, duration
from pipelines.commands.flag import flag
from pipelines.errors import UserError
from pipelines.evaluation.drift import Limits
from pipelines.task.fields import format_duration, parse_time

USUAL = Limits()
FLAGS = (
    flag("task", metavar="TASK", help="its name, as rows have it"),
    flag("--as-of", required=True, metavar="TIME", help="of the scores, such as 2024-01-01"),
    flag("--candidates", required=True, metavar="PLACE", help="where `foretide score` wrote them"),
    flag("--output", required=True, metavar="PLACE", help="the published ones: of the same kind"),
    flag("--since", metavar="TIME", help="leave out candidates of runs that began before it"),
    flag("--accept-drift", action="store_true", help="publish although scores have drifted"),
    flag("--dry-run", action="store_true", help="check, and publish nothing"),
    flag("--json", action="store_true", help="print run_id, attempt, ledger, drift and held as JSON"),
    *(
        flag(f"--{name}", type=kind, default=default, metavar="X", help=f"{help} (%(default)s)")
        for name, kind, default, help in (
            (
                "max-bad-share",
                float,
                USUAL.max_bad_share,
                "hold back when more events, or sequences, than this were refused",
            ),
            ("psi", float, USUAL.psi, "hold back above this population stability index"),
            (
                "ratio",
                float,
                USUAL.ratio,
                "hold back when there are so many times more, or fewer, than in earlier as-ofs",
            ),
            ("earlier", int, USUAL.earlier, "published as-ofs to compare with"),
            ("score", str, USUAL.score, "what is compared: a column, or an expression over some"),
        )
    ),
    flag(
        "--recent",
        default=format_duration(USUAL.recent),
        metavar="DURATION",
        help="count entities with events so shortly before (%(default)s)",
    ),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    """Its exit code is 3 when scores are held back."""
    given = {f.name: getattr(args, f.name) for f in fields(Limits)}
    limits = Limits(**{**given, "recent": duration("--recent", args.recent)})
    as_of = _time("--as-of", args.as_of)
    since = None if args.since is None else _time("--since", args.since)
    from pipelines.jobs.gate import GateConfig, gate

    config = GateConfig(args.task, as_of, args.candidates, args.output, limits, since, args.accept_drift)
    return gate(config, args.dry_run, args.json)


def _time(name: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise UserError(f"{name} {text}: {error}") from None


COMMAND = Command("gate", "check the scores of an as-of, and publish them, or hold them back", run, FLAGS)
