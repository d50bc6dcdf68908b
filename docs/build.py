"""Builds the site of the docs: `python -m docs.build FOLDER` writes it to a folder that is new or empty.

Pages that follow from the code are written here: of the task file from its JSON Schema, of commands from the parser of
arguments, of rows from the schemas of tables, of modules from their docstrings.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.generated import task_schema
from pipelines.cli import parser

DOCS = Path(__file__).parent
ROOT = DOCS.parent
TOP = {ROOT / "CONTRIBUTING.md": "contributing.md", ROOT / "CHANGELOG.md": "changelog.md"}  # pages beside this folder
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TABLES = {
    "scores": "A row for each entity and as-of. The score columns are those of the task's label: here `churn`.",
    "dead_letters": "Events that were refused, and sequences without a score.",
    "ledger": "What became of everything that was read, a row for each run.",
}


class BadDocs(Exception):
    """The docs cannot be built as they are."""


def build(site: Path) -> None:
    """Writes the site to a folder.

    Raises:
      BadDocs: a link leads nowhere, a page is not in the navigation, or something else that Zensical warns of.
    """
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        shutil.copy(DOCS / "zensical.toml", place)
        _write_pages(place / "pages")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadDocs(COLOUR.sub("", done.stdout))
        shutil.copytree(place / "site", site, dirs_exist_ok=True)


def pages() -> dict[str, str]:
    """The Markdown of every page by its path, with links as the site needs them."""
    sources = {p: str(p.relative_to(DOCS)) for p in sorted(DOCS.rglob("*.md"))} | TOP
    found = {at: _linked(path, at) for path, at in sources.items()}
    found["reference/task-file.md"] = task_file()
    found["reference/commands.md"] = commands()
    found["reference/rows.md"] = rows()
    found["reference/python.md"] = python()
    found["reference/modules.md"] = modules()
    return found


def _write_pages(folder: Path) -> None:
    for name, text in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(DOCS / "style.css", folder)
    shutil.copytree(DOCS / "images", folder / "images")


def _linked(page: Path, at: str) -> str:
    """The text of a file as the page `at`; links to files of the repository that are no pages become their paths."""

    def shown(link: re.Match[str]) -> str:
        words, target = link[1], (page.parent / link[2]).resolve()
        if target in TOP or target.is_relative_to(DOCS):
            place = TOP.get(target) or str(target.relative_to(DOCS))
            return f"[{words}]({os.path.relpath(place, os.path.dirname(at))}{link[3] or ''})"
        if not target.is_relative_to(ROOT) or not target.exists():
            raise BadDocs(f"{page.relative_to(ROOT)}: {link[2]} is no file of the repository")
        path = str(target.relative_to(ROOT))
        return f"`{path}`" if words.strip("`") in (path, target.name) else f"{words} (`{path}`)"

    return LINK.sub(shown, page.read_text())


def task_file() -> str:
    """The page of the task file: a section for each part, with a table of its keys."""
    whole = task_schema()
    parts = [
        "# Task file",
        "",
        "Everything that a task file can say; [scores from files](../batch.md) explains one. A duration is a number "
        "with `ms`, `s`, `m`, `h`, `d` or `w`, such as `7d`; a time is a date or ISO 8601, in UTC.",
        "",
    ]
    for path, part in _sections("", whole, whole["$defs"], set()):
        parts += [f"## {path or 'The whole'}", "", part.get("description", ""), ""]
        parts += ["| key | value | default | meaning |", "|---|---|---|---|"]
        for key, value in part["properties"].items():
            default = "**required**" if key in part.get("required", ()) else _default(value.get("default"))
            meaning = value.get("description") or whole["$defs"].get(value.get("$ref", "").rpartition("/")[2], {}).get(
                "description", ""
            )
            parts.append(f"| `{key}` | {_cell(_value(value))} | {_cell(default)} | {_cell(meaning)} |")
        parts.append("")
    return "\n".join(parts)


def _sections(
    path: str, part: Mapping[str, Any], defs: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands in the file, its schema) of an object and of all in it, each once, in the order of the file."""
    if part.get("properties"):
        yield path, part
    for key, value in part.get("properties", {}).items():
        for name in _refs(value):
            if name not in seen:
                seen.add(name)
                kinds = [f"{k} {v['const']}" for k, v in defs[name].get("properties", {}).items() if "const" in v]
                at = ".".join(filter(None, (path, key)))
                yield from _sections(f"{at} of {kinds[0]}" if kinds else at, defs[name], defs, seen)


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
        return f"list of {_value(value.get('items', {})).replace('a section', 'sections')}"
    if kind == "object":
        inner = value.get("additionalProperties", {})
        return f"for each name: {_value(inner if isinstance(inner, Mapping) else {})}"
    if kind == "string" and value.get("examples"):
        return "duration" if "pattern" in value else "time"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([words.get(kind, kind), *(f"{word} {value[k]:,}" for k, word in limits.items() if k in value)])


def _default(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "see its keys"
    empty = value is None or value in ("", {}, [])
    return "none" if empty else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def commands() -> str:
    """The page of commands: usage and options of each."""
    top = parser()
    parts = ["# Commands", "", f"`foretide COMMAND`: {top.description}", ""]
    for words, command, told in _commands(top, "foretide"):
        parts += [f"## {words}", "", f"{told[:1].upper()}{told[1:]}.", ""]
        rest = " ".join((command.epilog or "").partition("exit codes:")[0].split()).strip("; ")
        if rest:
            parts += [f"{rest[0].upper()}{rest[1:]}.", ""]
        parts += ["| argument | meaning |", "|---|---|"]
        parts += [_argument(a) for a in command._actions if not isinstance(a, argparse._HelpAction)]
        parts.append("")
    return "\n".join(parts)


def _commands(top: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """(words, parser, help) of every command, or in its place those that it has of its own."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                inner = list(_commands(command, f"{words} {name}"))
                yield from inner or [(f"{words} {name}", command, helps.get(name, ""))]


def _argument(action: argparse.Action) -> str:
    """The row of an argument: its name with what it takes, and what it means."""
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = str(action.metavar or "") if action.option_strings and action.nargs != 0 else ""
    more = "..." if action.nargs in ("+", "*") else ""
    choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
    told = ["**Required.**"] if action.option_strings and action.required else []
    told.append(": ".join(filter(None, (action.help, choices))))
    if choices and action.default is not None and f"({action.default})" not in (action.help or ""):
        told.append(f"({action.default})")
    name = " ".join(filter(None, (names, value, more)))
    return f"| `{name}` | {_cell(' '.join(filter(None, told)))} |"


def rows() -> str:
    """The page of the rows that are written, and of exit codes."""
    parts = ["# Rows and exit codes", "", "What `foretide query` and BigQuery show, and how a command ends.", ""]
    for table, told in TABLES.items():
        parts += [f"## {table}", "", told, "", "| column | type | meaning |", "|---|---|---|"]
        for column in json.loads((ROOT / f"schemas/{table}.json").read_text()):
            kind = column["type"].lower() + (" list" if column["mode"] == "REPEATED" else "")
            parts.append(f"| `{column['name']}` | {kind} | {_cell(column['description'])} |")
        parts.append("")
    parts += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    told = " ".join((parser().epilog or "").partition("exit codes:")[2].split())
    for number, meaning in re.findall(r"(\d+) (.*?)(?:[;,] (?=\d)|$)", told):
        parts.append(f"| {number} | {_cell(meaning)} |")
    return "\n".join(parts) + "\n"


def python() -> str:
    """The page of the interface in Python: what `pipelines` imports for its users, with signatures and docstrings."""
    parts = ["# Python", "", "What `import pipelines` gives. [Modules](modules.md) lists what is behind it.", ""]
    for node in ast.walk(ast.parse((ROOT / "pipelines/__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipelines."):
            source = ast.parse((ROOT / f"{str(node.module).replace('.', '/')}.py").read_text())
            names = [alias.name for alias in node.names]
            for found in source.body:
                if isinstance(found, ast.FunctionDef | ast.ClassDef) and found.name in names:
                    parts += [f"## {found.name}", "", "```python", _signature(found), "```", "", *_prose(found), ""]
    return "\n".join(parts)


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """How a function is called; of a class its fields."""
    if isinstance(node, ast.FunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"def {node.name}({ast.unparse(node.args)}){result}: ..."
    fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]
    return "\n    ".join([f"class {node.name}:", *(fields or ["..."])])


def _prose(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """The docstring as Markdown, in which `Args:` and `Raises:` are lists."""
    for line in (ast.get_docstring(node) or "").splitlines():
        item = re.match(r"  (\w+): (.*)", line)
        if line in ("Args:", "Raises:", "Returns:"):
            yield f"**{line}**\n"
        else:
            yield f"- `{item[1]}`: {item[2]}" if item else line


def modules() -> str:
    """The map of the package: each module with the first sentence of its docstring."""
    parts = [
        "# Modules",
        "",
        "Every module and what it is for. [Architecture](../architecture.md) says how they work together.",
        "",
    ]
    package = ROOT / "pipelines"
    for folder in [package, *sorted(p.parent for p in package.rglob("*/__init__.py"))]:
        found = [p for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
        if found:
            parts += [f"## {folder.relative_to(ROOT)}", "", "| module | |", "|---|---|"]
        for path in found:
            told = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = re.split(r"(?<=\.)\s", told, maxsplit=1)[0]
            parts.append(f"| `{path.stem}` | {_cell(first)} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]))
    except BadDocs as error:
        sys.exit(f"docs: {error}")
