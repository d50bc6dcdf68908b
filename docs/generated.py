"""Files that follow from the code: `python -m docs.generated` writes them anew, and a test holds each against the code.

They are the page of metrics, the table and the schema of docs/doctor.md, the JSON schemas of task files and of tables,
and the metadata of Flex templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pipelines.commands.flag import Flag, TemplateForm
from pipelines.doctor.findings import CODES, VERSION
from pipelines.errors import Severity
from pipelines.flex import Template, flags, forms
from pipelines.ledger.metrics import METRICS, NAMESPACE
from pipelines.storage.bigquery.schema import LAYOUTS, fields
from pipelines.task.fields import format_duration, format_time
from pipelines.task.spec import Task

ROOT = Path(__file__).parents[1]
GROUPS = ("Question", "Events", "Model", "Job", "Output")  # in the order of the form

DESCRIPTIONS: Mapping[Template, tuple[str, str]] = {
    "batch": ("Foretide backfill", "Scores every entity of event files or tables as of one or more times."),
    "stream": ("Foretide live job", "Scores every entity at each as-of as events come from Pub/Sub."),
}


def files() -> dict[Path, str]:
    """The content of each file."""
    doctor = ROOT / "docs" / "doctor.md"
    page = re.sub(r"\| Code \|(.*\n)*?(?=\n)", lambda _: f"{codes()}\n", doctor.read_text())
    page = re.sub(r"```json\n(.*\n)*?```", lambda _: f"```json\n{_json(findings_schema())}```", page)
    return {
        doctor: page,
        ROOT / "docs" / "metrics.md": metrics(),
        ROOT / "schemas" / "task.schema.json": _json(task_schema()),
        **{ROOT / "schemas" / f"{kind}.json": _json(fields(kind, ["churn"])) for kind in LAYOUTS},
        **{ROOT / "templates" / "flex" / f"{name}.json": _json(metadata(name)) for name in get_args(Template)},
    }


def metrics() -> str:
    """All metrics, as a page."""
    rows = "\n".join(f"| `{m.name}` | {m.kind} | {m.unit} | {m.meaning} | {m.remedy} |" for m in METRICS)
    return (
        "# Metrics\n\n"
        f"What a job tells about itself, in Beam's namespace `{NAMESPACE}`: on the status line of `foretide stream`,\n"
        "and in the runner's own monitoring. Counters start at 0 with the job; a distribution has count, sum, min and\n"
        "max. This page is made from `pipelines/ledger/metrics.py`, by `python -m docs.generated`.\n\n"
        f"| metric | kind | unit | meaning | what to do |\n|---|---|---|---|---|\n{rows}\n"
    )


def codes() -> str:
    """The table of what the doctor finds."""
    rows = ["| Code | What is wrong | Remedy |", "| --- | --- | --- |"]
    return "\n".join([*rows, *(f"| `{code}` | {kind.about} | {kind.remedy} |" for code, kind in CODES.items())])


def findings_schema() -> dict[str, Any]:
    """The JSON Schema of what the doctor finds."""

    def closed(properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    line = {"type": "string"}
    finding = {
        "code": {"enum": list(CODES)},
        "severity": {"enum": list(get_args(Severity))},
        "subject": line,
        "message": {"type": "string", "minLength": 1},
        "remedy": line,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **closed(
            {
                "version": {"const": VERSION},
                "command": {"enum": ["score", "stream"]},
                "task": {"type": ["string", "null"]},
                "healthy": {"type": "boolean"},
                "counts": closed({s: {"type": "integer", "minimum": 0} for s in get_args(Severity)}),
                "findings": {"type": "array", "items": closed(finding)},
            }
        ),
    }


def task_schema() -> dict[str, Any]:
    """The JSON Schema of a task file, in the order of the keys in `Task`; durations and times are text."""
    return dict(_tidy(Task.model_json_schema()))


def metadata(template: Template) -> dict[str, Any]:
    """Dataflow's TemplateMetadata, in JSON."""
    name, description = DESCRIPTIONS[template]
    found, shown = flags(template), forms(template)
    ordered = sorted(shown, key=lambda n: (GROUPS.index(shown[n].group), not found[n].required))
    modes = {"supportsExactlyOnce": True, "defaultStreamingMode": "EXACTLY_ONCE"} if template == "stream" else {}
    return {
        "name": name,
        "description": description,
        "streaming": template == "stream",
        **modes,
        "parameters": [_parameter(found[n], shown[n]) for n in ordered],
    }


def _parameter(flag: Flag, form: TemplateForm) -> dict[str, Any]:
    """Dataflow's ParameterMetadata, in JSON."""
    choices = ("true", "false") if flag.switch else flag.choices
    pattern = "|".join(choices) or form.pattern
    entry: dict[str, Any] = {
        "name": flag.parameter,
        "label": form.label,
        "helpText": _help(flag, form),
        "groupName": form.group,
        "isOptional": not flag.required,
        "paramType": "BOOLEAN" if flag.switch else "ENUM" if choices else form.kind,
    }
    if pattern:
        entry["regexes"] = [f"^({pattern})$"]
    if flag.choices:
        entry["enumOptions"] = [{"value": choice, "label": choice} for choice in choices]
    if flag.default is not None:
        entry["defaultValue"] = str(flag.default).lower() if flag.switch else str(flag.default)
    if form.parent:
        entry |= {"parentName": form.parent[0], "parentTriggerValues": [form.parent[1]]}
    return entry


def _help(flag: Flag, form: TemplateForm) -> str:
    several = "; several with commas in between" if flag.many else ""
    example = f", such as {form.example}" if form.example else ""
    return f"{flag.name}: {form.help or flag.help}{several}{example}"


def _tidy(node: Any) -> Any:
    """A schema without titles, and with the defaults of durations and times as they are written in a task file."""
    if isinstance(node, list):
        return [_tidy(v) for v in node]
    if not isinstance(node, dict):
        return node
    out = {k: _tidy(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    if out.get("type") == "string" and isinstance(out.get("default"), int):
        out["default"] = (format_duration if "pattern" in out else format_time)(out["default"])
    return out


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
