"""What `foretide models` shows: versions of a task side by side, or two models. Which one serves: `models.registry`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.models.registry import TaskModels, Version
from pipelines.models.saved.manifest import Manifest, load_manifest
from pipelines.system.files import read_json
from pipelines.system.screen import aligned, one_line
from pipelines.task.fields import format_duration, format_time
from pipelines.task.labels.base import cell
from pipelines.task.labels.kinds import KINDS
from pipelines.task.spec import ModelSpec

DURATIONS = ("step", "horizon", "active_within", "every", "allowed_lateness", "max_skew")
TASK = "task.json"
TASK_FIELDS = ("task", "step", "steps", "features", "label", "label_field", "horizon", "active_within", "outputs")


def table(tasks: Sequence[TaskModels]) -> str:
    """The versions of each task, newest first, with the one that serves marked and what each scored in its test."""
    return "\n\n".join("\n".join(map(one_line, _task(t))) for t in tasks)


def compare(a: Path, b: Path) -> str:
    """A table of what two models differ in: task, data, network, libraries; and all that both were measured by.

    Raises:
      UserError: one of them cannot be read.
    """
    one, two = load_manifest(a), load_manifest(b)
    left, right = _task_file(a), _task_file(b)
    if not (left and right):
        left, right = _kept(one), _kept(two)
    sections = [
        ("task", left, right),
        ("data", _data(one), _data(two)),
        ("model", one.model, two.model),
        ("libraries", one.libraries, two.libraries),
    ]
    rows = [["", one.version, two.version, ""]]
    for title, x, y in sections:
        rows += [[title, "", "", ""], *(_different(x, y) or [["  no difference", "", "", ""]])]
    rows += [["metrics", "", "", "difference"], *_metrics(one.metrics, two.metrics)]
    lines = aligned(rows)
    if one.test != two.test or one.task != two.task:
        lines.append("They were tested on other entities or at other as-ofs: the metrics do not compare directly.")
    return "\n".join(map(one_line, lines))


def _task(models: TaskModels) -> Iterator[str]:
    serving = models.serving.version if models.serving else None
    state = "none serves; foretide models promote VERSION" if serving is None else f"{serving} serves"
    yield f"{models.folder.name}: {len(models.versions)} version(s), {state}"
    if models.versions:
        rows = [_row(v, v.path.name == serving) for v in models.versions]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        yield from aligned([columns, *([row.get(c, "") for c in columns] for row in rows)])
    yield from (f"  not usable: {problem}" for problem in models.problems)


def _row(version: Version, serves: bool) -> dict[str, str]:
    m = version.manifest
    return {
        "": "serves" if serves else "",
        "version": m.version,
        "created": format_time(m.created)[:16].replace("T", " "),
        "trained to": format_time(max(m.train)),
        "test": _period(m.test),
        **KINDS[m.label].cells(m.metrics),
        "network": _network(m.model),
    }


def _network(model: Mapping[str, Any]) -> str:
    spec = ModelSpec.model_validate(model, strict=False)
    members = f", {spec.members} members" if spec.members > 1 else ""
    return f"{spec.network} {'-'.join(map(str, spec.units))}{members}"


def _data(m: Manifest) -> dict[str, str]:
    as_ofs = {"train": m.train, "validation": m.validation, "test": m.test}
    return {name: f"{_period(v)} ({len(v)})" for name, v in as_ofs.items()}


def _kept(m: Manifest) -> dict[str, Any]:
    """What a manifest keeps of the task."""
    return {f: getattr(m, f) for f in TASK_FIELDS}


def _task_file(folder: Path) -> dict[str, Any]:
    """The task that a model was trained for, keys joined by dots, without the parts shown elsewhere; may be empty."""
    try:
        content = read_json(folder / TASK)
    except (OSError, ValueError):
        return {}
    parts = content.items() if isinstance(content, dict) else ()
    return dict(_flat({k: v for k, v in parts if k not in ("model", "description")}))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value


def _different(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for key in dict.fromkeys((*left, *right)):
        a, b = left.get(key), right.get(key)
        if a == b:
            continue
        if isinstance(a, list | tuple) and isinstance(b, list | tuple) and _many(a):
            rows += _items(key, [_shown(key, v) for v in a], [_shown(key, v) for v in b])
        else:
            rows.append([f"  {key}", _shown(key, a), _shown(key, b), ""])
    return rows


def _many(items: Sequence[object]) -> bool:
    """Whether it is a list that one line does not hold."""
    return any(not isinstance(v, int | float) for v in items)


def _items(key: str, left: list[str], right: list[str]) -> list[list[str]]:
    """A line for each item that only one list has."""
    rows = [[v, ""] for v in left if v not in right] + [["", v] for v in right if v not in left]
    return [[f"  {key}" if i == 0 else "", *row, ""] for i, row in enumerate(rows or [["in another order", ""]])]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.rpartition(".")[2] in DURATIONS and isinstance(value, int):
        return format_duration(value)
    if isinstance(value, Mapping):
        return " ".join(f"{k}={_shown(k, v)}" for k, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _metrics(left: Mapping[str, float], right: Mapping[str, float]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys((*left, *right)):
        a, b = left.get(name), right.get(name)
        change = "" if a is None or b is None or a == b else cell(b - a)
        rows.append([f"  {name}", cell(a) or "-", cell(b) or "-", f"+{change}" if change[:1].isdigit() else change])
    return rows


def _period(as_ofs: Sequence[int]) -> str:
    """A range of as-ofs in the form that `--as-of` takes."""
    return "..".join(dict.fromkeys(format_time(t) for t in (*as_ofs[:1], *as_ofs[-1:])))
