"""What is wrong with a task file, said in the user's terms: the line, the path, the value, and what would be right.

It turns pydantic's errors into one line each; it reads no file and knows no rule that `task.spec` does not state.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from pipelines.task.labels.kinds import KINDS
from pipelines.task.spec import Task
from pipelines.task.yaml_lines import Document, Path, Plain, Problem, YamlPlace

Json = dict[str, Any]  # a JSON Schema, as pydantic types it

MOST = 200  # errors that are looked at
LONG = 100  # characters of a value that a message shows

EXAMPLES = {
    "task": "task: churn_shop",
    "events": "events: {entity: user_id, time: {field: ts, unit: s}, identity: [event_id]}",
    "events.entity": "entity: user_id",
    "events.time": "time: {field: ts, unit: s}",
    "events.time.field": "field: ts",
    "events.arrival.field": "field: received_at",
    "events.identity": "identity: [event_id], or all, or none",
    "sequence": "sequence: {step: 1w, steps: 52, features: [{agg: count}]}",
    "sequence.step": "step: 1w",
    "sequence.steps": "steps: 52",
    "sequence.features": "features: [{agg: count}]",
    "sequence.features.agg": "agg: count",
    "score": "score: {every: 1w}",
    "score.every": "every: 1w",
    "label": "label: {kind: churn, horizon: 30d, active_within: 30d}",
    "label.kind": ", or ".join(f"kind: {kind}" for kind in KINDS),
    "label.horizon": "horizon: 30d",
    "label.active_within": "active_within: 30d",
    "label.field": "field: close",
    "label.steps": "steps: 10",
}


def problems(error: ValidationError, document: Document, data: dict[str, Plain]) -> list[Problem]:
    """The place of each of pydantic's errors in the document, and what to say about it."""
    out = []
    for detail in error.errors(include_url=False)[:MOST]:
        kind, loc = detail["type"], detail["loc"]
        path = _path(loc, kind, data)
        found = _at(path, data)
        if _noise(path, kind, found):
            continue
        if kind == "value_error":
            path, text = _stated(path, detail["msg"].removeprefix("Value error, "), found, document)
        elif loc[-1:] == ("[key]",):
            text = "a key is empty; write the name of a field"
        else:
            text = _explain(path, kind, detail.get("ctx", {}), found, document, data) or detail["msg"]
        out.append(Problem(path, _line(path, kind, document), text))
    return out


def _path(loc: tuple[str | int, ...], kind: str, data: Plain) -> Path:
    """Where an error stands in the file: pydantic's location without the names of its validators and unions."""
    if loc[:1] == ("label",):
        loc = ("label", *loc[2:]) if len(loc) > 1 else ("label", "kind") if kind.startswith("union_tag") else loc
    path: list[str | int] = []
    for i, part in enumerate(loc):
        missing = kind in ("missing", "union_tag_not_found") and i == len(loc) - 1 and isinstance(data, dict)
        if not missing and not _holds(data, part):
            continue
        data = _at((part,), data)
        path.append(part)
    return tuple(path)


def _holds(data: Plain, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def _at(path: Path, data: Plain) -> Plain:
    for part in path:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            return None
    return data


def _noise(path: Path, kind: str, found: Plain) -> bool:
    """What pydantic adds to the real error: a union's other branches, a list that is short of its bad items."""
    return (kind == "too_short" or path == ("events", "identity")) and isinstance(found, list) and found != []


def _stated(path: Path, text: str, found: Plain, document: Document) -> tuple[Path, str]:
    """A validator's own message: one over several keys starts with the dotted path of the key that it means."""
    below, rest = _named(found, text)
    if below:
        return (*path, *below), rest
    if isinstance(found, list | dict):
        return path, text
    wrong = "is empty" if found is None else f"{_shown(found, document.places[path])} does not fit"
    return path, f"{wrong}; {text}"


def _named(found: Plain, text: str) -> tuple[Path, str]:
    """The path below a value that a text starts with, dotted and with a colon, and what follows it; none if it
    does not."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        after = text.removeprefix(str(key))
        if after == text:
            continue
        if after.startswith(": "):
            return (key,), after[2:]
        below, rest = _named(value, after[1:]) if after.startswith(".") else ((), "")
        if below:
            return (key, *below), rest
    return (), text


def _line(path: Path, kind: str, document: Document) -> int:
    while path not in document.places:
        path = path[:-1]
    place = document.places[path]
    return place.line if place.raw and kind != "extra_forbidden" else place.key


def _explain(path: Path, kind: str, ctx: Mapping[str, Any], found: Plain, doc: Document, data: dict[str, Plain]) -> str:
    key = ".".join(str(p) for p in path if isinstance(p, str))
    place = doc.places.get(path, YamlPlace(1, 1))
    shown = _shown(found, place)
    if path == ("events", "identity") and kind != "missing":
        return f"must be all, none or a list of fields such as [event_id], not {shown}"
    if path[:2] == ("events", "where") and len(path) == 3:
        return f"must be text, a whole number, true or false, not {shown}"
    if kind in ("missing", "union_tag_not_found"):
        return f"missing; add {EXAMPLES[key]}"
    if kind == "extra_forbidden":
        return _unknown(path, data)
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = re.findall(r"'([^']*)'", ctx.get("expected") or ctx["expected_tags"])
        return f"{shown} is not allowed; {_near(place.raw, allowed)}it must be {one_of(allowed)}"
    if kind == "string_type":
        return _not_text(found, shown, place)
    if kind == "string_pattern_mismatch":
        return f"{shown} is not a name; use a letter, then letters, digits and _, lower case, such as churn_shop"
    return _limits(kind, ctx, shown)


def _limits(kind: str, ctx: Mapping[str, Any], shown: str) -> str:
    texts = {
        "int_type": f"must be a whole number, not {shown}",
        "float_type": f"must be a number, not {shown}; write it with a point, such as 0.001 or 1.0e-3",
        "greater_than_equal": f"must be at least {ctx.get('ge')}, not {shown}",
        "greater_than": f"must be more than {ctx.get('gt')}, not {shown}",
        "less_than_equal": f"must be at most {ctx.get('le')}, not {shown}",
        "less_than": f"must be less than {ctx.get('lt')}, not {shown}",
        "too_short": "the list is empty; it needs at least one entry",
        "too_long": f"the list has {ctx.get('actual_length')} entries; at most {ctx.get('max_length')} are allowed",
        "string_too_short": "is empty; it needs at least one character",
        "tuple_type": f"must be a list, such as [a, b], not {shown}",
        "dict_type": f"must hold keys of its own, not {shown}",
        "model_type": f"must hold keys of its own, not {shown}",
    }
    return texts.get(kind, "")


def _unknown(path: Path, data: dict[str, Plain]) -> str:
    key, allowed = str(path[-1]), allowed_keys(path[:-1], data)
    section = _at(path[:-1], data)
    near = _near(key, [a for a in allowed if not _holds(section, a)])
    elsewhere = [s for s in allowed_keys((), data) if path[:-1] != (s,) and key in allowed_keys((s,), data)]
    if not near and elsewhere:
        near = f"it belongs in {one_of(elsewhere)}; "
    return f"unknown key; {near}allowed here: {', '.join(allowed)}"


def _near(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word[:LONG], allowed, n=1)
    return f"did you mean {near[0]}? " if near else ""


def _not_text(found: Plain, shown: str, place: YamlPlace) -> str:
    if isinstance(found, bool):
        return f"must be text, and YAML reads {place.raw} as {shown}; put it in quotes: '{place.raw}'"
    if isinstance(found, int | float):
        raw = shortened(place.raw)
        return f"must be text, not the number {raw}; put it in quotes: '{raw}'"
    return f"must be text, not {shown}"


def _shown(found: Plain, place: YamlPlace) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, list | dict):
        return "a list" if isinstance(found, list) else "a section with keys"
    if isinstance(found, bool):
        return json.dumps(found)
    return shortened(repr(found) if isinstance(found, str) else place.raw or str(found))


def shortened(text: str) -> str:
    """The beginning of a text that is too long for a line."""
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def one_of(words: list[str]) -> str:
    """a, b or c."""
    return " or ".join(x for x in (", ".join(words[:-1]), words[-1]) if x)


def allowed_keys(path: Path, data: Plain) -> list[str]:
    """The keys that may stand at a path."""
    root = _schema()
    node: Json = root
    for part in path:
        node = _resolved(node, root, data)
        data = _at((part,), data)
        node = node["items"] if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return list(_resolved(node, root, data).get("properties", {}))


@cache
def _schema() -> Json:
    return Task.model_json_schema()


def _resolved(node: Json, root: Json, data: Plain) -> Json:
    if "discriminator" in node:
        mapping: dict[str, str] = node["discriminator"]["mapping"]
        kind = data.get("kind") if isinstance(data, dict) else None
        node = {"$ref": mapping[kind]} if isinstance(kind, str) and kind in mapping else {}
    node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)
    ref = node.get("$ref")
    return root["$defs"][ref.rsplit("/", 1)[1]] if ref else node
