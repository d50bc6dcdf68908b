"""`foretide query`: SQL on what was written."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Command
from pipelines.commands.flag import flag, natural
from pipelines.errors import Exit
from pipelines.jobs.outputs.kinds import output
from pipelines.system.files import private_umask

FLAGS = (
    flag("sql", metavar="SQL", help='such as "SELECT * FROM scores ORDER BY churn DESC LIMIT 10"'),
    flag("--output", required=True, metavar="FOLDER", help="the output folder of `foretide score`"),
    flag(
        "--format",
        choices=("table", "csv", "spreadsheet", "json"),
        default="table",
        help="csv is exact; spreadsheet is CSV in which no text is a formula (%(default)s)",
    ),
    flag("--limit", type=natural, default=100, metavar="N", help="rows that a table shows; 0 for all (%(default)s)"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    with private_umask():  # of what DuckDB keeps on the disk meanwhile, and of files that the statement writes
        output(args.output).query(args.sql, args.format, args.limit)
    return Exit.OK


COMMAND = Command("query", "run SQL on scores, dead_letters and ledger", run, FLAGS)
