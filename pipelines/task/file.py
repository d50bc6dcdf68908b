"""Task files: from YAML to a `Task`, with errors that name the file, the line and what would be right.

What a task may say is in `pipelines.task.spec`; nothing here looks at data.
"""

from __future__ import annotations

import json
from pathlib import Path as FilePath

from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.task.faults import allowed_keys, one_of, problems, shortened
from pipelines.task.fields import format_duration, format_time
from pipelines.task.spec import ModelSpec, Task, TimeField
from pipelines.task.yaml_lines import Problem, YamlError, read_yaml

LARGEST = 1_000_000  # bytes of a task file
SHOWN = 50  # problems at once
START = "start from one of templates/tasks"


def load_task(path: str | FilePath) -> Task:
    """Reads and validates a task file. Raises one UserError with a line for each thing that is wrong."""
    file = FilePath(path)
    text = _read(file)
    try:
        document = read_yaml(text)
    except YamlError as e:
        raise UserError(f"{file}:{e.line}: not valid YAML: {e}") from None
    if document.data is None and not document.problems:
        raise UserError(f"{file}:1: the file is empty; {START}")
    if not isinstance(document.data, dict):
        raise UserError(
            f"{file}:{document.places[()].line}: a task file is a list of keys, {one_of(allowed_keys((), {}))}; {START}"
        )
    found = list(document.problems)
    task = None
    try:
        task = Task.model_validate_json(json.dumps(document.data))
    except ValidationError as e:
        found += problems(e, document, document.data)
    if task is None or found:
        raise UserError(_report(file, found))
    return task


def describe(task: Task) -> str:
    """What a task means, in a few plain lines."""
    ev, seq = task.events, task.sequence
    step, start = format_duration(seq.step), format_time(seq.origin)
    identity = ev.identity if isinstance(ev.identity, str) else ", ".join(ev.identity)
    lines = [
        ("task", f"{task.task}: {task.description}" if task.description else task.task),
        ("entity", ev.entity),
        ("event time", _time(ev.time)),
        ("arrival", _time(ev.arrival) if ev.arrival else "none: every event is known at once"),
        ("identity", identity if isinstance(ev.identity, str) else f"entity, time, {identity}"),
        ("only where", ", ".join(f"{k} is {json.dumps(v)}" for k, v in ev.where.items())),
        ("history", f"{seq.steps} steps of {step}, {format_duration(task.history)}; steps start at {start}"),
        ("features", f"{len(task.features)} a step: {', '.join(_shown_features(task))}"),
        ("as-of", f"every {format_duration(task.score.every)}, {_lateness(task)}"),
        ("label", task.label.told),
        ("outputs", task.label.told_outputs),
        ("model", _model(task.model)),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in lines if text)


def _time(time: TimeField) -> str:
    return f"{time.field} ({time.format or time.unit})"


def _lateness(task: Task) -> str:
    lateness = task.score.allowed_lateness
    return f"open to corrections for {format_duration(lateness)}" if lateness else "never corrected"


def _shown_features(task: Task) -> list[str]:
    names = [f.name for f in task.features]
    return names if len(names) <= 12 else [*names[:11], f"and {len(names) - 11} more"]


def _model(spec: ModelSpec) -> str:
    units = "" if spec.network == "linear" else f" of {', '.join(map(str, spec.units))} units"
    return f"{spec.network}{units}, {spec.members} member(s), seed {spec.seed}"


def _read(file: FilePath) -> str:
    try:
        with file.open("rb") as f:
            raw = f.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such task file; check the path, or {START}") from None
    except OSError as e:
        raise UserError(
            f"{file}: the task file cannot be read ({e.strerror}); check what it is and its rights"
        ) from None
    if len(raw) > LARGEST:
        raise UserError(f"{file}: is larger than {LARGEST:,} bytes, which no task file is; check the path")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 text (byte 0x{raw[e.start]:02x}); save the file as UTF-8") from None


def _report(file: FilePath, found: list[Problem]) -> str:
    """One line for each place, in the order of the file; the first of several at one place is the cause."""
    first: dict[tuple[str | int, ...], Problem] = {}
    for problem in found:
        first.setdefault(problem.path, problem)
    lines = sorted(first.values(), key=lambda p: p.line)
    told = [": ".join((f"{file}:{p.line}", *_dotted(p), p.text)) for p in lines[:SHOWN]]
    if len(lines) > SHOWN:
        told.append(f"{file}: and more, which are told when these are mended")
    return "\n".join(told)


def _dotted(problem: Problem) -> list[str]:
    parts = [shortened(str(p) if str(p).isprintable() else repr(p)) for p in problem.path]
    return [".".join(parts)] if parts else []
