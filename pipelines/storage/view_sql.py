"""The views for analysts as SQL: the same names, columns and rows in DuckDB and in BigQuery. Text alone.

current: one row of each score_id: the highest revision, and of these the last one, by scored_at: when the run was
  finished, or the row of a live job was written.
history: one row of each run, score_id and revision. An early score (revision -1) is in it while it is all there is.
forecasts: the paths among the current scores, one row of each step ahead (1 is the first), with its quantiles p10,
  p50, ...
movers: each current score (churn, or the median of a step ahead) beside that of the same entity at the as-of before.
calibration: by task, model_version and tenth of the score (bin 0 to 9): how many scores of churn there are whose
  outcome is known, their mean, lowest and highest, and the share that churned.

An outcome is that of the task's label, and is read off the current scores of later as-ofs, without early ones. Those of
entities that were active in time are judged once the task was scored at or after the end of their horizon. Whoever has
an event in the horizon did not churn. Who has no score at that end has left the history, which is at least
`active_within` long, and churned if no two as-ofs on the way lie further apart than that. Where the last event before
that end lies after the horizon, and no score in between told, the outcome is unknown, and the score left out; so all
are known where the end of the horizon is an as-of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.storage.rows import NEWER, live_schema, score_schema
from pipelines.task.labels.base import Column
from pipelines.task.labels.kinds import score_column

# Partitioned by what score_id is made of: conditions on these columns then reach the files, or the partitions.
SCORE = "PARTITION BY task, entity_id, as_of"
BEST = f"row_number() OVER ({SCORE} ORDER BY revision DESC, {NEWER}, run_id) = 1"
KEPT = (
    f"row_number() OVER ({SCORE}, run_id, revision ORDER BY {NEWER}) = 1 "
    f"AND (revision >= 0 OR max(revision) OVER ({SCORE}, run_id) < 0)"
)
BEFORE = "OVER (PARTITION BY task, entity_id, output ORDER BY as_of)"


@dataclass(frozen=True)
class Dialect:
    """What the two spell differently."""

    quote: str  # around a name
    score: str  # type of a score column
    double: str
    micros: str  # the function that makes microseconds since 1970 of a time
    struct: Callable[[Mapping[str, str]], str]  # of name -> value
    rows: str  # SELECT of columns, and of the fields of an array of structs, a row for each of these

    def quoted(self, name: str) -> str:
        return self.quote + name.replace(self.quote, 2 * self.quote) + self.quote


DUCKDB = Dialect(
    quote='"',
    score="FLOAT",
    double="DOUBLE",
    micros="epoch_us",
    struct=lambda fields: "{" + ", ".join(f"'{name}': {value}" for name, value in fields.items()) + "}",
    rows="SELECT {columns}, unnest([{structs}], recursive := true) FROM {source}",
)
BIGQUERY = Dialect(
    quote="`",
    score="FLOAT64",
    double="FLOAT64",
    micros="UNIX_MICROS",
    struct=lambda fields: "STRUCT(" + ", ".join(f"{value} AS {name}" for name, value in fields.items()) + ")",
    rows="SELECT {columns}, {fields} FROM {source} CROSS JOIN UNNEST([{structs}]) AS cell",
)


def score_views(dialect: Dialect, scores: str, ledger: str, current: str, outputs: Sequence[str]) -> dict[str, str]:
    """The SELECT of each view by its name, in an order in which they can be made.

    Args:
      scores: what FROM takes: rows of `live_schema(score_schema(outputs))`, in which a score_id may stand many times.
      ledger: what FROM takes, with the columns task, finished_at, horizon and active_within.
      current: the view of this name, as SQL has it.
    """
    base = live_schema(score_schema(ordered(outputs))).names
    rows = f"SELECT {', '.join(map(dialect.quoted, base))} FROM {scores} WHERE TRUE"
    return {
        "current": f"{rows} QUALIFY {BEST}",
        "history": f"{rows} QUALIFY {KEPT}",
        "forecasts": _forecasts(dialect, current, outputs),
        "movers": _movers(dialect, current, outputs),
        "calibration": _calibration(dialect, current, ledger, outputs),
    }


def ordered(outputs: Sequence[str]) -> list[str]:
    """Columns of scores, in the order in which `Task.outputs` has those of a task."""
    path = {name: (cell.level != 50, cell.step, cell.level) for name, cell in _path(outputs).items()}
    return [*(name for name in outputs if name not in path), *sorted(path, key=path.__getitem__)]


def _path(outputs: Sequence[str]) -> dict[str, Column]:
    """The columns of steps ahead."""
    return {name: cell for name in outputs if (cell := score_column(name)) is not None and cell.step}


def _forecasts(dialect: Dialect, current: str, outputs: Sequence[str]) -> str:
    columns = "score_id, task, entity_id, as_of, revision, model_version"
    cells = _path(outputs)
    null = f"CAST(NULL AS {dialect.score})"
    if not cells:
        return f"SELECT {columns}, CAST(NULL AS INT64) AS step, {null} AS p50 FROM {current} WHERE FALSE"
    at = {(cell.step, cell.level): dialect.quoted(name) for name, cell in cells.items()}
    levels, steps = (sorted(set(each)) for each in zip(*((c.level, c.step) for c in cells.values()), strict=True))
    quantiles = {level: f"p{level:g}".replace(".", "_") for level in levels}
    structs = [{"step": str(k), **{name: at.get((k, q), null) for q, name in quantiles.items()}} for k in steps]
    return f"SELECT * FROM ({_rows(dialect, columns, structs, current)}) WHERE p50 IS NOT NULL"


def _movers(dialect: Dialect, current: str, outputs: Sequence[str]) -> str:
    cells = {name: cell for name in outputs if (cell := score_column(name)) is not None and cell.tracked}
    names = sorted(cells, key=lambda name: cells[name].step)
    if names:
        structs = [{"output": f"'{name}'", "score": dialect.quoted(name)} for name in names]
        rows = _rows(dialect, "task, entity_id, as_of, revision, model_version", structs, current)
    else:
        null = f"CAST(NULL AS {dialect.score})"
        rows = f"SELECT task, entity_id, as_of, revision, model_version, '' AS output, {null} AS score FROM {current}"
    before = ", ".join(f"lag({name}) {BEFORE} AS previous_{name}" for name in ("as_of", "score", "model_version"))
    return f"""
        SELECT task, entity_id, output, as_of, previous_as_of, score, previous_score,
            CAST(score AS {dialect.double}) - CAST(previous_score AS {dialect.double}) AS change,
            revision, model_version, previous_model_version
        FROM (SELECT *, {before} FROM ({rows}) WHERE score IS NOT NULL)
        WHERE previous_as_of IS NOT NULL"""


def _calibration(dialect: Dialect, current: str, ledger: str, outputs: Sequence[str]) -> str:
    churn = next((dialect.quoted(name) for name in outputs if (cell := score_column(name)) and cell.silence), "NULL")
    return f"""
        WITH terms AS (
            SELECT task, horizon, active_within FROM {ledger}
            WHERE horizon IS NOT NULL AND active_within IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY task ORDER BY finished_at DESC, horizon, active_within) = 1
        ),
        due AS (
            SELECT s.task, s.entity_id, s.model_version, CAST({churn} AS {dialect.double}) AS score,
                {dialect.micros}(s.as_of) AS as_of, {dialect.micros}(s.last_event_time) AS last_event,
                t.horizon, t.active_within
            FROM {current} AS s JOIN terms AS t ON t.task = s.task
            WHERE s.revision >= 0 AND {churn} IS NOT NULL
        ),
        as_ofs AS (
            SELECT task, as_of, ends, lag(as_of) OVER (PARTITION BY task ORDER BY as_of) AS previous,
                max(as_of) OVER (PARTITION BY task) AS newest
            FROM (SELECT DISTINCT task, as_of, as_of + horizon AS ends FROM due)
        ),
        looks AS (  -- at what is known later, the last one at the end of the horizon or after it
            SELECT a.task, a.as_of, a.ends, l.as_of AS later, l.as_of - l.previous AS gap
            FROM as_ofs AS a JOIN as_ofs AS l ON l.task = a.task AND l.as_of > a.as_of AND l.previous < a.ends
            WHERE a.ends <= a.newest
        ),
        outcomes AS (
            SELECT d.task, d.entity_id, d.as_of, d.model_version, d.score,
                CASE
                    WHEN countif(n.last_event >= d.as_of AND n.last_event < l.ends) > 0 THEN 0
                    WHEN countif(l.later >= l.ends AND n.last_event < d.as_of) > 0 THEN 1
                    WHEN countif(l.later >= l.ends AND n.last_event IS NULL) > 0
                        AND max(l.gap) <= d.active_within THEN 1
                END AS churned
            FROM due AS d
            JOIN looks AS l ON l.task = d.task AND l.as_of = d.as_of
            LEFT JOIN due AS n ON n.task = d.task AND n.entity_id = d.entity_id AND n.as_of = l.later
            WHERE d.last_event >= d.as_of - d.active_within
            GROUP BY d.task, d.entity_id, d.as_of, d.model_version, d.score, d.active_within
        )
        SELECT task, model_version, bin, count(*) AS scores, avg(score) AS mean_score, avg(churned) AS churned,
            min(score) AS lowest_score, max(score) AS highest_score
        FROM (
            SELECT task, model_version, score, churned, CAST(least(floor(10 * score), 9) AS INT64) AS bin
            FROM outcomes WHERE churned IS NOT NULL
        )
        GROUP BY task, model_version, bin"""


def _rows(dialect: Dialect, columns: str, structs: Iterable[Mapping[str, str]], source: str) -> str:
    """Columns of a source, and the fields of structs, a row for each struct."""
    made = list(structs)
    return dialect.rows.format(
        columns=columns,
        fields=", ".join(f"cell.{name}" for name in made[0]),
        structs=", ".join(map(dialect.struct, made)),
        source=source,
    )
