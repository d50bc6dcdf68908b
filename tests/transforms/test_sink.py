"""Score and dead letter rows, their bytes, and the transform on both ways of running locally."""

from __future__ import annotations

import json
import os
import pickle
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.periodicsequence import PeriodicImpulse

from pipelines.compaction import compact
from pipelines.ledger import DeadLetter, Ledger, total
from pipelines.livestore import KINDS, folder, parts, prepare, read_live_ledger, read_rows
from pipelines.query import connect
from pipelines.rows import (
    DEAD_LETTERS,
    RunTarget,
    StreamTarget,
    live_schema,
    read_ledger,
    score_schema,
    write_table,
)
from pipelines.rows import ledgers as counts
from pipelines.store import LEDGER, Attempt, Outcome, begin, read_outcome
from pipelines.transforms import sink
from pipelines.transforms.inference import ScoreBlock
from pipelines.transforms.sink import (
    AppendRun,
    Running,
    WriteRun,
    _pack,
    _unpack,
    block_table,
    letter_fields,
    letter_rows,
    part_of,
    run_status,
    score_id,
    score_rows,
    split,
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
        version="m1",
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


def test_a_row_has_the_model_that_made_its_block() -> None:
    old, new = block([("a", 1, 0), ("b", 1, 0)]), replace(block([("c", 1, 0), ("a", 2, 0)]), version="m2")
    packed = [_unpack(_pack(block_table(b, ["churn"]))) for b in (new, old)]
    rows = score_rows(packed, NOWHERE)
    assert rows["model_version"].to_pylist() == ["m1", "m1", "m2", "m2"]
    assert rows.schema == score_schema(["churn"])
    (_, part), *_ = split(packed[0], 1)
    assert score_rows([part, packed[1]], NOWHERE).equals(rows)


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


def test_dead_letters_keep_what_is_to_be_sent_again() -> None:
    plain = letter("message 1")
    sent = replace(plain, payload=b"\xff\x00", attributes=(("k", "ü\ud83d"), ("a", "")))
    rows = letter_rows(map(letter_fields, [sent, plain, replace(plain, payload=b"")]), "r")
    assert rows["payload"].to_pylist() == [None, b"", b"\xff\x00"]
    assert rows["attributes"].to_pylist()[:2] == [None, None]
    assert json.loads(rows["attributes"].to_pylist()[2]) == {"k": "ü\ud83d", "a": ""}


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


def stream(
    out: Path,
    scores: Sequence[ScoreBlock] = (),
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (),
    at: int = 7,
    letters_to_files: bool = True,
    attempt: str = "a",
) -> dict[str, int]:
    """A live job that is over at once; gives its counters."""
    prepare(out, "churn-live")
    to = StreamTarget(out, "churn-live", attempt, "churn", ("churn",), ("s",), 5, letters_to_files)
    p = beam.Pipeline("FnApiRunner")
    inputs = (
        p | "Scores" >> beam.Create(scores, reshuffle=False),
        p | "Dead" >> beam.Create(dead, reshuffle=False),
        p | "Ledgers" >> beam.Create(ledgers, reshuffle=False),
    )
    inputs | "Append" >> AppendRun(to, clock=partial(int, at))
    result = p.run()
    result.wait_until_finish()
    return {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}


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


def test_nothing_to_append(tmp_path: Path) -> None:
    stream(tmp_path, ledgers=[Ledger()])
    assert files(tmp_path) == {"scores": 0, "dead_letters": 0, "ledger": 0}


def test_dead_letters_that_go_elsewhere(tmp_path: Path) -> None:
    assert "dead_letters" not in stream(tmp_path, dead=LETTERS, ledgers=[GOOD], letters_to_files=False)
    assert files(tmp_path) == {"scores": 0, "dead_letters": 0, "ledger": 1}


def test_a_bundle_that_is_done_again_changes_nothing_but_the_time(tmp_path: Path) -> None:
    sql = "SELECT * EXCLUDE (scored_at) FROM score_history ORDER BY ALL"
    stream(tmp_path, blocks(1, 7), LETTERS, at=7)
    first = connect(tmp_path).execute(sql).fetchall()
    stream(tmp_path, blocks(2, 30), LETTERS, at=8)
    con = connect(tmp_path)
    assert con.execute(sql).fetchall() == first
    assert con.execute("SELECT count(*) FROM dead_letters").fetchall() == [(2,)]
    assert con.execute("SELECT DISTINCT epoch_us(scored_at) FROM score_history").fetchall() == [(8,)]


def test_a_live_job_writes_the_rows_of_a_run_over_files(tmp_path: Path) -> None:
    """Of the same scores, whatever the bundles, merged or not."""
    sql = "SELECT * EXCLUDE (run_id, scored_at) FROM {} ORDER BY score_id, revision"
    run(tmp_path / "batch", "a", blocks(1, 7), LETTERS, [GOOD])
    for seed in range(3):
        third = blocks(1, 7)[seed::3]
        stream(tmp_path / "live", third, LETTERS, [GOOD], at=seed + 1, attempt=str(seed))
    for _ in range(2):
        for view in ("scores", "score_history"):
            batch, live = (connect(tmp_path / name).execute(sql.format(view)).fetchall() for name in ("batch", "live"))
            assert live == batch
        assert compact(tmp_path / "live", "churn-live", fan=3) in (9, 0)
    assert files(tmp_path / "live") == {"scores": 1, "dead_letters": 1, "ledger": 1}


def live(endpoint: str, out: Path, ledgers: beam.PTransform, every: float = 5) -> list[tuple[int, Ledger]]:
    """Runs a live job of pickled ledgers on Prism to its end; gives its rows, oldest first."""
    prepare(out, "churn-live")
    to = StreamTarget(out, "churn-live", "a", "churn", ("churn",), ("s",), 5)
    options = [
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
        "--streaming",
        "--experiments=disable_logging_submission_environment",
    ]
    with beam.Pipeline(options=PipelineOptions(options)) as p:
        source = p | ledgers
        (
            source | "Scores" >> beam.FlatMap(lambda _: ()).with_output_types(ScoreBlock),
            source | "Dead" >> beam.FlatMap(lambda _: ()).with_output_types(DeadLetter),
            source | "Ledgers" >> beam.Map(pickle.loads).with_output_types(Ledger),
        ) | "Append" >> AppendRun(to, every=every)
    tables = map(read_rows, parts(folder(out, "churn-live", "ledger")))
    return sorted(
        (row for t in tables for row in zip(t["finished_at"].cast(pa.int64()).to_pylist(), counts(t), strict=True)),
        key=lambda row: row[0],
    )


def test_the_ledger_is_told_while_it_changes_and_at_the_end(prism: str, tmp_path: Path) -> None:
    started = time.time_ns() // 1000
    first, second = GOOD, Ledger(read=3, accepted=3)
    source = test_stream.TestStream(coder=BytesCoder()).advance_watermark_to(0)
    source = source.add_elements([pickle.dumps(first), pickle.dumps(Ledger())]).advance_processing_time(60)
    source = source.advance_watermark_to(10).advance_processing_time(60)  # nothing new: no row
    source = source.add_elements([pickle.dumps(second)] * 2).advance_watermark_to_infinity()
    rows = live(prism, tmp_path, source)
    assert [ledger for _, ledger in rows] == [first, first + second + second]
    assert started < rows[0][0] < rows[1][0]
    assert read_live_ledger(tmp_path, "churn-live") == rows[-1][1]


@pytest.mark.parametrize("every", [0.2, 3600])
def test_the_last_row_has_it_all_and_a_job_does_not_wait_to_write_it(prism: str, tmp_path: Path, every: float) -> None:
    start = time.monotonic()
    now = time.time()
    source = PeriodicImpulse(start_timestamp=now, stop_timestamp=now + 3, fire_interval=0.1)
    rows = live(prism, tmp_path, source | beam.Map(one), every)
    assert [ledger.read for _, ledger in rows] == sorted({ledger.read for _, ledger in rows})
    assert rows[-1][1] == total([Ledger(read=1, accepted=1)] * 30)
    assert len(rows) == 1 or every < 1
    assert time.monotonic() - start < 120


def one(_: object) -> bytes:
    """An event, as `live` takes it."""
    return pickle.dumps(Ledger(read=1, accepted=1))


class Cell:
    """A value in state, and a timer that is set."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def read(self) -> Any:
        return self.value

    def write(self, value: object) -> None:
        self.value = value

    set = write

    def clear(self) -> None:
        self.value = None


def test_a_job_that_is_updated_goes_on_with_what_it_has_counted() -> None:
    """And a clock that was put back does not make an older row of a newer one."""
    state, soon, end = Cell(Running("a", GOOD, at=9)), Cell(), Cell()
    run = sink._Run("b", 5, six)
    run.process(("", GOOD), state, soon, end)
    assert soon.value is not None
    assert list(run.ending(state, soon)) == [Running("a", GOOD + GOOD, at=10)]
    assert soon.value is None
    assert list(run.meanwhile(state)) == []


def test_attempts_of_a_live_job_are_summed(tmp_path: Path) -> None:
    for at, attempt in enumerate("abb", 1):
        stream(tmp_path, ledgers=[GOOD] * at, at=at, attempt=attempt)
    assert read_live_ledger(tmp_path, "churn-live") == total([GOOD] * 4)
    assert files(tmp_path)["ledger"] == 3
