from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from pipelines.errors import UserError
from pipelines.events import intake
from pipelines.events.block import EventBlock, concat, hash64, unpack
from pipelines.events.decode import Since
from pipelines.events.formats import avro, lines, parquet, rowgroups
from pipelines.events.formats.base import Piece
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.system.progress import Progress
from pipelines.system.progress import read as progress_of
from pipelines.task.spec import Task
from pipelines.transforms import read_files as files
from pipelines.transforms.archive import write_messages
from pipelines.transforms.read_files import File, ReadPieces, find, plan, read_piece
from tests.support import event_files
from tests.support.checked import checked
from tests.support.event_files import SPAN, START, task, written
from tests.support.sent_messages import messages, text

ROWS = event_files.records(500)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.jsonl",
        "b.parquet",
        "sub/c.csv.gz",
        "sub/deep/d.avro",
        "sub/NOTES.txt",
        "_SUCCESS",
        ".hidden.csv",
        "_tmp/e.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next((w(ROWS) for n, w in event_files.WRITERS.items() if n[4:] == path.name[1:]), b"x"))
    return tmp_path


def names(found: list[File], folder: Path) -> list[str]:
    return [str(Path(f.path).relative_to(folder)) for f in found]


def test_find(folder: Path) -> None:
    every = ["a.jsonl", "b.parquet", "sub/c.csv.gz", "sub/deep/d.avro"]
    assert names(find([str(folder)]), folder) == names(find([f"{folder}/"]), folder) == every
    assert names(find([f"{folder}/*.jsonl", f"{folder}/a.jsonl"]), folder) == ["a.jsonl"]
    assert names(find([f"{folder}/**/*.avro"]), folder) == ["sub/deep/d.avro"]
    assert names(find([f"{folder}/su*"]), folder) == ["sub/c.csv.gz", "sub/deep/d.avro"]
    assert [f.format for f in find([str(folder)])] == ["jsonl", "parquet", "csv", "avro"]
    assert [f.size > 0 for f in find([str(folder)])] == [True] * 4
    assert find([f"{folder}/sub/NOTES.txt"], "csv")[0].format == "csv"


def test_find_nothing(folder: Path) -> None:
    for pattern in (f"{folder}/none.jsonl", f"{folder}/*.xml", f"{folder}/nowhere"):
        with pytest.raises(UserError, match="no such file"):
            find([str(folder / "a.jsonl"), pattern])
    with pytest.raises(UserError, match=r"NOTES.txt: .*--format"):
        find([f"{folder}/sub/NOTES.txt"])


def check(spec: Task, path: Path) -> None:
    checked(spec, path)


@pytest.mark.parametrize("name", sorted(event_files.WRITERS))
def test_preflight_of_good_files(tmp_path: Path, name: str) -> None:
    check(task(), written(tmp_path / name, event_files.WRITERS[name](ROWS)))
    check(task(), written(tmp_path / name, event_files.WRITERS[name](ROWS[:0])))


@pytest.mark.parametrize("name", sorted(event_files.WRITERS))
def test_preflight_names_the_field_and_the_nearest(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, event_files.WRITERS[name](ROWS))
    with pytest.raises(UserError, match=rf"{name}: .* field users, .* did you mean user\?.* ts "):
        check(task(entity="users"), path)
    with pytest.raises(UserError, match="field when"):
        check(task(time={"field": "when", "unit": "s"}), path)


@pytest.mark.parametrize("name", sorted(event_files.WRITERS))
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_preflight_sees_a_wrong_unit(tmp_path: Path, name: str, unit: str) -> None:
    scale = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    path = written(tmp_path / name, event_files.WRITERS[name]([{**r, "ts": int(str(r["ts"])) * scale} for r in ROWS]))
    check(task(time={"field": "ts", "unit": unit}), path)
    with pytest.raises(UserError, match=f"ts .*{unit}|ts is missing or out of range"):
        check(task(), path)
    with pytest.raises(UserError, match="Set the unit of ts to s"):
        check(task(time={"field": "ts", "unit": unit}), written(tmp_path / name, event_files.WRITERS[name](ROWS)))


def test_preflight_sees_a_wrong_kind_of_time(tmp_path: Path) -> None:
    for name in ("data.jsonl", "data.csv", "data.parquet", "data.avro"):
        path = written(tmp_path / name, event_files.WRITERS[name]([{**r, "ts": "2024-01-01"} for r in ROWS]))
        with pytest.raises(UserError, match="none of the first 100 rows can be an event: ts is not a number"):
            check(task(), path)
    table = pa.Table.from_pylist(ROWS)
    stamps = table.set_column(1, "ts", table["ts"].cast(pa.timestamp("s")).cast(pa.timestamp("us")))
    pq.write_table(stamps, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"ts is timestamp.* already: its unit is iso, not s"):
        check(task(), tmp_path / "x.parquet")


def test_preflight_skips_what_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.avro", "a.csv.gz", "a.parquet", "a.jsonl"):
        written(tmp_path / name, b"nonsense" if name != "a.jsonl" else b"")
    with pytest.raises(UserError, match=r"none of the 4 files can be read; .*a.avro: not a readable avro file"):
        check(task(), tmp_path)
    written(tmp_path / "z.csv", b"a,b\n1,2\n")
    with pytest.raises(UserError, match=r"z.csv"):
        check(task(), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", event_files.parquet(ROWS), "it holds Parquet, not lines"),
        ("a.jsonl", event_files.avro(ROWS), "it holds Avro, not lines"),
        ("a.csv", gzip.compress(event_files.comma(ROWS)), "it holds gzip data, not lines"),
        ("a.csv", event_files.comma(ROWS).decode().encode("utf-16"), "it holds UTF-16, not lines"),
        ("a.csv.gz", event_files.comma(ROWS), "no gzip data"),
        ("a.json", json.dumps(ROWS).encode(), "it does not hold one JSON object a line"),
        ("a.json", json.dumps(ROWS, indent=1).encode(), "it does not hold one JSON object a line"),
        ("a.avro", event_files.parquet(ROWS), "it does not begin as Avro does"),
        ("a.parquet", event_files.comma(ROWS), "Parquet magic bytes not found"),
    ],
)
def test_preflight_of_a_file_that_is_something_else(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: not a readable \w+ file: {reason}"):
        check(task(), written(tmp_path / name, content))


def test_what_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.jsonl", event_files.jsonl(ROWS))
    for name in ("sub", ".hidden"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may list everything
        if Path(path).name in ("sub", ".hidden"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/sub: cannot be listed: Permission denied$"):
        find([str(tmp_path)])
    with pytest.raises(UserError, match=r"nowhere://a/b: cannot be listed: Unable to get filesystem"):
        find(["nowhere://a/b"])


def test_plan_counts_each_file_once(folder: Path) -> None:
    pieces = plan([*find([str(folder)]), File("empty.csv", 0, "csv")])
    assert sum(p.whole for p in pieces) == 5
    (ledger,) = read_piece(task(), SPAN, pieces[-1])
    assert ledger == Ledger(files=1)


def test_a_file_that_vanished_is_a_dead_letter() -> None:
    for name in ("x.jsonl", "x.csv", "x.csv.gz", "x.avro", "x.parquet"):
        parts = [
            p
            for piece in plan([File(f"/nowhere/{name}", 9, name.split(".")[1])])
            for p in read_piece(task(), SPAN, piece)
        ]
        letter, ledger = parts
        assert isinstance(letter, DeadLetter)
        assert letter.position == "file"
        assert isinstance(ledger, Ledger)
        assert (ledger.bad_files, ledger.read, ledger.rejected) == (1, 1, 1)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of mem://, which no way leads to but Beam's FileSystems."""
    monkeypatch.setattr(Memory, "content", content := dict[str, bytes]())
    return content


class Memory(FileSystem):
    """As little of a remote file system as reading needs; a missing file is told as HTTP clients do."""

    content: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls) -> str:
        return "mem"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        return tuple(path.rsplit("/", 1))  # type: ignore[return-value]

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, content in self.content.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(content))

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> io.BytesIO:
        assert compression_type == CompressionTypes.UNCOMPRESSED
        if path not in self.content:
            raise Gone
        return io.BytesIO(self.content[path])

    def _refuse(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("reading does not need this")

    mkdirs = create = copy = rename = size = last_updated = checksum = delete = _refuse

    def metadata(self, path: str) -> FileMetadata:
        if path not in self.content:
            raise BeamIOError("gone")
        return FileMetadata(path, len(self.content[path]))

    def exists(self, path: str) -> bool:
        return path in self.content


class Gone(Exception):
    code = 404


@pytest.mark.parametrize("piece", [1 << 20, 4_099])
def test_every_file_system_of_beam(
    folder: Path, memory: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """What is read from mem:// is what is read from local files, to the bytes of the blocks."""
    for module in (lines, avro, parquet):
        monkeypatch.setattr(module, "PIECE", piece)
    written(folder / "f.jsonl.gz", event_files.WRITERS["data.jsonl.gz"](ROWS))
    written(folder / "g.csv", event_files.comma(ROWS))
    memory.update({f"mem://b/day/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    local = find([str(folder)])
    globs = ["mem://b/day/?.*", "mem://b/da*/sub/*.csv.gz", "mem://b/day/**.avro"]
    for patterns in (["mem://b/day"], ["mem://b/day/"], ["mem://b"], globs):
        remote = find(patterns)
        assert [f.path.removeprefix("mem://b/day/") for f in remote] == names(local, folder)
        assert [(f.size, f.format) for f in remote] == [(f.size, f.format) for f in local]
        checked(task(), *patterns)
        pieces = plan(remote)
        assert len(pieces) == 6 if piece == 1 << 20 else len(pieces) > 20
        assert [everything(p) for p in pieces] == [everything(p) for p in plan(local)]
    with pytest.raises(UserError, match="the task needs the field users"):
        checked(task(entity="users"), "mem://b")
    with pytest.raises(UserError, match="no such file"):
        find(["mem://b/none"])


def everything(piece: Piece) -> list[bytes | DeadLetter | Ledger]:
    return [p.pack() if isinstance(p, EventBlock) else p for p in read_piece(task(), SPAN, piece)]


def test_a_remote_file_that_vanished_is_a_dead_letter(memory: dict[str, bytes]) -> None:
    for name, format in (("x.jsonl", "jsonl"), ("x.csv.gz", "csv"), ("x.avro", "avro"), ("x.parquet", "parquet")):
        gone = File(f"mem://b/{name}", 9, format)
        with pytest.raises(UserError, match=f"mem://b/{name}: .*: No such file"):
            checked(task(), files=[gone])
        letter, ledger = (part for piece in plan([gone]) for part in everything(piece))
        assert isinstance(letter, DeadLetter)
        assert letter.reason.endswith(": No such file, folder or bucket")
        assert isinstance(ledger, Ledger)
        assert ledger.bad_files == 1


def test_blocks_are_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (piece,) = plan(find([str(written(tmp_path / "x.parquet", event_files.parquet(ROWS, row_group=10)))]))
    blocks = [p for p in read_piece(task(), SPAN, piece) if isinstance(p, EventBlock)]
    assert [len(b) for b in blocks] == [500]
    monkeypatch.setattr(intake, "BLOCK", 100)
    monkeypatch.setattr(rowgroups, "BATCH", 100)
    blocks = [p for p in read_piece(task(), SPAN, piece) if isinstance(p, EventBlock)]
    assert [len(b) for b in blocks] == [100] * 5


def test_read_events(folder: Path, tmp_path: Path) -> None:
    """Every event comes out once, in the shard of its entity; bad rows and counts come out beside them."""
    written(folder / "a.jsonl", event_files.jsonl([*ROWS, {**ROWS[0], "ts": None}]))
    pieces = plan(find([str(folder)]))
    (tmp_path / "progress").mkdir()
    progress = Progress(str(tmp_path / "progress"))
    with beam.Pipeline(runner=FnApiRunner()) as p:
        out = p | ReadPieces(task(), SPAN, pieces, 7, progress)
        counts = out.blocks | "Events" >> beam.Map(_events) | "All" >> beam.CombineGlobally(sum)
        assert_that(counts, equal_to([4 * len(ROWS)]), "events")
        ledger = (
            out.ledger | beam.CombineGlobally(total) | beam.Map(lambda x: (x.read, x.rejected, x.files, x.bad_files))
        )
        assert_that(ledger, equal_to([(4 * len(ROWS) + 1, 1, 4, 0)]), "ledger")
        assert_that(out.dead | beam.Map(lambda d: d.reason), equal_to(["ts is missing or out of range"]), "dead")
    assert progress_of(tmp_path / "progress") == {"reading": sum(p.size for p in pieces)}


def _events(element: tuple[int, bytes]) -> int:
    block = unpack(element[1])
    assert (hash64(block.keys) % np.uint64(7) == element[0]).all()
    assert block.time.min() >= START * 1_000_000
    return len(block)


@pytest.mark.parametrize("name", sorted(event_files.WRITERS))
def test_a_stream_starts_from_files_that_know_no_arrival(tmp_path: Path, name: str) -> None:
    spec, since = task(arrival={"field": "seen", "unit": "s"}), Since(SPAN.as_ofs[0])
    path = written(tmp_path / name, event_files.WRITERS[name](ROWS))
    checked(spec, path, span=since)
    if not name.startswith("data.jsonl"):
        with pytest.raises(UserError, match="the task needs the field seen"):
            checked(spec, path)
    result = event_files.read(spec, path, since)
    assert len(result.events) == len(ROWS)
    assert all(np.array_equal(np.asarray(b.arrival), b.time) for b in result.blocks)


def test_files_that_know_the_arrival_keep_it_for_a_stream(tmp_path: Path) -> None:
    spec, since = task(arrival={"field": "seen", "unit": "s"}), Since(SPAN.as_ofs[0])
    rows = [{**row, "seen": int(str(row["ts"])) + 5} for row in ROWS]
    result = event_files.read(spec, written(tmp_path / "data.jsonl", event_files.jsonl(rows)), since)
    assert all(np.array_equal(np.asarray(b.arrival), b.time + 5_000_000) for b in result.blocks)


def test_events_arrive_at_their_time_where_others_are_messages(tmp_path: Path) -> None:
    write_messages(tmp_path / "archive", messages(text(ROWS[:200])))
    written(tmp_path / "history.jsonl", event_files.jsonl(ROWS[200:]))
    pieces = plan(find([str(tmp_path)]))

    def check(found: list[tuple[int, bytes]]) -> None:
        whole = concat([unpack(raw) for _, raw in found])
        assert whole.arrival is not None
        assert len(whole) == len(whole.arrival) == len(ROWS)
        assert int((whole.arrival == whole.time).sum()) == len(ROWS) - 200

    with beam.Pipeline(FnApiRunner()) as p:
        read = p | ReadPieces(task(), SPAN, pieces, 4, Progress(str(tmp_path / "progress")))
        assert_that(read.blocks, check)


@pytest.mark.parametrize("name", sorted(event_files.WRITERS))
def test_of_many_long_refused_rows_the_begin_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A small file can hold gigabytes of them: each is a dead letter still, with its position."""
    monkeypatch.setattr(files, "KEPT", 4_000)
    rows = [{**row, "user": None, "kind": "x" * 1_000} for row in ROWS]
    result = event_files.read(task(), written(tmp_path / name, event_files.WRITERS[name](rows)))
    assert len(result.dead) == len({d.position for d in result.dead}) == len(ROWS)
    whole = [d for d in result.dead if len(d.raw) > 1_000]
    assert 0 < len(whole) < 5
    assert all("xxx ... (cut, of 1," in d.raw for d in result.dead if d not in whole)
