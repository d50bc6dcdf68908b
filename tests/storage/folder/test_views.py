"""Views over the output folder, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.events.block import tidy
from pipelines.events.decode import Span, decode
from pipelines.events.sequences import examples, sequences
from pipelines.ledger.counts import Ledger
from pipelines.storage.folder import views
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import folder, make_folders, parts
from pipelines.storage.folder.query import connect, select
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import Run
from pipelines.storage.view_sql import ordered
from pipelines.task.spec import Task
from tests.support.folder_outputs import append_rows, publish_rows, put, put_scores, score_table
from tests.support.live_job_files import HOUR, RUN, append_ledger, append_letters, append_scores
from tests.support.publishing_process import LETTERS, PARTS, write_values

BASE = ["score_id", "task", "entity_id", "as_of", "revision"]
REST = ["model_version", "n_events", "last_event_time", "run_id", "scored_at"]


@pytest.mark.parametrize("name", ["new", 'it\'s "a" [b] * folder'])
def test_a_folder_without_runs_has_empty_views(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    scores = select(tmp_path / name, "SELECT * FROM scores")
    assert list(scores.names) == BASE + REST
    assert scores.types[3] == "TIMESTAMP WITH TIME ZONE"
    assert list(scores.rows) == []
    assert list(select(tmp_path / name, "FROM dead_letters").rows) == []
    assert "status" in select(tmp_path / name, "FROM dead_letters").names
    assert list(select(tmp_path / name, "FROM ledger").rows) == []


@pytest.mark.parametrize("name", ["new", 'it\'s "a" [b] * folder'])
def test_a_folder_with_a_run(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "r", 7)
    scores = select(tmp_path / name, "SELECT * FROM scores ORDER BY entity_id")
    assert list(scores.names) == [*BASE, "churn", *REST]
    first = dict(zip(scores.names, next(scores.rows), strict=True))
    assert (first["churn"], first["n_events"]) == (7.0, 7)
    assert first["scored_at"] == datetime(1970, 1, 1, 0, 0, 0, 1, UTC)
    assert list(select(tmp_path / name, 'SELECT "rows", status FROM dead_letters').rows) == [(7, "published")] * 3


def test_the_run_that_finished_last_wins(tmp_path: Path) -> None:
    put(tmp_path, "b", 1, finished_at=10)
    put(tmp_path, "a", 2, finished_at=30)
    put(tmp_path, "c", 3, finished_at=20)
    assert list(select(tmp_path, "SELECT DISTINCT churn, run_id FROM scores").rows) == [(2.0, "a")]
    assert list(select(tmp_path, "SELECT count(*) FROM scores").rows) == [(3,)]


def test_the_highest_revision_wins_over_a_later_run(tmp_path: Path) -> None:
    put_scores(tmp_path, "a", {"entity_id": ["e", "e", "f"], "revision": [0, 1, 0], "churn": [0.1, 0.2, 0.3]}, 10)
    put_scores(tmp_path, "b", {"entity_id": ["e", "f"], "revision": [0, 0], "churn": [0.4, 0.5]}, 20)
    got = select(tmp_path, "SELECT entity_id, revision, churn::DECIMAL(2, 1)::DOUBLE FROM scores ORDER BY 1")
    assert list(got.rows) == [("e", 1, 0.2), ("f", 0, 0.5)]


def test_tasks_with_different_outputs_share_a_folder(tmp_path: Path) -> None:
    put_scores(tmp_path, "a", {"entity_id": ["e"], "churn": [0.5]})
    put_scores(tmp_path, "b", {"task": ["price"], "entity_id": ["e"], "step_1": [1.5], "step_2": [2.5]})
    got = select(tmp_path, "SELECT * FROM scores ORDER BY task")
    assert list(got.names) == [*BASE, "churn", "step_1", "step_2", *REST]
    assert [row[5:8] for row in got.rows] == [(0.5, None, None), (None, 1.5, 2.5)]


def test_a_generation_that_was_deleted_by_hand_is_no_longer_there(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    (tmp_path / "generations" / "b.published-2").rename(tmp_path / "elsewhere")
    assert list(select(tmp_path, "SELECT DISTINCT run_id FROM scores").rows) == [("a",)]


def test_an_open_connection_keeps_its_generation(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    con = connect(tmp_path)
    with begin(tmp_path, "a", "b") as run:
        write_values(run.data, 2, run="a")
        publish(run, "published", PARTS)
    assert con.execute("SELECT DISTINCT churn FROM scores").fetchall() == [(1.0,)]
    assert connect(tmp_path).execute("SELECT DISTINCT churn FROM scores").fetchall() == [(2.0,)]


def test_conditions_reach_the_files(tmp_path: Path) -> None:
    """Conditions on entity and as-of are applied when the files are read, not after all scores were compared."""
    entities = [f"e{i}" for i in range(1000)]
    put_scores(tmp_path, "a", {"entity_id": list(entities), "churn": np.linspace(0, 1, 1000).tolist()})
    plan = connect(tmp_path).execute("EXPLAIN SELECT * FROM scores WHERE entity_id = 'e7'").fetchall()[0][1]
    scan = plan[plan.upper().index("PARQUET") - 400 :]
    assert "entity_id" in scan
    assert "'e7'" in scan


def test_paths_as_rows(tmp_path: Path) -> None:
    put_scores(tmp_path, "old", {"entity_id": ["gone"], "score_id": ["g"], "churn": [0.5]})
    path: dict[str, list[object]] = {
        "step_1": [1.0, 4.0],
        "step_2": [2.0, 5.0],
        "step_1_p10": [0.5, 3.5],
        "step_2_p10": [1.0, 3.0],
    }
    put_scores(tmp_path, "new", {"entity_id": ["a", "b"], "score_id": ["x", "y"], **path, "step_2_p97_5": [3.0, 6.0]})
    rows = list(select(tmp_path, "SELECT entity_id, step, p10, p50, p97_5 FROM scores_forecasts ORDER BY ALL").rows)
    assert rows == [
        ("a", 1, 0.5, 1.0, None),
        ("a", 2, 1.0, 2.0, 3.0),
        ("b", 1, 3.5, 4.0, None),
        ("b", 2, 3.0, 5.0, 6.0),
    ]


def test_no_paths_are_no_forecasts(tmp_path: Path) -> None:
    put_scores(tmp_path, "r", {"entity_id": ["a"], "churn": [0.5]})
    assert list(select(tmp_path, "SELECT step, p50 FROM scores_forecasts").rows) == []


def test_outputs_of_many_tasks_in_order(tmp_path: Path) -> None:
    outputs = ["step_10", "step_2_p10", "step_2", "churn", "step_10_p97_5", "step_10_p5"]
    want = ["churn", "step_2", "step_10", "step_2_p10", "step_10_p5", "step_10_p97_5"]
    assert ordered(outputs) == want
    put_scores(tmp_path, "r", {"entity_id": ["a"], **{name: [1.0] for name in outputs}})
    for view in ("scores", "scores_history"):
        assert list(select(tmp_path, f"SELECT * FROM {view}").names) == [*BASE, *want, *REST]


def test_movers(tmp_path: Path) -> None:
    """Consecutive scores of the same task, entity and output, whatever lies between them; paths by their medians."""
    churn: dict[str, list[object]] = {"entity_id": ["a", "b", "a"], "as_of": [HOUR, HOUR, 5 * HOUR]}
    put_scores(tmp_path, "1", {**churn, "churn": [0.25, 0.5, 1.0], "model_version": ["m", "m", "n"]}, 10)
    put_scores(tmp_path, "2", {"entity_id": ["a"], "as_of": [5 * HOUR], "revision": [1], "churn": [0.75]}, 5)
    path: dict[str, list[object]] = {"step_1": [1.0, 3.0], "step_2": [2.0, None], "step_1_p10": [0.5, 0.5]}
    put_scores(tmp_path, "3", {"task": ["price"] * 2, "entity_id": ["a"] * 2, "as_of": [2 * HOUR, 3 * HOUR], **path})
    columns = """task, entity_id, output, epoch_us(as_of), epoch_us(previous_as_of), score, previous_score, change,
        revision, model_version, previous_model_version"""
    assert list(select(tmp_path, f"SELECT {columns} FROM scores_movers ORDER BY ALL").rows) == [
        ("churn", "a", "churn", 5 * HOUR, HOUR, 0.75, 0.25, 0.5, 1, "m", "m"),
        ("price", "a", "step_1", 3 * HOUR, 2 * HOUR, 3.0, 1.0, 2.0, 0, "m", "m"),
    ]


SHOP = Run("shop-1", "a", "shop", ("churn",), (), 0, "m", horizon=2 * HOUR, active_within=3 * HOUR)
Score = tuple[str, float, float, float]  # entity, as-of and last event in hours, score


def put_churn(out: Path, run: Run, rows: Sequence[Score], revision: int = 0, at: int = 9) -> None:
    made = [
        (e, round(t * HOUR), revision, run.model_version, round(last * HOUR), [score]) for e, t, last, score in rows
    ]
    publish_rows(out, run, score_table(run, made, at), at)


def outcomes(out: Path) -> dict[str, list[object]]:
    """By model: bin, number and share that churned."""
    rows = select(out, "SELECT model_version, bin, scores, churned FROM scores_calibration ORDER BY ALL").rows
    found: dict[str, list[object]] = {}
    for model, *rest in rows:
        found.setdefault(str(model), []).append(tuple(rest))
    return found


def test_calibration_by_model_and_tenth(tmp_path: Path) -> None:
    """All that left at the last as-of had been there at the one before."""
    scores = [0.0, 0.05, 0.1, 0.11, 0.1999, 0.91, 0.95, 1.0]
    first: list[Score] = [(f"e{i}", 10, 9, score) for i, score in enumerate(scores)]
    left = {1, 4, 5, 7}
    put_churn(tmp_path, SHOP, first + [(f"e{i}", 12, 9 if i in left else 11, 0.5) for i in range(8)])
    sql = "SELECT * FROM scores_calibration ORDER BY bin"
    found = select(tmp_path, sql)
    names = ["task", "model_version", "bin", "scores", "mean_score", "churned", "lowest_score", "highest_score"]
    assert list(found.names) == names
    rows = [[*row[:4], *np.round(np.asarray(row[4:], float), 6).tolist()] for row in found.rows]
    assert rows == [
        ["shop", "m", 0, 2, 0.025, 0.5, 0.0, 0.05],
        ["shop", "m", 1, 3, 0.136633, 0.333333, 0.1, 0.1999],
        ["shop", "m", 9, 3, 0.953333, 0.666667, 0.91, 1.0],
    ]


US = 1 / HOUR
JUDGED: list[tuple[list[Score], list[object]]] = [
    ([("a", 12, 9, 0.5)], [(0, 1, 1.0)]),
    ([("a", 12, 10, 0.5)], [(0, 1, 0.0)]),  # an event at the as-of is in the horizon
    ([("a", 12, 10 - US, 0.5)], [(0, 1, 1.0)]),
    ([("a", 13, 12 - US, 0.5)], [(0, 1, 0.0)]),
    ([("a", 13, 12, 0.5)], []),  # one at its end is not, but what was before that is unknown
    ([("a", 11, 9, 0.5), ("a", 13, 12, 0.5)], []),
    ([("a", 11, 10, 0.5), ("a", 13, 12, 0.5)], [(0, 1, 0.0)]),
    ([("a", 11.9, 10, 0.5)], []),  # too soon to judge those who churned, and so all
    ([("b", 12, 11, 0.5)], [(0, 1, 1.0)]),  # gone from the history, which has 3 hours at least
    ([("b", 13, 12, 0.5)], [(0, 1, 1.0)]),
    ([("b", 13 + US, 12, 0.5)], []),
    ([("b", 11, 9, 0.5), ("b", 14, 12, 0.5)], [(0, 1, 1.0)]),
    ([("b", 11, 9, 0.5), ("b", 14 + US, 12, 0.5)], []),
]


@pytest.mark.parametrize(("later", "want"), JUDGED)
def test_what_later_scores_tell(tmp_path: Path, later: list[Score], want: list[object]) -> None:
    """Of a at 10 h, with a score of 0 and a horizon to 12 h. Later scores are in other bins, or of other entities."""
    put_churn(tmp_path, SHOP, [("a", 10, 9, 0.0), *later])
    found = outcomes(tmp_path).get("m", [])
    assert [row for row in found if row[0] == 0] == want  # type: ignore[index]


@pytest.mark.parametrize(("last", "judged"), [(7.0, True), (7 - US, False)])
def test_only_who_was_active_in_time_is_judged(tmp_path: Path, last: float, judged: bool) -> None:
    put_churn(tmp_path, SHOP, [("a", 10, last, 0.5), ("b", 12, 11, 0.5)])
    assert outcomes(tmp_path) == ({"m": [(5, 1, 1.0)]} if judged else {})


def test_early_scores_are_neither_judged_nor_evidence(tmp_path: Path) -> None:
    put_churn(tmp_path, SHOP, [("a", 10, 9, 0.5)])
    put_churn(tmp_path, replace(SHOP, run_id="early"), [("b", 10, 9, 0.5), ("a", 12, 9, 0.5)], revision=-1)
    assert outcomes(tmp_path) == {}


def test_the_terms_of_the_newest_ledger_that_has_any_count(tmp_path: Path) -> None:
    rows: list[Score] = [("a", 10, 9, 0.5), ("a", 12, 11, 0.5)]
    put_churn(tmp_path, SHOP, rows, at=5)
    put_churn(tmp_path, replace(SHOP, run_id="shop-2", horizon=HOUR), rows, at=7)
    put_churn(tmp_path, replace(SHOP, run_id="shop-3", horizon=None, active_within=None), rows, at=8)
    put_churn(tmp_path, replace(SHOP, run_id="shop-4", task="other", horizon=9 * HOUR), rows, at=9)
    assert outcomes(tmp_path) == {}  # within an hour nobody knows
    older(tmp_path / "generations" / "shop-2.a" / LEDGER, "horizon", "active_within")
    assert outcomes(tmp_path) == {"m": [(5, 1, 0.0)]}


def test_calibration_of_a_live_job(live: Path) -> None:
    run = replace(SHOP, run_id=RUN)
    for at in (1, 2):  # twice
        rows = [("a", 10 * HOUR, 0, "m", 9 * HOUR, [0.5]), ("a", 12 * HOUR, 0, "m", 9 * HOUR, [0.5])]
        append_rows(live, run, score_table(run, rows, at), at)
    assert outcomes(live) == {"m": [(5, 1, 1.0)]}
    terms = select(live, "SELECT horizon, active_within FROM ledger").rows
    assert list(terms) == [(2 * HOUR, 3 * HOUR)]


SECOND = 1_000_000
LABELS = [  # steps, horizon, active_within (s), as-ofs (steps of 10 s), whether all outcomes are known
    (8, 20, 20, range(4, 20), True),
    (8, 25, 20, range(4, 20), False),
    (2, 20, 20, range(4, 20), True),  # who churned is gone when the horizon ends
    (2, 50, 15, range(4, 20), True),  # before it ends
    (2, 20, 20, (4, 6, 8, 11, 12, 13, 16, 18), False),
    (8, 30, 25, range(4, 20, 2), False),
]


@pytest.mark.parametrize(("steps", "horizon", "active", "due", "known"), LABELS)
def test_outcomes_are_the_labels_of_examples(
    tmp_path: Path, steps: int, horizon: int, active: int, due: Sequence[int], known: bool
) -> None:
    task = Task.model_validate(
        {
            "task": "shop",
            "events": {"entity": "user", "time": {"field": "at", "unit": "us"}, "identity": "none"},
            "sequence": {"step": "10s", "steps": steps, "features": ({"agg": "count"},)},
            "score": {"every": "10s"},
            "label": {"kind": "churn", "horizon": f"{horizon}s", "active_within": f"{active}s"},
        }
    )
    random = np.random.default_rng(steps + horizon)
    users = random.integers(0, 40, 250)
    times = random.integers(0, 50, 250) * 5 * SECOND - random.integers(0, 2, 250)  # many at borders, or just before
    events = pa.table({"user": [f"u{u}" for u in users], "at": times})
    as_ofs = [t * 10 * SECOND for t in due]
    block, _ = tidy(decode(task, events, Span(tuple(as_ofs), task.horizon)).block, False)
    rows = [  # each with a model of its own, so that each has a row of its own in the view
        (entity, batch.as_of, 0, f"{entity} {batch.as_of}", last, [0.5])
        for batch, _ in sequences(task, block, as_ofs)
        for entity, last in zip(batch.entities, batch.last_event_time.tolist(), strict=True)
    ]
    terms = task.label.terms
    run = Run("shop-1", "a", "shop", task.outputs, (), 0, horizon=terms[0], active_within=terms[1])
    publish_rows(tmp_path, run, score_table(run, rows, 1), 1)
    labels = {
        f"{entity} {batch.as_of}": label
        for batch in examples(task, block, [t for t in as_ofs if t + task.horizon <= as_ofs[-1]])
        if batch.label is not None
        for entity, label in zip(batch.entities, batch.label[:, 0].tolist(), strict=True)
    }
    sql = "SELECT model_version, churned FROM scores_calibration"
    found = dict(select(tmp_path, sql).rows)  # type: ignore[arg-type, var-annotated]
    assert found.items() <= labels.items()
    assert found == labels if known else len(labels) > len(found)
    assert {0.0, 1.0} == set(found.values())


def older(path: Path, *columns: str) -> None:
    """The file as it was before it had these columns."""
    pq.write_table(pq.read_table(path).drop_columns(list(columns)), path)


def test_files_without_newer_columns(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    generations = tmp_path / "generations"
    for path in (generations / "a.published-1", generations / "b.published-2"):
        older(path / LETTERS, "payload", "attributes")
        older(path / LEDGER, "late")
    letters = select(tmp_path, "SELECT DISTINCT payload, attributes FROM dead_letters")
    assert (letters.types, list(letters.rows)) == (("BLOB", "VARCHAR"), [(None, None)])
    assert list(select(tmp_path, "SELECT late, read FROM ledger ORDER BY read").rows) == [(None, 1), (None, 2)]
    put(tmp_path, "c", 3)
    assert list(select(tmp_path, "SELECT late FROM ledger ORDER BY read").rows) == [(None,), (None,), (0,)]


def test_a_folder_whose_name_looks_like_a_column(tmp_path: Path) -> None:
    put(tmp_path / "day=1", "a", 1)
    assert list(select(tmp_path / "day=1", "SELECT * FROM scores").names) == [*BASE, "churn", *REST]


def test_dead_letters_have_the_time_of_their_run(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, finished_at=5)
    put(tmp_path, "a", 2, finished_at=6, status="refused")
    make_folders(tmp_path, RUN)
    append_letters(tmp_path, ["row 1"], 7)
    got = select(tmp_path, "SELECT DISTINCT status, epoch_us(written_at) FROM dead_letters ORDER BY 2")
    assert list(got.rows) == [("published", 5), ("refused", 6), ("live", 7)]


@pytest.fixture
def live(tmp_path: Path) -> Path:
    make_folders(tmp_path, RUN)
    return tmp_path


def test_a_live_job_that_has_written_nothing(live: Path) -> None:
    assert list(select(live, "SELECT * FROM scores").names) == BASE + REST
    for view in views.VIEWS:
        assert list(select(live, f"FROM {view}").rows) == []


def test_the_highest_revision_of_a_live_job_and_then_the_newest(live: Path) -> None:
    for at, (revision, score) in enumerate([(-1, 1.0), (-1, 2.0), (1, 4.0), (0, 3.0), (1, 5.0)], 1):
        append_scores(live, [("ann", 1, revision, score)], at)
    append_scores(live, [("bob", 1, -1, 6.0), ("cid", 1, 0, 7.0)], 9)
    columns = "entity_id, revision, churn, epoch_us(scored_at)"
    scores = select(live, f"SELECT {columns} FROM scores ORDER BY ALL").rows
    assert list(scores) == [("ann", 1, 5.0, 5), ("bob", -1, 6.0, 9), ("cid", 0, 7.0, 9)]
    history = select(live, f"SELECT {columns} FROM scores_history ORDER BY ALL").rows
    assert list(history) == [("ann", 0, 3.0, 4), ("ann", 1, 5.0, 5), ("bob", -1, 6.0, 9), ("cid", 0, 7.0, 9)]


def test_runs_over_files_and_live_jobs_share_a_folder(live: Path) -> None:
    """A correction stays, an early score gives way, and of equal revisions the one that was written last counts."""
    entities: list[object] = ["corrected", "early", "older", "newer", "batch"]
    put_scores(live, "a", {"entity_id": entities, "churn": [1.0] * 5, "as_of": [HOUR] * 5}, finished_at=10)
    append_scores(live, [("corrected", 1, 1, 2.0), ("early", 1, -1, 2.0), ("older", 1, 0, 2.0)], 5)
    append_scores(live, [("newer", 1, 0, 2.0), ("live", 1, 0, 2.0)], 15)
    got = {row[0]: row[1:] for row in select(live, "SELECT entity_id, churn, run_id FROM scores").rows}
    of_live, of_batch = (2.0, RUN), (1.0, "a")
    assert got == {
        "corrected": of_live,
        "early": of_batch,
        "older": of_batch,
        "newer": of_live,
        "batch": of_batch,
        "live": of_live,
    }
    history = select(live, "SELECT run_id, count(*) FROM scores_history GROUP BY ALL ORDER BY ALL").rows
    assert list(history) == [("a", 5), (RUN, 5)]


def test_live_jobs_of_several_tasks_share_a_folder(live: Path) -> None:
    make_folders(live, "other-live")
    append_scores(live, [("ann", 1, 0, 1.0)], 1)
    append_scores(live, [("ann", 1, 0, 2.0)], 1, "other-live", "other")
    append_letters(live, ["row 1"], 1)
    append_letters(live, ["row 1"], 1, "other-live")
    append_ledger(live, Ledger(read=1), 1)
    append_ledger(live, Ledger(read=2), 1, "other-live")
    assert list(select(live, "SELECT task, churn FROM scores ORDER BY ALL").rows) == [("churn", 1.0), ("other", 2.0)]
    assert list(select(live, "SELECT run_id FROM dead_letters ORDER BY ALL").rows) == [(RUN,), ("other-live",)]
    assert list(select(live, "SELECT run_id, read FROM ledger ORDER BY ALL").rows) == [(RUN, 1), ("other-live", 2)]


def test_dead_letters_of_a_live_job_count_once(live: Path) -> None:
    append_letters(live, ["row 1", "row 2"], 1)
    append_letters(live, ["row 2", "row 3"], 2)
    got = select(live, "SELECT position, status, payload, attributes FROM dead_letters ORDER BY 1").rows
    assert list(got) == [(f"row {i}", "live", b"\xff", '{"k": "v"}') for i in (1, 2, 3)]


def test_the_ledger_of_a_live_job_is_one_row(live: Path) -> None:
    put(live, "a", 4)
    first = Ledger(read=10, accepted=4, rejected=3, late=1, first_time=5, last_time=6, reasons=(("x", 1), ("y", 2)))
    second = Ledger(read=5, filtered=2, sequences=3, scored=2, first_time=4, reasons=(("x", 2),))
    append_ledger(live, Ledger(read=9, accepted=9, first_time=1, reasons=(("z", 1),)), 99)
    append_ledger(live, first, 100)
    append_ledger(live, second, 200, attempt="b")
    columns = """run_id, attempt, task, model_version, epoch_us(started_at), epoch_us(finished_at), inputs, read,
        accepted, late, pending, scored, epoch_us(first_time), epoch_us(last_time), reasons, differences"""
    (row,) = select(live, f"SELECT {columns} FROM ledger WHERE status = 'live'").rows
    assert row[:7] == (RUN, None, "churn", None, 5, 200, ["projects/p/subscriptions/s"])
    assert row[7:14] == (15, 4, 1, 6, 2, 4, 6)
    assert row[14:] == ([{"reason": "x", "count": 3}, {"reason": "y", "count": 2}], [])
    assert list(select(live, "SELECT run_id, pending FROM ledger ORDER BY 1").rows) == [("a", 0), (RUN, 6)]


def test_a_live_ledger_differs_only_where_too_much_is_accounted_for(live: Path) -> None:
    append_ledger(live, Ledger(read=3, accepted=1, sequences=5, scored=2), 1)
    assert list(select(live, "SELECT differences FROM ledger").rows) == [([],)]
    append_ledger(live, Ledger(accepted=4, scored=3, failed=1), 2, attempt="b")
    ((differences,),) = select(live, "SELECT differences FROM ledger").rows
    assert differences == ["3 events read, 5 accounted for", "5 sequences, 5 scored and 1 failed"]


def test_paths_of_a_live_job(live: Path) -> None:
    put_scores(live, "b", {"task": ["price"], "entity_id": ["e"], "score_id": ["p"], "step_1": [1.5], "step_2": [2.5]})
    append_scores(live, [("ann", 1, 0, 0.5)], 1)
    assert list(select(live, "SELECT entity_id, step, p50 FROM scores_forecasts ORDER BY 2").rows) == [
        ("e", 1, 1.5),
        ("e", 2, 2.5),
    ]


@pytest.mark.parametrize("view", ["scores_forecasts", "scores_movers"])
def test_conditions_on_an_entity_reach_the_files(live: Path, view: str) -> None:
    put_scores(live, "a", {"entity_id": ["e6", "e7", "e8"], "step_1": [0.1] * 3, "step_2": [0.1] * 3})
    append_scores(live, [(f"e{i}", i * 1000, 0, 0.5) for i in range(10)], 1)
    plan = connect(live).execute(f"EXPLAIN SELECT * FROM {view} WHERE entity_id = 'e7'").fetchall()[0][1]
    assert plan.count("entity_id = 'e7'") == 2
    assert plan.rindex("Window") < plan.index("entity_id = 'e7'")


@pytest.mark.parametrize("view", ["scores", "scores_history"])
def test_conditions_reach_the_files_of_live_jobs_too(live: Path, view: str) -> None:
    hours = 24 * 365
    put_scores(live, "a", {"entity_id": ["e6", "e7", "e8"], "as_of": [0, HOUR, hours * HOUR], "churn": [0.1] * 3})
    append_scores(live, [(f"e{i}", i * 1000, 0, 0.5) for i in range(10)], 1)
    con = connect(live)
    for condition, filtered in [
        ("entity_id = 'e7'", "entity_id = 'e7'"),
        ("as_of < TIMESTAMPTZ '1970-01-03'", "as_of < "),
    ]:
        plan = con.execute(f"EXPLAIN SELECT * FROM {view} WHERE {condition}").fetchall()[0][1]
        assert plan.count(filtered) == 2
        assert plan.index("Window") < plan.index(filtered)


def test_a_file_that_vanishes_while_it_is_read(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of files older than the grace period is asked for again."""
    for at in (1, 2):
        append_scores(live, [(f"e{at}", 1, 0, 0.5)], at)
    listed, calls = parts(folder(live, RUN, "scores")), []

    def stale(place: Path) -> list[Path]:
        calls.append(place)
        if len(calls) == 1:
            compact(live, RUN, fan=2)
            compact(live, RUN, grace=0, fan=2)
            assert not listed[0].exists()
            return listed
        return parts(place)

    monkeypatch.setattr(views, "parts", stale)
    assert list(select(live, "SELECT count(*) FROM scores").rows) == [(2,)]
    assert len(calls) > 1
