"""`foretide schema`: the tables and views of BigQuery."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Command, load
from pipelines.commands.flag import flag
from pipelines.commands.flags import DRY_RUN, OUTPUT, TASK
from pipelines.jobs.outputs.kinds import output

FLAGS = (
    flag("action", choices=("apply",), help="what is there is only added to"),
    TASK,
    OUTPUT.changed(metavar="TABLE", help="bq://PROJECT.DATASET.TABLE"),
    DRY_RUN.changed(help="print what would be changed, and do nothing"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    return output(args.output).prepare(load(args), args.dry_run)


COMMAND = Command("schema", "make or extend the tables and views of BigQuery that scores go to", run, FLAGS)
