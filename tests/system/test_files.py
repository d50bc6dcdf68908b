"""A folder is replaced whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.system.files import locked, replaceable, replacing, writable, write_file

HOLD = """
import pathlib, sys, time
from pipelines.system.files import locked
with locked(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(600)
"""


def content(folder: Path) -> dict[str, str]:
    return {f.name: f.read_text() for f in folder.iterdir()}


def write(folder: Path, text: str) -> None:
    with replacing(folder) as new:
        (new / "mark").write_text(text)


def test_new_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    for text in ("one", "two"):
        write(target, text)
        assert content(target) == {"mark": text}
        assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "x", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x") as new:
        new.rename(tmp_path / "stolen")
    assert content(tmp_path / "x") == {"mark": "old"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["stolen", "x"]


def test_what_a_killed_run_left_is_mended(tmp_path: Path) -> None:
    """Killed while writing, and between the two renames."""
    write(tmp_path / "x", "old")
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "half").write_text("")
    (tmp_path / "x").rename(tmp_path / ".x.old")
    with pytest.raises(LookupError), replacing(tmp_path / "x"):
        raise LookupError
    assert content(tmp_path / "x") == {"mark": "old"}
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_only_its_own_kind_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "x", "old")
    assert replaceable(tmp_path / "x", "mark", "model") == tmp_path / "x"
    assert replaceable(tmp_path / "new", "mark", "model") == tmp_path / "new"
    with pytest.raises(UserError, match="is there and is no model"):
        replaceable(tmp_path, "mark", "model")
    with pytest.raises(UserError, match="must be a local folder"):
        replaceable("gs://b/x", "mark", "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*: Not a directory"):
        write(tmp_path / "file" / "x", "")


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    def fail(f: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "a", fail)
    assert not (tmp_path / "a").exists()
    write_file(tmp_path / "a", lambda f: f.write(b"1"))
    write_file(tmp_path / "a", lambda f: f.write(b"2"))
    assert (tmp_path / "a").read_bytes() == b"2"


def test_what_cannot_be_written_to_is_told_by_name(tmp_path: Path) -> None:
    assert writable(str(tmp_path), "--output") == f"{tmp_path} can be written to"
    assert writable(str(tmp_path / "a" / "b"), "--output") == f"{tmp_path / 'a' / 'b'} can be made"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*: \S+file is a file, not a folder"):
        writable(str(tmp_path / "file" / "out"), "--output")
    with pytest.raises(UserError, match=r"cannot write to .*: File name too long"):
        writable(str(tmp_path / ("x" * 5000)), "--output")


def test_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock", wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "lock", wait=False) as third:
        assert third


def test_waiting(tmp_path: Path) -> None:
    order, waits = list[str](), threading.Event()

    def second() -> None:
        waits.set()
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "True\n"
        with locked(tmp_path / "lock", wait=False) as ours:
            assert not ours
        it.kill()
        it.wait()
        with locked(tmp_path / "lock", wait=False) as ours:
            assert ours


def test_what_the_block_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="mine"), locked(tmp_path / "lock", wait=False):
        raise BlockingIOError("mine")
    with locked(tmp_path / "lock", wait=False) as held:
        assert held


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none" / "lock"):
        pytest.fail("it ran")
