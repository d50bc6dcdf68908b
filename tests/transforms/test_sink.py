"""Score and dead letter rows, their bytes, and the transform on both ways of running locally."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.ledger import DeadLetter, Ledger
from pipelines.query import connect
from pipelines.rows import DEAD_LETTERS, RunTarget, read_ledger, score_schema
from pipelines.store import LEDGER, Attempt, Outcome, begin, read_outcome
from pipelines.transforms.inference import ScoreBlock
from pipelines.transforms.sink import (
    WriteRun,
    block_table,
    letter_fields,
    letter_rows,
    part_of,
    run_status,
    score_id,
    score_rows,
    split,
    write_table,
)

DAY = 86_400_000_000


def target(attempt: Attempt, outputs: tuple[str, ...] = ("churn",)) -> RunTarget:
    return RunTarget(attempt, "churn", outputs, "m1", ("in/*.parquet",), 5)


NOWHERE = target(Attempt(Path("out"), "churn-1", "a"))


def block(rows: Sequence[tuple[str, int, int]], outputs: int = 1) -> ScoreBlock:
    """Scores of (entity, day, revision), each a function of its row."""
    scores = [[(part_of(e, 997) + day + revision + k) / 1000 for k in range(outputs)] for e, day, revision in rows]
    days = np.array([day for _, day, _ in rows], np.int64)
    return ScoreBlock(
        entities=[e for e, _, _ in rows],
        as_of=days * DAY,
        revision=np.array([r for _, _, r in rows], np.int32),
        scores=np.array(scores, np.float32).reshape(len(rows), outputs),
        n_events=days + 1,
        last_event_time=days * DAY - 1,
    )


ROWS = [(f"user {i}", day, revision) for i in range(50) for day in (19_000, 19_007) for revision in (0, 1)]


def blocks(seed: int, size: int) -> list[ScoreBlock]:
    """The same rows, in another order and in blocks of another size."""
    rows = random.Random(seed).sample(ROWS, len(ROWS))
    return [block(rows[i : i + size]) for i in range(0, len(rows), size)]


def test_score_rows_are_in_canonical_order_and_complete() -> None:
    rows = score_rows([block_table(b, ["churn"]) for b in blocks(1, 7)], NOWHERE)
    assert rows.schema == score_schema(["churn"])
    keys = [(r["as_of"], r["entity_id"], r["revision"]) for r in rows.to_pylist()]
    assert keys == sorted(keys)
    assert len(keys) == len(ROWS)
    first = rows.slice(0, 1).to_pylist()[0]
    assert first["score_id"] == score_id("churn", "user 0", 19_000 * DAY)
    assert first["churn"] == np.float32(part_of("user 0", 997) + 19_000) / np.float32(1000)
    assert (first["task"], first["model_version"], first["run_id"], first["n_events"]) == (
        "churn",
        "m1",
        "churn-1",
        19_001,
    )


def test_score_ids_can_be_computed_in_sql() -> None:
    con = duckdb.connect()
    rows = score_rows([block_table(block([("ü|'x", 19_000, 0), ("", -3, 0)]), ["churn"])], NOWHERE)
    con.register("scores", rows)
    sql = "SELECT bool_and(score_id = md5(task || '|' || entity_id || '|' || epoch_us(as_of))), count(*) FROM scores"
    assert con.execute(sql).fetchall() == [(True, 2)]


def test_several_outputs() -> None:
    names = ["step_1", "step_2", "step_3"]
    wide = block([("a", 1, 0)], 3)
    rows = score_rows([block_table(wide, names)], target(NOWHERE.attempt, tuple(names)))
    assert [rows[n][0].as_py() for n in names] == wide.scores[0].tolist()


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    for name, (seed, size) in {"a": (1, 7), "b": (2, 200), "c": (3, 1)}.items():
        write_table(score_rows([block_table(b, ["churn"]) for b in blocks(seed, size)], NOWHERE), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_split_keeps_each_entity_together() -> None:
    table = block_table(block(ROWS), ["churn"])
    parts = dict(split(table, 4))
    assert sum(t.num_rows for t in parts.values()) == len(ROWS)
    for part, rows in parts.items():
        assert {part_of(e, 4) for e in rows["entity_id"].to_pylist()} == {part}
    assert list(split(table.slice(0, 0), 4)) == []


def test_part_numbers_never_change() -> None:
    assert [part_of(e, 8) for e in ("", "a", "user 1", "ü")] == [0, 3, 1, 5]


def letter(position: str, source: str = "f", raw: str = "") -> DeadLetter:
    return DeadLetter("read", source, position, "bad", 1, raw)


def test_dead_letters_are_in_the_order_of_their_positions() -> None:
    letters = [letter(p) for p in ("row 10", "row 9", "file", "row 100", "row " + "9" * 5000)] + [letter("row 1", "e")]
    rows = letter_rows(map(letter_fields, letters), "churn-1")
    assert rows.schema == DEAD_LETTERS
    assert [p[:8] for p in rows["position"].to_pylist()] == ["row 1", "file", "row 9", "row 10", "row 100", "row 9999"]
    assert rows["run_id"].to_pylist() == ["churn-1"] * 6
    assert letter_rows([], "churn-1").num_rows == 0


def test_dead_letters_hold_any_text() -> None:
    odd = letter("row 1", raw="half \ud83d, whole 😀, nul \x00, \\xff")
    assert letter_rows([letter_fields(odd)], "r")["raw"].to_pylist() == ["half \\ud83d, whole 😀, nul \x00, \\xff"]


@pytest.mark.parametrize(
    ("ledger", "status"),
    [
        (Ledger(), "published"),
        (Ledger(read=100, accepted=95, rejected=5, reasons=(("bad", 5),)), "published"),
        (Ledger(read=100, accepted=94, rejected=6, reasons=(("bad", 6),)), "refused"),
        (Ledger(read=100, accepted=99), "unbalanced"),
        (Ledger(read=100, accepted=1, rejected=50), "refused"),
    ],
)
def test_status(ledger: Ledger, status: str) -> None:
    assert run_status(ledger, 0.05) == status


def run(
    out: Path,
    attempt: str,
    scores: Sequence[ScoreBlock],
    dead: Sequence[DeadLetter],
    ledgers: Sequence[Ledger],
    *flags: str,
) -> Outcome:
    with begin(out, "churn-1", attempt) as place:
        with beam.Pipeline("FnApiRunner", PipelineOptions(list(flags))) as p:
            inputs = (
                p | "Scores" >> beam.Create(scores) | "Spread" >> beam.Reshuffle(),
                p | "Dead" >> beam.Create(dead),
                p | "Ledgers" >> beam.Create(ledgers),
            )
            inputs | "Write" >> WriteRun(target(place), clock=six)
        outcome = read_outcome(place)
    assert outcome is not None
    return outcome


def six() -> int:
    return 6


GOOD = Ledger(read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=100, scored=100)
LETTERS = [letter("row 3"), letter("row 12")]


def test_a_run_in_one_process(tmp_path: Path) -> None:
    outcome = run(tmp_path, "a", blocks(1, 7), LETTERS, [GOOD, GOOD])
    assert (outcome.status, outcome.changed) == ("published", True)
    assert read_ledger(Path(outcome.path) / LEDGER) == GOOD + GOOD
    con = connect(tmp_path)
    assert con.execute("SELECT count(*), min(revision), max(revision) FROM scores").fetchall() == [(100, 1, 1)]
    assert con.execute("SELECT position FROM dead_letters ORDER BY position").fetchall() == [("row 12",), ("row 3",)]
    assert len(os.listdir(Path(outcome.path) / "scores")) == 8
    metadata = pq.read_metadata(next((Path(outcome.path) / "scores").iterdir()))
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    first = run(tmp_path, "a", blocks(1, 7), LETTERS, [GOOD, GOOD])
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    again = run(tmp_path, "b", blocks(2, 30), LETTERS[::-1], [GOOD + GOOD], *flags)
    assert again == Outcome("published", False, first.path)


def test_nothing_to_write(tmp_path: Path) -> None:
    outcome = run(tmp_path, "a", [], [], [])
    assert outcome.status == "published"
    con = connect(tmp_path)
    assert con.execute("SELECT (SELECT count(*) FROM scores), count(*), min(read) FROM ledger").fetchall() == [
        (0, 1, 0)
    ]


@pytest.mark.parametrize(
    ("ledger", "status"),
    [(Ledger(read=2, rejected=2, reasons=(("bad", 2),)), "refused"), (Ledger(read=2), "unbalanced")],
)
def test_what_is_not_published_has_no_scores(tmp_path: Path, ledger: Ledger, status: str) -> None:
    good = run(tmp_path, "a", blocks(1, 50), [], [GOOD])
    bad = run(tmp_path, "b", blocks(1, 50), LETTERS, [ledger])
    assert bad.status == status
    assert os.listdir(Path(bad.path) / "scores") == []
    assert (tmp_path / "current" / "churn-1").resolve() == Path(good.path)
    con = connect(tmp_path)
    assert con.execute("SELECT count(*) FROM scores").fetchall() == [(100,)]
    assert con.execute("SELECT status, count(*) FROM dead_letters GROUP BY ALL").fetchall() == [(status, 2)]
    assert con.execute("SELECT status FROM ledger ORDER BY status").fetchall() == sorted([("published",), (status,)])


def test_parts_that_a_repeated_bundle_left_are_removed(tmp_path: Path) -> None:
    def stray(place: Attempt) -> Callable[[ScoreBlock], ScoreBlock]:
        def write(b: ScoreBlock) -> ScoreBlock:
            pq.write_table(pa.table({"x": [1]}), place.data / "scores" / "part-00099.parquet")
            return b

        return write

    with begin(tmp_path, "churn-1", "a") as place:
        with beam.Pipeline("FnApiRunner") as p:
            scores = p | "Scores" >> beam.Create(blocks(1, 50)) | beam.Map(stray(place))
            (scores, p | "Dead" >> beam.Create([]), p | "Ledgers" >> beam.Create([GOOD])) | WriteRun(target(place))
        outcome = read_outcome(place)
    assert outcome is not None
    assert "part-00099.parquet" not in os.listdir(Path(outcome.path) / "scores")
