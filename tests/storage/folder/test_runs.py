"""The output folder: one step from old to new, at whatever instruction a process is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.ledger.counts import Status
from pipelines.storage.folder.query import select
from pipelines.storage.folder.runs import (
    LEDGER,
    Attempt,
    Outcome,
    begin,
    current,
    link_name,
    link_status,
    publish,
    read_outcome,
)
from tests.support.forking_process import ForkingProcess
from tests.support.publishing_process import LETTERS, PARTS, RUN, SCORES, VALUES, publish_copy, write_values


def put(out: Path, attempt: str, value: int, status: Status = "published", finished_at: int = 1) -> Outcome:
    with begin(out, RUN, attempt) as run:
        write_values(run.data, value, status=status, finished_at=finished_at)
        return publish(run, status, PARTS)


def generations(out: Path) -> list[str]:
    return sorted(os.listdir(out / "generations"))


def test_publishes_and_tidies(tmp_path: Path) -> None:
    with begin(tmp_path, RUN, "a") as run:
        assert read_outcome(run) is None
        write_values(run.data, 1)
        outcome = publish(run, "published", PARTS)
        assert outcome == read_outcome(run) == Outcome("published", True, str(run.generation))
    assert current(tmp_path) == {RUN: run.generation}
    assert (tmp_path / "current" / RUN / SCORES).is_file()
    assert os.listdir(tmp_path / "tmp") == [".lock"]


def test_a_rerun_with_the_same_result_changes_nothing(tmp_path: Path) -> None:
    first = put(tmp_path, "a", 1)
    again = put(tmp_path, "b", 1, finished_at=2)
    assert again == Outcome("published", False, first.path)
    assert generations(tmp_path) == [f"{RUN}.a"]


def test_a_ledger_with_other_counts_is_another_result(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    with begin(tmp_path, RUN, "b") as run:
        write_values(run.data, 1)
        write_values(tmp_path / "other", 2)
        shutil.copy(tmp_path / "other" / LEDGER, run.data / LEDGER)
        assert publish(run, "published", PARTS).changed


def test_the_last_two_generations_stay(tmp_path: Path) -> None:
    for value, attempt in enumerate("abcd"):
        assert put(tmp_path, attempt, value).changed
    assert generations(tmp_path) == [f"{RUN}.c", f"{RUN}.d"]
    assert current(tmp_path)[RUN].name == f"{RUN}.d"


def test_uncommitted_parts_are_left_out(tmp_path: Path) -> None:
    with begin(tmp_path, RUN, "a") as run:
        write_values(run.data, 1)
        (run.data / "scores" / "part-00001.parquet.x.part").write_bytes(b"half")
        path = Path(publish(run, "published", [LETTERS]).path)
    assert not any((path / "scores").iterdir())


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    with begin(tmp_path, RUN, "a") as run:
        write_values(run.data, 1)
        with pytest.raises(FileNotFoundError, match="part-00007"):
            publish(run, "published", [*PARTS, "scores/part-00007.parquet"])
    assert current(tmp_path) == {}
    assert generations(tmp_path) == []


def test_running_runs_are_left_alone(tmp_path: Path) -> None:
    with begin(tmp_path, RUN, "a") as first:
        write_values(first.data, 1)
        put(tmp_path, "b", 2)
        assert first.data.is_dir()
        publish(first, "published", PARTS)
    assert current(tmp_path)[RUN] == first.generation


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    (tmp_path / "tmp" / "notes").mkdir()
    (tmp_path / "generations" / "mine").mkdir()
    (tmp_path / "current" / "readme").write_text("")
    put(tmp_path, "b", 2)
    assert (tmp_path / "tmp" / "notes").is_dir()
    assert (tmp_path / "generations" / "mine").is_dir()


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), begin(tmp_path, RUN, "a") as run:
        publish(run, "published", PARTS)
    assert os.listdir(tmp_path / "tmp") == [".lock"]
    assert generations(tmp_path) == []


def test_a_folder_that_vanishes_during_the_run_does_not_hide_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"moved.*absent"), begin(tmp_path / "out", RUN, "a") as run:
        (run.out.rename(tmp_path / "moved") / "absent").read_text()


@pytest.mark.parametrize(
    ("name", "status"), [("r", "published"), ("r.refused", "refused"), ("r.unbalanced", "unbalanced")]
)
def test_names_and_statuses(name: str, status: Status) -> None:
    assert link_name("r", status) == name
    assert link_status(name) == status


@pytest.mark.parametrize(("run_id", "attempt"), [("a.b", "1"), ("a", ""), ("a/b", "1"), ("a", "..")])
def test_names_are_checked(run_id: str, attempt: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Attempt(Path("out"), run_id, attempt)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write to the output folder .*file.*Choose another"),
        begin(tmp_path / "file", RUN, "a"),
    ):
        pass


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def publisher(tmp_path: Path, templates: Path) -> Iterator[ForkingProcess]:
    for value in range(VALUES):
        write_values(templates / str(value), value)
    process = ForkingProcess("tests.support.publishing_process", tmp_path / "out", templates)
    yield process
    process.close()


def published_value(out: Path, templates: Path) -> int:
    """The value of the current generation, every byte of which is checked."""
    path = current(out)[RUN]
    for value in range(VALUES):
        if all((path / f).read_bytes() == (templates / str(value) / f).read_bytes() for f in (*PARTS, LEDGER)):
            return value
    raise AssertionError(f"{path} is neither of the generations")


def assert_tidy_after_the_next(out: Path, templates: Path) -> None:
    """Whatever the kills left, the next run that changes something puts it right."""
    publish_copy(out, templates / str((published_value(out, templates) + 1) % VALUES))
    assert os.listdir(out / "tmp") == [".lock"]
    assert os.listdir(out / "current") == [RUN]
    assert len(generations(out)) <= 2
    assert current(out)[RUN].name in generations(out)


def test_a_kill_before_any_file_operation(tmp_path: Path, publisher: ForkingProcess, templates: Path) -> None:
    out = tmp_path / "out"
    publish_copy(out, templates / "0")
    for step in range(1, 1000):
        code = publisher.ask(f"once {step}")
        published_value(out, templates)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 50 < step < 999
    assert_tidy_after_the_next(out, templates)


def test_random_kills_under_a_reader(tmp_path: Path, publisher: ForkingProcess, templates: Path) -> None:
    """Two processes publish the same run over and over and are killed; each query sees one generation, whole."""
    out, chance, stop = tmp_path / "out", random.Random(3), threading.Event()
    publish_copy(out, templates / "0")
    seen: list[object] = []
    sql = """SELECT (SELECT [min(churn), max(churn), count(*)] FROM scores),
        (SELECT [min("rows"), max("rows"), count(*)] FROM dead_letters),
        (SELECT [min(read), max(read), 3] FROM ledger)"""

    def keep_reading() -> None:
        while not stop.is_set():
            seen.extend(select(out, sql).rows)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(keep_reading)
        rounds = 0
        while rounds < 15 or (len(seen) <= 10 and not reader.done()):
            rounds += 1
            pids = [publisher.ask("loop") for _ in range(2)]
            for pid in pids:
                time.sleep(chance.uniform(0, 0.1))
                publisher.kill(pid)
            published_value(out, templates)
        stop.set()
        reader.result()
    whole = [tuple([float(v), float(v), 3.0] for _ in range(3)) for v in range(VALUES)]
    assert len(seen) > 10
    assert len({str(row) for row in seen}) > 1
    assert [row for row in seen if row not in whole] == []
    assert_tidy_after_the_next(out, templates)
