"""Writes the pages of the site that follow from the code, when the site is built: a hook of MkDocs.

The task file comes from its JSON Schema, commands from the parser of arguments, rows from the schemas of tables, modules
from their docstrings. Nothing is run. The functions that begin with `on_` are called by MkDocs, by their names.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pipelines.cli import _parser as parser
from pipelines.task.file import schema

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
TABLES = {
    "scores": "A row for each entity and as-of, in the view `scores`. Its score columns are those of the task's label.",
    "dead_letters": "Events that were refused, and sequences without a score.",
    "ledger": "What became of everything that was read, a row for each run.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here to those of the folder."""
    pages = {
        "reference/task-file.md": task_file(),
        "reference/commands.md": commands(),
        "reference/rows.md": rows(),
        "reference/modules.md": modules(),
        "contributing.md": _from_root("CONTRIBUTING.md"),
        "changelog.md": _from_root("CHANGELOG.md"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository that are no pages into their paths, which the site cannot link to."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        words, target = link[1], (folder / link[2]).resolve()
        if target.is_relative_to(config.docs_dir):
            return link[0]
        if not target.is_relative_to(ROOT) or not target.exists():
            raise PluginError(f"{page.file.src_uri}: {link[2]} is no file of the repository")
        path = f"`{target.relative_to(ROOT)}`"
        return path if words.strip("`") in (path.strip("`"), target.name) else f"{words} ({path})"

    return LINK.sub(shown, markdown)


def task_file() -> str:
    """The page of the task file: a section for each part, a table of its keys."""
    whole = schema()
    parts = ["# Task file", "", "Everything that a task file can say. [Editors check it](../batch.md) by its JSON Schema."]
    parts += ["A duration is a number and `ms`, `s`, `m`, `h`, `d` or `w`; a time is a date or ISO 8601, in UTC.", ""]
    for path, part in _sections("", whole, whole["$defs"], set()):
        parts += [f"## {f'`{path}`' if path else 'The whole'}", "", part.get("description", ""), ""]
        parts += ["| key | value | default | meaning |", "|---|---|---|---|"]
        for key, value in part["properties"].items():
            default = "**required**" if key in part.get("required", ()) else f"`{_yaml(value.get('default'))}`"
            parts.append(f"| `{key}` | {_cell(_value(value))} | {_cell(default)} | {_cell(value.get('description', ''))} |")
        parts.append("")
    return "\n".join(parts)


def _sections(
    path: str, part: Mapping[str, Any], defs: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands in the file, its schema) of the object and of all in it, each once, in the order of the file."""
    if part.get("properties"):
        yield path, part
    for key, value in part.get("properties", {}).items():
        for name in _refs(value):
            if name not in seen:
                seen.add(name)
                kind = defs[name].get("properties", {}).get("kind", {}).get("const")
                at = ".".join(filter(None, (path, key))) + (f" of kind {kind}" if kind else "")
                yield from _sections(at, defs[name], defs, seen)


def _refs(value: Any) -> Iterator[str]:
    """Names of the definitions that a schema refers to, in order."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for key, inner in value.items():
            if key != "discriminator":
                yield from _refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _refs(inner)


def _value(value: Mapping[str, Any]) -> str:
    """What a key can hold, in words."""
    choices = [v for v in value.get("anyOf", value.get("oneOf", ())) if v.get("type") != "null"]
    if choices:
        return " or ".join(dict.fromkeys(map(_value, choices)))
    if "$ref" in value:
        return "a section"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{v}`" for v in value.get("enum", [value.get("const")]))
    kind = value.get("type", "any value")
    if kind == "array":
        return f"list of: {_value(value.get('items', {}))}"
    if kind == "object":
        inner = value.get("additionalProperties", {})
        return f"for each name: {_value(inner if isinstance(inner, Mapping) else {})}"
    if kind == "string" and value.get("examples"):
        return "duration" if "pattern" in value else "time"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([words.get(kind, kind), *(f"{word} {value[k]:,}" for k, word in limits.items() if k in value)])


def _yaml(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) and value else json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def commands() -> str:
    """The page of commands: usage and options of each."""
    top = parser()
    parts = ["# Commands", "", f"`foretide COMMAND`: {top.description}", ""]
    for words, command, told in _commands(top, "foretide"):
        parts += [f"## {words}", "", told.capitalize() + ".", ""]
        usage = re.sub(r"\s+", " ", command.format_usage()).removeprefix("usage: ").strip()
        parts += ["```text", *_folded(usage), "```", ""]
        rest = (command.epilog or "").partition("exit codes:")[0].strip("; ")
        if rest:
            parts += [rest[0].upper() + rest[1:] + ".", ""]
        parts += ["| argument | meaning |", "|---|---|"]
        parts += [_argument(a) for a in command._actions if not isinstance(a, argparse._HelpAction)]
        parts.append("")
    return "\n".join(parts)


def _commands(top: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """(words, parser, help) of every command, those of commands with commands of their own among them."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                inner = list(_commands(command, f"{words} {name}"))
                yield from inner or [(f"{words} {name}", command, helps.get(name, ""))]


def _argument(action: argparse.Action) -> str:
    shown = " ".join(map(str, action.choices)) if action.choices else ""
    value = action.metavar or ("" if action.nargs == 0 else f"{{{','.join(map(str, action.choices or ()))}}}")
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    name = f"{names} {value}" if action.option_strings and action.nargs != 0 else names
    told = [action.help or ""]
    if shown and not action.metavar:
        default = f"; {action.default} if it is not given" if action.default else ""
        told.append(f"one of {', '.join(f'`{c}`' for c in shown.split())}{default}")
    if action.required and action.option_strings:
        told.append("**required**")
    return f"| `{_cell(name)}` | {_cell('; '.join(filter(None, told)))} |"


def _folded(usage: str, width: int = 100) -> Iterator[str]:
    line = ""
    for word in re.findall(r"\[[^\]]*\]|\S+ [A-Z]+\b(?: \.\.\.)?|\S+", usage):
        if line and len(line) + len(word) > width:
            yield line
            line = "   "
        line = f"{line} {word}" if line else word
    yield line


def rows() -> str:
    """The page of rows that are written, and of exit codes."""
    parts = ["# Rows and exit codes", "", "What `foretide query` and BigQuery show, and how a command ends.", ""]
    for table, told in TABLES.items():
        parts += [f"## `{table}`", "", told, "", "| column | type | meaning |", "|---|---|---|"]
        for column in json.loads((ROOT / f"schemas/{table}.json").read_text()):
            kind = column["type"].lower() + (" (list)" if column["mode"] == "REPEATED" else "")
            parts.append(f"| `{column['name']}` | {kind} | {_cell(column['description'])} |")
        parts.append("")
    codes = (parser().epilog or "").partition("exit codes:")[2].split(";")
    parts += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    for code in ", ".join(codes).replace("\n", " ").split(", "):
        number, _, meaning = code.strip().partition(" ")
        if number.isdecimal():
            parts.append(f"| {number} | {_cell(meaning)} |")
        else:
            parts[-1] = f"{parts[-1].removesuffix(' |')}, {_cell(code.strip())} |"
    return "\n".join(parts) + "\n"


def modules() -> str:
    """The map of the package: each module with the first sentence of its docstring."""
    parts = ["# Modules", "", "Every module and what it is for. [Architecture](../architecture.md) says how they play together.", ""]
    for folder in [ROOT / "pipelines", *sorted(p.parent for p in (ROOT / "pipelines").rglob("*/__init__.py"))]:
        found = [p for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
        parts += [f"## `{folder.relative_to(ROOT)}`", "", "| module | |", "|---|---|"] if found else []
        for path in found:
            told = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = re.split(r"(?<=[.:])\s", told, maxsplit=1)[0].rstrip(":")
            parts.append(f"| `{path.stem}` | {_cell(first)} |")
        parts.append("")
    return "\n".join(parts)


def _from_root(name: str) -> str:
    """A file beside the folder of docs, with its links as from within it."""
    text = (ROOT / name).read_text()
    return LINK.sub(lambda m: f"[{m[1]}]({_within(m[2])}{m[3] or ''})", text)


def _within(target: str) -> str:
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
