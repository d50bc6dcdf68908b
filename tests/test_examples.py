"""Training examples: what the oracle says, nothing that was not known yet, and a folder that is replaced whole."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.examples import example_files, read_summary
from pipelines.models.examples import Examples, load_examples
from pipelines.task import Task, parse_time
from pipelines.taskfile import load_task
from tests import small
from tests.oracle import churned, oracle

AS_OFS = (parse_time("2024-04-01"), parse_time("2024-04-08"))
SECOND = 1_000_000
ARRIVAL = "  arrival: {field: loaded, unit: s}\n  identity: [id]"


@dataclass(frozen=True)
class Case:
    folder: Path
    task: Task
    events: list[dict[str, Any]]  # with times in us

    def write(self, out: str, *more: str, events: Path | None = None, expect: int = Exit.OK) -> str:
        told = io.StringIO()
        flags = ["--task", str(self.folder / "task.yaml"), "--input", str(events or self.folder / "events.parquet")]
        with redirect_stdout(told), redirect_stderr(told):
            code = main(
                ["examples", *flags, "--as-of", "2024-04-01..2024-04-08", "--output", str(self.folder / out), *more]
            )
        assert code == expect, told.getvalue()
        return told.getvalue()

    def load(self, out: str) -> Examples:
        return load_examples(self.task, example_files(str(self.folder / out)))


@pytest.fixture(scope="module", params=["at once", "late"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Events of 60 users; in the late case every third one arrives up to ten days after it happened."""
    folder = tmp_path_factory.mktemp("examples")
    table = small.events(users=60)
    text = small.TASK
    if request.param == "late":
        rng = np.random.default_rng(2)
        late = np.where(rng.random(len(table)) < 0.3, rng.integers(0, 10 * small.DAY, len(table)), 0)
        table = table.append_column("loaded", [table["at"].to_numpy() + late])
        text = text.replace("  identity: [id]", ARRIVAL)
    (folder / "task.yaml").write_text(text)
    pq.write_table(table, folder / "events.parquet", row_group_size=300)
    times = [name for name in ("at", "loaded") if name in table.column_names]
    events = [{**e, **{name: e[name] * SECOND for name in times}} for e in table.to_pylist()]
    case = Case(folder, load_task(str(folder / "task.yaml")), events)
    case.write("out")
    return case


def test_they_are_what_the_oracle_says(case: Case) -> None:
    found = case.load("out")
    seen = oracle(case.task, case.events, AS_OFS, lateness=0)
    labels = {(e, t): label for t in AS_OFS for e, label in churned(case.task, case.events, t).items()}
    keys = list(zip(found.entity.to_pylist(), found.as_of.tolist(), strict=True))
    assert set(keys) == set(labels)
    assert len(keys) == len(labels) > 60
    assert found.label[:, 0].tolist() == [labels[k] for k in keys]
    assert 0 < found.label.mean() < 1
    assert found.n_events.tolist() == [seen[k].n_events for k in keys]
    assert found.last_event_time.tolist() == [seen[k].last_event_time for k in keys]
    np.testing.assert_array_equal(found.tensor(np.arange(len(found))), np.stack([seen[k].tensor for k in keys]))


def test_the_summary_accounts_for_every_event(case: Case) -> None:
    summary = read_summary(case.folder / "out")
    assert (summary.task, summary.task_digest, summary.as_ofs) == ("small_shop", case.task.digest, AS_OFS)
    assert summary.examples == summary.ledger.sequences == len(case.load("out"))
    assert summary.ledger.read == len(case.events)
    assert summary.ledger.duplicates > 0
    assert not [d for d in summary.ledger.differences if "events" in d]


def test_what_arrives_after_the_as_of_changes_no_feature(case: Case) -> None:
    column = "at" if case.task.events.arrival is None else "loaded"
    table = pq.read_table(case.folder / "events.parquet")
    known = table.filter((table[column].to_numpy() * SECOND) < AS_OFS[0])
    pq.write_table(known, case.folder / "known.parquet")
    case.write("known", events=case.folder / "known.parquet")
    whole, cut = case.load("out"), case.load("known")
    rows, same = whole.at(AS_OFS[0]), cut.at(AS_OFS[0])
    assert len(known) < len(table)
    assert whole.entity.to_pylist()[: len(rows)] == cut.entity.to_pylist()[: len(same)]
    np.testing.assert_array_equal(whole.tensor(rows), cut.tensor(same))


def test_shards_and_workers_make_no_difference(case: Case) -> None:
    want = case.load("out")
    for out, flags in (("one", ["--shards", "1"]), ("many", ["--shards", "13"])):
        case.write(out, *flags)
        found = case.load(out)
        assert found.entity.equals(want.entity)
        for name in ("label", "as_of", "n_events", "last_event_time"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
        every = np.arange(len(want))
        np.testing.assert_array_equal(found.tensor(every), want.tensor(every))


def test_a_rerun_replaces_the_folder_whole(case: Case) -> None:
    case.write("again")
    before = {p.name for p in (case.folder / "again").iterdir()}
    (case.folder / "again" / "stray.arrow").write_text("not of this run")
    case.write("again")
    after = {p.name for p in (case.folder / "again").iterdir()}
    assert before & after == {"examples.json"}
    assert "stray.arrow" not in after
    assert len(case.load("again")) == len(case.load("out"))
    assert [p.name for p in case.folder.iterdir() if p.name.startswith(".")] == []


def test_a_refused_run_leaves_the_folder_that_was_there(case: Case) -> None:
    case.write("kept")
    before = {p.name: p.read_bytes() for p in (case.folder / "kept").iterdir()}
    table = pq.read_table(case.folder / "events.parquet")
    lines = [json.dumps(e) for e in table.slice(0, 900).to_pylist()] + ["broken"] * 100
    (case.folder / "bad.jsonl").write_text("\n".join(lines))
    text = case.write("kept", events=case.folder / "bad.jsonl", expect=Exit.REFUSED)
    assert "10.0 % of the rows or files are bad, --max-bad-share is 5.0 %" in text
    assert {p.name: p.read_bytes() for p in (case.folder / "kept").iterdir()} == before
    assert [p.name for p in case.folder.iterdir() if p.name.startswith(".")] == []


def test_a_dry_run_writes_nothing(case: Case) -> None:
    assert "dry run: nothing was written" in case.write("dry", "--dry-run")
    assert not (case.folder / "dry").exists()
