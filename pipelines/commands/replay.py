"""`foretide replay`: dead letters go to their topic again."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Command, filled
from pipelines.commands.flag import OneOf, flag
from pipelines.commands.flags import DRY_RUN

FLAGS = (
    OneOf(
        (
            flag("--output", metavar="FOLDER", help="the output folder of `foretide stream`"),
            flag("--subscription", metavar="NAME", help="of the topic of dead letters"),
        )
    ),
    flag("--topic", required=True, metavar="NAME", help="projects/PROJECT/topics/TOPIC to publish to"),
    flag("--reason", metavar="TEXT", help="only those whose reason has this text"),
    DRY_RUN.changed(help="count them, and send nothing"),
)


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.jobs.replay import ReplayConfig, replay

    return replay(filled(ReplayConfig, args))


COMMAND = Command("replay", "send dead letters to their topic again, after what was wrong is mended", run, FLAGS)
