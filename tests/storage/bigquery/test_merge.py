"""Every outcome of a merge, against a model of it in Python."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

import pyarrow as pa
import pytest

from pipelines.google.bigquery import writer
from pipelines.google.tables import Table
from pipelines.storage.bigquery.append import append, default_stream
from pipelines.storage.bigquery.merge import MergeCounts, merge, staged, visible
from pipelines.storage.bigquery.schema import apply, plan, stored
from pipelines.storage.rows import live_schema, score_schema
from pipelines.task.fields import EPOCH
from pipelines.transforms.output_rows import score_id
from tests.support.warehouse import Warehouse

DAY = 86_400_000_000
AS_OFS = (19_000 * DAY, 19_007 * DAY)
OUTPUTS = ("churn",)


@dataclass(frozen=True, order=True)
class Row:
    """A score row, less what depends on the rest of it."""

    entity: str
    as_of: int = AS_OFS[0]
    revision: int = 0
    churn: float | None = 0.5
    model_version: str = "m1"
    n_events: int | None = 1
    last_event_time: int | None = 5
    run_id: str = "live"
    scored_at: int = 1
    task: str = "churn"

    @property
    def id(self) -> str:
        return score_id(self.task, self.entity, self.as_of)

    @property
    def values(self) -> tuple[object, ...]:
        return self.churn, self.n_events, self.last_event_time


@pytest.fixture(scope="module")
def tables(warehouse: Warehouse) -> Table:
    made = warehouse.table()
    outputs = (*OUTPUTS, "step_1")  # the table has scores of another task, too
    apply(plan(made, outputs)[:1])
    apply(plan(Table(made.project, made.dataset, "staging"), outputs)[:1])
    return made


@pytest.fixture
def table(warehouse: Warehouse, tables: Table) -> Table:
    """Empty, and so is its staging table."""
    empty(warehouse, tables)
    return tables


def empty(warehouse: Warehouse, table: Table) -> None:
    warehouse.sql(f"DELETE FROM `{table.scores}` WHERE TRUE; DELETE FROM `{staging(table)}` WHERE TRUE")


def staging(table: Table) -> str:
    return f"{table.project}.{table.dataset}.staging"


def write(name: str, rows: Sequence[Row]) -> None:
    schema = live_schema(score_schema(OUTPUTS))
    values = [{**asdict(row), "score_id": row.id, "entity_id": row.entity} for row in rows]
    columns = {f.name: pa.array([v[f.name] for v in values], f.type) for f in schema}
    assert append(writer(), default_stream(name), stored(pa.table(columns), "scores", OUTPUTS)) == []


def read(warehouse: Warehouse, table: Table) -> list[Row]:
    rows = warehouse.sql(
        "SELECT entity_id AS entity, unix_micros(as_of) AS as_of, revision, churn, model_version, n_events,"
        " unix_micros(last_event_time) AS last_event_time, run_id, unix_micros(scored_at) AS scored_at, task"
        f" FROM `{table.scores}`"
    )
    return sorted((Row(**row) for row in rows), key=repr)


def merged(
    warehouse: Warehouse,
    table: Table,
    there: Sequence[Row],
    new: Sequence[Row],
    replace_model: bool = False,
    as_ofs: Sequence[int] = AS_OFS,
) -> tuple[MergeCounts, list[Row]]:
    """The counts of a merge, and the rows of the table after it."""
    empty(warehouse, table)
    write(table.scores, there)
    write(staging(table), new)
    counts = merge(table, staging(table), OUTPUTS, as_ofs, replace_model)
    return counts, read(warehouse, table)


OLD = Row("a")
NEW = replace(OLD, run_id="batch", scored_at=2)


@pytest.mark.parametrize(
    ("there", "new", "outcome"),
    [
        ([], NEW, "added"),
        ([replace(OLD, as_of=AS_OFS[1])], NEW, "added"),
        ([replace(OLD, task="other")], NEW, "added"),
        ([OLD], NEW, "unchanged"),
        ([replace(OLD, churn=None)], replace(NEW, churn=None), "unchanged"),
        ([replace(OLD, revision=-1)], NEW, "replaced"),
        ([OLD], replace(NEW, revision=1), "replaced"),
        ([OLD], replace(NEW, churn=0.25), "replaced"),
        ([OLD], replace(NEW, churn=None), "replaced"),
        ([replace(OLD, churn=None)], NEW, "replaced"),
        ([OLD], replace(NEW, n_events=2), "replaced"),
        ([OLD], replace(NEW, last_event_time=6), "replaced"),
        ([replace(OLD, last_event_time=None)], NEW, "replaced"),
        ([replace(OLD, revision=2)], replace(NEW, revision=1, churn=0.25), "kept"),
        ([OLD], replace(NEW, model_version="m2", churn=0.25), "kept"),
        ([OLD], replace(NEW, model_version="m2", revision=1), "replaced"),
    ],
)
def test_one_row_against_one(warehouse: Warehouse, table: Table, there: list[Row], new: Row, outcome: str) -> None:
    counts, rows = merged(warehouse, table, there, [new])
    assert counts == MergeCounts(**{outcome: 1})
    expected = {"added": [*there, new], "replaced": [new]}.get(outcome, there)
    assert rows == sorted(expected, key=repr)


def test_another_model_replaces_when_asked(warehouse: Warehouse, table: Table) -> None:
    new = [replace(NEW, model_version="m2"), replace(NEW, entity="b", model_version="m2")]
    there = [OLD, replace(OLD, entity="b", revision=1)]
    counts, rows = merged(warehouse, table, there, new, replace_model=True)
    assert counts == MergeCounts(replaced=1, kept=1)
    assert rows == sorted([new[0], there[1]], key=repr)


def test_rows_of_live_jobs_stay_or_go_together(warehouse: Warehouse, table: Table) -> None:
    """Early, on time and twice, corrected."""
    live = [replace(OLD, revision=r, churn=c, scored_at=s) for r, c, s in ((-1, 0.125, 1), (0, 0.25, 2), (0, 0.25, 3))]
    same = replace(NEW, churn=0.25)
    assert merged(warehouse, table, live, [same]) == (MergeCounts(unchanged=1), sorted(live, key=repr))
    other = replace(NEW, churn=0.375)
    assert merged(warehouse, table, live, [other]) == (MergeCounts(replaced=1), [other])
    later = [*live, replace(OLD, revision=2, churn=0.5)]
    assert merged(warehouse, table, later, [replace(other, revision=1)]) == (
        MergeCounts(kept=1),
        sorted(later, key=repr),
    )
    # Which of two rows of a revision counts: the one that was written last.
    unsure = [replace(OLD, churn=0.375, scored_at=9), replace(OLD, churn=0.25, scored_at=10)]
    assert merged(warehouse, table, unsure, [same]) == (MergeCounts(unchanged=1), sorted(unsure, key=repr))
    assert merged(warehouse, table, unsure, [other]) == (MergeCounts(replaced=1), [other])


def test_staged_rows_count_once_and_of_revisions_the_highest(warehouse: Warehouse, table: Table) -> None:
    twice = [
        NEW,
        replace(NEW, scored_at=3),
        replace(NEW, entity="b", revision=1),
        replace(NEW, entity="b", churn=0.125),
    ]
    counts, rows = merged(warehouse, table, [], twice)
    assert counts == MergeCounts(added=2)
    assert rows == sorted([twice[1], twice[2]], key=repr)
    assert staged(table, staging(table)) == visible(table, staging(table), AS_OFS) == 2


def test_scores_of_other_tasks_stay(warehouse: Warehouse, table: Table) -> None:
    columns = ["score_id", "task", "entity_id", "as_of", "revision", "step_1", "model_version", "run_id", "scored_at"]
    at = (EPOCH + timedelta(microseconds=AS_OFS[0])).isoformat()
    warehouse.sql(
        f"INSERT INTO `{table.scores}` ({', '.join(columns)}) "
        f"VALUES ('x', 'prices', 'a', '{at}', 0, 7.5, 'p', 'r', '{at}')"
    )
    write(staging(table), [NEW])
    assert merge(table, staging(table), OUTPUTS, AS_OFS) == MergeCounts(added=1)
    rows = warehouse.sql(f"SELECT task, churn, step_1 FROM `{table.scores}` ORDER BY task")
    assert rows == [
        {"task": "churn", "churn": 0.5, "step_1": None},
        {"task": "prices", "churn": None, "step_1": 7.5},
    ]


@pytest.mark.parametrize("as_of", [19_000 * DAY, 19_001 * DAY - 1, 18_999 * DAY, -DAY - 1, 0])
def test_at_the_borders_of_partitions(warehouse: Warehouse, table: Table, as_of: int) -> None:
    """Rows a microsecond beside the as-ofs are none of the run's."""
    there = [replace(OLD, as_of=as_of + d) for d in (-1, 0, 1)]
    new = [replace(row, churn=0.25) for row in there]
    counts, rows = merged(warehouse, table, there, new, as_ofs=[as_of])
    assert counts == MergeCounts(replaced=1)
    assert rows == sorted([there[0], new[1], there[2]], key=repr)
    assert (staged(table, staging(table)), visible(table, staging(table), [as_of])) == (3, 1)


def test_nothing_staged(warehouse: Warehouse, table: Table) -> None:
    assert merged(warehouse, table, [OLD], []) == (MergeCounts(), [OLD])
    assert (staged(table, staging(table)), visible(table, staging(table), AS_OFS)) == (0, 0)


def test_what_is_not_visible(warehouse: Warehouse, table: Table) -> None:
    write(table.scores, [OLD, replace(OLD, entity="b", revision=3)])
    write(staging(table), [replace(NEW, revision=1), replace(NEW, entity="b"), replace(NEW, entity="c")])
    assert (staged(table, staging(table)), visible(table, staging(table), AS_OFS)) == (3, 1)


def model(there: Sequence[Row], new: Sequence[Row], replace_model: bool) -> tuple[MergeCounts, list[Row]]:
    """What a merge does, row by row."""
    groups, counts = defaultdict[str, list[Row]](list), defaultdict[str, int](int)
    for row in there:
        groups[row.id].append(row)
    best = {row.id: row for row in sorted(new, key=rank)}
    for row in best.values():
        old = max(groups[row.id], key=rank, default=None)
        if old is None:
            outcome = "added"
        elif row.revision != old.revision:
            outcome = "replaced" if row.revision > old.revision else "kept"
        elif row.model_version != old.model_version:
            outcome = "replaced" if replace_model else "kept"
        else:
            outcome = "unchanged" if row.values == old.values else "replaced"
        counts[outcome] += 1
        if outcome in ("added", "replaced"):
            groups[row.id] = [*(r for r in groups[row.id] if r.revision > row.revision), row]
    return MergeCounts(**counts), sorted((row for rows in groups.values() for row in rows), key=repr)


def rank(row: Row) -> tuple[int, int, int, str]:
    return row.revision, row.scored_at, row.n_events or -1, row.model_version


@pytest.mark.parametrize("seed", range(6))
def test_any_rows(warehouse: Warehouse, table: Table, seed: int) -> None:
    """Of 300 scores, each with up to three rows there and up to two staged; a second merge finds nothing to do."""
    rng = random.Random(seed)

    def some(most: int, run_id: str, times: list[int]) -> list[Row]:
        rows = []
        for i in range(150):
            for as_of in AS_OFS:
                for scored_at in rng.sample(times, rng.randint(0, most)):
                    row = Row(f"user {i}", as_of, run_id=run_id, scored_at=scored_at)
                    rows.append(
                        replace(
                            row,
                            revision=rng.choice([-1, 0, 0, 0, 1, 2]),
                            churn=rng.choice([0.25, 0.25, 0.25, 0.75, None]),
                            model_version=rng.choice(["m1", "m1", "m1", "m2"]),
                            n_events=rng.choice([1, 1, 1, 2]),
                        )
                    )
        return rows

    there, new = some(3, "live", [1, 2, 3]), some(2, "batch", [4, 5])
    counts, rows = merged(warehouse, table, there, new, replace_model=seed % 2 == 1)
    assert (counts, rows) == model(there, new, seed % 2 == 1)
    assert min(asdict(counts).values()) > 3
    n = staged(table, staging(table))
    assert n == len({row.id for row in new}) == visible(table, staging(table), AS_OFS)
    again = merge(table, staging(table), OUTPUTS, AS_OFS, seed % 2 == 1)
    assert again == MergeCounts(unchanged=counts.added + counts.replaced + counts.unchanged, kept=counts.kept)
    assert read(warehouse, table) == rows
