"""`foretide train`: a model of earlier as-ofs, judged on later ones."""

from __future__ import annotations

import argparse

from pipelines.commands.command import TO_BEAM, Command, execution, filled, load
from pipelines.commands.flag import flag, positive, seed
from pipelines.commands.flags import FORMAT, INPUT, MODELS, PIPELINE
from pipelines.jobs.config import Input, TrainConfig
from pipelines.task.as_ofs import parse_as_ofs, steps_of

LEARNING = (  # also of `foretide tune`
    INPUT,
    FORMAT,
    *PIPELINE,
    flag(
        "--test-as-of",
        required=True,
        metavar="TIME",
        help="the model is judged here, and sees nothing later; 2024-01-01..2024-06-01 for a rolling origin",
    ),
    flag("--test-every", metavar="DURATION", help="time between test as-ofs (score.every)"),
    flag("--train-as-ofs", type=positive, default=24, metavar="N", help="how many earlier ones (%(default)s)"),
    flag("--train-every", metavar="DURATION", help="time between them, in whole steps (the horizon)"),
    flag("--validation-as-ofs", type=positive, default=1, metavar="N", help="between the two (%(default)s)"),
    MODELS.changed(help="where models go, by task (%(default)s)"),
    flag(
        "--examples", default="examples", metavar="FOLDER", help="the store of examples, which are reused (%(default)s)"
    ),
    flag("--epochs", type=positive, metavar="N", help="instead of the task's model.epochs"),
    flag("--batch-size", type=positive, metavar="N", help="instead of the task's model.batch_size"),
    flag("--seed", type=seed, metavar="N", help="instead of the task's model.seed"),
)
FLAGS = (
    *LEARNING,
    flag("--resume", action="store_true", help="go on with the same training where it was interrupted"),
    flag("--promote", action="store_true", help="serve the new version (the first one serves anyway)"),
)


def training(args: argparse.Namespace, rest: tuple[str, ...]) -> TrainConfig:
    """What is to be learnt. Raises UserError."""
    task = load(args)
    changed = {k: v for k in ("epochs", "batch_size", "seed") if (v := getattr(args, k)) is not None}
    task = task.with_model(task.model.with_values(changed))
    test = parse_as_ofs(task, args.test_as_of, "--test-as-of", steps_of(task, "--test-every", args.test_every))
    return filled(
        TrainConfig,
        args,
        task=task,
        input=Input.located(args.input, args.format),
        test=test,
        train_every=steps_of(task, "--train-every", args.train_every) or max(task.score.every, task.horizon),
        execution=execution(args, rest),
    )


def run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = training(args, rest)
    from pipelines.jobs.train import plan, train

    return plan(config) if args.dry_run else train(config)


COMMAND = Command("train", "train a model on earlier as-ofs, judge it on later ones, export it", run, FLAGS, TO_BEAM)
