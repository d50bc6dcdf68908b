"""`foretide stream`: the scores of all entities at each as-of, as events come from Pub/Sub."""

from __future__ import annotations

import argparse
import logging
import time
from typing import TYPE_CHECKING

from pipelines.commands.command import TO_BEAM, Command, execution, filled, load
from pipelines.commands.flag import TemplateForm, flag, positive
from pipelines.commands.flags import FORMAT, METHOD, OUTPUT, PIPELINE, PLACE, SCORING, SOURCES, TIME, folder
from pipelines.errors import UserError
from pipelines.events.formats.registry import PAYLOADS, payload_format
from pipelines.google.subscription import NAME
from pipelines.jobs.config import Input, StreamConfig, StreamFlags
from pipelines.jobs.outputs.kinds import located
from pipelines.runners.execution import Execution
from pipelines.task.as_ofs import duration_of, first_as_of

if TYPE_CHECKING:
    from pipelines.task.spec import Task


TOPIC = "projects/[^/]+/topics/[^/]+"

FLAGS = (
    flag(
        "--subscription",
        TemplateForm(
            "Events",
            "Subscription",
            "PUBSUB_SUBSCRIPTION",
            NAME.pattern,
            "projects/my-project/subscriptions/events",
            "where the messages come from",
        ),
        required=True,
        metavar="NAME",
        help="projects/PROJECT/subscriptions/SUBSCRIPTION",
    ),
    *PIPELINE,
    FORMAT,
    *(each.changed(type=located) if each is OUTPUT else each for each in SCORING),
    flag(
        "--bootstrap",
        TemplateForm("Events", "History", "TEXT", SOURCES, "gs://my-bucket/history/*.parquet"),
        nargs="+",
        metavar="PATH",
        help="files of the history that the job starts from, such as an archive",
    ),
    flag(
        "--from",
        TemplateForm("Question", "First as-of", "TEXT", TIME, "2024-01-01T06:00"),
        dest="first",
        metavar="TIME",
        help="the first as-of (the next one; with --bootstrap the last ones, too)",
    ),
    flag(
        "--early",
        TemplateForm("Question", "Early scores", "TEXT", "[0-9]{1,18}(ms|s|m|h|d|w)", "30s"),
        default="0s",
        metavar="DURATION",
        help="scores before their time, at most this long after an event (none)",
    ),
    flag(
        "--archive",
        "a folder of one machine",
        type=folder,
        metavar="FOLDER",
        help="keep every message, to bootstrap and to backfill from",
    ),
    flag(
        "--dead-letters",
        TemplateForm("Output", "Topic of dead letters", "PUBSUB_TOPIC", TOPIC, "projects/my-project/topics/dead"),
        metavar="TOPIC",
        help="publish them to projects/PROJECT/topics/TOPIC (kept in the output)",
    ),
    flag(
        "--payload",
        TemplateForm("Events", "Format of messages"),
        choices=tuple(PAYLOADS),
        default="json",
        help="of the messages (%(default)s)",
    ),
    flag(
        "--avro-schema",
        TemplateForm(
            "Events",
            "Schema of messages",
            "GCS_READ_FILE",
            PLACE,
            "gs://my-bucket/events.avsc",
            parent=("payload", "avro"),
        ),
        metavar="FILE",
        help="with --payload avro, of messages that carry none",
    ),
    flag(
        "--arrival-attribute",
        "Beam's own read of Pub/Sub, which is used there, does not take it",
        metavar="NAME",
        help="of a replay: the attribute that says when a message arrived",
    ),
    METHOD.changed(
        choices=("storage", "beam"),
        help="how scores come into BigQuery: the Storage Write API, or on Dataflow Beam's own sink, in Java "
        "(%(default)s)",
    ),
    flag(
        "--pullers",
        "Dataflow decides how many pull",
        type=positive,
        default=1,
        metavar="N",
        help="pulls at the same time (%(default)s)",
    ),
)


def alone(args: argparse.Namespace, where: Execution) -> StreamFlags:
    """What the flags say by themselves."""
    bootstrap = Input.located(args.bootstrap, args.format) if args.bootstrap else None
    return filled(StreamFlags, args, bootstrap=bootstrap, execution=where)


def whole(args: argparse.Namespace, flags: StreamFlags, task: Task) -> StreamConfig:
    """What they say of a task. Raises UserError."""
    given = {arg.partition("=")[0] for arg in flags.execution.beam_args}
    if args.first is None:
        if args.arrival_attribute:
            raise UserError(
                "--arrival-attribute: a replay has a clock of its own; say where it begins with --from TIME"
            )
        if "--savepoint_path" in given:
            raise UserError(
                "--savepoint_path: say with --from TIME which first as-of that job had: the first line it printed"
            )
        if "--update" in given:
            raise UserError("--update: say with --from TIME where the job began that it replaces")
    if args.avro_schema is not None and not payload_format(args.payload).takes_schema:
        raise UserError("--avro-schema goes with --payload avro")
    first = first_as_of(task, time.time_ns() // 1000, flags.bootstrap is not None, args.first)
    return filled(StreamConfig, flags, task=task, first=first, early=duration_of("--early", args.early))


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    task, where = load(args), execution(args, rest)
    config = whole(args, alone(args, where), task)
    from pipelines.jobs.stream import plan, stream

    logging.getLogger("pipelines").setLevel(logging.INFO)  # a job that nobody watches says what happened to it
    return plan(config) if args.dry_run else stream(config)


COMMAND = Command("stream", "score every entity at each as-of as events come from Pub/Sub", run, FLAGS, TO_BEAM)
