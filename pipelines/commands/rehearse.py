"""`foretide rehearse`: a live job on an emulator, held against a backfill."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Command, filled, load
from pipelines.commands.flag import flag
from pipelines.commands.flags import AS_OF, ENGINE, FORMAT, INPUT, MODEL, OUTPUT, TASK
from pipelines.errors import UserError
from pipelines.jobs.config import Input
from pipelines.task.as_ofs import duration_of, parse_as_ofs

FLAGS = (
    TASK,
    INPUT,
    FORMAT,
    AS_OF,
    MODEL.changed(help="models/TASK, or a version's own"),
    ENGINE,
    OUTPUT.changed(metavar="FOLDER", help="where all that was made stays"),
    flag("--speed", default="1d", metavar="DURATION", help="event time that passes in a second (%(default)s)"),
    flag("--mess", action="store_true", help="messages also come late, out of order and twice"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.jobs.rehearse import RehearseConfig, rehearse

    task = load(args)
    as_ofs = parse_as_ofs(task, args.as_of)
    events = Input.located(args.input, args.format)
    if events.local != events.patterns:
        raise UserError("--input: a rehearsal reads files of this machine")
    if (as_ofs[0] - task.sequence.origin) % task.score.every:
        raise UserError(f"--as-of {args.as_of}: a live job scores at sequence.origin plus multiples of score.every")
    return rehearse(
        filled(
            RehearseConfig,
            args,
            task=task,
            task_file=args.task,
            input=events,
            start=as_ofs[0],
            end=as_ofs[-1],
            speed=duration_of("--speed", args.speed),
            stream_args=rest,
        )
    )


COMMAND = Command(
    "rehearse",
    "play event files to a live job on an emulator, and compare with a backfill",
    run,
    FLAGS,
    "other options go to foretide stream, such as --early 5s",
)
