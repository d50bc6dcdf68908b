"""The docs: they build into a site that needs nothing else, and what they name exists. No command in them is run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs.build import DOCS, LINK, ROOT, build, pages
from docs.generated import files
from pipelines.cli import parser
from pipelines.runners.kinds import check_beam_args
from pipelines.task.file import load_task

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?https?://[^>]*>|@import|url\(\"?https?:"
)
PLACE = re.compile(r"(?<![\w/.-])(?:pipelines|tests|templates|docs|tools|schemas|emulators|benchmarks)/[\w./-]*\w")
MODULE = re.compile(r"\b(?:pipelines|tests|benchmarks|docs)(?:\.\w+)+")


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """(where, text) of every block of code in a language."""
    for path in FILES:
        text = path.read_text()
        for block in BLOCK.finditer(text):
            if block[2] in languages:
                line = text.count("\n", 0, block.start()) + 1
                yield f"{path.relative_to(ROOT)}:{line}", textwrap.dedent(block[3])


def commands() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of each `foretide ...` in the blocks for a shell."""
    for where, text in blocks("sh"):
        for words in _lines(re.sub(r"\\\n\s*", " ", text).splitlines()):
            if words and words[0].rpartition("/")[2] == "foretide":
                yield where, words[1:]


def _lines(lines: list[str]) -> Iterator[list[str]]:
    """The words of each line, and of several lines where a quotation goes on."""
    held = ""
    for line in lines:
        held += line
        try:
            yield shlex.split(held, comments=True)
            held = ""
        except ValueError:
            held += "\n"


def options(command: argparse.ArgumentParser) -> Iterator[str]:
    """All flags of a parser and of the commands in it."""
    for action in command._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options(inner)


def test_site(tmp_path: Path) -> None:
    build(tmp_path)
    found = {p for p in tmp_path.rglob("*") if p.suffix in (".html", ".css")}
    assert len(found) > len(pages())
    outside = [(str(p), m[0]) for p in found for m in LOADED.finditer(p.read_text())]
    assert not outside, "the site loads something from elsewhere"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_files_that_follow_from_the_code(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == files()[path], "python -m docs.generated"


def test_every_page_is_in_the_navigation() -> None:
    def named(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, list | dict):
            for inner in entry if isinstance(entry, list) else entry.values():
                yield from named(inner)

    nav = list(named(tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(nav) == sorted(pages())


def test_links_lead_somewhere() -> None:
    made = {(DOCS / name).resolve() for name in pages()}
    for path in FILES:
        for link in LINK.finditer(path.read_text()):
            target = (path.parent / link[2]).resolve()
            assert target in made or target.exists(), f"{path}: {link[0]} leads nowhere"


def test_commands_are_known() -> None:
    found = list(commands())
    assert len(found) > 20
    for where, words in found:
        if "..." in words:
            known = set(options(parser()))
            rest = ["--runner=FlinkRunner"]  # as the options that are left out may say
            rest += [w for w in words[1:] if w.startswith("--") and w.partition("=")[0] not in known]
        else:
            try:
                _, rest = parser().parse_known_args(words)
            except SystemExit as end:
                if not end.code:  # --version
                    continue
                pytest.fail(f"{where}: foretide {shlex.join(words)}")
        if rest:
            assert words[0] in ("score", "stream", "doctor", "rehearse", "savepoint"), f"{where}: {rest}"
            check_beam_args(tuple(rest))


def test_tasks_load(tmp_path: Path) -> None:
    found = [(where, text) for where, text in blocks("yaml") if yaml.safe_load(text)]
    assert found
    for _, text in found:
        if text.startswith("task:"):
            (tmp_path / "task.yaml").write_text(text)
            load_task(str(tmp_path / "task.yaml"))


def test_programs_and_data_are_well_formed() -> None:
    for where, text in blocks("python"):
        compile(text, where, "exec")
    for _, text in blocks("json"):
        json.loads(text)


def test_names_of_the_repository_exist() -> None:
    for path in FILES:
        text = path.read_text()
        code = "\n".join([*CODE.findall(text), *(block[3] for block in BLOCK.finditer(text))])
        for name in PLACE.findall(code):
            made = path.parent.name == "howto" and (ROOT / name).parent.is_dir()  # by whoever follows it
            assert made or list(ROOT.glob(f"{name}*")), f"{path}: {name} is not there"
        for name in MODULE.findall(code):
            assert _is_there(name), f"{path}: {name} is not there"


def _is_there(name: str) -> bool:
    """Whether a dotted name is a package, a module, or a name in one."""
    place, above = ROOT / name.replace(".", "/"), ROOT / name.rpartition(".")[0].replace(".", "/")
    files = place.with_suffix(".py"), place / "__init__.py"
    said = "\n".join(f.read_text() for f in (above.with_suffix(".py"), above / "__init__.py") if f.exists())
    return any(f.exists() for f in files) or re.search(rf"\b{place.name}\b", said) is not None


def test_targets_of_make_exist() -> None:
    made = set(re.findall(r"^([a-z][\w -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {word for line in made for word in line.split()}
    for path in FILES:
        text = path.read_text()
        code = "\n".join([*CODE.findall(text), *(block[3] for block in BLOCK.finditer(text) if block[2] == "sh")])
        missing = set(re.findall(r"^make ([a-z][\w-]*)", code, re.MULTILINE)) - known
        assert not missing, f"{path}: make {missing}"
