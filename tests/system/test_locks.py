from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.system.locks import locked

HOLD = """
import pathlib, sys, time
from pipelines.system.locks import locked
with locked(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(600)
"""


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
