"""What names people is for its owner and group, whoever writes it and whatever the umask lets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.errors import Exit, UserError
from pipelines.jobs.train import alone
from pipelines.storage.folder import views
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import KINDS, make_folders
from pipelines.storage.folder.runs import begin, publish
from pipelines.storage.rows import DEAD_LETTERS, LEDGER, write_table
from pipelines.system.files import create_private, make_private, private_umask, replacing
from pipelines.system.progress import Progress
from pipelines.transforms.archive import compact_archive, write_messages
from tests.support import small_shop
from tests.support.live_job_files import RUN, append_letters, append_scores
from tests.support.sent_messages import messages

MASKS = (0o022, 0o077, 0o002)


@pytest.fixture(params=MASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(place: Path) -> dict[str, int]:
    """Of the place and all below it, without links and locks, which hold nothing."""
    found = [place, *place.rglob("*")]
    return {str(p): stat.S_IMODE(p.lstat().st_mode) for p in found if not p.is_symlink() and "lock" not in p.name}


def closed(place: Path, umask: int, files: int) -> None:
    """Nobody else may enter the folder, and those files that a move might bring elsewhere are closed, too."""
    found = modes(place)
    wrong = {p: oct(m) for p, m in found.items() if m != (0o750 if Path(p).is_dir() else 0o640) & ~umask}
    assert not wrong
    assert sum(Path(p).is_file() for p in found) >= files


def test_a_run_over_files(tmp_path: Path, umask: int) -> None:
    out = tmp_path / "a" / "out"
    with begin(out, "run", "one") as run:
        Progress(str(run.progress)).add("reading", 1)
        write_table(DEAD_LETTERS.empty_table(), run.data / "dead_letters" / "part.parquet")
        write_table(LEDGER.empty_table(), run.data / "ledger.parquet")
        closed(tmp_path / "a", umask, 3)
        publish(run, "refused", ["dead_letters/part.parquet"])
        closed(tmp_path / "a", umask, 4)
    closed(tmp_path / "a", umask, 2)


def test_a_live_job(tmp_path: Path, umask: int) -> None:
    out = tmp_path / "out"
    make_folders(out, RUN)
    for i in range(6):
        append_scores(out, [("e", i, 0, 0.5)], i)
        append_letters(out, [str(i)], i)
    assert compact(out, RUN, fan=3) == 6
    closed(out, umask, 16)
    assert {p.name for p in (out / "live" / RUN).iterdir()} == {*KINDS, ".lock"}


def test_an_archive(tmp_path: Path, umask: int) -> None:
    for i in range(6):
        write_messages(tmp_path / "archive", messages([b"{}"], first=i))
    assert compact_archive(tmp_path / "archive", now=1e12) > 0
    closed(tmp_path / "archive", umask, 1)


def test_examples(tmp_path: Path, umask: int) -> None:
    (tmp_path / "task.yaml").write_text(small_shop.TASK)
    pq.write_table(small_shop.events(users=10), tmp_path / "events.parquet")
    flags = ["--task", str(tmp_path / "task.yaml"), "--input", str(tmp_path / "events.parquet")]
    assert main(["examples", *flags, "--as-of", "2024-04-01", "--output", str(tmp_path / "out")]) == Exit.OK
    found = modes(tmp_path / "out")
    assert {m for p, m in found.items() if Path(p).is_dir()} == {0o750 & ~umask}
    assert {m for p, m in found.items() if p.endswith(".arrow")} == {0o640 & ~umask}


def test_a_training_and_a_rehearsal(tmp_path: Path, umask: int) -> None:
    with alone(tmp_path / "work"), replacing(tmp_path / "rehearsal", private=True):
        closed(tmp_path / "work", umask, 0)
        closed(tmp_path / ".rehearsal.partial", umask, 0)


def test_what_a_query_writes(tmp_path: Path, umask: int) -> None:
    make_private(tmp_path / "out")
    command = ["query", "--output", str(tmp_path / "out"), f"COPY (SELECT 1) TO '{tmp_path / 'copy.csv'}'"]
    assert main(command) == Exit.OK
    assert modes(tmp_path / "copy.csv") == {str(tmp_path / "copy.csv"): 0o640 & ~umask}
    assert os.umask(umask) == umask


def test_what_is_there_keeps_its_mode_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(0o755)
    make_private(tmp_path / "open" / "a" / "b")
    make_private(tmp_path / "open" / "a" / "b")
    assert [oct(m) for m in modes(tmp_path / "open").values()] == ["0o755", "0o750", "0o750"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "link")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(NotADirectoryError):
            make_private(place)
    assert not (tmp_path / "elsewhere").exists()


def test_the_umask_is_as_it_was_afterwards(umask: int) -> None:
    with pytest.raises(KeyError), private_umask():
        raise KeyError
    assert os.umask(umask) == umask


def test_a_folder_that_is_closed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    (tmp_path / "current").mkdir()
    with pytest.raises(UserError, match="current: you may not read it: ask its owner, or be of its group"):
        views.snapshot(tmp_path)


def test_arrow_leaves_the_mode_of_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    create_private(path).close()
    schema = pa.schema([("x", pa.int64())])
    with pa.ipc.new_file(str(path), schema):
        pass
    assert modes(path) == {str(path): 0o640}
