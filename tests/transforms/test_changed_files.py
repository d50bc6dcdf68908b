"""Files that are cut off, grow or are replaced between the plan and the end of reading: nothing passes for whole."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.events.block import EventBlock
from pipelines.events.decode import Since
from pipelines.events.formats import avro, lines, parquet
from pipelines.events.formats.archived import table
from pipelines.events.formats.base import Piece
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.transforms.read_files import check_unchanged, find, plan, read_piece
from tests.support import event_files
from tests.support.event_files import SPAN, task
from tests.support.sent_messages import JSON, messages, text
from tests.transforms.test_read_files import Memory

ROWS = event_files.records(400)
NAMES = (*sorted(event_files.WRITERS), "data.messages.parquet")
Change = Callable[[bytes], bytes]


def content(name: str, rows: list[dict[str, object]] = ROWS) -> bytes:
    if name in event_files.WRITERS:
        return event_files.WRITERS[name](rows)
    out = io.BytesIO()  # with row groups of 100 messages
    pq.write_table(table(messages(text(rows)), JSON), out, row_group_size=100)
    return out.getvalue()


def planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Piece, ...]:
    for module in (lines, avro, parquet):
        monkeypatch.setattr(module, "PIECE", 4_099)
    return plan(find([str(path)]))


def unwatched(pieces: tuple[Piece, ...]) -> tuple[list[DeadLetter], Ledger]:
    """What reading itself says of pieces whose files nobody looks at again."""
    parts = [p for piece in pieces for p in read_piece(task(), SPAN, type(piece)(**{**vars(piece), "version": None}))]
    return [p for p in parts if isinstance(p, DeadLetter)], total(p for p in parts if isinstance(p, Ledger))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [0.36, 0.0])
def test_a_piece_that_ends_early_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: float
) -> None:
    """Also where the file is cut between two lines, blocks or row groups, and what is left is a good file."""
    path = tmp_path / name
    whole = content(name)
    path.write_bytes(whole)
    pieces = planned(path, monkeypatch)
    assert not unwatched(pieces)[0]
    for left in (
        whole[: int(kept * len(whole))],
        content(name, ROWS[: int(kept * len(ROWS))] or ROWS[:1]),
    ):
        path.write_bytes(left)
        letters, ledger = unwatched(pieces)
        assert letters, left[:100]
        assert ledger.rejected == sum(n for _, n in ledger.reasons) > 0
        with pytest.raises(UserError, match=rf"{name}: changed while it was read .*Run again"):
            list(read_piece(task(), SPAN, pieces[0]))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_grew_or_was_replaced_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    whole = content(name)
    changes: dict[str, Change] = {
        "appended": lambda raw: raw + raw[-50:],
        "rewritten": lambda raw: raw,
        "replaced": lambda raw: raw[::-1],
    }
    for what, change in changes.items():
        path.write_bytes(whole)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        pieces = planned(path, monkeypatch)
        assert isinstance(list(read_piece(task(), SPAN, pieces[0]))[-1], Ledger)
        path.write_bytes(change(whole))
        for piece in pieces:
            with pytest.raises(UserError, match=rf"{name}: changed while it was read"):
                list(read_piece(task(), SPAN, piece))
        assert what


def test_a_file_that_changes_during_its_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece looks again when it has been read, so all events are of the file that was planned."""
    monkeypatch.setattr("pipelines.events.intake.BLOCK", 1)
    monkeypatch.setattr(lines, "CHUNK", 1_000)
    path = tmp_path / "data.csv"
    path.write_bytes(event_files.comma(ROWS))
    pieces = plan(find([str(path)]))
    reading = read_piece(task(), SPAN, pieces[0])
    assert isinstance(next(reading), EventBlock)
    with path.open("ab") as file:
        file.write(b"u1,1704067200,buy,1,late\n")
    with pytest.raises(UserError, match="changed while it was read"):
        list(reading)


def test_an_empty_file_that_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"")
    (piece,) = plan(find([str(path)]))
    path.write_bytes(event_files.comma(ROWS))
    with pytest.raises(UserError, match="it had 0 bytes"):
        list(read_piece(task(), SPAN, piece))


def test_remote_files(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(event_files.jsonl(ROWS))
    monkeypatch.setattr(Memory, "content", {"mem://b/a.jsonl.gz": whole})
    (piece,) = plan(find(["mem://b"]))
    assert isinstance(list(read_piece(task(), SPAN, piece))[-1], Ledger)
    Memory.content["mem://b/a.jsonl.gz"] = gzip.compress(event_files.jsonl(ROWS[:9]))
    with pytest.raises(UserError, match=r"mem://b/a\.jsonl\.gz: changed while it was read"):
        list(read_piece(task(), SPAN, piece))
    del Memory.content["mem://b/a.jsonl.gz"]
    check_unchanged(piece)  # reading says that it is gone


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_vanished_is_refused_in_every_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    pieces = planned(path, monkeypatch)
    path.unlink()
    for piece in pieces:
        letter, ledger = read_piece(task(), SPAN, piece)
        assert isinstance(letter, DeadLetter)
        assert isinstance(ledger, Ledger)
        assert ledger.rejected == 1


def test_the_history_of_a_live_job(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(event_files.jsonl(ROWS))
    (piece,) = plan(find([str(path)]))
    path.write_bytes(event_files.jsonl(ROWS[:100]))
    with pytest.raises(UserError, match="changed while it was read"):
        list(read_piece(task(), Since(SPAN.as_ofs[0]), piece))
