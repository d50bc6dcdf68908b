"""Appending to the output folder, and which of its files hold the rows."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.ledger.counts import Ledger, total
from pipelines.storage.folder import live as livestore
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import (
    MergedFiles,
    commit,
    counting,
    folder,
    level,
    live_runs,
    make_folders,
    new_name,
    parts,
    read_live_ledger,
    read_merged,
    read_rows,
    time_of,
)
from pipelines.storage.folder.query import select
from tests.support.live_job_files import RUN, append_ledger, append_scores


def test_a_file_of_its_own_for_each_append(tmp_path: Path) -> None:
    make_folders(tmp_path, RUN)
    paths = [append_scores(tmp_path, [("ann", 1, 0, 0.5)], at) for at in (7, 7, 3)]
    assert set(parts(folder(tmp_path, RUN, "scores"))) == set(paths)
    assert [time_of(p.name) for p in parts(folder(tmp_path, RUN, "scores"))] == [3, 7, 7]
    assert read_rows(paths[0])["entity_id"].to_pylist() == ["ann"]
    assert live_runs(tmp_path) == [RUN]


def test_no_runs(tmp_path: Path) -> None:
    assert live_runs(tmp_path) == []
    assert parts(folder(tmp_path, RUN, "scores")) == []
    assert read_live_ledger(tmp_path, RUN) == Ledger()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the output folder .*file.*Choose another"):
        make_folders(tmp_path / "file", RUN)
    with pytest.raises(ValueError, match="letters, digits"):
        make_folders(tmp_path, "../x")


def test_names() -> None:
    assert level(new_name(3, 17)) == 3
    assert time_of(new_name(3, 17)) == 17
    assert new_name(0, 1) != new_name(0, 1)
    for name in ("merged.json", "0-1-ab.parquet.c.part", "part-00000.parquet", "spill"):
        assert level(name) == -1


def test_what_counts() -> None:
    old, small, whole, orphan = "0-1-aa.parquet", "0-9-bb.parquet", "1-1-cc.parquet", "1-2-dd.parquet"
    merged = MergedFiles((whole,), ((old, 5),))
    assert counting(merged, [small, orphan, old, whole, "merged.json"]) == [whole, small]
    assert counting(MergedFiles(), [small, orphan, old]) == [old, small]
    assert counting(merged, [small]) == [small]


def test_files_that_are_merged_and_removed_while_the_folder_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folders(tmp_path, RUN)
    for at in (1, 2):
        append_scores(tmp_path, [(f"e{at}", 1, 0, 0.5)], at)
    calls = []

    def slow(place: Path) -> MergedFiles:
        calls.append(place)
        before = read_merged(place)
        if len(calls) == 1:
            assert compact(tmp_path, RUN, grace=0, fan=2) == 2
            assert compact(tmp_path, RUN, grace=0, fan=2) == 0
        return before

    monkeypatch.setattr(livestore, "read_merged", slow)
    (path,) = parts(folder(tmp_path, RUN, "scores"))
    assert read_rows(path)["entity_id"].to_pylist() == ["e1", "e2"]


def test_what_was_merged_survives_its_file(tmp_path: Path) -> None:
    assert read_merged(tmp_path) == MergedFiles()
    merged = MergedFiles(("1-1-cc.parquet",), (("0-1-aa.parquet", 5),))
    commit(tmp_path, merged)
    assert read_merged(tmp_path) == merged
    assert os.listdir(tmp_path) == ["merged.json"]


def test_the_ledger_is_the_sum_of_the_newest_rows_of_attempts(tmp_path: Path) -> None:
    make_folders(tmp_path, RUN)
    parts = [Ledger(read=i, accepted=i, first_time=-i, last_time=i, reasons=((f"r{i % 2}", i),)) for i in range(9)]
    newest: dict[str, Ledger] = {}
    for at, ledger in enumerate(parts):
        attempt = "ab"[at % 3 == 1]
        newest[attempt] = newest.get(attempt, Ledger()) + ledger
        append_ledger(tmp_path, newest[attempt], at, attempt=attempt)
        assert read_live_ledger(tmp_path, RUN) == total(parts[: at + 1])
        compact(tmp_path, RUN, grace=0, fan=2)
        assert read_live_ledger(tmp_path, RUN) == total(parts[: at + 1])
    append_ledger(tmp_path, parts[1], 5, attempt="a")
    assert read_live_ledger(tmp_path, RUN) == total(parts)


WRITERS, APPENDS = 3, 20


def write_many(out: Path, writer: int) -> None:
    for i in range(APPENDS):
        append_scores(out, [(f"{writer}-{i}", 1, 0, 0.5)], 1 + i)
        append_ledger(out, Ledger(read=1 + i, accepted=1 + i), 1 + i, attempt=f"{writer}")


def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """Three processes append, this one merges and reads: what was seen once is seen for ever, once."""
    make_folders(tmp_path, RUN)
    done, seen = threading.Event(), [0]
    sql = "SELECT count(*), count(DISTINCT entity_id), (SELECT coalesce(sum(read), 0) FROM ledger) FROM scores_history"

    def merge() -> None:
        while not done.wait(0.1):
            compact(tmp_path, RUN, grace=0.5, fan=4)

    with ThreadPoolExecutor(1) as thread, ProcessPoolExecutor(WRITERS, get_context("spawn")) as processes:
        merging = thread.submit(merge)
        writing = [processes.submit(write_many, tmp_path, w) for w in range(WRITERS)]
        while not all(w.done() for w in writing) or len(seen) < 10:
            ((rows, entities, read),) = select(tmp_path, sql).rows
            assert isinstance(rows, int)
            assert isinstance(read, int)
            assert rows == entities
            assert rows >= seen[-1]
            assert read <= WRITERS * APPENDS
            seen.append(rows)
        for w in writing:
            w.result()
        done.set()
        merging.result()
    assert list(select(tmp_path, sql).rows) == [(60, 60, 60)]
    assert max(level(p.name) for p in parts(folder(tmp_path, RUN, "scores"))) >= 1
