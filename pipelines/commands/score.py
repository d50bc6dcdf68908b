"""`foretide score`: the scores of all entities of event files, as of one or more times."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipelines.commands.command import TO_BEAM, Command, execution, filled, load
from pipelines.commands.flag import TemplateForm, flag
from pipelines.commands.flags import AS_OF, FORMAT, INPUT, METHOD, PIPELINE, SCORING
from pipelines.jobs.config import Input, ScoreConfig, ScoreFlags
from pipelines.runners.execution import RAM, Execution
from pipelines.task.as_ofs import parse_as_ofs

if TYPE_CHECKING:
    from pipelines.task.spec import Task

FLAGS = (
    INPUT,
    FORMAT,
    *PIPELINE,
    AS_OF,
    *SCORING,
    METHOD.changed(
        choices=("storage", "load"),
        help="how rows come into BigQuery: the Storage Write API, or load jobs (%(default)s)",
    ),
    flag(
        "--inference-ram",
        TemplateForm("Job", "Memory for inference", "TEXT", RAM.pattern, "16GB"),
        metavar="SIZE",
        help="on Dataflow, of the workers for inference, such as 16GB (as for others)",
    ),
    flag(
        "--replace-model",
        TemplateForm("Output", "Replace another model's scores"),
        action="store_true",
        help="in BigQuery, replace scores of the same revision by another model",
    ),
)


def alone(args: argparse.Namespace, where: Execution) -> ScoreFlags:
    """What the flags say by themselves."""
    return filled(ScoreFlags, args, input=Input.located(args.input, args.format), execution=where)


def whole(args: argparse.Namespace, flags: ScoreFlags, task: Task) -> ScoreConfig:
    """What they say of a task. Raises UserError."""
    return filled(ScoreConfig, flags, task=task, as_ofs=parse_as_ofs(task, args.as_of))


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    task, where = load(args), execution(args, rest)
    config = whole(args, alone(args, where), task)
    from pipelines.jobs.score import plan, score

    return plan(config) if args.dry_run else score(config)


COMMAND = Command("score", "score every entity of event files as of one or more times", run, FLAGS, TO_BEAM)
