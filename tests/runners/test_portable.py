"""Streams on a real Prism: they drain, are cancelled, fail and die as they should, and tell how they go."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.errors import UserError
from pipelines.runners.execution import Execution
from pipelines.runners.flink import STREAM
from pipelines.runners.portable import run_stream
from tests.support.asked_runners import asked
from tests.support.processes import alive, wait_until_dead
from tests.support.ticking_stream import build

HERE = Execution(1, None, (), False)


@contextmanager
def launched(folder: Path, *args: str, bad: int = -1) -> Iterator[subprocess.Popen[str]]:
    """tests.support.ticking_stream in a process of its own, once it has counted something."""
    words = [str(folder / "stop"), str(folder / "out"), str(bad), *args]
    command = [sys.executable, "-m", "tests.support.ticking_stream", *words]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_counts(folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 600
    while not (folder / "out").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def counted(folder: Path) -> int:
    return sum(int(line.split()[1]) for line in (folder / "out").read_text().splitlines())


def child(process: subprocess.Popen[str]) -> int:
    """The Prism that a process has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with open(stat) as f:
            fields = f.read().rpartition(") ")
        if int(fields[2].split()[1]) == process.pid and "(prism" in fields[0]:
            return int(stat.parent.name)
    raise AssertionError("no Prism")


def test_sigterm_drains(tmp_path: Path) -> None:
    with launched(tmp_path) as process:
        wait_for_counts(tmp_path, process)
        prism = child(process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    state, messages = out.split()[:2]
    assert state == "drained"
    assert int(messages) == counted(tmp_path) > 0
    assert "Traceback" not in err
    assert not alive(prism)


def test_kill_9_takes_prism_along(tmp_path: Path) -> None:
    with launched(tmp_path) as process:
        wait_for_counts(tmp_path, process)
        prism = child(process)
        assert alive(prism)
        process.kill()
        process.wait()
    wait_until_dead(prism)


def test_a_failure_is_one_line(tmp_path: Path) -> None:
    with launched(tmp_path, bad=55) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[-1] == (
        "ticking: the stream failed: LookupError: the shelf is empty. Run again with --debug for the whole trace"
    )
    assert "Traceback" not in err


def test_the_end_of_prism_is_told(tmp_path: Path) -> None:
    with launched(tmp_path) as process:
        wait_for_counts(tmp_path, process)
        os.kill(child(process), signal.SIGKILL)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("ticking: the stream failed: Prism was killed (SIGKILL).")
    assert "Traceback" not in err


@pytest.mark.parametrize("signals", [1, 2])
def test_a_second_signal_or_the_limit_cancels(tmp_path: Path, signals: int) -> None:
    """The source watches another file: a drain would last for ever."""
    out, text = tmp_path / "out", io.StringIO()

    def interrupt() -> None:
        wait_for(out)
        os.kill(os.getpid(), signal.SIGTERM)
        if signals > 1:
            wait_for(tmp_path / "stop")
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run_stream(
        HERE,
        lambda p: build(p, tmp_path / "never", out),
        tmp_path / "stop",
        drain=0.5 if signals == 1 else 300,
        to=text,
    )
    thread.join()
    assert result.state == "cancelled"
    assert "draining: no more messages are taken" in text.getvalue()
    assert result.figures.count("messages") > 0
    assert result.seconds < 290  # the limit is 300 s, of two signals
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_before_the_job_has_begun_ends_it_at_once(tmp_path: Path) -> None:
    def interrupted(p: beam.Pipeline) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        build(p, tmp_path / "never", tmp_path / "out")

    result = run_stream(HERE, interrupted, tmp_path / "stop", to=io.StringIO())
    assert result.state == "drained"
    assert not (tmp_path / "out").exists()


def test_the_source_may_end_by_itself_and_an_old_stop_file_does_not_count(tmp_path: Path) -> None:
    text = io.StringIO()
    (tmp_path / "stop").touch()

    def touch() -> None:
        wait_for(tmp_path / "out")
        (tmp_path / "stop").touch()

    thread = threading.Thread(target=touch)
    thread.start()
    result = run_stream(HERE, lambda p: build(p, tmp_path / "stop", tmp_path / "out"), tmp_path / "stop", to=text)
    thread.join()
    assert result.state == "drained"
    assert result.figures.count("messages") == result.figures.count("scores_on_time") == counted(tmp_path)
    assert re.search(r"\d messages/s, 0 events/s, watermark 1\.5 s behind; scores 0 early", text.getvalue())


def test_debug_raises_what_happened(tmp_path: Path) -> None:
    stop, out = tmp_path / "stop", tmp_path / "out"
    with pytest.raises(RuntimeError, match="Traceback"):
        run_stream(Execution(1, None, (), True), lambda p: build(p, stop, out, bad=5), stop, to=io.StringIO())


def test_an_error_of_the_graph_passes(tmp_path: Path) -> None:
    def refuse(p: beam.Pipeline) -> None:
        raise UserError("the task has no arrival")

    with pytest.raises(UserError, match=r"^the task has no arrival$"):
        run_stream(HERE, refuse, tmp_path / "stop")


def test_flink_ends_bundles_before_its_checkpoints_unless_told() -> None:
    def added(*args: str) -> list[str]:
        return [arg for arg in asked(*args, live=True).added() if arg in STREAM]

    finish, bundle, timeout = STREAM
    assert finish == "--finish_bundle_before_checkpointing"
    assert added("--runner=FlinkRunner") == [finish, bundle, timeout]
    assert added("--runner=PortableRunner", "--max_bundle_time_mills=5") == [finish, timeout]
    assert added("--runner=DataflowRunner") == []
    assert "--finish_bundle_before_checkpointing" not in added()


def test_where_a_stream_runs() -> None:
    def works(*args: str) -> bool:
        runner = asked(*args, live=True)
        return runner.works_here(runner.options())

    def name(*args: str) -> str:
        return asked(*args, live=True).name

    assert name() == name("--runner=DirectRunner") == name("--runner=PrismRunner") == "PrismRunner"
    assert name("--runner=FlinkRunner") == "FlinkRunner"
    assert works()
    assert works("--runner=FlinkRunner")
    assert works("--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=LOOPBACK")
    assert not works("--runner=FlinkRunner", "--flink_master=flink:8081")
    assert not works("--runner=DataflowRunner")


@pytest.mark.soak(only=True)
def test_memory_stays_flat(tmp_path: Path) -> None:
    def resident(pid: int) -> int:
        return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])

    with launched(tmp_path) as process:
        wait_for_counts(tmp_path, process)
        prism, kilobytes = child(process), []
        for _ in range(30):
            time.sleep(20)
            kilobytes.append((resident(process.pid), resident(prism)))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert int(out.split()[1]) == counted(tmp_path)
    for one in zip(*kilobytes, strict=True):
        assert max(one[-5:]) < 1.2 * max(one[2:7]), kilobytes
