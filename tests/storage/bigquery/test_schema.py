"""Tables and views of BigQuery: what they must be, what is added to them, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.cloud import bigquery

from pipelines.errors import UserError
from pipelines.google.bigquery import client, writer
from pipelines.google.tables import Table
from pipelines.storage.bigquery import append
from pipelines.storage.bigquery.schema import (
    LAYOUTS,
    VIEWS,
    Kind,
    apply,
    arrow_schema,
    check,
    fields,
    plan,
    schema_apply,
    stored,
)
from pipelines.storage.rows import DEAD_LETTERS, LEDGER, TIME, live_schema, score_schema
from pipelines.task.file import load_task
from pipelines.task.labels.kinds import score_column
from pipelines.task.spec import Task
from tests.support.warehouse import PROJECT, Warehouse

ROOT = Path(__file__).parents[3]
CHURN = ("churn",)
PATH = ("step_1", "step_2", "step_1_p10", "step_1_p97_5", "step_2_p10", "step_2_p97_5")


def task(name: str) -> Task:
    return load_task(ROOT / "templates" / "tasks" / f"{name}.yaml")


def lines(table: Table, outputs: Sequence[str]) -> list[str]:
    return [line for change in plan(table, outputs) for line in change.lines]


def actual(name: str) -> Any:
    return client(PROJECT).get_table(name)


def sql_row(**values: object) -> str:
    """The columns and values of a row of scores, those that are required and others."""
    times = {"as_of": "CURRENT_TIMESTAMP()", "scored_at": "CURRENT_TIMESTAMP()", "revision": 0}
    row = dict.fromkeys(LAYOUTS["scores"].required, "'a'") | times | values
    return f"({', '.join(row)}) VALUES ({', '.join(map(str, row.values()))})"


@pytest.fixture
def made(warehouse: Warehouse) -> Table:
    """Tables and views for churn."""
    table = warehouse.table()
    apply(plan(table, CHURN))
    return table


@pytest.fixture
def bare(warehouse: Warehouse) -> Table:
    """Tables for churn without views."""
    table = warehouse.table()
    apply(plan(table, CHURN)[: len(LAYOUTS)])
    return table


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_column_is_described_and_nothing_else(kind: Kind) -> None:
    def paths(columns: Sequence[dict[str, Any]], before: str = "") -> list[str]:
        return [p for f in columns for p in (before + f["name"], *paths(f.get("fields", ()), f"{before}{f['name']}."))]

    layout = LAYOUTS[kind]
    assert set(paths(fields(kind, ()))) == set(layout.columns)
    assert all(text.endswith(".") for text in (layout.description, *layout.columns.values(), *VIEWS.values()))
    assert not any('"' in text for text in VIEWS.values())
    assert {layout.day, *layout.clusters} <= set(layout.required) <= set(layout.columns)


def test_tables_have_the_columns_of_files_and_more() -> None:
    scores = live_schema(score_schema(PATH))
    assert arrow_schema("scores", PATH).names == scores.names
    assert arrow_schema("dead_letters", ()).names == [*DEAD_LETTERS.names, "status", "written_at"]
    assert arrow_schema("ledger", ()).names[: len(LEDGER)] == LEDGER.names
    assert arrow_schema("scores", CHURN).field("churn").type == pa.float64()
    assert arrow_schema("scores", CHURN).field("as_of").type == TIME


@pytest.mark.parametrize("name", ["churn_grocery", "price_crypto"])
def test_score_columns_of_tasks_are_known_and_described(name: str) -> None:
    outputs = task(name).outputs
    assert all(score_column(output) for output in outputs)
    described = [f["description"] for f in fields("scores", outputs) if f["name"] in outputs]
    assert len(set(described)) == len(outputs)


def test_the_words_of_score_columns() -> None:
    described = {f["name"]: f["description"] for f in fields("scores", PATH)}
    assert described["step_1"] == "Median of the value 1 step after as_of."
    assert described["step_2_p97_5"] == "Value 2 steps after as_of that is not exceeded with a probability of 97.5 %."


def test_rows_are_cast_to_what_is_stored() -> None:
    rows = pa.table({"revision": pa.array([1], pa.int32()), "churn": pa.array([0.1], pa.float32())})
    cast = stored(rows, "scores", CHURN)
    assert cast.schema == pa.schema([("revision", pa.int64()), ("churn", pa.float64())])
    assert cast["churn"][0].as_py() == rows["churn"][0].as_py()
    with pytest.raises(KeyError, match="step_1"):
        stored(pa.table({"step_1": [1.0]}), "scores", CHURN)


def test_made_from_nothing_and_then_nothing_is_left_to_do(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    table, churn = warehouse.table(), task("churn_grocery")
    views = [f"create view {table.view(name)}" for name in VIEWS]
    planned = [
        f"create table {table.scores}, partitioned by day of as_of, clustered by task, entity_id",
        f"create table {table.dead_letters}, partitioned by day of written_at, clustered by run_id",
        f"create table {table.ledger}, partitioned by day of finished_at, clustered by task, run_id",
        *views,
    ]
    assert schema_apply(table, churn, dry_run=True) == 0
    assert capsys.readouterr().out.splitlines() == [*planned, "dry run: nothing was changed"]
    assert not list(client(PROJECT).list_tables(f"{PROJECT}.{table.dataset}"))
    assert schema_apply(table, churn, dry_run=False) == 0
    assert capsys.readouterr().out.splitlines() == planned
    check(table, churn.outputs)
    assert schema_apply(table, churn, dry_run=False) == 0
    assert capsys.readouterr().out == f"{table}: nothing to do\n"

    scores = actual(table.scores)
    assert [f.to_api_repr() for f in scores.schema] == fields("scores", CHURN)
    assert scores.description == LAYOUTS["scores"].description
    assert (scores.time_partitioning.type_, scores.time_partitioning.field) == ("DAY", "as_of")
    assert scores.clustering_fields == ["task", "entity_id"]
    assert [f.to_api_repr() for f in actual(table.ledger).schema] == fields("ledger", CHURN)
    for name in VIEWS:
        assert warehouse.sql(f"SELECT * FROM `{table.view(name)}`") == []
        assert actual(table.view(name)).description == VIEWS[name]


def test_rows_go_in_as_they_are_stored(warehouse: Warehouse, made: Table) -> None:
    text, time = pa.array(["a"]), pa.array([1_700_000_000_000_001], TIME)
    columns = dict.fromkeys(("score_id", "task", "entity_id", "model_version", "run_id"), text)
    columns |= {"as_of": time, "scored_at": time, "revision": pa.array([0], pa.int32())}
    columns |= {"churn": pa.array([0.1], pa.float32())}
    rows = stored(pa.table(columns), "scores", CHURN)
    assert append.append(writer(), append.default_stream(made.scores), rows) == []
    (row,) = warehouse.sql(f"SELECT * FROM `{made.view('current')}`")
    assert {name: row[name] for name in rows.column_names} == rows.to_pylist()[0]
    assert row["n_events"] is None

    counted: dict[str, Any] = {"run_id": "a", "attempt": "b", "task": "c", "status": "live", "differences": ["x"]}
    counted |= {"reasons": [{"reason": "bad", "count": 3}], "started_at": 5, "finished_at": 6, "inputs": [], "meant": 7}
    ledger = pa.Table.from_pylist([counted], arrow_schema("ledger", ()))
    assert append.append(writer(), append.default_stream(made.ledger), ledger) == []
    (row,) = warehouse.sql(f"SELECT reasons, differences, meant, staged FROM `{made.ledger}`")
    assert row == {"reasons": [{"reason": "bad", "count": 3}], "differences": ["x"], "meant": 7, "staged": None}


def test_what_somebody_else_made_meanwhile_is_an_error_of_one_line(warehouse: Warehouse) -> None:
    table = warehouse.table()
    first, second = plan(table, CHURN), plan(table, CHURN)
    apply(first)
    with pytest.raises(UserError, match=rf"^create table {table.scores}, [^\n]*(?i:already exists)[^\n]*$"):
        apply(second)
    assert plan(table, CHURN) == []


def test_another_task_adds_its_columns(warehouse: Warehouse, made: Table) -> None:
    views = [f"replace view {made.view(name)}" for name in VIEWS if name != "calibration"]
    with pytest.raises(UserError, match=f"there is no column {made.scores}.step_1, .*Run `foretide schema apply"):
        check(made, PATH)
    assert lines(made, PATH) == [*(f"add column {made.scores}.{name} FLOAT64" for name in PATH), *views]
    warehouse.sql(f"INSERT `{made.scores}` {sql_row(churn=0.5)}")
    apply(plan(made, PATH))
    assert lines(made, PATH) == lines(made, CHURN) == []
    check(made, PATH)
    check(made, CHURN)
    (row,) = warehouse.sql(f"SELECT * FROM `{made.view('current')}`")
    assert (row["churn"], row["step_1"], row["step_2_p97_5"]) == (0.5, None, None)
    added = {f.name: f.to_api_repr() for f in actual(made.scores).schema}
    assert [added[f["name"]] for f in fields("scores", (*CHURN, *PATH))] == fields("scores", (*CHURN, *PATH))


def test_what_goes_missing_is_put_back(warehouse: Warehouse, made: Table) -> None:
    warehouse.sql(f"DROP VIEW `{made.view('movers')}`")
    warehouse.sql(f"CREATE OR REPLACE VIEW `{made.view('history')}` AS SELECT 1 AS n")
    warehouse.sql(f"DROP TABLE `{made.dead_letters}`")
    warehouse.sql(f"ALTER TABLE `{made.ledger}` DROP COLUMN inputs")
    ledger = actual(made.ledger)
    columns = [field.to_api_repr() for field in ledger.schema]
    (reasons,) = (column for column in columns if column["name"] == "reasons")
    reasons["fields"][0]["description"] = "Something else."
    ledger.schema = [bigquery.SchemaField.from_api_repr(column) for column in columns]
    ledger.description = None
    client(PROJECT).update_table(ledger, ["schema", "description"])
    with pytest.raises(UserError) as refused:
        check(made, CHURN)
    assert str(refused.value) == (
        f"there is no table {made.dead_letters}, no column {made.ledger}.inputs. "
        f"Run `foretide schema apply --output {made} --task FILE`"
    )
    assert lines(made, CHURN) == [
        f"create table {made.dead_letters}, partitioned by day of written_at, clustered by run_id",
        f"add column {made.ledger}.inputs ARRAY<STRING>",
        f"describe column {made.ledger}.reasons",
        f"describe table {made.ledger}",
        f"replace view {made.view('history')}",
        f"create view {made.view('movers')}",
    ]
    apply(plan(made, CHURN))
    assert plan(made, CHURN) == []
    check(made, CHURN)
    assert "score_id" in {f.name for f in actual(made.view("history")).schema}


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            "ALTER TABLE `{t}` ADD COLUMN note STRING",
            "{t} has a column note too many. ALTER TABLE `{t}` DROP COLUMN `note`, or give --output another table",
        ),
        (
            "ALTER TABLE `{t}` DROP COLUMN churn; ALTER TABLE `{t}` ADD COLUMN churn STRING",
            "{t}.churn is STRING, and must be FLOAT64. Give --output another table",
        ),
        (
            "ALTER TABLE `{t}` DROP COLUMN churn; ALTER TABLE `{t}` ADD COLUMN churn INT64",
            "{t}.churn is INT64, and must be FLOAT64. ALTER TABLE `{t}` ALTER COLUMN `churn` SET DATA TYPE FLOAT64",
        ),
        (
            "ALTER TABLE `{t}` DROP COLUMN n_events; ALTER TABLE `{t}` ADD COLUMN n_events ARRAY<INT64>",
            "{t}.n_events is ARRAY<INT64>, and must be INT64. Give --output another table",
        ),
        (
            "ALTER TABLE `{t}` ADD COLUMN step_3 STRING",
            "{t}.step_3 is STRING, and must be FLOAT64. Give --output another table",
        ),
        (
            "ALTER TABLE `{t}` ALTER COLUMN run_id DROP NOT NULL",
            "{t}.run_id is STRING, and must be STRING NOT NULL. Give --output another table",
        ),
        (
            "ALTER TABLE `{t}` DROP COLUMN run_id",
            "{t} lacks the column run_id, which only a new table can have as STRING NOT NULL. "
            "Give --output another table",
        ),
        (
            "ALTER TABLE `{t}_ledger` DROP COLUMN reasons; "
            "ALTER TABLE `{t}_ledger` ADD COLUMN reasons ARRAY<STRUCT<reason STRING>>",
            "{t}_ledger.reasons is ARRAY<STRUCT<reason STRING>>, and must be "
            "ARRAY<STRUCT<reason STRING, count INT64>>. Give --output another table",
        ),
    ],
)
def test_drift_of_a_column_is_refused_with_its_remedy(
    warehouse: Warehouse, bare: Table, sql: str, problem: str
) -> None:
    warehouse.sql(sql.format(t=bare.scores))
    for refuse in (check, plan):
        with pytest.raises(UserError) as refused:
            refuse(bare, CHURN)
        assert str(refused.value) == problem.format(t=bare.scores)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("", "is partitioned otherwise or not at all, and must be by day of finished_at. Give --output another table"),
        ("PARTITION BY TIMESTAMP_TRUNC(finished_at, HOUR)", "is partitioned by hour of finished_at, and"),
        ("PARTITION BY DATE(started_at)", "is partitioned by day of started_at, and must"),
        ("", "is clustered not at all, and must be by task, run_id. Run `bq update --clustering_fields=task,run_id"),
        ("CLUSTER BY run_id", "is clustered by run_id, and must be by task, run_id. Run `bq update"),
    ],
)
def test_another_layout_is_refused_with_its_remedy(warehouse: Warehouse, bare: Table, how: str, problem: str) -> None:
    kept = f"{bare.ledger}_kept"
    warehouse.sql(f"CREATE TABLE `{kept}` AS SELECT * FROM `{bare.ledger}`")
    warehouse.sql(f"DROP TABLE `{bare.ledger}`")
    warehouse.sql(f"CREATE TABLE `{bare.ledger}` {how} AS SELECT * FROM `{kept}`")
    for refuse in (check, plan):
        with pytest.raises(UserError) as refused:
            refuse(bare, CHURN)
        assert f"{bare.ledger} {problem}" in str(refused.value)


def test_a_required_column_that_may_be_null_is_set_free(warehouse: Warehouse) -> None:
    table = warehouse.table()
    columns = fields("scores", CHURN)
    for column in columns:
        column["mode"] = "REQUIRED"
    new = bigquery.Table(table.scores, [bigquery.SchemaField.from_api_repr(column) for column in columns])
    new.time_partitioning = bigquery.TimePartitioning("DAY", "as_of")
    new.clustering_fields = ["task", "entity_id"]
    client(PROJECT).create_table(new)
    with pytest.raises(UserError) as refused:
        plan(table, CHURN)
    remedies = [finding.remedy for finding in refused.value.findings]
    assert [sql.split("`")[3] for sql in remedies] == ["churn", "n_events", "last_event_time"]
    for sql in remedies:
        warehouse.sql(sql)
    apply(plan(table, CHURN))
    check(table, CHURN)


def test_names_that_are_taken(warehouse: Warehouse, made: Table) -> None:
    warehouse.sql(f"DROP VIEW `{made.view('movers')}`")
    warehouse.sql(f"CREATE TABLE `{made.view('movers')}` (n INT64)")
    with pytest.raises(UserError, match=f"{made.view('movers')} is no view, and its name is taken. Drop it, or give"):
        plan(made, CHURN)
    warehouse.sql(f"DROP TABLE `{made.ledger}`")
    warehouse.sql(f"CREATE VIEW `{made.ledger}` AS SELECT 1 AS n")
    with pytest.raises(UserError, match=f"{made.ledger} is no table but a view. Give --output another table"):
        check(made, CHURN)


@pytest.mark.parametrize("do", [check, plan])
def test_without_its_dataset(warehouse: Warehouse, do: Any) -> None:
    for project in (PROJECT, "nowhere"):
        table = Table(project, "none", "scores")
        with pytest.raises(UserError) as refused:
            do(table, CHURN)
        assert str(refused.value) == (
            f"{table}: there is no dataset {project}.none that you may see. Check its name, or make it with "
            f"`bq mk --dataset --location=LOCATION {project}:none`"
        )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.api_core.exceptions", None)
    with pytest.raises(UserError, match=r"^bq://a.b.c: BigQuery needs its library. Run pip install 'foretide\[big"):
        check(Table("a", "b", "c"), CHURN)


def test_a_project_of_another_form_is_refused_in_the_words_of_bigquery(warehouse: Warehouse) -> None:
    with pytest.raises(UserError, match=r"^bq://UP.a.scores: [^\n]*Invalid project ID"):
        check(Table("UP", "a", "scores"), CHURN)
