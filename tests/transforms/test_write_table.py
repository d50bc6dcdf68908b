"""A run over files into an emulator of BigQuery: the rows of a folder, once, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import UserError
from pipelines.google import bigquery as clients
from pipelines.google.bigquery import writer
from pipelines.google.tables import Table, WriteMethod
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.storage.bigquery import append as appending
from pipelines.storage.bigquery import schema, staging
from pipelines.storage.bigquery.append import append_pending, commit
from pipelines.storage.bigquery.merge import MergeCounts
from pipelines.storage.bigquery.staging import StagedResult, begin, read_result
from pipelines.storage.rows import Run
from pipelines.transforms import write_table as module
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, now, score_rows, stamped
from pipelines.transforms.write_table import WriteTable
from tests.support.score_blocks import DAY, ROWS, block, blocks, letter
from tests.support.warehouse import Warehouse

pytestmark = pytest.mark.long

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.parquet",), 5, "m1", 0.05)
AS_OFS = (19_000 * DAY, 19_007 * DAY)
GOOD = Ledger(read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=100, scored=100)
REFUSED = Ledger(read=2, rejected=2, reasons=(("bad", 2),), sequences=100, scored=100)
UNBALANCED = replace(GOOD, sequences=101)
LETTERS = [letter("row 3"), letter("row 12")]
SCORES = len(ROWS) // 2  # of two revisions


@pytest.fixture
def table(warehouse: Warehouse) -> Table:
    return warehouse.scores_tables(*RUN.outputs)


def write(
    table: Table,
    attempt: str,
    scores: Sequence[ScoreBlock],
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (GOOD,),
    *flags: str,
    method: WriteMethod = "storage",
    replace_model: bool = False,
) -> StagedResult:
    run = replace(RUN, attempt=attempt)
    with begin(table, run):
        with beam.Pipeline("FnApiRunner", PipelineOptions(list(flags))) as p:
            inputs = (
                p | "Scores" >> beam.Create(scores) | "Spread" >> beam.Reshuffle(),
                p | "Dead" >> beam.Create(dead),
                p | "Ledgers" >> beam.Create(ledgers),
            )
            inputs | "Write" >> WriteTable(run, table, AS_OFS, method, replace_model)
        return read_result(table, run.run_id, attempt)


def read(warehouse: Warehouse, name: str, order: str) -> list[dict[str, Any]]:
    return warehouse.sql(f"SELECT * FROM `{name}` ORDER BY {order}")


def counts(n: int = SCORES, **counted: int) -> dict[str, int]:
    return {"meant": n, "staged": n, "visible": n, "added": 0, "replaced": 0, "unchanged": 0, "kept": 0, **counted}


def numbers(result: StagedResult) -> dict[str, int]:
    return {name: getattr(result, name) for name in schema.WRITTEN}


def tables(table: Table) -> set[str]:
    return {t.table_id for t in clients.client(table.project).list_tables(f"{table.project}.{table.dataset}")}


def test_load_jobs_write_the_rows_of_streams(warehouse: Warehouse) -> None:
    one, other = (warehouse.scores_tables(*RUN.outputs) for _ in range(2))
    before = tables(other)
    write(one, "a", blocks(1, 7))
    result = write(other, "a", blocks(2, 30), LETTERS, method="load")
    assert (result.status, numbers(result)) == ("published", counts(added=SCORES))
    want, got = (read(warehouse, each.scores, "score_id") for each in (one, other))
    assert [row | {"scored_at": None} for row in got] == [row | {"scored_at": None} for row in want]
    assert tables(other) == before


def test_another_model_replaces_when_asked(warehouse: Warehouse, table: Table) -> None:
    write(table, "a", blocks(1, 7))
    newer = [replace(b, version="m2", scores=b.scores + np.float32(1)) for b in blocks(1, 30)]
    assert numbers(write(table, "b", newer)) == counts(kept=SCORES)
    assert numbers(write(table, "c", newer, replace_model=True)) == counts(replaced=SCORES)
    assert warehouse.sql(f"SELECT DISTINCT model_version AS m FROM `{table.scores}`") == [{"m": "m2"}]


def test_all_that_is_merged_is_counted(warehouse: Warehouse, table: Table) -> None:
    assert numbers(write(table, "a", blocks(1, 7), LETTERS)) == counts(added=SCORES)
    assert numbers(write(table, "b", blocks(2, 30), LETTERS)) == counts(unchanged=SCORES)
    for attempt, ledger in (("c", REFUSED), ("d", UNBALANCED)):
        assert numbers(write(table, attempt, blocks(1, 50), LETTERS, [ledger])) == {**counts(0), "meant": 100}


def test_letters_of_other_runs_stay(warehouse: Warehouse, table: Table) -> None:
    write(table, "a", blocks(1, 50), LETTERS)
    warehouse.sql(f"UPDATE `{table.dead_letters}` SET run_id = 'other' WHERE position = 'row 3'")
    write(table, "b", blocks(1, 50))
    assert [r["position"] for r in read(warehouse, table.dead_letters, "position")] == ["row 3"]


def test_letters_that_are_too_large_are_cut(warehouse: Warehouse, table: Table) -> None:
    write(table, "a", blocks(1, 50), [replace(letter("n", raw="x" * 9_000_000), payload=b"y" * 9_000_000)])
    [cut] = read(warehouse, table.dead_letters, "position")
    assert (cut["raw"], cut["payload"], cut["rows"]) == ("x" * module.TEXT, None, 1)


def test_scores_that_are_refused_are_dead_letters(warehouse: Warehouse, table: Table) -> None:
    bad = block([("a", 19_000, 0), ("b" * 9_000_000, 19_000, 0)])
    result = write(table, "a", [bad], LETTERS, [replace(GOOD, sequences=2, scored=2)])
    assert (result.status, result.ledger) == ("published", replace(GOOD, sequences=2, scored=1, failed=1))
    assert numbers(result) == counts(1, added=1)
    (told,) = (r for r in read(warehouse, table.dead_letters, "position") if r["stage"] == "write")
    assert told["source"] == str(table)
    assert told["position"].startswith("bbbb")
    assert told["reason"].endswith("bytes, and a request at most 8,388,608")


def test_rows_that_load_jobs_refuse_are_dead_letters(warehouse: Warehouse, table: Table) -> None:
    bad = block([("a", 19_000, 0), ("b", 19_000, 0)])
    bad.entities[1] = None  # type: ignore[call-overload]
    result = write(table, "a", [bad], [], [replace(GOOD, sequences=2, scored=2)], method="load")
    assert (result.status, numbers(result)) == ("published", counts(1, added=1))
    (told,) = read(warehouse, table.dead_letters, "position")
    assert (told["position"], told["reason"]) == ("None as of 2022-01-08", "Missing required field: entity_id.")
    assert json.loads(told["raw"])["as_of"] == "2022-01-08 00:00:00+00:00"


def test_rows_that_vanish_are_noticed_and_nothing_is_merged(warehouse: Warehouse, table: Table) -> None:
    """The emulator drops streams with such a row when it commits them, and says nothing."""
    bad = block([("a", 19_000, 0), ("b", 19_000, 0)])
    bad.entities[1] = None  # type: ignore[call-overload]
    result = write(table, "a", [bad], LETTERS, [replace(GOOD, sequences=2, scored=2)])
    assert (result.status, numbers(result)) == ("unbalanced", {**counts(0), "meant": 2})
    assert result.differences == (f"2 scores meant for {table}, 0 staged: none was merged",)
    assert read(warehouse, table.scores, "score_id") == []
    assert {r["status"] for r in read(warehouse, table.dead_letters, "position")} == {"unbalanced"}


def test_scores_of_another_time_are_noticed(warehouse: Warehouse, table: Table) -> None:
    odd = block([("a", 19_000, 0), ("b", 19_008, 0)])
    result = write(table, "a", [odd], [], [replace(GOOD, sequences=2, scored=2)])
    assert (result.status, numbers(result)) == ("unbalanced", {**counts(2), "visible": 1, "added": 1})
    assert result.differences == (f"2 scores staged for {table}, 1 visible",)


@pytest.mark.parametrize("method", ["storage", "load"])
def test_a_large_bundle_is_written_in_parts(
    warehouse: Warehouse, table: Table, monkeypatch: pytest.MonkeyPatch, method: WriteMethod
) -> None:
    monkeypatch.setattr(module._WriteScores, "most", 50)
    monkeypatch.setattr(module._WriteLetters, "most", 2)
    write(table, "a", blocks(1, 20), [letter(f"row {i}") for i in range(5)], method=method)
    assert len(read(warehouse, table.scores, "score_id")) == SCORES
    assert len(read(warehouse, table.dead_letters, "position")) == 5


def test_bundles_at_the_end_that_are_done_again_do_no_harm(warehouse: Warehouse, table: Table) -> None:
    with begin(table, RUN) as name:
        rows = schema.stored(
            stamped(score_rows([block_table(b, RUN.outputs) for b in blocks(1, 7)], RUN), 7),
            "scores",
            RUN.outputs,
        )
        pending, _ = append_pending(writer(), name, rows)
        first, again = (module._merge(None, [pending.name], GOOD, RUN, table, AS_OFS, False, now) for _ in range(2))
        letters = module._WriteLetters(RUN, table)
        letters.start_bundle()
        assert [list(letters.process(each, again)) for each in LETTERS] == [[], []]
        streams = [each.value for each in letters.finish_bundle()]
        for _ in range(2):
            assert module._finish(None, again, streams, RUN, table, now) == again
    assert (first.counts, again.counts) == (MergeCounts(added=SCORES), MergeCounts(unchanged=SCORES))
    assert len(read(warehouse, table.scores, "score_id")) == SCORES
    assert len(read(warehouse, table.dead_letters, "position")) == 2
    assert len(read(warehouse, table.ledger, "finished_at")) == 2
    assert isinstance(read_result(table, RUN.run_id, RUN.attempt), StagedResult)


def version(number: int) -> list[ScoreBlock]:
    """The rows, and in each the number."""
    return [replace(b, n_events=np.full(len(b.entities), number, np.int64)) for b in blocks(number, 30)]


def letters(number: int) -> list[DeadLetter]:
    return [letter(f"row {i}", raw=str(number)) for i in range(3)]


def child(where: str, number: int, step: int) -> None:
    """Writes a version; dies before its `step`th request, and not at all at 0."""
    steps, patiently = count(1), clients.patiently

    def dying(*args: Any, **options: Any) -> Any:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return patiently(*args, **options)

    for each in (clients, appending, staging, module):
        each.patiently = dying  # type: ignore[attr-defined]
    write(Table(*where.split(".")), f"v{number}", version(number), letters(number))
    print("steps", next(steps), flush=True)


class Forker:
    """A process that forks children which write; it has no connections of its own, which would not bear it."""

    def __init__(self) -> None:
        code = "from tests.transforms.test_write_table import fork_on_demand; fork_on_demand()"
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, table: Table, number: int, step: int = 0) -> int:
        assert self.process.stdin is not None
        where = f"{table.project}.{table.dataset}.{table.table}"
        print(where, number, step, file=self.process.stdin, flush=True)
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ended(self) -> int:
        """Waits for the last child, and gives its exit code."""
        words = self.line().split()
        while words[0] != "code":
            words = self.line().split()
        return int(words[1])


def fork_on_demand() -> None:
    for line in sys.stdin:
        where, number, step = line.split()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child(where, int(number), int(step))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        print("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


@pytest.fixture(scope="module")
def forker(warehouse: Warehouse) -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.process.communicate()


WHOLE = """SELECT count(*) AS n, count(DISTINCT score_id) AS ids, min(n_events) AS first, max(n_events) AS last
FROM `{}`"""


def is_whole(row: dict[str, Any]) -> bool:
    return (row["n"], row["ids"]) in ((0, 0), (SCORES, SCORES)) and row["first"] == row["last"]


def assert_mended(warehouse: Warehouse, table: Table, number: int) -> None:
    result = write(table, f"w{number}", version(number), letters(number))
    assert (result.status, result.differences) == ("published", ())
    (row,) = warehouse.sql(WHOLE.format(table.scores))
    assert row == {"n": SCORES, "ids": SCORES, "first": number, "last": number}
    assert [r["raw"] for r in read(warehouse, table.dead_letters, "position")] == [str(number)] * 3


@pytest.mark.soak
def test_killed_before_any_request(warehouse: Warehouse, table: Table, forker: Forker) -> None:
    """The scores are those of before, or of the run, and the ledger tells of none that did not end."""
    assert_mended(warehouse, table, 1)
    every = 1 if "FORETIDE_SOAK" in os.environ else 5
    for number, step in enumerate(range(1, 1000, every), 2):
        forker.start(table, number, step)
        code = forker.ended()
        (row,) = warehouse.sql(WHOLE.format(table.scores))
        assert is_whole(row)
        told = warehouse.sql(f"SELECT * FROM `{table.ledger}` WHERE attempt = 'v{number}'")
        assert told or code
        assert not told or row["first"] == number
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 12
    assert_mended(warehouse, table, 1000)


@pytest.mark.soak
def test_killed_at_any_moment_under_a_reader(warehouse: Warehouse, table: Table, forker: Forker) -> None:
    kills = 20 if "FORETIDE_SOAK" in os.environ else 2
    start = time.monotonic()
    forker.start(table, 1)
    assert forker.ended() == 0
    usual = time.monotonic() - start
    chance, stop, seen, codes = random.Random(5), threading.Event(), list[dict[str, Any]](), set[int]()

    def keep_reading() -> None:
        while not stop.wait(0.1):
            seen.extend(warehouse.sql(WHOLE.format(table.scores)))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        for number in range(2, kills + 2):
            pid = forker.start(table, number)
            time.sleep(chance.uniform(0.2, 1.0) * usual)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
            codes.add(forker.ended())
        assert_mended(warehouse, table, 1000)
    finally:
        stop.set()
        reader.join()
    assert -signal.SIGKILL in codes
    assert len(seen) > kills
    assert [row for row in seen if not is_whole(row)] == []


def test_a_service_that_forgets_streams_ends_the_run_and_the_next_one_is_right(tmp_path: Path) -> None:
    with Warehouse(tmp_path) as fragile:
        table = fragile.scores_tables(*RUN.outputs)

        def restarted(*args: Any) -> None:
            fragile.restart()
            commit(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "commit", restarted)
            with pytest.raises((UserError, RuntimeError), match="Invalid stream name"):
                write(table, "a", blocks(1, 7))
        assert fragile.sql(WHOLE.format(table.scores))[0]["n"] == 0
        assert_mended(fragile, table, 1)
