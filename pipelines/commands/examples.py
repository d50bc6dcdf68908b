"""`foretide examples`: labelled sequences to train on."""

from __future__ import annotations

import argparse

from pipelines.commands.command import TO_BEAM, Command, execution, filled, load
from pipelines.commands.flag import flag
from pipelines.commands.flags import AS_OF, FORMAT, INPUT, PIPELINE
from pipelines.jobs.config import ExamplesConfig, Input
from pipelines.task.as_ofs import parse_as_ofs

FLAGS = (
    INPUT,
    FORMAT,
    *PIPELINE,
    AS_OF,
    flag("--output", default="examples", metavar="FOLDER", help="the store, which keeps what it has (%(default)s)"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    task = load(args)
    as_ofs = parse_as_ofs(task, args.as_of)
    events, where = Input.located(args.input, args.format), execution(args, rest)
    config = filled(ExamplesConfig, args, task=task, input=events, as_ofs=as_ofs, execution=where)
    from pipelines.jobs.examples import plan, write_examples

    return plan(config) if args.dry_run else write_examples(config)


COMMAND = Command("examples", "write labelled sequences to train on", run, FLAGS, TO_BEAM)
