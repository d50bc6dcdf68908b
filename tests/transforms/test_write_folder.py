"""Files of runs and of live jobs, their bytes, and the transforms on both ways of running locally."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import KINDS, folder, make_folders, parts, read_live_ledger, read_rows
from pipelines.storage.folder.query import connect
from pipelines.storage.folder.runs import Attempt, Outcome, begin, read_outcome
from pipelines.storage.rows import DEAD_LETTERS, Run, live_schema, score_schema, write_table
from pipelines.transforms import write_folder as sink
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, score_rows
from pipelines.transforms.write_folder import AppendRun, WriteRun, _pack, _unpack, part_of, split
from tests.support.score_blocks import ROWS, block, blocks, letter, written

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.parquet",), 5, "m1", 0.05)
LIVE = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    for name, (seed, size) in {"a": (1, 7), "b": (2, 200), "c": (3, 1)}.items():
        write_table(score_rows([block_table(b, ["churn"]) for b in blocks(seed, size)], RUN), tmp_path / name)
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


def test_a_row_has_the_model_that_made_its_block() -> None:
    old, new = block([("a", 1, 0), ("b", 1, 0)]), replace(block([("c", 1, 0), ("a", 2, 0)]), version="m2")
    packed = [_unpack(_pack(block_table(b, ["churn"]))) for b in (new, old)]
    rows = score_rows(packed, RUN)
    assert rows["model_version"].to_pylist() == ["m1", "m1", "m2", "m2"]
    assert rows.schema == score_schema(["churn"])
    (_, part), *_ = split(packed[0], 1)
    assert score_rows([part, packed[1]], RUN).equals(rows)


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
            inputs | "Write" >> WriteRun(RUN, place, clock=six)
        outcome = read_outcome(place)
    assert outcome is not None
    return outcome


def six() -> int:
    return 6


GOOD = Ledger(read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=100, scored=100)
LETTERS = [letter("row 3"), letter("row 12")]


def test_a_run_writes_a_file_of_each_part(tmp_path: Path) -> None:
    outcome = run(tmp_path, "a", blocks(1, 7), LETTERS, [GOOD, GOOD])
    assert (outcome.status, outcome.changed) == ("published", True)
    assert len(os.listdir(Path(outcome.path) / "scores")) == 8
    metadata = pq.read_metadata(next((Path(outcome.path) / "scores").iterdir()))
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_what_is_not_published_has_no_scores_and_leaves_the_link(tmp_path: Path) -> None:
    good = run(tmp_path, "a", blocks(1, 50), [], [GOOD])
    bad = run(tmp_path, "b", blocks(1, 50), LETTERS, [Ledger(read=2)])
    assert (bad.status, os.listdir(Path(bad.path) / "scores")) == ("unbalanced", [])
    assert (tmp_path / "current" / "churn-1").resolve() == Path(good.path)


def test_parts_that_a_repeated_bundle_left_are_removed(tmp_path: Path) -> None:
    def stray(place: Attempt) -> Callable[[ScoreBlock], ScoreBlock]:
        def write(b: ScoreBlock) -> ScoreBlock:
            pq.write_table(pa.table({"x": [1]}), place.data / "scores" / "part-00099.parquet")
            return b

        return write

    with begin(tmp_path, "churn-1", "a") as place:
        with beam.Pipeline("FnApiRunner") as p:
            scores = p | "Scores" >> beam.Create(blocks(1, 50)) | beam.Map(stray(place))
            (scores, p | "Dead" >> beam.Create([]), p | "Ledgers" >> beam.Create([GOOD])) | WriteRun(RUN, place)
        outcome = read_outcome(place)
    assert outcome is not None
    assert "part-00099.parquet" not in os.listdir(Path(outcome.path) / "scores")


def stream(
    out: Path,
    scores: Sequence[ScoreBlock] = (),
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (),
    at: int = 7,
    letters: bool = True,
    attempt: str = "a",
) -> dict[str, int]:
    """A live job that is over at once; gives its counters."""
    make_folders(out, "churn-live")
    append = AppendRun(replace(LIVE, attempt=attempt), out, letters, clock=partial(int, at))
    return written(append, scores, dead, ledgers)


def files(out: Path) -> dict[str, int]:
    return {kind: len(parts(folder(out, "churn-live", kind))) for kind in KINDS}


def test_a_bundle_is_a_file_of_each_kind(tmp_path: Path) -> None:
    counted = stream(tmp_path, blocks(1, 7), LETTERS, [GOOD, GOOD])
    assert files(tmp_path) == {"scores": 1, "dead_letters": 1, "ledger": 1}
    assert read_live_ledger(tmp_path, "churn-live") == GOOD + GOOD
    assert counted == {"dead_letters": 2}
    rows = read_rows(parts(folder(tmp_path, "churn-live", "scores"))[0])
    assert rows.schema == live_schema(score_schema(["churn"]))
    assert set(rows["scored_at"].cast(pa.int64()).to_pylist()) == {7}
    letters = read_rows(parts(folder(tmp_path, "churn-live", "dead_letters"))[0])
    assert letters.schema == live_schema(DEAD_LETTERS)
    assert letters["position"].to_pylist() == ["row 3", "row 12"]


def test_a_large_bundle_is_more_than_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink._AppendScores, "most", 50)
    monkeypatch.setattr(sink._AppendLetters, "most", 2)
    stream(tmp_path, blocks(1, 20), [letter(f"row {i}") for i in range(5)])
    assert files(tmp_path) == {"scores": 4, "dead_letters": 3, "ledger": 0}
    assert connect(tmp_path).execute("SELECT (SELECT count(*) FROM scores), count(*) FROM dead_letters").fetchall() == [
        (100, 5)
    ]


def test_a_live_job_writes_the_rows_of_a_run_over_files(tmp_path: Path) -> None:
    """Of the same scores, whatever the bundles, merged or not."""
    sql = "SELECT * EXCLUDE (run_id, scored_at) FROM {} ORDER BY score_id, revision"
    run(tmp_path / "batch", "a", blocks(1, 7), LETTERS, [GOOD])
    for seed in range(3):
        third = blocks(1, 7)[seed::3]
        stream(tmp_path / "live", third, LETTERS, [GOOD], at=seed + 1, attempt=str(seed))
    for _ in range(2):
        for view in ("scores", "scores_history"):
            batch, live = (connect(tmp_path / name).execute(sql.format(view)).fetchall() for name in ("batch", "live"))
            assert live == batch
        assert compact(tmp_path / "live", "churn-live", fan=3) in (9, 0)
    assert files(tmp_path / "live") == {"scores": 1, "dead_letters": 1, "ledger": 1}
