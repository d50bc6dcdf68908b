"""`foretide models`: which models there are, and which one serves."""

from __future__ import annotations

import argparse
import os

from pipelines.commands.command import Command
from pipelines.commands.flag import flag
from pipelines.commands.flags import MODELS
from pipelines.errors import Exit, UserError, unknown_option

FLAGS = (
    flag(
        "names",
        nargs="*",
        metavar="NAME",
        help="[list] [TASK], compare VERSION VERSION, promote VERSION, rollback TASK",
    ),
    MODELS.changed(help="of `foretide train` (%(default)s)"),
)
ACTIONS = {  # what they take: at least, at most, in words
    "list": (0, 1, "one task, or none for all"),
    "compare": (2, 2, "two models: versions, tasks or folders"),
    "promote": (1, 1, "one version"),
    "rollback": (1, 1, "one task"),
}


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        raise unknown_option(unknown, "; see foretide models --help")
    names = [*args.names, *rest]  # argparse takes those after an option for others
    action = names.pop(0) if names and names[0] in ACTIONS else "list"
    least, most, what = ACTIONS[action]
    if not least <= len(names) <= most:
        raise UserError(f"foretide models {action} takes {what}")
    from pipelines.jobs import models
    from pipelines.models import registry

    root = args.models
    if action == "list":
        print(models.table(registry.models(root, *names)))
    elif action == "compare":
        print(models.compare(registry.find(root, names[0]), registry.find(root, names[1])))
    elif action == "promote":
        path = registry.find(root, names[0])
        print(f"{path.parent} serves {registry.promote(path.parent, path.name).version}")
    else:
        folder = os.path.join(root, names[0])
        print(f"{folder} serves {registry.rollback(folder).version}")
    return Exit.OK


COMMAND = Command("models", "list and compare models, and say which one serves", run, FLAGS, "")
