"""The views for analysts in BigQuery's SQL. What they say is in `view_sql`."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.google.tables import Table
from pipelines.storage.view_sql import Dialect, score_views

BIGQUERY = Dialect(
    quote="`",
    score="FLOAT64",
    double="FLOAT64",
    micros="UNIX_MICROS",
    struct=lambda fields: "STRUCT(" + ", ".join(f"{value} AS {name}" for name, value in fields.items()) + ")",
    rows="SELECT {columns}, {fields} FROM {source} CROSS JOIN UNNEST([{structs}]) AS cell",
)


def view_sql(table: Table, outputs: Sequence[str]) -> dict[str, str]:
    """The SELECT of each view by its whole name, over a table of scores with these columns and its ledger."""
    quoted = BIGQUERY.quoted
    made = score_views(BIGQUERY, quoted(table.scores), quoted(table.ledger), quoted(table.view("current")), outputs)
    return {table.view(name): sql for name, sql in made.items()}
