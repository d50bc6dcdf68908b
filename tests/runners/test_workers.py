"""Worker processes that are killed at any moment, and commands that are interrupted at any moment, end at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.runners.workers import ending, last_words
from tests.support.command_line import command
from tests.support.live_world import World
from tests.test_sockets import of

pytestmark = pytest.mark.long

ENDS = 120.0  # s from a kill or a signal to the end of all processes, which take ten on a machine at rest
DRAWS = 20  # moments
PATIENCE = 300.0  # s for what has no time of its own


@contextmanager
def started(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own; all that came from it is killed at the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True)
        family = psutil.Process(process.pid)
        try:
            yield process
        finally:
            for each in (*children(family), family):
                if each.is_running():
                    each.kill()
            process.wait()


def toiling(seconds: float, mark: Path | None = None) -> list[str]:
    return [sys.executable, "-m", "tests.support.toiling_pipeline", str(seconds), *([str(mark)] if mark else [])]


def children(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return list(parent.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


def ended(process: subprocess.Popen[bytes], family: Sequence[psutil.Process], log: Path, limit: float = ENDS) -> int:
    """The exit code of a command; it and all that came from it are gone in time."""
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # a command then says where each thread is
        process.wait()
        raise AssertionError(log.read_text()) from None
    _, alive = psutil.wait_procs(family, timeout=ENDS)
    assert not alive, log.read_text()
    return code


def test_how_a_process_ended() -> None:
    assert ending(-9) == "was killed (SIGKILL), by somebody or by the system for want of memory"
    assert ending(-11) == "was killed (SIGSEGV)"
    assert ending(3) == "ended too soon, with exit code 3"


def test_last_words(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w+b") as file:
        file.write(b"a warning\nTraceback\n  x\nImportError: no module\nand on\n")
        file.flush()
        assert last_words(file) == ": ImportError: no module"
    assert last_words(file) == last_words(None) == ""


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_that_dies_ends_the_run(tmp_path: Path, busy: bool) -> None:
    """Before it has connected, and in its work."""
    mark, log = tmp_path / "mark", tmp_path / "log"
    with started(toiling(600, mark), log) as process:
        parent = psutil.Process(process.pid)
        wait_for(mark.exists if busy else lambda: children(parent), process, log)
        family = children(parent)
        family[-1].kill()
        assert ended(process, family, log) == 1
    told = log.read_text().splitlines()
    assert len(told) == 1, told
    assert "the pipeline failed: worker process" in told[0]
    assert "was killed (SIGKILL)" in told[0]


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    mark, log = tmp_path / "mark", tmp_path / "log"
    with started(toiling(600, mark), log) as process:
        wait_for(mark.exists, process, log)
        family = children(psutil.Process(process.pid))
        assert len(family) == 2
        process.kill()
        ended(process, family, log)


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_the_run(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    """While the workers come up, or while they work."""
    mark, log = tmp_path / "mark", tmp_path / "log"
    with started(toiling(600, mark), log) as process:
        parent = psutil.Process(process.pid)
        wait_for(mark.exists if group else lambda: children(parent), process, log)
        family = children(parent)
        os.killpg(process.pid, number) if group else process.send_signal(number)
        assert ended(process, family, log) == 128 + number
    assert "Traceback" not in log.read_text()


def deaf(seconds: float) -> list[str]:
    """A command that swallows every interrupt, as a library may."""
    code = f"""
from pipelines.system import interrupts
import time
interrupts.GRACE = 0.5
interrupts.install()
print("ready", flush=True)
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    try:
        time.sleep(0.1)
    except BaseException:
        pass
"""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_swallowed_ends_the_process_all_the_same(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with started(deaf(60), log) as process:
        wait_for(log.read_text, process, log)
        process.send_signal(number)
        assert ended(process, [], log) == 128 + number


def test_a_signal_in_the_first_second_of_a_command_is_not_lost(tmp_path: Path) -> None:
    """While it imports; Python itself ends a process that has not come to its own code."""
    log, missing = tmp_path / "log", tmp_path / "none"
    words = ["score", "--task", missing, "--input", missing, "--as-of", "latest", "--model", missing, "--output", "x"]
    for wait in (0.05, 0.5):
        with started(command(*words), log) as process:
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            # 1 is Python's own while it starts; 2: it had found that there is no task.
            assert ended(process, [], log) in (130, -signal.SIGINT, 1, 2)


def duration(words: Sequence[str], log: Path) -> float:
    """Seconds from the first worker of a command to its end."""
    with started(words, log) as process:
        wait_for(lambda: children(psutil.Process(process.pid)), process, log)
        begun = time.monotonic()
        assert process.wait(PATIENCE) == 0, log.read_text()
    return time.monotonic() - begun


@pytest.mark.soak(only=True)
def test_a_worker_killed_at_any_moment(world: World, tmp_path: Path) -> None:
    """From the start of its process over imports, connection, model and bundles to the end."""
    words = command("score", *of(world, tmp_path), "--as-of", "2024-01-21..2024-01-27", "--workers", 2)
    log, rng = tmp_path / "log", random.Random(7)
    whole = duration(words, log)
    killed = 0
    for draw in range(DRAWS):
        with started(words, log) as process:
            parent = psutil.Process(process.pid)
            wait_for(lambda parent=parent: children(parent), process, log)  # type: ignore[misc]
            time.sleep((draw + rng.random()) / DRAWS * whole)
            family = children(parent)
            if family:
                rng.choice(family).kill()
            begun = time.monotonic()
            code, told = ended(process, family, log, PATIENCE), log.read_text()
        assert "Traceback" not in told
        assert not code or time.monotonic() < begun + ENDS, told  # one whose work was done is not missed
        assert code == 0 or (code == 1 and "worker process" in told), told
        killed += code
    assert killed > DRAWS // 2


@pytest.mark.soak(only=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [False, True])
def test_a_command_interrupted_at_any_moment(world: World, tmp_path: Path, number: signal.Signals, group: bool) -> None:
    words = command("score", *of(world, tmp_path), "--as-of", "2024-01-21..2024-01-27", "--workers", 2)
    log, rng = tmp_path / "log", random.Random(8)
    begun = time.monotonic()
    duration(words, log)
    whole = time.monotonic() - begun
    for draw in range(DRAWS // 2):
        with started(words, log) as process:
            time.sleep((draw + rng.random()) / (DRAWS // 2) * whole)
            family = children(psutil.Process(process.pid))
            os.killpg(process.pid, number) if group else process.send_signal(number)
            assert ended(process, family, log) in (0, 128 + number, -number), log.read_text()
