"""Flex templates of Dataflow: what they ask for, and the command line that a launch stands for.

A template is an image and a metadata file, which says what its parameters are. Dataflow holds a launch against it and
starts the launcher in the image, which runs templates/flex/main.py with `--name=value` for each parameter and for each
option of the job. `python -m pipelines.flex batch` (or stream) prints templates/flex/batch.json: the parameters are the
options of `foretide score` and `foretide stream`, all but those in `OMITTED`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import cli
from pipelines.errors import UserError
from pipelines.google.subscription import NAME as SUBSCRIPTION
from pipelines.google.subscription import check_name
from pipelines.google.tables import NAME as TABLE
from pipelines.jobs.config import LATEST
from pipelines.jobs.outputs.kinds import output
from pipelines.runners import dataflow
from pipelines.runners.execution import check_beam_args

Template = Literal["batch", "stream"]
COMMANDS: Mapping[Template, str] = {"batch": "score", "stream": "stream"}

# Options that mean nothing on Dataflow.
OMITTED = {
    "help": "it is for terminals",
    "options": "a launch gives each option by itself",
    "dry_run": "a launch that makes no job has failed for Dataflow; `foretide doctor` checks before it",
    "workers": "processes of one machine; the job has num_workers and max_num_workers",
    "archive": "a folder of one machine",
    "arrival_attribute": "Beam's own read of Pub/Sub, which is used there, does not take it",
    "pullers": "Dataflow decides how many pull",
}

# Where something lies: in a bucket, or in the image. What a launcher's folder holds is of no use to workers.
PLACE = r"(gs://[a-z0-9][a-z0-9._-]+/[^,]+|/[^,]+)"
SOURCES = rf"({PLACE}|bq://.+)(,({PLACE}|bq://.+))*"
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
NATURAL = "[1-9][0-9]*"
TOPIC = "projects/[^/]+/topics/[^/]+"
SEPARATOR = r",(?=gs://|bq://|/(?!\*))"  # what follows it is never SQL, but in quotes or a comment
SOURCE = re.compile(
    rf"""bq://[^?,]*\?(?:  # a query: text in quotes, comments, and what is no separator
    '''(?:\\.|.)*?''' | \"\"\"(?:\\.|.)*?\"\"\" | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*`
    | /\*.*?\*/ | (?:--|\#)[^\n]* | (?!{SEPARATOR}).)*+
    | (?:(?!{SEPARATOR}).)++""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Field:
    """How a parameter is shown and checked, beyond what its option says."""

    group: str
    label: str
    kind: str = "TEXT"  # one of Dataflow's ParameterType, for what is no choice
    pattern: str | None = None
    example: str = ""
    help: str = ""  # instead of that of the option
    parent: tuple[str, str] | None = None  # asked for when this other parameter has this value


FIELDS: Mapping[str, Field] = {
    "task": Field("Question", "Task file", "GCS_READ_FILE", PLACE, "gs://my-bucket/tasks/churn_shop.yaml"),
    "as_of": Field("Question", "As-of, or range", "TEXT", rf"{TIME}(\.\.{TIME})?|{LATEST}", "2024-01-01..2024-03-01"),
    "from": Field("Question", "First as-of", "TEXT", TIME, "2024-01-01T06:00"),
    "early": Field("Question", "Early scores", "TEXT", "[0-9]{1,18}(ms|s|m|h|d|w)", "30s"),
    "input": Field("Events", "Events", "TEXT", SOURCES, "gs://my-bucket/events/*.parquet"),
    "subscription": Field(
        "Events",
        "Subscription",
        "PUBSUB_SUBSCRIPTION",
        SUBSCRIPTION.pattern,
        "projects/my-project/subscriptions/events",
        "where the messages come from",
    ),
    "payload": Field("Events", "Format of messages"),
    "avro_schema": Field(
        "Events", "Schema of messages", "GCS_READ_FILE", PLACE, "gs://my-bucket/events.avsc", parent=("payload", "avro")
    ),
    "bootstrap": Field("Events", "History", "TEXT", SOURCES, "gs://my-bucket/history/*.parquet"),
    "format": Field("Events", "Format of files"),
    "max_bad_share": Field("Events", "Share of bad rows", "NUMBER", r"0|1|0?\.[0-9]+|1\.0+", "0.01"),
    "model": Field(
        "Model",
        "Model",
        "GCS_READ_FOLDER",
        PLACE,
        "gs://my-bucket/models/churn_shop",
        "the folder of a task's models, of which one serves, or a version's own",
    ),
    "engine": Field("Model", "Engine", help="what runs the model"),
    "device": Field("Model", "Device", help="what it runs on", parent=("engine", "tensorflow")),
    "batch_size": Field("Model", "Rows of a batch", "NUMBER", NATURAL, "1024"),
    "accelerator": Field(
        "Job",
        "Accelerator",
        "TEXT",
        dataflow.ACCELERATOR.pattern,
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        "of the workers for inference",
    ),
    "inference_ram": Field("Job", "Memory for inference", "TEXT", dataflow.RAM.pattern, "16GB"),
    "output": Field(
        "Output",
        "Table of scores",
        "TEXT",
        TABLE.pattern,
        "bq://my-project.churn.scores",
        "where scores go, and beside it dead letters and the ledger",
    ),
    "bigquery_method": Field("Output", "How rows are written"),
    "replace_model": Field("Output", "Replace another model's scores"),
    "dead_letters": Field("Output", "Topic of dead letters", "PUBSUB_TOPIC", TOPIC, "projects/my-project/topics/dead"),
    "shards": Field("Job", "Groups of entities", "NUMBER", NATURAL, "64"),
    "debug": Field("Job", "Log in detail"),
}
GROUPS = tuple(dict.fromkeys(field.group for field in FIELDS.values()))  # in the order of the form

DESCRIPTIONS: Mapping[Template, tuple[str, str]] = {
    "batch": ("Foretide backfill", "Scores every entity of event files or tables as of one or more times."),
    "stream": ("Foretide live job", "Scores every entity at each as-of as events come from Pub/Sub."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that a launch stands for, and returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = command_line(given, Path(folder))
        except UserError as error:
            print(f"foretide: {error}", file=sys.stderr)
            return int(error.exit)
        return cli.main(command)


def command_line(argv: Sequence[str], folder: Path) -> list[str]:
    """The arguments of `foretide` that a launcher's stand for.

    Args:
      argv: `--name=value`, where lists have commas and flags are true or false.
      folder: an empty one, for copies of the files in buckets that the command wants here.

    Raises:
      UserError: what cannot be meant, or cannot be on Dataflow.
    """
    given, beam = _sorted_out(argv)
    template = _template(given)
    options = {name: action for name, action in actions(template).items() if name not in OMITTED}
    unknown = next((name for name in given if name not in options), None)
    if unknown:
        raise UserError(f"{unknown}: a launch of the {template} template has no such parameter")
    check_beam_args(beam)
    FileSystems.set_options(PipelineOptions(beam))  # credentials
    if "--runner=DataflowRunner" in beam:
        _check_remote(given)
    command = [COMMANDS[template]]
    for name, value in given.items():
        command += _arguments(name, options[name], value, folder)
    return [*command, *beam]


def metadata(template: Template) -> dict[str, Any]:
    """Dataflow's TemplateMetadata, in JSON."""
    name, description = DESCRIPTIONS[template]
    found = {n: action for n, action in actions(template).items() if n not in OMITTED}
    ordered = sorted(found, key=lambda n: (GROUPS.index(FIELDS[n].group), not found[n].required))
    modes = {"supportsExactlyOnce": True, "defaultStreamingMode": "EXACTLY_ONCE"} if template == "stream" else {}
    return {
        "name": name,
        "description": description,
        "streaming": template == "stream",
        **modes,
        "parameters": [_parameter(n, found[n]) for n in ordered],
    }


def metadata_text(template: Template) -> str:
    """The content of templates/flex/TEMPLATE.json."""
    return json.dumps(metadata(template), indent=2, ensure_ascii=False) + "\n"


@cache
def actions(template: Template) -> dict[str, argparse.Action]:
    """The options of the command behind a template, by the names of its parameters."""
    [commands] = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {_name(a.option_strings[-1]): a for a in commands.choices[COMMANDS[template]]._actions}


def _name(option: str) -> str:
    """The name of the parameter that stands for an option: it has no hyphens."""
    return option.lstrip("-").replace("-", "_")


def _parameter(name: str, action: argparse.Action) -> dict[str, Any]:
    """Dataflow's ParameterMetadata, in JSON."""
    field, choices = FIELDS[name], _choices(action)
    pattern = "|".join(choices) or field.pattern
    entry: dict[str, Any] = {
        "name": name,
        "label": field.label,
        "helpText": _help(action, field),
        "groupName": field.group,
        "isOptional": not action.required,
        "paramType": "BOOLEAN" if _is_flag(action) else "ENUM" if choices else field.kind,
    }
    if pattern:
        entry["regexes"] = [f"^({pattern})$"]
    if action.choices:
        entry["enumOptions"] = [{"value": choice, "label": choice} for choice in choices]
    if action.default is not None:
        entry["defaultValue"] = str(action.default).lower() if _is_flag(action) else str(action.default)
    if field.parent:
        entry |= {"parentName": field.parent[0], "parentTriggerValues": [field.parent[1]]}
    return entry


def _help(action: argparse.Action, field: Field) -> str:
    several = "; several with commas in between" if action.nargs == "+" else ""
    example = f", such as {field.example}" if field.example else ""
    return f"{action.option_strings[-1]}: {field.help or action.help}{several}{example}"


def _choices(action: argparse.Action) -> list[str]:
    return ["true", "false"] if _is_flag(action) else [str(choice) for choice in action.choices or ()]


def _is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0


def _sorted_out(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The parameters of templates by name, without empty ones, and the options of Beam."""
    ours = {name for template in get_args(Template) for name in actions(template)}
    flags = {_name(o) for a in _beam_actions() if _is_flag(a) for o in a.option_strings}
    given: dict[str, str] = {}
    beam = []
    for text in argv:
        option, equals, value = text.partition("=")
        name = _name(option)
        if not option.startswith("--") or (name in ours and not equals):
            raise UserError(f"{text}: a launch gives its parameters as --name=value")
        if name in given:
            raise UserError(f"{name} is given twice")
        if name in ours:
            given |= {name: value} if value else {}
        elif name in flags and equals:
            beam += [option] if _truth(name, value) else []
        else:
            beam.append(text)
    return given, beam


@cache
def _beam_actions() -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        if hasattr(options, "_add_argparse_args"):
            options._add_argparse_args(parser)
    return parser._actions


def _template(given: Mapping[str, str]) -> Template:
    """One image serves both: what is scored, and when, tells them apart."""
    if ("as_of" in given) == ("subscription" in given):
        raise UserError("give either as_of, for a backfill, or subscription, for a live job")
    return "batch" if "as_of" in given else "stream"


def _check_remote(given: Mapping[str, str]) -> None:
    """Raises UserError for what other machines cannot reach."""
    if "output" in given and output(given["output"]).here:
        raise UserError(f"output {given['output']}: workers of Dataflow cannot write it: bq://PROJECT.DATASET.TABLE")
    for name, value in given.items():
        pattern = FIELDS[name].pattern
        if pattern in (PLACE, SOURCES) and not re.fullmatch(pattern, value):
            raise UserError(f"{name} {value}: name what lies in a bucket, gs://BUCKET/NAME, or /PATH in the image")


def _arguments(name: str, action: argparse.Action, value: str, folder: Path) -> list[str]:
    """An option of the command, as it stands for a parameter's value."""
    option = action.option_strings[-1]
    if _is_flag(action):
        return [option] if _truth(name, value) else []
    if action.nargs == "+":
        return [option, *_sources(value)]
    if name == "subscription":
        check_name(value)
    if name == "dead_letters" and not re.fullmatch(TOPIC, value):
        raise UserError(f"dead_letters {value}: a topic is named projects/PROJECT/topics/NAME")
    if FIELDS[name].kind == "GCS_READ_FILE" and "://" in value:
        value = _copy(name, value, folder)
    return [f"{option}={value}"]


def _sources(value: str) -> list[str]:
    """The files, tables and queries of a list. Commas in a query, and all that it has in quotes, are its own."""
    out: list[str] = []
    at = 0
    while at <= len(value):
        found = SOURCE.match(value, at)
        out.append(found[0] if found else "")
        at += len(out[-1]) + 1
    return out


def _truth(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise UserError(f"{name} {value}: must be true or false")
    return value.lower() == "true"


def _copy(name: str, path: str, folder: Path) -> str:
    """A file of a bucket, here under the same name. Raises UserError if it cannot be read."""
    target = folder / name / path.rsplit("/", 1)[-1]
    target.parent.mkdir()
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
            target.write_bytes(source.read())
    except Exception as error:  # each file system has its own
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{name} {path}: cannot be read: {reason}; check its name, and what the account may read"
        ) from None
    return str(target)


if __name__ == "__main__":
    for template in get_args(Template):
        if template in sys.argv[1:]:
            print(metadata_text(template), end="")
