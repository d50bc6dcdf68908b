"""Flex templates of Dataflow: what they ask for, and the command line that a launch stands for.

A template is an image and a metadata file, which says what its parameters are. Dataflow holds a launch against it and
starts the launcher in the image, which runs templates/flex/main.py with `--name=value` for each parameter and for each
option of the job. The parameters are the flags of `foretide score` and `foretide stream` that have a form, of which
docs/generated.py makes the metadata.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import cli
from pipelines.commands import score, stream
from pipelines.commands.command import Command
from pipelines.commands.flag import Flag, TemplateForm, parameter
from pipelines.commands.flags import EVERY, PLACE, SOURCES
from pipelines.commands.stream import TOPIC
from pipelines.errors import UserError
from pipelines.google.subscription import check_name
from pipelines.jobs.outputs.kinds import output
from pipelines.runners.execution import Execution
from pipelines.runners.kinds import beam_parser, check_beam_args, resolve

Template = Literal["batch", "stream"]
COMMANDS: Mapping[Template, Command] = {"batch": score.COMMAND, "stream": stream.COMMAND}

SEPARATOR = r",(?=gs://|bq://|/(?!\*))"  # what follows it is never SQL, but in quotes or a comment
SOURCE = re.compile(
    rf"""bq://[^?,]*\?(?:  # a query: text in quotes, comments, and what is no separator
    '''(?:\\.|.)*?''' | \"\"\"(?:\\.|.)*?\"\"\" | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*`
    | /\*.*?\*/ | (?:--|\#)[^\n]* | (?!{SEPARATOR}).)*+
    | (?:(?!{SEPARATOR}).)++""",
    re.DOTALL | re.VERBOSE,
)


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
    options, shown = flags(template), forms(template)
    unknown = next((name for name in given if name not in shown), None)
    if unknown:
        raise UserError(f"{unknown}: a launch of the {template} template has no such parameter")
    check_beam_args(beam)
    FileSystems.set_options(PipelineOptions(beam))  # credentials
    if resolve(Execution(1, None, tuple(beam), False)).on_google:
        _check_remote(given, shown)
    command = [COMMANDS[template].name]
    for name, value in given.items():
        command += _arguments(options[name], shown[name], value, folder)
    return [*command, *beam]


def flags(template: Template) -> Mapping[str, Flag]:
    """Those of the command, by the names of their parameters."""
    return {each.parameter: each for each in (*EVERY, *COMMANDS[template].flags) if isinstance(each, Flag)}


def forms(template: Template) -> Mapping[str, TemplateForm]:
    """How those are shown that the template asks for."""
    return {name: flag.form for name, flag in flags(template).items() if isinstance(flag.form, TemplateForm)}


def _sorted_out(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The parameters of templates by name, without empty ones, and the options of Beam."""
    ours = {name for template in get_args(Template) for name in flags(template)}
    switches = {parameter(o) for a in _beam_actions() if a.nargs == 0 for o in a.option_strings}
    given: dict[str, str] = {}
    beam = []
    for text in argv:
        option, equals, value = text.partition("=")
        name = parameter(option)
        if not option.startswith("--") or (name in ours and not equals):
            raise UserError(f"{text}: a launch gives its parameters as --name=value")
        if name in given:
            raise UserError(f"{name} is given twice")
        if name in ours:
            given |= {name: value} if value else {}
        elif name in switches and equals:
            beam += [option] if _truth(name, value) else []
        else:
            beam.append(text)
    return given, beam


@cache
def _beam_actions() -> list[argparse.Action]:
    return beam_parser()._actions


def _template(given: Mapping[str, str]) -> Template:
    """One image serves both: what is scored, and when, tells them apart."""
    if ("as_of" in given) == ("subscription" in given):
        raise UserError("give either as_of, for a backfill, or subscription, for a live job")
    return "batch" if "as_of" in given else "stream"


def _check_remote(given: Mapping[str, str], shown: Mapping[str, TemplateForm]) -> None:
    """Raises UserError for what other machines cannot reach."""
    if "output" in given and output(given["output"]).here:
        raise UserError(f"output {given['output']}: workers of Dataflow cannot write it: bq://PROJECT.DATASET.TABLE")
    for name, value in given.items():
        pattern = shown[name].pattern
        if pattern in (PLACE, SOURCES) and not re.fullmatch(pattern, value):
            raise UserError(f"{name} {value}: name what lies in a bucket, gs://BUCKET/NAME, or /PATH in the image")


def _arguments(flag: Flag, form: TemplateForm, value: str, folder: Path) -> list[str]:
    """An option of the command, as it stands for a parameter's value."""
    name = flag.parameter
    if flag.switch:
        return [flag.name] if _truth(name, value) else []
    if flag.many:
        return [flag.name, *_sources(value)]
    if name == "subscription":
        check_name(value)
    if name == "dead_letters" and not re.fullmatch(TOPIC, value):
        raise UserError(f"dead_letters {value}: a topic is named projects/PROJECT/topics/NAME")
    if form.kind == "GCS_READ_FILE" and "://" in value:
        value = _copy(name, value, folder)
    return [f"{flag.name}={value}"]


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
