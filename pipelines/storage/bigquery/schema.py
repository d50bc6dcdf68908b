"""The tables of BigQuery that scores go to: their columns, whether they are there, and what is to be added to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipelines.errors import Finding, UserError
from pipelines.google.bigquery import TIMEOUT, client, execute, explained, patiently
from pipelines.google.tables import Table
from pipelines.storage.rows import DEAD_LETTERS, LEDGER, TIME, live_schema, score_schema
from pipelines.storage.view_sql import BIGQUERY, score_views
from pipelines.task.labels.kinds import score_column
from pipelines.task.spec import Task

if TYPE_CHECKING:
    from google.cloud import bigquery

Kind = Literal["scores", "dead_letters", "ledger"]  # each the name of a property of Table
Field = dict[str, Any]  # name, type, mode, description and, of a RECORD, fields

WRITTEN = ("meant", "staged", "visible", "added", "replaced", "unchanged", "kept")  # columns of the ledger: scores
STORED = {pa.int32(): pa.int64(), pa.float32(): pa.float64()}  # BigQuery has no smaller ones
TYPES = {pa.string(): "STRING", pa.binary(): "BYTES", pa.int64(): "INTEGER", pa.float64(): "FLOAT", TIME: "TIMESTAMP"}
SQL_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
LABEL = "foretide"  # of a view: what it was made from
PATIENCE = 60.0  # seconds in which BigQuery must have answered
ELSEWHERE = "Give --output another table"


@dataclass(frozen=True)
class Layout:
    """What a table is, beside its columns."""

    description: str
    day: str  # the column by whose days it is partitioned
    clusters: tuple[str, ...]
    required: tuple[str, ...]
    columns: Mapping[str, str]  # name -> description; nested.name


LAYOUTS: dict[Kind, Layout] = {
    "scores": Layout(
        description="Scores: of runs over files one row of each score_id, of live jobs every row that they wrote.",
        day="as_of",
        clusters=("task", "entity_id"),
        required=("score_id", "task", "entity_id", "as_of", "revision", "model_version", "run_id", "scored_at"),
        columns={
            "score_id": "MD5, in hex, of task, entity_id and as_of in microseconds since 1970, with | in between.",
            "task": "Name of the task.",
            "entity_id": "Who or what is scored.",
            "as_of": "The time as of which the score is made, from the events that had happened and arrived by then.",
            "revision": "0 for the score at its as_of, 1 and more when late events corrected it, -1 before its time.",
            "model_version": "Version of the model that made the score.",
            "n_events": "Events in the history of the entity.",
            "last_event_time": "Time of the last event in the history of the entity.",
            "run_id": "The run over files, or the live job, that wrote the row.",
            "scored_at": "When the row was written.",
        },
    ),
    "dead_letters": Layout(
        description="What was refused and why: rows, messages, late events, and sequences that have no score.",
        day="written_at",
        clusters=("run_id",),
        required=("stage", "source", "position", "reason", "rows", "run_id", "status", "written_at"),
        columns={
            "stage": "Where it was refused: read, late, infer or write.",
            "source": "The file, subscription, model or table.",
            "position": "Where in the source: a row, a byte, a message, or an entity and its as-of.",
            "reason": "Why it was refused.",
            "rows": "Rows that it stands for: 1, unless a part of a file could not be read.",
            "raw": "Its content as text.",
            "payload": "Of a refused message: what is to be sent again. Null where there is nothing to send.",
            "attributes": "Attributes of that message: a JSON object. Null for none.",
            "run_id": "The run over files, or the live job, that wrote the row.",
            "status": "Of the run: published, refused or unbalanced. Of a live job: live.",
            "written_at": "When the row was written.",
        },
    ),
    "ledger": Layout(
        description="What became of every event and score. Of each run_id and attempt the row finished last counts.",
        day="finished_at",
        clusters=("task", "run_id"),
        required=("run_id", "attempt", "task", "status", "started_at", "finished_at"),
        columns={
            "run_id": "The run over files, or the live job.",
            "attempt": "One launch of it.",
            "task": "Name of the task.",
            "model_version": "Version of the model that made the scores. Null for a live job, which may change it.",
            "status": "Of the run: published, refused or unbalanced. Of a live job: live.",
            "started_at": "When the attempt began.",
            "finished_at": "When it ended. Of a live job: when the row was written.",
            "inputs": "Patterns of files, tables or queries; of a live job the subscription, and what it started from.",
            "read": "Events read: the sum of accepted, rejected, duplicates, outside and filtered.",
            "accepted": "Events that count.",
            "rejected": "Events refused, each a dead letter.",
            "duplicates": "Copies of accepted events.",
            "outside": "Events that no score of the run could use: too old, too new, or arrived too late.",
            "filtered": "Events that the task's filter leaves out.",
            "late": "Accepted events that came too late for a score that was closed. Later scores use them.",
            "files": "Files, or other parts of the input.",
            "bad_files": "Files that could not be read from the start.",
            "sequences": "Sequences given to the model: the sum of scored and failed.",
            "scored": "Sequences with a score.",
            "failed": "Sequences without one: the model or the table refused it.",
            "first_time": "Time of the first event. Null when there was none.",
            "last_time": "Time of the last event. Null when there was none.",
            "reasons": "How many events were rejected, by reason.",
            "reasons.reason": "Why events were rejected.",
            "reasons.count": "Events rejected for this reason.",
            "differences": "Sums that do not match, in words. Empty when all is accounted for.",
            "horizon": "Microseconds after an as-of without an event that make a churn. Null for other labels.",
            "active_within": "Microseconds before an as-of in which an entity must have been active to churn. "
            "Null for other labels.",
            "meant": "Scores that were to be written.",
            "staged": "Of these, scores that waited for the merge. Null for a live job, which has none.",
            "visible": "Of these, scores that were found in the table afterwards.",
            "added": "Scores merged that the table did not have. Null for a live job.",
            "replaced": "Scores merged in the place of others. Null for a live job.",
            "unchanged": "Scores that the table had already. Null for a live job.",
            "kept": "Scores not merged, as the table had a higher revision, or another model's. Null for a live job.",
        },
    ),
}
VIEWS = {
    "current": "One row of each score_id: the one that counts.",
    "history": "One row of each run, score_id and revision.",
    "forecasts": "Current scores that are paths: one row of each step ahead, with its quantiles.",
    "movers": "Current scores beside those of the same entity at the as-of before.",
    "calibration": "By task, model version and tenth of the score: the share of entities that churned.",
}


@dataclass(frozen=True)
class Change:
    """Something that is to be added, in words, and what adds it."""

    lines: tuple[str, ...]
    make: Callable[[], object]


def arrow_schema(kind: Kind, outputs: Sequence[str]) -> pa.Schema:
    """The columns of a table, in the types in which rows are appended to it.

    Args:
      outputs: names of the score columns; other tables than that of scores have none.
    """
    schemas = {
        "scores": live_schema(score_schema(outputs)),
        "dead_letters": live_schema(DEAD_LETTERS.append(pa.field("status", pa.string()))),
        "ledger": pa.schema([*LEDGER, *((name, pa.int64()) for name in WRITTEN)]),
    }
    return pa.schema([(f.name, STORED.get(f.type, f.type)) for f in schemas[kind]])


def stored(rows: pa.Table, kind: Kind, outputs: Sequence[str]) -> pa.Table:
    """Rows with all or some of the columns of a table, to be appended to it. KeyError for a column of another name."""
    schema = arrow_schema(kind, outputs)
    return rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))


def fields(kind: Kind, outputs: Sequence[str]) -> list[Field]:
    """The columns of a table, as BigQuery's JSON schemas have them."""
    layout = LAYOUTS[kind]
    scores = {name: score_column(name) for name in outputs}
    told = {name: column.description if column else "Score of the task." for name, column in scores.items()}
    described = {**layout.columns, **told}

    def field(path: str, kind: pa.DataType) -> Field:
        repeated = pa.types.is_list(kind)
        inner = kind.value_type if repeated else kind
        nested = [field(f"{path}.{f.name}", f.type) for f in inner] if pa.types.is_struct(inner) else []
        return {
            "name": path.rpartition(".")[2],
            "type": "RECORD" if nested else TYPES[inner],
            "mode": "REPEATED" if repeated else "REQUIRED" if path in layout.required else "NULLABLE",
            "description": described[path],
            **({"fields": nested} if nested else {}),
        }

    return [field(f.name, f.type) for f in arrow_schema(kind, outputs)]


def check(table: Table, outputs: Sequence[str]) -> None:
    """Whether scores of these columns can be written, and dead letters and the ledger.

    Raises:
      UserError: no; the message says, of all that is wrong, how to mend it.
    """
    found = _found(table)
    problems = list(_problems(table, found, outputs))
    lacking = []
    for kind, actual in found.items():
        if actual is None:
            lacking.append(f"no table {_name(table, kind)}")
        else:
            lacking += [f"no column {_name(table, kind)}.{f['name']}" for f in _missing(kind, actual, outputs)]
    if lacking:
        remedy = f"Run `foretide schema apply --output {table} --task FILE`"
        problems.append(_wrong(str(table), f"there is {', '.join(lacking)}", remedy))
    _refuse(problems)


def plan(table: Table, outputs: Sequence[str]) -> list[Change]:
    """What is to be added so that scores of these columns can be written, and the views read: tables, columns that
    may be null, descriptions and views. Nothing else is ever changed.

    Raises:
      UserError: that would not be enough, as `check` says; or there is no dataset.
    """
    found = _found(table)
    _refuse(list(_problems(table, found, outputs)))
    views = _views(table, _all_outputs(found["scores"], outputs))
    taken = [name for name, view in views.items() if view.actual is not None and view.actual.table_type != "VIEW"]
    said = "is no view, and its name is taken"
    _refuse([_wrong(name, f"{name} {said}", "Drop it, or give --output another table") for name in taken])
    changes = []
    for kind, actual in found.items():
        if actual is None:
            changes.append(_creation(table, kind, outputs))
        else:
            changes += _extension(table, kind, actual, outputs)
    for name, view in views.items():
        if view.actual is None or view.actual.labels.get(LABEL) != view.digest:
            line = f"{'create' if view.actual is None else 'replace'} view {name}"
            changes.append(Change((line,), partial(execute, table.project, view.sql)))
    return changes


def apply(changes: Iterable[Change]) -> None:
    """Makes changes, in their order. Raises UserError if BigQuery does not."""
    for change in changes:
        with explained(change.lines[0]):
            change.make()


def schema_apply(table: Table, task: Task, dry_run: bool) -> int:
    """Plans for the scores of a task, prints the plan a line a change, and makes it unless this is a dry run."""
    changes = plan(table, task.outputs)
    for change in changes:
        if not dry_run:
            apply([change])
        print("\n".join(change.lines))
    if not changes:
        print(f"{table}: nothing to do")
    elif dry_run:
        print("dry run: nothing was changed")
    return 0


def _wrong(subject: str, what: str, remedy: str) -> Finding:
    return Finding("output-tables", "error", subject, what, remedy)


def _refuse(problems: Sequence[Finding]) -> None:
    if problems:
        raise UserError.of(problems)


def _found(table: Table) -> dict[Kind, bigquery.Table | None]:
    """The tables that there are. Raises UserError if there is no dataset, or BigQuery does not say."""
    with explained(str(table)):
        from google.api_core.exceptions import NotFound

        service = client(table.project)
        found = {kind: _get(table, _name(table, kind)) for kind in LAYOUTS}
        if None in found.values():
            dataset = f"{table.project}.{table.dataset}"
            try:
                patiently(lambda: service.get_dataset(dataset, retry=None, timeout=TIMEOUT), PATIENCE)
            except NotFound as error:
                made = f"`bq mk --dataset --location=LOCATION {table.project}:{table.dataset}`"
                raise UserError(
                    f"{table}: there is no dataset {dataset} that you may see",
                    remedy=f"Check its name, or make it with {made}",
                    code="output-tables",
                ) from error
    return found


def _get(table: Table, name: str) -> bigquery.Table | None:
    from google.api_core.exceptions import NotFound

    try:
        return patiently(lambda: client(table.project).get_table(name, retry=None, timeout=TIMEOUT), PATIENCE)
    except NotFound:
        return None


def _name(table: Table, kind: Kind) -> str:
    return getattr(table, kind)


def _all_outputs(scores: bigquery.Table | None, outputs: Sequence[str]) -> list[str]:
    """The score columns of a task, and those that its table has for others."""
    there = [field.name for field in scores.schema] if scores else []
    return [*outputs, *(name for name in there if score_column(name) and name not in outputs)]


def _missing(kind: Kind, actual: bigquery.Table, outputs: Sequence[str]) -> list[Field]:
    """The columns that a table lacks and that can be added to it."""
    there = {field.name for field in actual.schema}
    return [f for f in fields(kind, outputs) if f["name"] not in there and f["mode"] != "REQUIRED"]


def _problems(table: Table, found: Mapping[Kind, bigquery.Table | None], outputs: Sequence[str]) -> Iterator[Finding]:
    """What nothing that is added can mend, and what does."""
    for kind, actual in found.items():
        name = _name(table, kind)
        if actual is None:
            continue
        if actual.table_type != "TABLE":
            yield _wrong(name, f"{name} is no table but a {actual.table_type.lower()}", ELSEWHERE)
            continue
        yield from _wrong_columns(name, kind, actual, _all_outputs(found["scores"], outputs))
        yield from _wrong_layout(name, kind, actual)


def _wrong_columns(name: str, kind: Kind, actual: bigquery.Table, outputs: Sequence[str]) -> Iterator[Finding]:
    wanted = {field["name"]: field for field in fields(kind, outputs)}
    there = {field.name: _shape(field.to_api_repr()) for field in actual.schema}
    for column, field in wanted.items():
        must, alter = _shape(field), f"ALTER TABLE `{name}` ALTER COLUMN `{column}`"
        if column not in there:
            if field["mode"] == "REQUIRED":
                what = f"{name} lacks the column {column}, which only a new table can have as {must}"
                yield _wrong(name, what, ELSEWHERE)
            continue
        what = f"{name}.{column} is {there[column]}, and must be {must}"
        if there[column] == f"{must} NOT NULL":
            yield _wrong(name, what, f"{alter} DROP NOT NULL")
        elif there[column] == "INT64" and must == "FLOAT64":
            yield _wrong(name, what, f"{alter} SET DATA TYPE FLOAT64")
        elif there[column] != must:
            yield _wrong(name, what, ELSEWHERE)
    for column in (column for column in there if column not in wanted):
        remedy = f"ALTER TABLE `{name}` DROP COLUMN `{column}`, or give --output another table"
        yield _wrong(name, f"{name} has a column {column} too many", remedy)


def _wrong_layout(name: str, kind: Kind, actual: bigquery.Table) -> Iterator[Finding]:
    layout, days = LAYOUTS[kind], actual.time_partitioning
    if days is None or (days.type_, days.field) != ("DAY", layout.day):
        how = f"by {days.type_.lower()} of {days.field or 'ingestion'}" if days else "otherwise or not at all"
        yield _wrong(name, f"{name} is partitioned {how}, and must be by day of {layout.day}", ELSEWHERE)
    if tuple(actual.clustering_fields or ()) != layout.clusters:
        how = f"by {', '.join(actual.clustering_fields)}" if actual.clustering_fields else "not at all"
        command = f"bq update --clustering_fields={','.join(layout.clusters)} {_in_bq(name)}"
        what = f"{name} is clustered {how}, and must be by {', '.join(layout.clusters)}"
        yield _wrong(name, what, f"Run `{command}`")


def _in_bq(name: str) -> str:
    """`project.dataset.table` as the command bq has it."""
    project, dataset, table = name.rsplit(".", 2)
    return f"{project}:{dataset}.{table}"


def _shape(field: Field) -> str:
    """The type and mode of a column, as in SQL."""
    kind = str(SQL_TYPES.get(field["type"], field["type"]))
    if "fields" in field:
        nested = ", ".join(f"{each['name']} {_shape(each)}" for each in field["fields"])
        kind = f"STRUCT<{nested}>"
    mode = field.get("mode", "NULLABLE")
    return {"REPEATED": f"ARRAY<{kind}>", "REQUIRED": f"{kind} NOT NULL"}.get(mode, kind)


def _creation(table: Table, kind: Kind, outputs: Sequence[str]) -> Change:
    from google.cloud import bigquery

    layout, name = LAYOUTS[kind], _name(table, kind)
    new = bigquery.Table(name, _schema(fields(kind, outputs)))
    new.description = layout.description
    new.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, layout.day)
    new.clustering_fields = list(layout.clusters)
    return Change(
        (f"create table {name}, partitioned by day of {layout.day}, clustered by {', '.join(layout.clusters)}",),
        lambda: client(table.project).create_table(new, timeout=TIMEOUT),
    )


def _extension(table: Table, kind: Kind, actual: bigquery.Table, outputs: Sequence[str]) -> list[Change]:
    """What a table lacks: columns and descriptions, in one change."""
    name, description = _name(table, kind), LAYOUTS[kind].description
    wanted = {field["name"]: field for field in fields(kind, _all_outputs(actual, outputs))}
    there = {field.name: field.to_api_repr() for field in actual.schema}
    missing = _missing(kind, actual, outputs)
    lines = [f"add column {name}.{field['name']} {_shape(field)}" for field in missing]
    lines += [f"describe column {name}.{c}" for c in there if _described(there[c]) != _described(wanted[c])]
    if actual.description != description:
        lines.append(f"describe table {name}")
    if not lines:
        return []

    def make() -> None:
        actual.schema = _schema([*({**there[c], **wanted[c]} for c in there), *missing])
        actual.description = description
        client(table.project).update_table(actual, ["schema", "description"], timeout=TIMEOUT)

    return [Change(tuple(lines), make)]


def _schema(wanted: Iterable[Field]) -> list[bigquery.SchemaField]:
    from google.cloud.bigquery import SchemaField

    return [SchemaField.from_api_repr(field) for field in wanted]


def _described(field: Field) -> list[str | None]:
    """The description of a column, and of those in it."""
    return [field.get("description"), *(text for f in field.get("fields", ()) for text in _described(f))]


@dataclass(frozen=True)
class _View:
    sql: str  # makes it
    digest: str  # of the SQL
    actual: bigquery.Table | None


def _views(table: Table, outputs: Sequence[str]) -> dict[str, _View]:
    """The views by name, in an order in which they can be made. Services may keep their SQL in other words: a label
    says from which it was made."""
    views = {}
    described = {table.view(name): text for name, text in VIEWS.items()}
    with explained(str(table)):
        for name, select in _view_sql(table, outputs).items():
            digest = hashlib.md5(f"{described[name]}\n{select}".encode(), usedforsecurity=False).hexdigest()
            options = f'description="{described[name]}", labels=[("{LABEL}", "{digest}")]'
            sql = f"CREATE OR REPLACE VIEW `{name}` OPTIONS({options}) AS {select}"
            views[name] = _View(sql, digest, _get(table, name))
    return views


def _view_sql(table: Table, outputs: Sequence[str]) -> dict[str, str]:
    """The SELECT of each view by its whole name, over a table of scores with these columns and its ledger."""
    quoted = BIGQUERY.quoted
    made = score_views(BIGQUERY, quoted(table.scores), quoted(table.ledger), quoted(table.view("current")), outputs)
    return {table.view(name): sql for name, sql in made.items()}
