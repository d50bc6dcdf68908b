"""Progress across processes, with clocks that are told what to say."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.system.progress import (
    Bar,
    Meter,
    Progress,
    ProgressLines,
    Reading,
    finished,
    line,
    read,
    watch,
)


def test_processes_and_threads_add_up(tmp_path: Path) -> None:
    progress = Progress(str(tmp_path))

    def count() -> None:
        for _ in range(100):
            progress.add("reading", 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    code = "import sys; from pipelines.system.progress import Progress as P; [P(sys.argv[1]).add(s, 5) for s in sys.argv[2:]]"  # noqa: E501
    command = [sys.executable, "-c", code, str(tmp_path), "reading", "scoring"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert read(tmp_path) == {"reading": 405, "scoring": 5}


def test_no_path_or_no_folder_is_no_error(tmp_path: Path) -> None:
    Progress().add("reading", 1)
    Progress(str(tmp_path / "gone")).add("reading", 1)
    assert read(tmp_path / "gone") == {}
    (tmp_path / "reading.1").write_bytes(b"half")
    assert read(tmp_path) == {}


def test_the_meter_follows_the_stages() -> None:
    meter = Meter({"reading": 100, "scoring": 0})
    assert meter.update(0.0, {}) is None
    assert meter.update(2.0, {"reading": 50}) == Reading("reading", 50, 100, 2.0)
    assert meter.update(4.0, {"reading": 130}) == Reading("reading", 100, 100, 4.0)
    assert meter.update(7.0, {"reading": 130, "scoring": 6}) == Reading("scoring", 6, 0, 3.0)


def test_rate_and_time_left() -> None:
    reading = Reading("reading", 50, 200, 5.0)
    assert (reading.rate, reading.left) == (10.0, 15.0)
    assert Reading("scoring", 50, 0, 5.0).left is None
    assert Reading("scoring", 0, 9, 0.0).left is None


def test_lines() -> None:
    reading = Reading("reading", 540_000_000, 1_200_000_000, 8.85)
    assert line(reading) == "reading 45 % of 1.2 GB, 61 MB/s, 11 s left"
    assert line(Reading("scoring", 12, 0, 4.0)) == "scoring 12 shards, 3 shards/s"
    assert line(Reading("training", 1, 8, 4.0)) == "training 12 % of 8, 0.2/s, 28 s left"
    assert finished(reading) == "reading done: 540 MB in 9 s, 61 MB/s"


def test_plain_lines_come_every_ten_seconds_and_at_the_end_of_a_stage() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream, every=10.0, due=10.0)
    for now, done in ((1.0, 10), (10.0, 50), (19.0, 80)):
        lines.show(now, Reading("reading", done, 100, now))
    lines.show(20.0, Reading("scoring", 1, 2, 1.0))
    lines.close()
    lines.close()
    assert stream.getvalue().splitlines() == [
        "reading 50 % of 100 B, 5 B/s, 10 s left",
        "reading done: 80 B in 19 s, 4.2 B/s",
        "scoring 50 % of 2 shards, 1 shards/s, 1 s left",
        "scoring done: 1 shards in 1 s, 1 shards/s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_for_each_stage() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.show(1.0, Reading("reading", 50_000, 100_000, 1.0))
    bar.show(2.0, Reading("reading", 100_000, 100_000, 2.0))
    bar.show(3.0, Reading("scoring", 1, 4, 1.0))
    bar.close()
    text = stream.getvalue()
    assert "reading:" in text
    assert "100k/100k" in text
    assert "scoring:" in text
    assert "1.00/4.00" in text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_watch_shows_what_workers_report(tmp_path: Path, stream: Callable[[], io.StringIO]) -> None:
    to = stream()
    with watch(tmp_path, {"reading": 10, "scoring": 4}, to, clock=iter(range(10**6)).__next__, poll=0.001, every=2):
        Progress(str(tmp_path)).add("reading", 10)
    assert "reading" in to.getvalue()
    assert threading.active_count() == 1 or "progress" not in [t.name for t in threading.enumerate()]


def test_watch_passes_errors_on_and_does_nothing_without_a_path(tmp_path: Path) -> None:
    to = io.StringIO()
    with pytest.raises(KeyError), watch(tmp_path, {"reading": 1}, to):
        raise KeyError
    with watch("", {"reading": 1}, to):
        pass
    assert to.getvalue() == ""
