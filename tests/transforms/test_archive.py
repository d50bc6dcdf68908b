from __future__ import annotations

import os
import threading
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.errors import UserError
from pipelines.events.formats.archived import EXTENSION, from_table, payload_of
from pipelines.events.messages import Messages
from pipelines.task.fields import parse_time
from pipelines.transforms import archive
from pipelines.transforms.archive import AGE, GRACE, Archive, compact_archive, compacting_archive, write_messages
from tests.support.sent_messages import AVRO, JSON, messages

DAY = 86_400_000_000
NIGHT = parse_time("2024-03-01") - 2  # us: with the third message the day changes
LATER = 1e12  # seconds: long after every file was written


def kept(folder: Path) -> list[tuple[bytes, str, int]]:
    """All messages in the files that a reader sees."""
    out = []
    for path in sorted(folder.rglob(f"[!.]*{EXTENSION}")):
        m = from_table(pq.read_table(path))
        out += list(zip(m.data, m.id, m.arrival.tolist(), strict=True))
    return sorted(out)


def rows(sent: Messages) -> list[tuple[bytes, str, int]]:
    return sorted(zip(sent.data, sent.id, sent.arrival.tolist(), strict=True))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder).parent) for p in folder.rglob(f"*{EXTENSION}"))


def aged(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*.parquet"):
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


def test_write_messages(tmp_path: Path) -> None:
    sent = messages([b"a", b"b", b"c", b"\xff"], arrival=NIGHT, attributes={"k": "v"})
    assert write_messages(tmp_path, sent, AVRO) == 4
    assert files(tmp_path) == ["2024-02-29", "2024-03-01"]
    assert kept(tmp_path) == rows(sent)
    path = next(tmp_path.rglob("*.parquet"))
    assert payload_of(pq.read_schema(path).metadata) == AVRO
    assert from_table(pq.read_table(path)).attributes == ({"k": "v"},) * 2


def test_heartbeats_and_ticks_are_not_kept(tmp_path: Path) -> None:
    assert write_messages(tmp_path, messages([b"", b"[]", b" \n"])) == 0
    assert write_messages(tmp_path, Messages((), (), np.zeros(0, np.int64), (), 5)) == 0
    assert not list(tmp_path.iterdir())


def test_row_groups_are_small_enough_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "GROUP", 1_000)
    write_messages(tmp_path, messages([bytes(100)] * 100))
    metadata = pq.ParquetFile(next(tmp_path.rglob("*.parquet"))).metadata
    assert 5 < metadata.num_row_groups < 30


def test_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BUNDLE", 50)
    parts = [messages([b"x" * 20] * 10, arrival=NIGHT, first=i) for i in (0, 10, 20)]
    parts.append(Messages((), (), np.zeros(0, np.int64), (), 5))
    pipeline = beam.Pipeline(FnApiRunner())
    pipeline | beam.Create(parts, reshuffle=False) | Archive(str(tmp_path / "new"), JSON)
    result = pipeline.run()
    result.wait_until_finish()
    assert kept(tmp_path / "new") == sorted(r for p in parts for r in rows(p))
    counters = result.metrics().query(MetricsFilter().with_name("archived"))["counters"]
    assert sum(c.committed for c in counters) == 30


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, problem in (
        (str(tmp_path / "file" / "x"), "--archive .*file is a file, not a folder"),
        ("gs://b/x", "local folder"),
    ):
        with pytest.raises(UserError, match=problem), beam.Pipeline(FnApiRunner()) as p:
            p | beam.Create([messages([b"a"])]) | Archive(folder)


def test_compaction(tmp_path: Path) -> None:
    parts = [messages([b"a" * i], arrival=NIGHT - i * DAY // 2, first=i) for i in range(1, 8)]
    for part in parts:
        write_messages(tmp_path, part)
    before = kept(tmp_path)
    assert compact_archive(tmp_path) == 0  # the files are young
    aged(tmp_path, AGE + 60)
    days = len(set(files(tmp_path)))
    assert days == 4
    assert compact_archive(tmp_path) == 6  # one is alone in its day
    assert sorted(set(kept(tmp_path))) == before
    assert len(files(tmp_path)) == 7 + 3  # merged files, and those they replace
    aged(tmp_path, AGE + 60)
    assert compact_archive(tmp_path) == 0
    aged(tmp_path, GRACE)
    assert compact_archive(tmp_path) == 0
    assert kept(tmp_path) == before
    assert len(files(tmp_path)) == 4


def test_merged_files_are_merged_again(tmp_path: Path) -> None:
    sent = [messages([b"a"], arrival=NIGHT - 10, first=i) for i in range(4)]
    for pair in (sent[:2], sent[2:]):
        for part in pair:
            write_messages(tmp_path, part)
        aged(tmp_path, GRACE + AGE)
        compact_archive(tmp_path)
        aged(tmp_path, GRACE + AGE)
        compact_archive(tmp_path)
    aged(tmp_path, GRACE + AGE)
    compact_archive(tmp_path)
    assert len(files(tmp_path)) == 1
    assert kept(tmp_path) == sorted(r for p in sent for r in rows(p))


def test_files_that_are_read_in_other_ways_are_not_merged(tmp_path: Path) -> None:
    for payload in (JSON, JSON, AVRO):
        write_messages(tmp_path, messages([b"a"]), payload)
    assert compact_archive(tmp_path, now=LATER) == 2
    formats = [payload_of(pq.read_schema(p).metadata) for p in tmp_path.rglob("merged-*")]
    assert formats == [JSON]


def test_large_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        write_messages(tmp_path, messages([os.urandom(5_000)], first=i))
    size = next(tmp_path.rglob("*.parquet")).stat().st_size
    monkeypatch.setattr(archive, "LARGE", size * 3)
    assert compact_archive(tmp_path, now=LATER) == 6
    merged = list(tmp_path.rglob("merged-*"))
    assert len(merged) == 2
    aged(tmp_path, GRACE)
    assert compact_archive(tmp_path, now=LATER) == 0
    assert sorted(tmp_path.rglob(f"*{EXTENSION}")) == sorted(merged)


def test_what_cannot_be_read_stays(tmp_path: Path) -> None:
    for i in range(3):
        write_messages(tmp_path, messages([b"a"], first=i))
    day = next(tmp_path.iterdir())
    broken = day / f"broken{EXTENSION}"
    broken.write_bytes(b"nonsense")
    assert compact_archive(tmp_path, now=LATER) == 3
    assert broken.read_bytes() == b"nonsense"


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_compaction_that_dies_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for i in range(3):
        write_messages(tmp_path, messages([b"a"], first=i))
    before, there = kept(tmp_path), files(tmp_path)

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, call, die)
        with pytest.raises(SystemExit):
            compact_archive(tmp_path, now=LATER)
    assert kept(tmp_path) == before
    assert compact_archive(tmp_path, now=LATER) == 3
    assert compact_archive(tmp_path, now=LATER + GRACE) == 0
    assert kept(tmp_path) == before
    assert len(files(tmp_path)) == 1 < len(there)


def test_a_deletion_that_dies_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_messages(tmp_path, messages([b"a"], first=i))
    before = kept(tmp_path)
    compact_archive(tmp_path, now=LATER)
    aged(tmp_path, GRACE)
    real, done = Path.unlink, list[Path]()

    def once(path: Path, missing_ok: bool = False) -> None:
        if done:
            raise SystemExit
        done.append(path)
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", once)
        with pytest.raises(SystemExit):
            compact_archive(tmp_path)
    assert sorted(set(kept(tmp_path))) == before
    compact_archive(tmp_path)
    assert kept(tmp_path) == before


def test_one_works_and_the_others_do_nothing(tmp_path: Path) -> None:
    for i in range(20):
        write_messages(tmp_path, messages([b"a"], first=i))
    before, merged = kept(tmp_path), list[int]()
    threads = [threading.Thread(target=lambda: merged.append(compact_archive(tmp_path, now=LATER))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(merged) == 20
    assert sorted(set(kept(tmp_path))) == before


def test_compacting_while_a_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, enough = list[Path](), threading.Event()

    def compact(folder: Path) -> int:
        calls.append(folder)
        if len(calls) == 1:
            raise OSError("disk full")
        enough.set()
        return 0

    monkeypatch.setattr(archive, "compact_archive", compact)
    with compacting_archive(tmp_path, every=0.001):
        assert enough.wait(30)
    count = len(calls)
    assert calls[0] == tmp_path
    assert len(calls) == count
