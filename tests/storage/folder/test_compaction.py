"""Merging: nothing is lost, nothing counts twice, at whatever moment it is read, written or killed."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ledger.counts import Ledger, total
from pipelines.storage.folder import compaction
from pipelines.storage.folder.compaction import choose, compact, compacting
from pipelines.storage.folder.live import (
    KINDS,
    append,
    folder,
    level,
    make_folders,
    parts,
    read_live_ledger,
    read_merged,
    read_rows,
)
from pipelines.storage.folder.query import select
from pipelines.system.files import locked
from tests.support.forking_process import ForkingProcess
from tests.support.live_job_files import FAN, RUN, Row, append_ledger, append_letters, append_scores

SEEN = """SELECT (SELECT count(*) FROM scores_history), (SELECT count(DISTINCT entity_id) FROM scores),
    (SELECT count(*) FROM dead_letters), (SELECT sum(read) FROM ledger)"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    make_folders(tmp_path / "out", RUN)
    return tmp_path / "out"


def write(out: Path, i: int) -> None:
    """One row of each kind."""
    append_scores(out, [(f"e{i}", 1, 0, i)], 1 + i)
    append_letters(out, [f"row {i}"], 1 + i)
    append_ledger(out, Ledger(read=1 + i), 1 + i)


def held(out: Path) -> list[list[object]]:
    """The rows of each kind, in files that count."""
    columns = {"scores": "entity_id", "dead_letters": "position", "ledger": "read"}
    return [
        sorted(value for path in parts(folder(out, RUN, kind)) for value in read_rows(path)[columns[kind]].to_pylist())
        for kind in KINDS
    ]


def names(out: Path) -> list[str]:
    return sorted(os.listdir(folder(out, RUN, "scores")))


def test_small_files_become_one_sorted_file(out: Path) -> None:
    rows: list[Row] = [("b", 2, 0, 1), ("a", 2, 0, 2), ("a", 1, 1, 3), ("a", 1, 0, 4), ("c", 1, 0, 5)]
    for at, row in enumerate(rows):
        append_scores(out, [row], 1 + at)
    before = read_rows(parts(folder(out, RUN, "scores"))[0])
    assert compact(out, RUN, grace=0, fan=5) == 5
    (path,) = parts(folder(out, RUN, "scores"))
    merged = read_rows(path)
    assert merged["churn"].to_pylist() == [4, 3, 5, 2, 1]
    assert merged.schema.names == before.schema.names
    assert merged.schema.types == before.schema.types
    assert (level(path.name), compact(out, RUN, grace=0, fan=5)) == (1, 0)
    assert names(out) == [path.name, "merged.json"]


def test_files_of_a_level_become_one_of_the_next(out: Path) -> None:
    for i in range(FAN**3 + 1):
        write(out, i)
        while compact(out, RUN, grace=0, fan=FAN):
            pass
    for kind in KINDS:
        assert [level(p.name) for p in parts(folder(out, RUN, kind))] == [3, 0]
    assert list(select(out, SEEN).rows) == [(28, 28, 28, 28)]


def test_too_few_files_stay(out: Path) -> None:
    for i in range(FAN - 1):
        write(out, i)
    assert compact(out, RUN, fan=FAN) == 0
    assert read_merged(folder(out, RUN, "scores")).files == ()


def test_replaced_files_stay_for_a_while(out: Path) -> None:
    for i in range(FAN):
        write(out, i)
    small = parts(folder(out, RUN, "scores"))
    assert compact(out, RUN, grace=1000, fan=FAN) == 3 * FAN
    assert compact(out, RUN, grace=1000, fan=FAN) == 0
    assert all(p.is_file() for p in small)
    assert not set(small) & set(parts(folder(out, RUN, "scores")))
    compact(out, RUN, grace=0, fan=FAN)
    assert not any(p.exists() for p in small)
    assert read_merged(folder(out, RUN, "scores")).replaced == ()


def test_a_reader_with_an_old_list_finds_its_files(out: Path) -> None:
    for i in range(FAN):
        write(out, i)
    before = parts(folder(out, RUN, "scores"))
    compact(out, RUN, fan=FAN)
    assert pa.concat_tables(map(read_rows, before)).num_rows == FAN


def test_copies_and_early_scores_that_others_followed_are_dropped(out: Path) -> None:
    rows: list[Row] = [
        ("early", 1, -1, 1),
        ("early", 1, -1, 2),
        ("due", 1, -1, 3),
        ("due", 1, 0, 4),
        ("copy", 1, 0, 5),
        ("copy", 1, 0, 5),
        ("corrected", 1, 0, 6),
        ("corrected", 1, 1, 7),
        ("other hour", 1, 0, 8),
        ("other hour", 2, -1, 9),
    ]
    for at, row in enumerate(rows):
        append_scores(out, [row], 1 + at)
        append_letters(out, [f"row {at // 2}"], 1 + at)
    compact(out, RUN, fan=len(rows))
    (path,) = parts(folder(out, RUN, "scores"))
    merged = read_rows(path)
    kept = sorted(zip(merged["churn"].to_pylist(), merged["scored_at"].cast(pa.int64()).to_pylist(), strict=True))
    assert kept == [(2, 2), (4, 4), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10)]
    (path,) = parts(folder(out, RUN, "dead_letters"))
    assert read_rows(path)["position"].to_pylist() == [f"row {i}" for i in range(5)]


def test_the_last_row_of_each_attempt_stays(out: Path) -> None:
    counts = [("a", 1), ("b", 10), ("a", 2), ("b", 30), ("a", 4)]
    for at, (attempt, read) in enumerate(counts, 1):
        append_ledger(out, Ledger(read=read, rejected=1, last_time=at, reasons=(("bad", 1),)), at, attempt=attempt)
    before = read_rows(parts(folder(out, RUN, "ledger"))[0])
    assert compact(out, RUN, fan=len(counts)) == len(counts)
    (path,) = parts(folder(out, RUN, "ledger"))
    merged = read_rows(path)
    assert merged.schema.names == before.schema.names
    kept = zip(merged["attempt"].to_pylist(), merged["finished_at"].cast(pa.int64()).to_pylist(), strict=True)
    assert list(kept) == [("b", 4), ("a", 5)]
    assert read_live_ledger(out, RUN) == Ledger(read=34, rejected=2, last_time=5, reasons=(("bad", 2),))


def test_which_files_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "BYTES", 100)
    small = {f"0-{i}-aa.parquet": 10 for i in range(4)}
    big = {f"1-{i}-aa.parquet": 40 for i in range(3)}
    whole = {f"2-{i}-aa.parquet": 51 for i in range(9)}

    def chosen(sizes: dict[str, int], fan: int) -> list[str]:
        return choose(list(sizes), sizes.__getitem__, fan)

    assert chosen(small, 5) == []
    assert chosen(small, 3) == list(small)[:3]
    assert chosen({**big, **small}, 4) == list(small)
    assert chosen({**small, **big}, 5) == list(big)[:2]  # the third would make it too much
    assert chosen({**whole, **big}, 3) == list(big)[:2]
    assert chosen(whole, 3) == []


def test_one_at_a_time(out: Path) -> None:
    for i in range(FAN):
        write(out, i)
    with locked(folder(out, RUN, "scores").parent / ".lock") as alone:
        assert alone
        assert compact(out, RUN, fan=FAN) == 0
    assert compact(out, RUN, fan=FAN) == 3 * FAN


def test_temporary_files_of_the_living_stay(out: Path) -> None:
    place = folder(out, RUN, "scores")
    ages = {"0-1-aa.parquet.x.part": 10, "0-1-bb.parquet.x.part": 10_000, "1-1-cc.parquet.part": 10, "notes": 10_000}
    for name, age in ages.items():
        (place / name).write_bytes(b"half")
        os.utime(place / name, (time.time() - age, time.time() - age))
    compact(out, RUN)
    assert names(out) == ["0-1-aa.parquet.x.part", "notes"]


def test_a_column_that_only_newer_files_have(out: Path) -> None:
    old = append_ledger(out, Ledger(read=2, accepted=2), 1)
    table = read_rows(old).drop_columns(["late"])
    old.unlink()
    append(out, RUN, "ledger", table, 1)
    assert read_live_ledger(out, RUN) == Ledger(read=2, accepted=2)
    append_ledger(out, Ledger(read=3, accepted=3, late=1), 2, attempt="b")
    compact(out, RUN, fan=2)
    assert read_live_ledger(out, RUN) == Ledger(read=5, accepted=5, late=1)


def test_in_the_background(out: Path) -> None:
    for i in range(compaction.FAN):
        write(out, i)
    with compacting(out, RUN, every=0.01):
        deadline = time.monotonic() + 30
        while any(len(parts(folder(out, RUN, kind))) > 1 for kind in KINDS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert list(select(out, SEEN).rows) == [(32, 32, 32, 32)]


def test_a_merge_that_fails_is_tried_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again, calls = threading.Event(), []

    def fail_once(*_: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("disk full")
        again.set()
        return 0

    monkeypatch.setattr(compaction, "compact", fail_once)
    with caplog.at_level(logging.WARNING), compacting(out, RUN, every=0.01):
        assert again.wait(30)
    assert "merging the files of run churn-live in" in caplog.text
    assert "disk full" in caplog.text


@pytest.fixture
def compactors(out: Path) -> Iterator[ForkingProcess]:
    process = ForkingProcess("tests.support.live_job_files", out, 0.5)
    yield process
    process.close()


def test_a_kill_before_any_file_operation(out: Path, compactors: ForkingProcess) -> None:
    """Before the merge, in it, between the merged file and the list, between the list and the removal."""
    template = out.with_name("template")
    for i in range(2 * FAN):
        append_scores(out, [(f"e{i}", 1, 0, i)], 1 + i)
        append_ledger(out, Ledger(read=1 + i), 1 + i)
    compact(out, RUN, grace=0, fan=FAN)  # leaves files to remove as well as files to merge
    shutil.copytree(out, template)
    entities = held(out)[0]
    assert len(entities) == 2 * FAN
    for step in range(1, 1000):
        shutil.rmtree(out)
        shutil.copytree(template, out)
        code = compactors.ask(f"once {step}")
        assert held(out)[0] == entities
        assert read_live_ledger(out, RUN).read == 2 * FAN
        if code == 0:
            break
        assert code == -signal.SIGKILL
        while compact(out, RUN, grace=0, fan=FAN):
            pass
        assert held(out) == [entities, [], [FAN, 2 * FAN]]
        assert set(names(out)) == {*(p.name for p in parts(folder(out, RUN, "scores"))), "merged.json"}
    assert 30 < step < 999


def test_random_kills_under_readers_and_writers(out: Path, compactors: ForkingProcess) -> None:
    """Two processes merge without end and are killed, one thread writes, one reads: every row, once, at any moment."""
    chance, stop, written, reads = random.Random(5), threading.Event(), [1], [0]
    write(out, 0)

    def keep_writing() -> None:
        while not stop.is_set():
            write(out, written[0])
            written[0] += 1

    def keep_reading() -> None:
        while not stop.is_set():
            before = written[0]
            (row,) = select(out, SEEN).rows
            for value in row:
                assert isinstance(value, int)
                assert before <= value <= written[0] + 1
            assert row[0] == row[1]
            reads[0] += 1

    with ThreadPoolExecutor(2) as pool:
        writer, reader = pool.submit(keep_writing), pool.submit(keep_reading)
        for turn in range(12):
            before = read_merged(folder(out, RUN, "scores"))
            pids = [compactors.ask("loop") for _ in range(2)]
            while turn % 3 == 2 and read_merged(folder(out, RUN, "scores")) == before:
                assert not writer.done()
                assert not reader.done()
                time.sleep(0.01)
            for pid in pids:
                time.sleep(chance.uniform(0, 0.15))
                compactors.kill(pid)
        while reads[0] <= 5 and not reader.done():  # however slow the machine
            time.sleep(0.01)
        stop.set()
        writer.result()
        reader.result()
    assert max(level(p.name) for p in parts(folder(out, RUN, "scores"))) >= 1
    assert list(select(out, SEEN).rows) == [(written[0],) * 4]


rows = st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.integers(-1, 2))
steps = st.one_of(
    st.lists(rows, min_size=1, max_size=4, unique=True),
    st.just("merge"),
    st.integers(0, 5),  # the bundle so many before is done again
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=14))
def test_any_order_of_writing_merging_and_repeating(
    tmp_path_factory: pytest.TempPathFactory, script: list[list[tuple[str, int, int]] | str | int]
) -> None:
    out = tmp_path_factory.mktemp("out")
    make_folders(out, RUN)
    bundles: list[list[Row]] = []
    newest: dict[tuple[str, int, int], tuple[int, float]] = {}
    letters: dict[str, int] = {}
    ledgers = {"a": Ledger(), "b": Ledger()}
    for at, step in enumerate(script, 1):
        if step == "merge":
            compact(out, RUN, grace=0, fan=2)
            continue
        if isinstance(step, list):
            bundles.append([(e, t, r, at + i / 8) for i, (e, t, r) in enumerate(step)])
        elif not bundles:
            continue
        else:
            assert isinstance(step, int)
            bundles.append(bundles[-1 - step % len(bundles)])
        bundle = bundles[-1]
        append_scores(out, bundle, at)
        append_letters(out, [f"row {score}" for *_, score in bundle], at)
        attempt = "ab"[len(bundle) % 2]
        ledgers[attempt] += Ledger(read=len(bundle), rejected=1, reasons=(("bad", 1),))
        append_ledger(out, ledgers[attempt], at, attempt=attempt)
        newest |= {(e, t, r): (at, score) for e, t, r, score in bundle}
        letters |= {f"row {score}": at for *_, score in bundle}
    if not bundles:
        return
    best = {(e, t): max(r for e2, t2, r in newest if (e2, t2) == (e, t)) for e, t, _ in newest}
    history = {k: v for k, v in newest.items() if k[2] >= 0 or best[k[:2]] < 0}
    columns = "entity_id, epoch_us(as_of) // 3600000000, revision, epoch_us(scored_at), churn"
    assert {row[:3]: row[3:] for row in select(out, f"SELECT {columns} FROM scores_history").rows} == history
    current = {row[:2]: row[2:] for row in select(out, f"SELECT {columns} FROM scores").rows}
    assert current == {k: (r, *newest[*k, r]) for k, r in best.items()}
    got = {row[0]: row[1] for row in select(out, "SELECT position, epoch_us(written_at) FROM dead_letters").rows}
    assert got == letters
    want = total(ledgers.values())
    assert read_live_ledger(out, RUN) == want
    ledger = select(out, "SELECT read, pending, reasons FROM ledger WHERE status = 'live'").rows
    assert list(ledger) == [(want.read, want.pending, [{"reason": "bad", "count": len(bundles)}])]
