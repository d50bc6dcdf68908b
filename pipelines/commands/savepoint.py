"""`foretide savepoint`: a live job on Flink stops, and its state is kept."""

from __future__ import annotations

import argparse
import shlex

from pipelines.commands.command import Command
from pipelines.commands.flag import flag
from pipelines.errors import Exit, UserError

FLAGS = (
    flag("job", metavar="JOB", help="its name or ID, as the cluster's page shows them"),
    flag("--target", metavar="FOLDER", help="where the savepoint goes, as the cluster reaches it"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    """Says how another job goes on from there.

    Raises:
      UserError: no cluster is named, there is no such job, or it cannot be stopped in this way.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.runners.flink import cluster
    from pipelines.runners.flink_job import FlinkJob
    from pipelines.runners.kinds import check_beam_args

    check_beam_args(rest)
    master = cluster(PipelineOptions(list(rest)))
    if master is None:
        raise UserError("--flink_master=HOST:PORT is missing: which cluster runs the job?")
    place = FlinkJob(master, args.job).stop(args.target)
    print(f"stopped     {args.job}\nsavepoint   {place}")
    begin = f"--from of its first as-of and --savepoint_path={shlex.quote(place)}"
    print(f"next        the same `foretide stream` as before, with {begin}")
    return Exit.OK


COMMAND = Command(
    "savepoint",
    "stop a live job on Flink, and keep its state to go on from",
    run,
    FLAGS,
    "--flink_master=HOST:PORT says which cluster",
)
