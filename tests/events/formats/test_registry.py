"""Formats are declared in one place, and asked everywhere else."""

from __future__ import annotations

import ast
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.events.formats import registry
from pipelines.events.formats.base import Format
from pipelines.events.formats.compressions import COMPRESSIONS, compression_of
from pipelines.events.formats.lines import TextFormat
from pipelines.events.formats.registry import (
    FORMATS,
    PAYLOADS,
    READERS,
    endings,
    format_of,
    named,
    payload_format,
    reader_of,
)
from tests.support import event_files
from tests.support.event_files import read, task, written

PACKAGE = Path(registry.__file__).parents[2]
SHARED = {"messages", "bigquery"}  # words that mean other things, too
OWN = {"formats", "storage"}  # packages with formats of their own


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_known_by_its_name(name: str) -> None:
    assert reader_of(name).name == name
    assert reader_of(name) is reader_of(name)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_format_is_known_by_its_name(name: str) -> None:
    assert payload_format(name).name == name


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_declares(name: str) -> None:
    found = format_of(name)
    assert isinstance(found, Format)
    assert found.title
    assert found.endings
    assert all(e.startswith(".") and e == e.lower() for e in found.endings)
    assert isinstance(found, TextFormat) or not found.is_compressible


def test_no_two_formats_share_an_ending() -> None:
    all_ = [ending for name in FORMATS for ending in format_of(name).endings]
    assert len(all_) == len(set(all_))
    assert set(endings().values()) == set(FORMATS)
    starts = [format_of(name).magic for name in FORMATS if format_of(name).magic] + [c.magic for c in COMPRESSIONS]
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gs://bucket/a.messages.parquet", "messages"),
        ("a.parquet", "parquet"),
        ("C:\\data\\A.PQ", "parquet"),
        ("a/b.jsonl.gz", "jsonl"),
        ("a.JSON.GZ", "jsonl"),
        ("a.csv.gz/b.avro", "avro"),
        ("a.parquet.gz", None),
        ("csv", None),
    ],
)
def test_a_format_is_told_by_the_longest_ending(path: str, name: str | None) -> None:
    assert named(path) == name


def test_a_compressed_file_may_have_its_ending_in_any_case(tmp_path: Path) -> None:
    rows = event_files.records(20)
    result = read(task(), written(tmp_path / "DATA.CSV.GZ", gzip.compress(event_files.comma(rows))))
    assert (result.ledger.read, result.ledger.rejected) == (20, 0)
    assert compression_of("a.csv") is None


def test_no_format_is_known_by_its_name_elsewhere() -> None:
    """A format that is added needs no look at the rest of the package."""
    package = (p for p in PACKAGE.rglob("*.py") if OWN.isdisjoint(p.relative_to(PACKAGE).parts))
    words = {*READERS, *PAYLOADS, *endings(), *(c.ending for c in COMPRESSIONS)} - SHARED
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {word}"
        for path in package
        for line, word in compared(ast.parse(path.read_text(encoding="utf-8")))
        if word in words
    ]
    assert not found


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) that something is compared with, or that tells the end of a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("endswith", "removesuffix"):
            parts = list(node.args)
        elif isinstance(node, ast.match_case):
            parts = [node.pattern]
        else:
            continue
        for each in (inner for part in parts for inner in ast.walk(part)):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield node.lineno if hasattr(node, "lineno") else 0, each.value
