"""What every format must do, whatever it is; each is held against the same events."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines.events.formats import avro, lines, parquet, rowgroups
from pipelines.events.formats.registry import format_of, named
from pipelines.transforms.read_files import File, plan
from tests.support import event_files
from tests.support.event_files import WRITERS, Result, read, task, written

ROWS = event_files.records(3_000)
NAMES = sorted(WRITERS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Result:
    path = tmp_path_factory.mktemp("expected") / "data.jsonl"
    return read(task(), written(path, event_files.jsonl(ROWS)))


@pytest.mark.parametrize("name", NAMES)
def test_same_events_in_every_format(tmp_path: Path, name: str, expected: Result) -> None:
    result = read(task(), written(tmp_path / name, WRITERS[name](ROWS)))
    assert result.ledger == expected.ledger
    assert result.events == expected.events
    assert (result.ledger.read, result.ledger.rejected, result.ledger.files) == (3_000, 0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_order_and_size_of_pieces_do_not_matter(
    tmp_path: Path, name: str, expected: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, avro, parquet):
        monkeypatch.setattr(module, "PIECE", 4_099)
    monkeypatch.setattr(lines, "CHUNK", 977)
    monkeypatch.setattr(rowgroups, "BATCH", 33)
    monkeypatch.setattr(avro, "ROWS", 50)
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    path = written(tmp_path / name, WRITERS[name](shuffled))
    result = read(task(), path)
    assert result.events == expected.events
    assert result.ledger == expected.ledger
    pieces = plan([File(str(path), path.stat().st_size, str(named(name)))])
    assert name.endswith(".gz") == (len(pieces) == 1)
    assert sum(p.size for p in pieces) == path.stat().st_size
    assert [p.whole for p in pieces] == [True] + [False] * (len(pieces) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_fields(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, WRITERS[name](ROWS[:10]))
    assert set(format_of(str(named(name))).fields(str(path))) == set(event_files.FIELDS)


@pytest.mark.parametrize("name", NAMES)
def test_identity_of_all_columns(tmp_path: Path, name: str) -> None:
    rows = [*ROWS[:50], *ROWS[:50], {**ROWS[0], "kind": "sell"}]
    result = read(task(identity="all"), written(tmp_path / name, WRITERS[name](rows)))
    assert len({event[2] for event in result.events}) == 51


@pytest.mark.parametrize("name", [n for n in NAMES if "jsonl" not in n])
def test_a_missing_column_is_one_dead_letter(tmp_path: Path, name: str) -> None:
    result = read(task(time={"field": "when", "unit": "s"}), written(tmp_path / name, WRITERS[name](ROWS)))
    (letter,) = result.dead
    assert (letter.rows, letter.position) == (3_000, "file")
    assert letter.reason.startswith("column when is missing: columns: user, ts, kind, amount, id")
    assert (result.ledger.rejected, result.ledger.bad_files) == (3_000, 1)
    assert result.ledger.reasons == (("column when is missing", 3_000),)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_row_is_told_with_its_place_and_content(tmp_path: Path, name: str) -> None:
    rows = [*ROWS[:7], {**ROWS[7], "user": None}, *ROWS[8:20]]
    (letter,) = read(task(), written(tmp_path / name, WRITERS[name](rows))).dead
    assert (letter.stage, letter.rows, letter.source) == ("read", 1, str(tmp_path / name))
    assert letter.reason == "user is missing"
    assert "e0-7" in letter.raw
    place = letter.position.split()
    assert place[:2] == ["row", "7"] or place[0] == "byte"


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith((".gz", ".avro", ".parquet"))])
def test_a_file_cut_off(tmp_path: Path, name: str) -> None:
    content = WRITERS[name](ROWS)
    result = read(task(), written(tmp_path / name, content[: len(content) // 2]))
    assert result.ledger.bad_files == 1
    assert result.ledger.rejected >= 1
    kept = len(result.events)
    assert kept == 0 if name.endswith(".parquet") else 500 < kept < 2_900


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_and_one_without_rows(tmp_path: Path, name: str) -> None:
    for content in (b"", WRITERS[name](ROWS[:1] if name.endswith("jsonl") else ROWS[:0])):
        result = read(task(), written(tmp_path / name, content))
        assert (result.ledger.rejected, result.ledger.bad_files, result.ledger.files) == (0, 0, 1)
