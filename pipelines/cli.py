"""The command line `foretide`: the only place that knows flags. Everything below receives a frozen config."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

from pipelines.commands import gate
from pipelines.commands import option_files as optionfiles
from pipelines.errors import Exit, Finding, UserError, unknown_option
from pipelines.events.formats.registry import FORMATS, PAYLOADS, payload_format
from pipelines.jobs.config import (
    ExamplesConfig,
    Execution,
    Input,
    ScoreConfig,
    StreamConfig,
    TrainConfig,
    first_as_of,
    parse_as_ofs,
)
from pipelines.jobs.outputs.kinds import located, output
from pipelines.system import interrupts
from pipelines.system.files import private_umask
from pipelines.system.terminal import shown_streams
from pipelines.task.fields import format_duration, parse_duration
from pipelines.task.spec import Task

if TYPE_CHECKING:
    from pipelines.jobs.launch import Launch

T = TypeVar("T")

EXIT_CODES = """exit codes: 0 done; 1 the program or the machine failed; 2 a wrong flag, task file or input;
3 too many bad rows or drift, no score published; 4 the ledger does not add up, no score published;
5 the model does not fit the task; 6 the doctor found errors; 130 interrupted (SIGINT), 143 (SIGTERM)"""

PLACES = (
    "task",
    "input",
    "output",
    "candidates",
    "model",
    "models",
    "examples",
    "bootstrap",
    "archive",
    "avro_schema",
    "target",
)

MODEL_ACTIONS = {  # what they take: at least, at most, in words
    "list": (0, 1, "one task, or none for all"),
    "compare": (2, 2, "two models: versions, tasks or folders"),
    "promote": (1, 1, "one version"),
    "rollback": (1, 1, "one task"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    with shown_streams():
        try:
            given = optionfiles.expanded(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"foretide: {error}", file=sys.stderr)
            return int(error.exit)
        args, rest = _parser().parse_known_args(given)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if args.debug else "3")
        logging.basicConfig(
            level=logging.INFO if args.debug else logging.CRITICAL, format="%(asctime)s %(levelname)s %(message)s"
        )
        code = _run(args, tuple(rest))
    number = interrupts.received()
    return code if number is None else 128 + number


def _run(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    try:
        _check_places(args)
        code = int(args.run(args, rest))
        sys.stdout.flush()  # here, where a reader who has gone is no surprise
        return code
    except UserError as error:
        print(f"foretide {args.command}: {error}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:  # also of SIGTERM
        print(f"foretide {args.command}: interrupted; the same command starts it anew", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:  # as `| head` does: an answer cut short is fine, a run cut short is not
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK if args.command == "query" else Exit.FAILED)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"foretide {args.command}: {type(error).__name__}: {error} (--debug shows the trace)", file=sys.stderr)
        return int(Exit.FAILED)


def _check_places(args: argparse.Namespace) -> None:
    """Refuses an empty path, as a variable that is not set leaves it: it would mean this folder. Raises UserError."""
    for name in PLACES:
        value = getattr(args, name, None)
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(f"--{name.replace('_', '-')}: is empty; name a file or folder")


def entry() -> None:
    """Runs the program `foretide`. Whatever ends the process by a signal is told where standard error goes now."""
    interrupts.install()
    with suppress(OSError):  # there is none
        faulthandler.enable(os.dup(2))
    try:
        code = main()
    except KeyboardInterrupt:  # once more, or before there was a command
        code = 128 + (interrupts.received() or signal.SIGINT)
    if interrupts.received() is not None:
        interrupts.leave(code)
    sys.exit(code)


def _score(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = _score_config(args, _task(args), _execution(args, rest))
    from pipelines.jobs.score import plan, score  # after what may be wrong in the arguments: Beam takes seconds to load

    return plan(config) if args.dry_run else score(config)


def _score_config(args: argparse.Namespace, task: Task, execution: Execution) -> ScoreConfig:
    return ScoreConfig(
        task=task,
        input=_input(args, args.input, args.max_bad_share),
        as_ofs=parse_as_ofs(task, args.as_of),
        model=args.model,
        engine=args.engine,
        device=args.device,
        batch_size=args.batch_size,
        output=args.output,
        execution=execution,
        method=args.bigquery_method,
        replace_model=args.replace_model,
    )


def _stream(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = _stream_config(args, _task(args), _execution(args, rest))
    from pipelines.jobs.stream import plan, stream

    logging.getLogger("pipelines").setLevel(logging.INFO)  # a job that nobody watches says what happened to it
    return plan(config) if args.dry_run else stream(config)


def _stream_config(args: argparse.Namespace, task: Task, execution: Execution) -> StreamConfig:
    if args.arrival_attribute and args.first is None:
        raise UserError("--arrival-attribute: a replay has a clock of its own; say where it begins with --from TIME")
    if args.first is None and any(arg.partition("=")[0] == "--savepoint_path" for arg in execution.beam_args):
        raise UserError(
            "--savepoint_path: say with --from TIME which first as-of that job had: the first line it printed"
        )
    if args.first is None and "--update" in execution.beam_args:
        raise UserError("--update: say with --from TIME where the job began that it replaces")
    if args.avro_schema is not None and not payload_format(args.payload).takes_schema:
        raise UserError("--avro-schema goes with --payload avro")
    bootstrap = _input(args, args.bootstrap, args.max_bad_share) if args.bootstrap else None
    return StreamConfig(
        task=task,
        subscription=args.subscription,
        arrival_attribute=args.arrival_attribute,
        payload=args.payload,
        avro_schema=args.avro_schema,
        bootstrap=bootstrap,
        first=first_as_of(task, time.time_ns() // 1000, bootstrap is not None, args.first),
        early=_duration("--early", args.early),
        model=args.model,
        engine=args.engine,
        device=args.device,
        batch_size=args.batch_size,
        output=located(args.output),
        archive=args.archive and os.path.abspath(args.archive),
        dead_letters=args.dead_letters,
        max_bad_share=args.max_bad_share,
        pullers=args.pullers,
        execution=execution,
        method=args.bigquery_method,
    )


def _doctor(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.doctor.doctor import doctor

    return doctor(_launch(args, rest), args.json)


def _launch(args: argparse.Namespace, rest: tuple[str, ...]) -> Launch:
    """All that can be read of a launch: what is wrong in one argument does not hide what is wrong elsewhere."""
    from pipelines.events.decode import Since, Span
    from pipelines.jobs.checks.findings import coded
    from pipelines.jobs.launch import Launch

    problems: list[Finding] = []

    def tried(code: str, subject: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except UserError as problem:
            problems.extend(replace(f, subject=subject) for f in coded(problem, code).findings)
            return None

    task = tried("task-file", args.task, lambda: _task(args))
    tried("runner-options", "options of Beam", lambda: _execution(args, rest))
    execution = Execution(args.workers, args.shards, rest, args.debug, *_resources(args))
    span: Span | Since | None = None
    job_name = None
    if task is not None and args.launch == "score":
        run = tried("arguments", "arguments", lambda: _score_config(args, task, execution))
        span = Span(run.as_ofs) if run is not None else None
    elif task is not None:
        job = tried("arguments", "arguments", lambda: _stream_config(args, task, execution))
        span, job_name = (Since(job.first), job.job_name) if job is not None else (None, None)
    paths = args.input if args.launch == "score" else args.bootstrap
    archive = getattr(args, "archive", None)
    return Launch(
        command=args.launch,
        problems=tuple(problems),
        task=task,
        span=span,
        input=_input(args, paths, args.max_bad_share) if paths else None,
        max_bad_share=args.max_bad_share,
        output=located(args.output),
        execution=execution,
        method=args.bigquery_method,
        archive=archive and os.path.abspath(archive),
        job_name=job_name,
        **{
            name: getattr(args, name)
            for name in (
                *("model", "engine", "device", "batch_size", "replace_model"),
                *("subscription", "arrival_attribute", "payload", "avro_schema", "dead_letters"),
            )
            if hasattr(args, name)
        },
    )


def _rehearse(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.jobs.rehearse import RehearseConfig, rehearse

    task = _task(args)
    as_ofs = parse_as_ofs(task, args.as_of)
    events = _input(args, args.input, 1.0)
    if events.local != events.patterns:
        raise UserError("--input: a rehearsal reads files of this machine")
    if (as_ofs[0] - task.sequence.origin) % task.score.every:
        raise UserError(f"--as-of {args.as_of}: a live job scores at sequence.origin plus multiples of score.every")
    config = RehearseConfig(
        task=task,
        task_file=args.task,
        input=events,
        start=as_ofs[0],
        end=as_ofs[-1],
        speed=_duration("--speed", args.speed) / 1e6,
        mess=args.mess,
        model=args.model,
        output=args.output,
        stream_args=rest,
    )
    return rehearse(config)


def _replay(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.jobs.replay import ReplayConfig, replay

    if rest:
        raise unknown_option(rest, "; see foretide replay --help")
    return replay(ReplayConfig(args.output, args.subscription, args.topic, args.reason, args.dry_run))


def _examples(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    task = _task(args)
    as_ofs = parse_as_ofs(task, args.as_of)
    config = ExamplesConfig(
        task, _input(args, args.input, args.max_bad_share), as_ofs, args.output, _execution(args, rest)
    )
    from pipelines.jobs.examples import plan, write_examples

    return plan(config) if args.dry_run else write_examples(config)


def _train(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = _training(args, rest)
    from pipelines.jobs.train import plan, train

    return plan(config) if args.dry_run else train(config)


def _tune(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    config = _training(args, rest)
    from pipelines.jobs.tune import plan, tune

    return plan(config) if args.dry_run else tune(config)


def _training(args: argparse.Namespace, rest: tuple[str, ...]) -> TrainConfig:
    task = _task(args)
    changed = {k: v for k in ("epochs", "batch_size", "seed") if (v := getattr(args, k)) is not None}
    task = task.with_model(task.model.with_values(changed))
    test = parse_as_ofs(task, args.test_as_of, "--test-as-of", _steps(task, "--test-every", args.test_every))
    return TrainConfig(
        task=task,
        input=_input(args, args.input, args.max_bad_share),
        test=test,
        train_as_ofs=args.train_as_ofs,
        train_every=_steps(task, "--train-every", args.train_every) or max(task.score.every, task.horizon),
        validation_as_ofs=args.validation_as_ofs,
        models=args.models,
        examples=args.examples,
        resume=getattr(args, "resume", False),
        promote=getattr(args, "promote", False),
        execution=_execution(args, rest),
    )


def _models(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.jobs import models as modeltable
    from pipelines.models import registry

    names = [
        *args.names,
        *(r for r in rest if not r.startswith("-")),
    ]  # argparse takes those after an option for others
    unknown = next((r for r in rest if r.startswith("-")), None)
    if unknown:
        raise unknown_option([unknown], "; see foretide models --help")
    root = args.models
    action = names.pop(0) if names and names[0] in MODEL_ACTIONS else "list"
    least, most, what = MODEL_ACTIONS[action]
    if not least <= len(names) <= most:
        raise UserError(f"foretide models {action} takes {what}")
    if action == "list":
        print(modeltable.table(registry.models(root, *names)))
    elif action == "compare":
        print(modeltable.compare(registry.find(root, names[0]), registry.find(root, names[1])))
    elif action == "promote":
        path = registry.find(root, names[0])
        print(f"{path.parent} serves {registry.promote(path.parent, path.name).version}")
    else:
        folder = os.path.join(root, names[0])
        print(f"{folder} serves {registry.rollback(folder).version}")
    return int(Exit.OK)


def _query(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    if rest:
        raise unknown_option(rest, "; see foretide query --help")
    with private_umask():  # of what DuckDB keeps on the disk meanwhile, and of files that the statement writes
        output(args.output).query(args.sql, args.format, args.limit)
    return int(Exit.OK)


def _savepoint(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    from pipelines.runners.flink_job import savepoint

    return savepoint(args.job, args.target, rest)


def _schema(args: argparse.Namespace, rest: tuple[str, ...]) -> int:
    if rest:
        raise unknown_option(rest, "; see foretide schema --help")
    return output(args.output).prepare(_task(args), args.dry_run)


def _task(args: argparse.Namespace) -> Task:
    from pipelines.task.file import load_task

    return load_task(args.task)


def _input(args: argparse.Namespace, paths: Sequence[str], max_bad_share: float) -> Input:
    return Input.located(paths, args.format, max_bad_share)


def _execution(args: argparse.Namespace, rest: tuple[str, ...]) -> Execution:
    if rest:
        from pipelines.runners.execution import check_beam_args

        check_beam_args(rest)
    execution = Execution(args.workers, args.shards, rest, args.debug, *_resources(args))
    execution.check()
    return execution


def _resources(args: argparse.Namespace) -> Iterator[str | None]:
    return (getattr(args, name, None) for name in ("accelerator", "inference_ram"))


def _steps(task: Task, flag: str, text: str | None) -> int | None:
    """Reads a duration of whole steps, us."""
    if text is None:
        return None
    duration = _duration(flag, text)
    step = task.sequence.step
    if not duration or duration % step:
        raise UserError(f"{flag} {text}: must be a multiple of sequence.step ({format_duration(step)})")
    return duration


def _duration(flag: str, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foretide",
        description="A score for every customer, player or instrument, from event logs.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and do nothing")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    score = _command(commands, "score", _score, "score every entity of event files as of one or more times")
    _score_flags(score)

    stream = _command(commands, "stream", _stream, "score every entity at each as-of as events come from Pub/Sub")
    _stream_flags(stream)

    doctor = commands.add_parser(
        "doctor", help="check all that a launch needs, and say what to do", epilog=EXIT_CODES, allow_abbrev=False
    )
    launches = doctor.add_subparsers(dest="launch", required=True, metavar="score|stream")
    for name, flags in (("score", _score_flags), ("stream", _stream_flags)):
        launch = _command(launches, name, _doctor, f"before `foretide {name}` with the same arguments")
        launch.add_argument("--json", action="store_true", help="findings for programs, as docs/doctor.md says")
        flags(launch)

    rehearse = _command(
        commands, "rehearse", _rehearse, "play event files to a live job on an emulator, and compare with a backfill"
    )
    rehearse.add_argument("--task", required=True, metavar="FILE", help="task file (YAML)")
    _input_flag(rehearse)
    _as_of_flag(rehearse)
    rehearse.add_argument("--model", required=True, metavar="FOLDER", help="models/TASK, or a version's own")
    rehearse.add_argument("--output", required=True, metavar="FOLDER", help="where all that was made stays")
    rehearse.add_argument("--speed", default="1d", metavar="DURATION", help="event time that passes in a second (1d)")
    rehearse.add_argument("--mess", action="store_true", help="messages also come late, out of order and twice")
    rehearse.epilog = f"other options go to foretide stream, such as --early 5s; {EXIT_CODES}"

    replay = _command(
        commands, "replay", _replay, "send dead letters to their topic again, after what was wrong is mended"
    )
    where = replay.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="FOLDER", help="the output folder of `foretide stream`")
    where.add_argument("--subscription", metavar="NAME", help="of the topic of dead letters")
    replay.add_argument("--topic", required=True, metavar="NAME", help="projects/PROJECT/topics/TOPIC to publish to")
    replay.add_argument("--reason", metavar="TEXT", help="only those whose reason has this text")
    replay.add_argument("--dry-run", action="store_true", help="count them, and send nothing")

    examples = _command(commands, "examples", _examples, "write labelled sequences to train on")
    _input_flag(examples)
    _pipeline_flags(examples)
    _as_of_flag(examples)
    examples.add_argument(
        "--output", default="examples", metavar="FOLDER", help="the store, which keeps what it has (examples)"
    )

    train = _command(commands, "train", _train, "train a model on earlier as-ofs, judge it on later ones, export it")
    _training_flags(train)
    train.add_argument("--resume", action="store_true", help="go on with the same training where it was interrupted")
    train.add_argument("--promote", action="store_true", help="serve the new version (the first one serves anyway)")

    tune = _command(commands, "tune", _tune, "try what the task's section `tune` declares; run again, it goes on")
    _training_flags(tune)

    models = _command(commands, "models", _models, "list and compare models, and say which one serves")
    models.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="[list] [TASK], compare VERSION VERSION, promote VERSION, rollback TASK",
    )
    models.add_argument("--models", default="models", metavar="FOLDER", help="of `foretide train` (models)")

    schema = _command(commands, "schema", _schema, "make or extend the tables and views of BigQuery that scores go to")
    schema.add_argument("action", choices=("apply",), help="what is there is only added to")
    schema.add_argument("--task", required=True, metavar="FILE", help="task file (YAML)")
    schema.add_argument("--output", required=True, metavar="TABLE", help="bq://PROJECT.DATASET.TABLE")
    schema.add_argument("--dry-run", action="store_true", help="print what would be changed, and do nothing")

    kept = _command(commands, "savepoint", _savepoint, "stop a live job on Flink, and keep its state to go on from")
    kept.add_argument("job", metavar="JOB", help="its name or ID, as the cluster's page shows them")
    kept.add_argument("--target", metavar="FOLDER", help="where the savepoint goes, as the cluster reaches it")
    kept.epilog = f"--flink_master=HOST:PORT says which cluster; {EXIT_CODES}"

    gate.flags(_command(commands, "gate", gate.run, gate.HELP))

    query = _command(commands, "query", _query, "run SQL on scores, dead_letters and ledger")
    query.add_argument("sql", metavar="SQL", help='such as "SELECT * FROM scores ORDER BY churn DESC LIMIT 10"')
    query.add_argument("--output", required=True, metavar="FOLDER", help="the output folder of `foretide score`")
    query.add_argument(
        "--format",
        choices=("table", "csv", "spreadsheet", "json"),
        default="table",
        help="csv is exact; spreadsheet is CSV in which no text is a formula (table)",
    )
    query.add_argument(
        "--limit", type=_natural, default=100, metavar="N", help="rows that a table shows; 0 for all (100)"
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace, tuple[str, ...]], int],
    help: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help, epilog=EXIT_CODES, allow_abbrev=False)
    command.set_defaults(run=run)
    command.add_argument("--debug", action="store_true", help="log what Beam does, and show traces of errors")
    command.add_argument(optionfiles.OPTION, metavar="FILE", help=optionfiles.HELP)
    return command


class _Version(argparse.Action):
    """Prints which version is installed; it is looked up for no other command."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        print(f"foretide {metadata.version('foretide')}")
        parser.exit()


def _as_of_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--as-of",
        required=True,
        metavar="TIME",
        help="2024-01-01; 2024-01-01..2024-03-01 for all that are due between; latest for the newest that is due",
    )


def _output_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        required=True,
        metavar="PLACE",
        help="where scores, dead letters and ledger go: a folder, or bq://PROJECT.DATASET.TABLE",
    )


def _model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="FOLDER", help="models/TASK for the version that serves, or a version's own"
    )
    command.add_argument("--engine", choices=("tensorflow", "openvino", "openvino-bf16"), default="tensorflow")
    command.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    command.add_argument(
        "--batch-size", type=_positive, default=256, metavar="N", help="rows of a call of the model (256)"
    )
    command.add_argument(
        "--accelerator",
        metavar="TEXT",
        help="on Dataflow, of the workers for inference: 'type:nvidia-tesla-t4;count:1;install-nvidia-driver' (none)",
    )


def _score_flags(command: argparse.ArgumentParser) -> None:
    _input_flag(command)
    _pipeline_flags(command)
    _as_of_flag(command)
    _model_flags(command)
    _output_flag(command)
    command.add_argument(
        "--bigquery-method",
        choices=("storage", "load"),
        default="storage",
        help="how rows come into BigQuery: the Storage Write API, or load jobs (storage)",
    )
    command.add_argument(
        "--inference-ram",
        metavar="SIZE",
        help="on Dataflow, of the workers for inference, such as 16GB (as for others)",
    )
    command.add_argument(
        "--replace-model", action="store_true", help="in BigQuery, replace scores of the same revision by another model"
    )


def _stream_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--subscription", required=True, metavar="NAME", help="projects/PROJECT/subscriptions/SUBSCRIPTION"
    )
    _pipeline_flags(command)
    _format_flag(command)
    _model_flags(command)
    _output_flag(command)
    command.add_argument(
        "--bootstrap",
        nargs="+",
        metavar="PATH",
        help="files of the history that the job starts from, such as an archive",
    )
    command.add_argument(
        "--from",
        dest="first",
        metavar="TIME",
        help="the first as-of (the next one; with --bootstrap the last ones, too)",
    )
    command.add_argument(
        "--early",
        default="0s",
        metavar="DURATION",
        help="scores before their time, at most this long after an event (none)",
    )
    command.add_argument("--archive", metavar="FOLDER", help="keep every message, to bootstrap and to backfill from")
    command.add_argument(
        "--dead-letters", metavar="TOPIC", help="publish them to projects/PROJECT/topics/TOPIC (kept in the output)"
    )
    command.add_argument("--payload", choices=tuple(PAYLOADS), default="json", help="of the messages (json)")
    command.add_argument("--avro-schema", metavar="FILE", help="with --payload avro, of messages that carry none")
    command.add_argument(
        "--arrival-attribute", metavar="NAME", help="of a replay: the attribute that says when a message arrived"
    )
    command.add_argument(
        "--bigquery-method",
        choices=("storage", "beam"),
        default="storage",
        help="how scores come into BigQuery: the Storage Write API, or on Dataflow Beam's own sink, in Java (storage)",
    )
    command.add_argument("--pullers", type=_positive, default=1, metavar="N", help="pulls at the same time (1)")


def _input_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="event files, folders, globs, bq://PROJECT.DATASET.TABLE or bq://PROJECT?QUERY",
    )
    _format_flag(command)


def _format_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="for files whose names do not say",
    )


def _pipeline_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", required=True, metavar="FILE", help="task file (YAML)")
    command.add_argument(
        "--max-bad-share", type=_share, default=0.05, metavar="X", help="stop when more rows than this are bad (0.05)"
    )
    command.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes on this machine (1)")
    command.add_argument("--shards", type=_positive, metavar="N", help="groups of entities (by the size of the input)")
    command.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    command.epilog = f"other options go to Beam, such as --runner=FlinkRunner; {EXIT_CODES}"


def _training_flags(command: argparse.ArgumentParser) -> None:
    _input_flag(command)
    _pipeline_flags(command)
    command.add_argument(
        "--test-as-of",
        required=True,
        metavar="TIME",
        help="the model is judged here, and sees nothing later; 2024-01-01..2024-06-01 for a rolling origin",
    )
    command.add_argument("--test-every", metavar="DURATION", help="time between test as-ofs (score.every)")
    command.add_argument("--train-as-ofs", type=_positive, default=24, metavar="N", help="how many earlier ones (24)")
    command.add_argument("--train-every", metavar="DURATION", help="time between them, in whole steps (the horizon)")
    command.add_argument("--validation-as-ofs", type=_positive, default=1, metavar="N", help="between the two (1)")
    command.add_argument("--models", default="models", metavar="FOLDER", help="where models go, by task (models)")
    command.add_argument(
        "--examples", default="examples", metavar="FOLDER", help="the store of examples, which are reused (examples)"
    )
    command.add_argument("--epochs", type=_positive, metavar="N", help="instead of the task's model.epochs")
    command.add_argument("--batch-size", type=_positive, metavar="N", help="instead of the task's model.batch_size")
    command.add_argument("--seed", type=_seed, metavar="N", help="instead of the task's model.seed")


def _positive(text: str) -> int:
    if text.isdecimal() and len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:20]} is too large; the most is 999,999,999")
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1, such as 0.05")
    return value


if __name__ == "__main__":
    entry()
