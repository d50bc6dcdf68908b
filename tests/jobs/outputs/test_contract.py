"""What every output promises, each test for each kind of place. What one alone does is tested beside its code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import UserError
from pipelines.jobs.outputs.base import Output, RunResult, StoredLetter
from pipelines.jobs.outputs.kinds import output
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.storage.rows import Run
from pipelines.task.file import load_task
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, score_rows
from tests.support.output_places import PLACES, Place, Row
from tests.support.score_blocks import DAY, block, letter

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.parquet",), 5, "m1", max_bad_share=0.05)
LIVE = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
AS_OFS = (19_000 * DAY, 19_007 * DAY)
HALF = Ledger(read=50, accepted=49, rejected=1, reasons=(("bad", 1),), sequences=25, scored=25)
GOOD = HALF + HALF
REFUSED = replace(GOOD, read=2, accepted=0)
UNBALANCED = replace(GOOD, sequences=51)
LETTERS = [letter("row 3"), letter("row 12")]
ROWS = [(f"user {i}", day, 0) for i in range(25) for day in (19_000, 19_007)]
PRICE = load_task(Path(__file__).parents[3] / "templates" / "tasks" / "price_crypto.yaml")
ELSEWHERE: list[DeadLetter] = []


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path, lambda: request.getfixturevalue("warehouse"))


def parts(size: int, step: int = 1, more: float = 0.0) -> list[ScoreBlock]:
    """All scores, in blocks of a size; in another order where `step` is another; each higher by `more`."""
    rows = [ROWS[i * step % len(ROWS)] for i in range(len(ROWS))]
    made = [block(rows[i : i + size]) for i in range(0, len(rows), size)]
    return [replace(each, scores=each.scores + np.float32(more)) for each in made]


def score(
    place: Output,
    attempt: str,
    scores: Sequence[ScoreBlock],
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (GOOD,),
    *flags: str,
    first: Callable[[ScoreBlock], ScoreBlock] | None = None,
) -> RunResult:
    """A run over files."""
    with place.batch(replace(RUN, attempt=attempt), AS_OFS) as batch:
        with beam.Pipeline("FnApiRunner", PipelineOptions(list(flags))) as p:
            made = p | "Scores" >> beam.Create(scores) | "Spread" >> beam.Reshuffle()
            made = made if first is None else made | beam.Map(first)
            (made, p | "Dead" >> beam.Create(dead), p | "Ledgers" >> beam.Create(ledgers)) | "Write" >> batch.write
        return batch.result()


def stream(
    place: Output,
    scores: Sequence[ScoreBlock] = (),
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (),
    attempt: str = "a",
    letters: bool = True,
) -> dict[str, int]:
    """A live job that is over at once; gives its counters, and in ELSEWHERE the dead letters that it hands on."""
    ELSEWHERE.clear()
    with place.live(replace(LIVE, attempt=attempt), letters) as live:
        assert not live.stop.exists()
        p = beam.Pipeline("FnApiRunner")
        given = {"Scores": scores, "Dead": dead, "Ledgers": ledgers}
        inputs = tuple(p | name >> beam.Create(values, reshuffle=False) for name, values in given.items())
        inputs | "Append" >> live.write | beam.Map(keep)
        result = p.run()
        result.wait_until_finish()
    return {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}


def keep(each: DeadLetter) -> None:
    ELSEWHERE.append(each)


def ledger(place: Output) -> Ledger:
    with place.live(LIVE, letters=True) as live:
        return live.ledger()


def scores(place: Place, view: str = "current") -> list[Row]:
    """Without what says when they were written."""
    rows = place.rows(view, "score_id, run_id, revision")
    assert all(row.pop("scored_at") for row in rows)
    return rows


def expected(blocks: Sequence[ScoreBlock], run: Run = RUN) -> list[Row]:
    order = [(name, "ascending") for name in ("score_id", "revision")]
    return score_rows([block_table(b, run.outputs) for b in blocks], run).sort_by(order).to_pylist()


def positions(place: Place) -> list[tuple[str, str]]:
    return [(row["position"], row["status"]) for row in place.rows("dead_letters", "position")]


def test_rows_of_a_run_are_read_back_as_they_were_written(place: Place) -> None:
    result = score(place.output, "a", parts(7), LETTERS, [HALF, HALF])
    assert (result.status, result.ledger, result.differences) == ("published", GOOD, ())
    assert scores(place) == scores(place, "history") == expected(parts(7))
    assert positions(place) == [("row 12", "published"), ("row 3", "published")]
    [row] = place.rows("ledger", "finished_at")
    assert (row["run_id"], row["attempt"], row["status"], row["read"]) == ("churn-1", "a", "published", 100)


def test_a_run_that_is_repeated_changes_nothing_whatever_the_order_and_the_processes(place: Place) -> None:
    score(place.output, "a", parts(7), LETTERS)
    before = place.rows("current", "score_id")
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    again = score(place.output, "b", parts(30, step=3), LETTERS[::-1], [GOOD], *processes)
    assert (again.status, again.note) == ("published", place.says_unchanged)
    assert place.rows("current", "score_id") == before
    assert len(positions(place)) == 2


def test_a_run_with_nothing_to_write_is_published(place: Place) -> None:
    result = score(place.output, "a", [], [], [])
    assert (result.status, result.ledger) == ("published", Ledger())
    assert [*scores(place), *positions(place)] == []
    assert len(place.rows("ledger", "finished_at")) == 1


@pytest.mark.parametrize(("ledger", "status"), [(REFUSED, "refused"), (UNBALANCED, "unbalanced")])
def test_a_run_that_is_not_published_changes_no_score(place: Place, ledger: Ledger, status: str) -> None:
    score(place.output, "a", parts(50), [letter("good")])
    before = scores(place)
    result = score(place.output, "b", parts(50, more=1), LETTERS, [ledger])
    assert (result.status, result.differences, result.note) == (status, ledger.differences, "")
    assert scores(place) == before
    assert positions(place) == [("good", "published"), ("row 12", status), ("row 3", status)]
    assert sorted(row["status"] for row in place.rows("ledger", "status")) == ["published", status]


def test_a_published_run_takes_the_place_of_all_that_the_run_wrote_before(place: Place) -> None:
    score(place.output, "a", parts(50), [letter("good")])
    score(place.output, "b", parts(50), LETTERS, [REFUSED])
    score(place.output, "c", parts(50, more=1), [letter("new")])
    assert scores(place) == expected(parts(50, more=1))
    assert positions(place) == [("new", "published")]


def test_a_run_that_was_killed_leaves_nothing_and_the_next_one_is_right(place: Place) -> None:
    code = "import sys; from tests.jobs.outputs.test_contract import killed; killed(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", code, str(place.output)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [*scores(place), *positions(place), *place.rows("ledger", "finished_at")] == []
    assert score(place.output, "b", parts(7), LETTERS).status == "published"
    assert scores(place) == expected(parts(7))


def killed(name: str) -> None:
    """A run that ends with its process, once its rows are under way."""
    score(output(name), "a", parts(1), LETTERS, first=die)


def die(scores: ScoreBlock) -> ScoreBlock:
    if scores.entities[0] == ROWS[-1][0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return scores


def test_dead_letters_are_read_back_with_what_is_to_be_sent_again(place: Place) -> None:
    sent = replace(letter("m", raw="half \ud83d, 😀"), payload=b"\xff\x00", attributes=(("k", "ü"), ("a", "")))
    score(place.output, "a", parts(50), [sent, letter("l")])
    plain, told = place.rows("dead_letters", "position")
    assert (plain["payload"], plain["attributes"], told["raw"]) == (None, None, "half \\ud83d, 😀")
    back = sorted(place.output.letters(), key=lambda each: each.payload or b"")
    assert back == [StoredLetter("bad", None, None), StoredLetter("bad", b"\xff\x00", told["attributes"])]
    assert json.loads(told["attributes"]) == {"k": "ü", "a": ""}


def test_a_live_job_writes_the_rows_of_a_run(place: Place) -> None:
    assert stream(place.output, parts(7), LETTERS, [GOOD, GOOD]) == {"dead_letters": 2}
    assert scores(place) == expected(parts(7), LIVE)
    assert positions(place) == [("row 12", "live"), ("row 3", "live")]
    [row] = place.rows("ledger", "finished_at")
    assert (row["run_id"], row["status"], row["scored"], row["differences"]) == ("churn-live", "live", 100, [])
    assert sorted(each.position for each in ELSEWHERE) == ["row 12", "row 3"]
    assert ledger(place.output) == GOOD + GOOD


def test_what_a_live_job_does_again_is_seen_once(place: Place) -> None:
    stream(place.output, parts(7))
    stream(place.output, parts(30, step=3), attempt="b")
    assert scores(place) == scores(place, "history") == expected(parts(7), LIVE)


def test_attempts_of_a_live_job_are_summed(place: Place) -> None:
    assert ledger(place.output) == Ledger()
    for n, attempt in enumerate("ab", 1):
        stream(place.output, ledgers=[GOOD] * n, attempt=attempt)
    assert ledger(place.output) == GOOD + GOOD + GOOD


def test_a_live_job_writes_nothing_of_nothing_and_no_letters_that_go_elsewhere(place: Place) -> None:
    assert stream(place.output, dead=LETTERS, ledgers=[Ledger()], letters=False) == {}
    assert [*scores(place), *positions(place), *place.rows("ledger", "finished_at")] == []
    assert len(ELSEWHERE) == 2


def test_the_highest_revision_counts_whenever_it_comes(place: Place) -> None:
    early, first, second = (block([("a", 19_000, revision)]) for revision in (-1, 0, 1))
    stream(place.output, [early])
    assert scores(place) == expected([early], LIVE)
    for each in (second, first):
        stream(place.output, [each])
    assert scores(place) == expected([second], LIVE)
    assert scores(place, "history") == expected([first, second], LIVE)


def test_a_run_over_what_a_live_job_wrote_corrects_it(place: Place) -> None:
    stream(place.output, parts(50))
    score(place.output, "a", parts(50, more=1))
    assert [row["churn"] for row in scores(place)] == [row["churn"] for row in expected(parts(50, more=1))]


def test_columns_are_taken_or_refused_by_name_and_made_when_asked(place: Place) -> None:
    assert place.output.check(RUN.outputs)
    refused = refusal(place.output)
    if refused is not None:
        assert PRICE.outputs[-1] in refused
        assert place.output.prepare(PRICE, dry_run=True) == 0
        assert refusal(place.output) == refused
        assert place.output.prepare(PRICE, dry_run=False) == 0
    assert place.output.check(PRICE.outputs)


def refusal(place: Output) -> str | None:
    try:
        place.check(PRICE.outputs)
    except UserError as error:
        return str(error)
    return None


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_done(place: Place) -> None:
    with pytest.raises(UserError, match=r"file|nowhere"):
        place.broken.check(RUN.outputs)
    with pytest.raises(UserError, match=r"file|nowhere"), place.broken.batch(RUN, AS_OFS):
        pytest.fail("it has begun")


def test_a_plan_changes_nothing(place: Place) -> None:
    assert [line for line in place.output.plan(AS_OFS) if str(place.output).removeprefix("bq://") not in line] == []
    assert str(place.output).removeprefix("bq://") in place.output.ask("current", "LIMIT 1")
    score(place.output, "a", [], [], [])
    assert scores(place) == []
