"""Training examples: what the oracle says, nothing that was not known yet, and nothing computed twice."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.jobs import examples as module
from pipelines.jobs.config import ExamplesConfig, Input
from pipelines.jobs.examples import make_examples
from pipelines.models.example_files import Examples, load_examples
from pipelines.models.example_store import FILE, PREFIX, Stored, adding
from pipelines.runners import bounded
from pipelines.runners.execution import Execution
from pipelines.task.fields import parse_time
from pipelines.task.file import load_task
from pipelines.task.spec import Task
from tests.support import small_shop
from tests.support.oracle import labelled, oracle

AS_OFS = (parse_time("2024-04-01"), parse_time("2024-04-08"))
NEXT = parse_time("2024-04-15")
SECOND = 1_000_000
ARRIVAL = "  arrival: {field: loaded, unit: s}\n  identity: [id]"
MORE = """\
    - {agg: last, field: kind, fill: forward, vocabulary: 2}
score:
"""


@dataclass(frozen=True)
class Case:
    folder: Path
    task: Task
    events: list[dict[str, Any]]  # with times in us

    def config(self, out: str, as_ofs: tuple[int, ...] = AS_OFS, task: Task | None = None) -> ExamplesConfig:
        inputs = Input((str(self.folder / "events.parquet"),), None)
        return ExamplesConfig(
            task=task or self.task,
            input=inputs,
            as_ofs=as_ofs,
            output=str(self.folder / out),
            execution=Execution(1, None, (), False),
            max_bad_share=0.05,
        )

    def write(self, out: str, *more: str, events: Path | None = None, expect: int = Exit.OK) -> str:
        told = io.StringIO()
        flags = ["--task", str(self.folder / "task.yaml"), "--input", str(events or self.folder / "events.parquet")]
        with redirect_stdout(told), redirect_stderr(told):
            code = main(
                ["examples", *flags, "--as-of", "2024-04-01..2024-04-08", "--output", str(self.folder / out), *more]
            )
        assert code == expect, told.getvalue()
        return told.getvalue()

    def load(self, config: ExamplesConfig) -> Examples:
        return load_examples(config.task, make_examples(config))


@pytest.fixture(scope="module", params=["at once", "late"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Events of 60 users; in the late case every third one arrives up to ten days after it happened."""
    folder = tmp_path_factory.mktemp("examples")
    table = small_shop.events(users=60)
    text = small_shop.TASK.replace("score:\n", MORE)
    if request.param == "late":
        rng = np.random.default_rng(2)
        late = np.where(rng.random(len(table)) < 0.3, rng.integers(0, 10 * small_shop.DAY, len(table)), 0)
        table = table.append_column("loaded", [table["at"].to_numpy() + late])
        text = text.replace("  identity: [id]", ARRIVAL)
    (folder / "task.yaml").write_text(text)
    pq.write_table(table, folder / "events.parquet", row_group_size=300)
    times = [name for name in ("at", "loaded") if name in table.column_names]
    events = [{**e, **{name: e[name] * SECOND for name in times}} for e in table.to_pylist()]
    case = Case(folder, load_task(str(folder / "task.yaml")), events)
    case.write("out")
    return case


def layers(root: Path) -> set[Path]:
    return {file.parent for file in root.glob(f"*/*/{PREFIX}*/{FILE}")}


def same(one: Examples, two: Examples) -> None:
    assert one.entity.equals(two.entity)
    for name in ("label", "as_of", "n_events", "last_event_time"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    every = np.arange(len(one))
    assert one.tensor(every).tobytes() == two.tensor(every).tobytes()


def only(task: Task, *features: int) -> Task:
    """The task with some of the specifications of its features."""
    specs = tuple(task.sequence.features[i] for i in features)
    parts = {name: getattr(task, name) for name in Task.model_fields}
    return Task(**{**parts, "sequence": task.sequence.model_copy(update={"features": specs})})


def told(stored: Stored, task: Task) -> str:
    return "\n".join(module.stored_lines(task, stored))


def test_they_are_what_the_oracle_says(case: Case) -> None:
    found = case.load(case.config("out"))
    seen = oracle(case.task, case.events, AS_OFS, lateness=0)
    labels = {(e, t): label for t in AS_OFS for e, label in labelled(case.task, case.events, t).items()}
    keys = list(zip(found.entity.to_pylist(), found.as_of.tolist(), strict=True))
    assert set(keys) == set(labels)
    assert len(keys) == len(labels) > 60
    assert found.label.tolist() == [labels[k] for k in keys]
    assert 0 < found.label.mean() < 1
    assert found.n_events.tolist() == [seen[k].n_events for k in keys]
    assert found.last_event_time.tolist() == [seen[k].last_event_time for k in keys]
    np.testing.assert_array_equal(found.tensor(np.arange(len(found))), np.stack([seen[k].tensor for k in keys]))


def test_the_ledger_accounts_for_every_event(case: Case) -> None:
    stored = make_examples(case.config("out"))
    assert (stored.task, stored.as_ofs) == ("small_shop", AS_OFS)
    assert stored.examples == stored.ledger.sequences == len(load_examples(case.task, stored))
    assert stored.ledger.read == len(case.events)
    assert stored.ledger.duplicates > 0
    assert not [d for d in stored.ledger.differences if "events" in d]


def test_what_arrives_after_the_as_of_changes_no_feature(case: Case) -> None:
    column = "at" if case.task.events.arrival is None else "loaded"
    table = pq.read_table(case.folder / "events.parquet")
    known = table.filter((table[column].to_numpy() * SECOND) < AS_OFS[0])
    pq.write_table(known, case.folder / "known.parquet")
    inputs = Input((str(case.folder / "known.parquet"),), None)
    whole, cut = case.load(case.config("out")), case.load(replace(case.config("known"), input=inputs))
    rows, kept = whole.at(AS_OFS[0]), cut.at(AS_OFS[0])
    assert len(known) < len(table)
    assert whole.entity.to_pylist()[: len(rows)] == cut.entity.to_pylist()[: len(kept)]
    np.testing.assert_array_equal(whole.tensor(rows), cut.tensor(kept))


def test_shards_make_no_difference(case: Case) -> None:
    want = case.load(case.config("out"))
    for shards in (1, 13):
        same(want, case.load(replace(case.config(f"shards-{shards}"), execution=Execution(1, shards, (), False))))


def test_a_second_time_nothing_is_computed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runners.bounded.run", lambda *_: pytest.fail("the pipeline ran"))
    before = layers(case.folder / "out")
    text = case.write("out")
    assert "reused      5 features as of 2024-04-01 to 2024-04-08 (2 as-ofs)\nexamples    " in text
    assert "computed" not in text
    assert layers(case.folder / "out") == before
    one = case.load(case.config("out", AS_OFS[:1]))
    assert set(one.as_of.tolist()) == {AS_OFS[0]}


def test_only_what_is_new_is_computed_and_the_bytes_are_the_same(case: Case) -> None:
    first = make_examples(case.config("steps", task=only(case.task, 1, 0)))
    assert told(first, only(case.task, 1, 0)).startswith("computed    count()[kind=view], count()[kind=buy], recency()")
    as_of = make_examples(case.config("steps", (*AS_OFS, NEXT), only(case.task, 0, 1)))
    assert [r.as_ofs for r in as_of.computed] == [(NEXT,)]
    assert as_of.reused == ((AS_OFS, (0, 1, 2)),)
    config = case.config("steps", (*AS_OFS, NEXT))
    feature = make_examples(config)
    assert feature.computed == (((*AS_OFS, NEXT), (3, 4)),)
    assert "computed    sum(price), last(kind) as of 2024-04-01 to 2024-04-15 (3 as-ofs)" in told(feature, case.task)
    assert "reused      recency(), count()[kind=view], count()[kind=buy] as of" in told(feature, case.task)
    assert len(layers(case.folder / "steps")) == 3
    fresh = make_examples(replace(config, output=str(case.folder / "fresh")))
    assert len(layers(case.folder / "fresh")) == 1
    assert feature.examples == fresh.examples
    same(load_examples(case.task, feature), load_examples(case.task, fresh))


def test_another_input_shares_nothing(case: Case) -> None:
    table = pq.read_table(case.folder / "events.parquet")
    file = case.folder / "again" / "events.parquet"
    file.parent.mkdir()
    config = replace(case.config("versions"), input=Input((str(file),), None))
    stored: list[Stored] = []
    for rows in (len(table), len(table), len(table) - 1):
        pq.write_table(table.slice(0, rows), file, row_group_size=300)
        os.utime(file, ns=(0, len(stored) * 10**9))
        stored.append(make_examples(config))
    assert len({s.folder for s in stored}) == 3
    assert all(s.computed and not s.reused for s in stored)


def test_an_input_that_changes_while_it_is_read_leaves_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    file = case.folder / "moving.parquet"
    file.write_bytes((case.folder / "events.parquet").read_bytes())
    run = bounded.run

    def touched(*arguments: Any) -> None:
        run(*arguments)
        os.utime(file, ns=(0, 10**9))

    monkeypatch.setattr("pipelines.runners.bounded.run", touched)
    text = case.write("moving", events=file, expect=Exit.USAGE)
    assert "the input changed while it was read: run the command again" in text
    assert not layers(case.folder / "moving")


def test_what_is_stored_waits_for_nobody(case: Case) -> None:
    stored = make_examples(case.config("out"))
    with adding(stored.folder):
        assert make_examples(case.config("out")).uses == stored.uses


PRICES = """\
task: small_prices
events: {entity: coin, time: {field: at, unit: s}, identity: none}
sequence:
  step: 1d
  steps: 5
  features: [{agg: last, field: close, fill: forward, scale: relative}, {agg: sum, field: volume}, {agg: recency}]
score: {every: 1d}
label: {kind: path, field: close, steps: 3}
"""


def test_a_path_keeps_its_labels_in_every_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    coin, day = np.repeat(np.arange(20), 30), np.tile(np.arange(30), 20)
    columns = {"coin": coin.astype(str), "at": small_shop.START + day * small_shop.DAY}
    table = pa.table({**columns, "close": rng.gamma(2, 50, 600), "volume": rng.gamma(2, 10, 600)})
    pq.write_table(table.filter(rng.random(600) < 0.8), tmp_path / "prices.parquet")
    (tmp_path / "prices.yaml").write_text(PRICES)
    case = Case(tmp_path, load_task(tmp_path / "prices.yaml"), [])
    as_ofs = tuple((small_shop.START + d * small_shop.DAY) * SECOND for d in (10, 20))
    prices = Input((str(tmp_path / "prices.parquet"),), None)
    config = replace(case.config("out", as_ofs), input=prices)
    make_examples(replace(config, task=only(case.task, 0)))
    steps, fresh = make_examples(config), make_examples(replace(config, output=str(tmp_path / "fresh")))
    assert steps.computed == ((as_ofs, (1, 2)),)
    same(load_examples(case.task, steps), load_examples(case.task, fresh))
    data = load_examples(case.task, steps)
    assert data.label.shape == (len(data), 3)
    assert steps.examples == len(data) > 30
    assert (data.label > 0).all()


def bad_prices(case: Case) -> ExamplesConfig:
    """Events as text, in which some prices are no numbers."""
    table = pq.read_table(case.folder / "events.parquet")
    prices = [str(p) if i % 40 else "gratis" for i, p in enumerate(table["price"].to_pylist())]
    file = case.folder / "bad.parquet"
    pq.write_table(table.set_column(table.column_names.index("price"), "price", pa.array(prices)), file)
    return replace(case.config("bad"), input=Input((str(file),), None))


def test_a_feature_whose_field_spoils_rows_makes_all_anew(case: Case) -> None:
    config = bad_prices(case)
    clean = replace(config, task=only(case.task, 0, 1, 3))
    before = make_examples(clean)
    assert before.ledger.rejected == 0
    whole = make_examples(config)
    assert whole.ledger.rejected > 0
    assert (whole.computed, whole.reused) == (((AS_OFS, (0, 1, 2, 3, 4)),), ())
    again, back = make_examples(config), make_examples(clean)
    assert (again.computed, back.computed) == ((), ())
    assert again.ledger.rejected == whole.ledger.rejected
    assert back.ledger.rejected == 0
    fresh = replace(config, output=str(case.folder / "bad-fresh"))
    same(case.load(config), case.load(fresh))
    same(case.load(clean), case.load(replace(clean, output=str(case.folder / "bad-clean"))))


def test_stored_examples_obey_a_stricter_limit(case: Case) -> None:
    config = bad_prices(case)
    make_examples(config)
    text = case.write("bad", "--max-bad-share", "0.01", events=case.folder / "bad.parquet", expect=Exit.REFUSED)
    assert "2.5 % of the rows or files are bad, --max-bad-share is 1.0 %" in text


def test_a_refused_run_leaves_nothing(case: Case) -> None:
    table = pq.read_table(case.folder / "events.parquet")
    lines = [json.dumps(e) for e in table.slice(0, 900).to_pylist()] + ["broken"] * 100
    (case.folder / "bad.jsonl").write_text("\n".join(lines))
    text = case.write("refused", events=case.folder / "bad.jsonl", expect=Exit.REFUSED)
    assert "10.0 % of the rows or files are bad, --max-bad-share is 5.0 %" in text
    assert [p.name for p in (case.folder / "refused").glob("*/*/*")] == [".lock"]


def test_a_dry_run_says_what_would_be_computed_and_writes_nothing(case: Case) -> None:
    text = case.write("dry", "--dry-run")
    assert "to compute  5 features as of 2024-04-01 to 2024-04-08 (2 as-ofs)" in text
    assert "dry run: nothing was written" in text
    assert not (case.folder / "dry").exists()
    assert "in store    5 features as of 2024-04-01 to 2024-04-08 (2 as-ofs)" in case.write("out", "--dry-run")


KILLED = """\
import os, signal, sys
from pipelines import cli
from pipelines.jobs import examples
examples._check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # when all is written, before it counts
cli.main(sys.argv[1:])
"""


@pytest.fixture
def killed(case: Case) -> Path:
    out = case.folder / "killed"
    flags = ["--task", str(case.folder / "task.yaml"), "--input", str(case.folder / "events.parquet")]
    more = ["--as-of", "2024-04-01..2024-04-08", "--output", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, "examples", *flags, *more], capture_output=True)
    assert done.returncode == -9, done.stderr
    return out


def test_what_a_killed_run_left_does_not_count_and_goes(case: Case, killed: Path) -> None:
    (left,) = killed.glob(f"*/*/.{PREFIX}*")
    assert (left / FILE).is_file()
    assert "5 features" in case.write("killed", "--dry-run").partition("to compute")[2]
    stored = make_examples(case.config("killed"))
    assert [r.features for r in stored.computed] == [(0, 1, 2, 3, 4)]
    assert not left.exists()
    same(load_examples(case.task, stored), case.load(case.config("out")))
