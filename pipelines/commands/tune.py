"""`foretide tune`: a training for each combination that the task declares."""

from __future__ import annotations

import argparse

from pipelines.commands.command import TO_BEAM, Command
from pipelines.commands.train import LEARNING, training


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = training(args, rest)
    from pipelines.jobs.tune import plan, tune

    return plan(config) if args.dry_run else tune(config)


COMMAND = Command("tune", "try what the task's section `tune` declares; run again, it goes on", run, LEARNING, TO_BEAM)
