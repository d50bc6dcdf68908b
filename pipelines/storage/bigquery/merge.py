"""From the staging table of a run into the table of scores, in one statement: which rows come, and which stay.

    added       the table has no row of that score_id
    replaced    the staged row has a higher revision; or the same one and other values of the same model; or the same
                one of another model, which was asked to replace
    unchanged   the table has the same
    kept        what the table has stands: a higher revision, or another model

What a staged row is compared with is the row of the table that counts. One that replaces takes the place of all rows of
its score_id with its revision or a lower one, of which live jobs may have written several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipelines.google.bigquery import execute
from pipelines.google.tables import Table
from pipelines.storage.rows import NEWER, live_schema, score_schema
from pipelines.system.versioned import versioned
from pipelines.task.fields import EPOCH

VALUES = ("n_events", "last_event_time")  # beside the scores
BETWEEN = "as_of BETWEEN @first AND @last"  # of constants: only partitions of these days are read


@versioned("merge_counts")
@dataclass(frozen=True)
class MergeCounts:
    """How many staged score_ids were added, replaced, and so on."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    kept: int = 0


def merge(
    table: Table, staging: str, outputs: Sequence[str], as_ofs: Sequence[int], replace_model: bool = False
) -> MergeCounts:
    """Merges staged rows, and counts what becomes of them. To be repeated: nothing is left to do then.

    Args:
      staging: the name of a table of rows, which may be there twice; of the revisions of a score the highest counts.
      outputs: names of the score columns.
      as_ofs: of the rows, us. Others are left where they are.

    Raises:
      GoogleAPICallError: BigQuery did not do it.
    """
    parameters = {**bounds(as_ofs), "replace_model": ("BOOL", replace_model)}
    counts = MergeCounts(**_row(table, count_sql(table, staging, outputs), parameters))
    execute(table.project, merge_sql(table, staging, outputs), parameters)
    return counts


def staged(table: Table, staging: str) -> int:
    """How many scores are staged."""
    return _row(table, f"SELECT count(DISTINCT score_id) AS n FROM `{staging}`", {})["n"]


def visible(table: Table, staging: str, as_ofs: Sequence[int]) -> int:
    """Staged scores that the table has, of the staged revision or a higher one."""
    return _row(table, visible_sql(table, staging), bounds(as_ofs))["n"]


def outcome_sql(table: Table, staging: str, outputs: Sequence[str]) -> str:
    """A staged row of each score_id, with its `outcome`."""
    differ = " OR ".join(f"S.`{name}` IS DISTINCT FROM T.`{name}`" for name in (*outputs, *VALUES))
    return f"""
SELECT S.*, CASE
    WHEN T.score_id IS NULL THEN 'added'
    WHEN S.revision > T.revision THEN 'replaced'
    WHEN S.revision < T.revision THEN 'kept'
    WHEN S.model_version IS DISTINCT FROM T.model_version THEN IF(@replace_model, 'replaced', 'kept')
    WHEN {differ} THEN 'replaced'
    ELSE 'unchanged'
  END AS outcome
FROM ({_best(staging)}) AS S
LEFT JOIN ({_best(table.scores)}) AS T ON T.score_id = S.score_id"""


def count_sql(table: Table, staging: str, outputs: Sequence[str]) -> str:
    """The `MergeCounts` of a merge that is still to come."""
    names = ("added", "replaced", "unchanged", "kept")
    counts = ", ".join(f"countif(outcome = '{name}') AS {name}" for name in names)
    return f"SELECT {counts} FROM ({outcome_sql(table, staging, outputs)})"


def merge_sql(table: Table, staging: str, outputs: Sequence[str]) -> str:
    """A row that replaces comes twice: once to delete, and once, `NOT old`, to be inserted."""
    columns = live_schema(score_schema(outputs)).names
    return f"""
MERGE `{table.scores}` AS T
USING (
  SELECT P.*, old FROM ({outcome_sql(table, staging, outputs)}) AS P CROSS JOIN UNNEST([TRUE, FALSE]) AS old
  WHERE P.outcome = 'replaced' OR (P.outcome = 'added' AND NOT old)
) AS S
ON S.old AND T.score_id = S.score_id AND T.revision <= S.revision AND T.{BETWEEN}
WHEN MATCHED THEN DELETE
WHEN NOT MATCHED AND NOT S.old THEN
  INSERT ({", ".join(f"`{name}`" for name in columns)}) VALUES ({", ".join(f"S.`{name}`" for name in columns)})"""


def visible_sql(table: Table, staging: str) -> str:
    """The number `n` of `visible`."""
    return f"""
SELECT count(*) AS n
FROM (SELECT score_id, max(revision) AS revision FROM `{staging}` GROUP BY score_id) AS S
JOIN (SELECT score_id, max(revision) AS revision FROM `{table.scores}` WHERE {BETWEEN} GROUP BY score_id) AS T
ON T.score_id = S.score_id AND T.revision >= S.revision"""


def time_parameter(at: int) -> tuple[str, datetime]:
    """A time, us, for `execute`."""
    return "TIMESTAMP", EPOCH + timedelta(microseconds=at)


def _best(name: str) -> str:
    """The row of each score_id that counts."""
    return (
        f"SELECT * FROM `{name}` WHERE {BETWEEN} "
        f"QUALIFY row_number() OVER (PARTITION BY score_id ORDER BY revision DESC, {NEWER}) = 1"
    )


def bounds(as_ofs: Sequence[int]) -> dict[str, tuple[str, Any]]:
    """The parameters of `BETWEEN`, of as-ofs in us."""
    return {"first": time_parameter(min(as_ofs)), "last": time_parameter(max(as_ofs))}


def _row(table: Table, sql: str, parameters: dict[str, tuple[str, Any]]) -> dict[str, int]:
    (row,) = execute(table.project, sql, parameters).result()
    return dict(row)
