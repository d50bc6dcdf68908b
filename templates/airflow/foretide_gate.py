"""What the workflow in `foretide_dag.py` asks and decides: its settings, the places of scores, drift, and publishing.

Scores of an as-of are made in a place of candidates. Only those that pass the checks come into the published place,
once: what is there never changes. Both are folders, or both tables of BigQuery; the statements are the same for both.
Plain Python, without Airflow.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

BINS = 10
CHANCE = 27.88  # the quantile .999 of the chi-squared distribution with BINS - 1 degrees of freedom
COMPARED = ("score", "events")  # by the population stability index
COUNTS = ("read", "accepted", "rejected", "duplicates", "outside", "filtered", "sequences", "scored", "failed")

Row = Mapping[str, Any]


class Refused(Exception):
    """Scores that must not be published. The message says why."""


@dataclass(frozen=True)
class Limits:
    """From where on scores are held back."""

    dead_letters: float = 0.01  # share of the events that were read, and of the sequences without a score
    psi: float = 0.25  # population stability index
    ratio: float = 2.0  # so many times more, or fewer, than in the mean of the earlier as-ofs
    earlier: int = 7  # published as-ofs to compare with
    recent_hours: int = 24  # entities with an event in so many hours before an as-of are counted
    score: str = "churn"  # what is compared: a column of scores, or an expression over some


@dataclass(frozen=True)
class Dataflow:
    """Where the Flex template runs."""

    template: str  # gs://BUCKET/batch.json
    project: str
    region: str
    environment: Mapping[str, object] = field(default_factory=dict)  # FlexTemplateRuntimeEnvironment
    connection: str = "google_cloud_default"


@dataclass(frozen=True)
class Settings:
    """Of one workflow."""

    task: str  # its name, as the rows have it
    task_file: str
    model: str
    input: Sequence[str]
    candidates: str  # a folder, in which each backfill has one of its own, or bq://PROJECT.DATASET.TABLE
    published: str
    ready: Sequence[str] = ()  # what must be there: files, gs:// objects, partitions of bq:// tables; {day}, {as_of}
    schedule: str = "0 0 * * *"  # when an as-of is due, in UTC
    start: str = "2024-01-01"
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # more of `foretide score`
    command: str = "foretide"
    dataflow: Dataflow | None = None  # else this machine runs the job
    poll_seconds: int = 300  # between two looks at the data, or at the job on Dataflow
    alert_url: str | None = None  # takes {"text": ...} by POST, as chats do
    limits: Limits = Limits()

    @classmethod
    def read(cls, name: str, values: Mapping[str, Any]) -> Settings:
        """Raises ValueError, which says what is wrong with the settings of this name."""
        settings: Settings = _read(cls, name, values)
        if isinstance(settings.input, str) or isinstance(settings.ready, str):
            raise ValueError(f"{name}: input and ready are lists")
        tables = [place.startswith("bq://") for place in (settings.candidates, settings.published)]
        if tables[0] != tables[1]:
            raise ValueError(f"{name}: candidates and published must be folders, or tables of BigQuery, both")
        if settings.candidates == settings.published:
            raise ValueError(f"{name}: candidates and published are the same place")
        if settings.dataflow and not tables[0]:
            raise ValueError(f"{name}: a job on Dataflow writes to BigQuery: name tables, bq://PROJECT.DATASET.TABLE")
        return settings

    def output(self, as_of: str, started: str) -> str:
        """Where the candidates of an as-of are, by a backfill that began at this time."""
        if self.candidates.startswith("bq://"):
            return self.candidates
        return os.path.join(self.candidates, as_of.replace(":", ""), started.replace(":", ""))

    def score_options(self, as_of: str) -> dict[str, str | bool | Sequence[str]]:
        """All but --output. In a table of candidates, scores of a newer model replace those before."""
        given = {k: v if isinstance(v, bool) else str(v) for k, v in self.options.items()}
        replace = {"replace-model": True} if self.candidates.startswith("bq://") else {}
        return {"task": self.task_file, "model": self.model, "input": self.input, "as-of": as_of, **replace, **given}

    def shell(self, as_of: str) -> str:
        """The backfill as a command of bash, whose last line is when it began.

        Refused and unbalanced runs (exit codes 3 and 4) are left to the checks, which read the ledger.
        """
        words = [*shlex.split(self.command), "score"]
        for name, value in self.score_options(as_of).items():
            if value is not False:
                values = [value] if isinstance(value, str) else [] if value is True else value
                words += [f"--{name}", *values]
        output = shlex.quote(self.output(as_of, ""))
        if not self.candidates.startswith("bq://"):
            output += '"${started//:/}"'
        return (
            f"started=$(date -u +%Y-%m-%dT%H:%M:%SZ)\n{shlex.join(words)} --output {output}"
            " || { code=$?; [ $code = 3 ] || [ $code = 4 ] || exit $code; }\necho $started"
        )

    def launch(self, as_of: str, job: str) -> dict[str, Any]:
        """The backfill as the body of a launch of the Flex template."""
        assert self.dataflow is not None
        options = {**self.score_options(as_of), "output": self.candidates}
        return {
            "launchParameter": {
                "jobName": job,
                "containerSpecGcsPath": self.dataflow.template,
                "parameters": {k.replace("-", "_"): _joined(v) for k, v in options.items()},
                "environment": dict(self.dataflow.environment),
            }
        }

    def job(self, as_of: str) -> str:
        """The name of a job. Dataflow never runs two of one name at a time."""
        return re.sub("[^a-z0-9]+", "-", f"foretide-{self.task}-{as_of}".lower())


def _joined(value: str | bool | Sequence[str]) -> str:
    """As a parameter of a template has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else ",".join(value)


def _read(cls: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"{name}: there is no setting {unknown[0]}; there are {', '.join(sorted(known))}")
    nested = {"dataflow": Dataflow, "limits": Limits}
    made = {k: _read(nested[k], f"{name}.{k}", v) if k in nested and v is not None else v for k, v in values.items()}
    try:
        return cls(**made)
    except TypeError as error:
        raise ValueError(f"{name}: {str(error).partition('() ')[2]}") from None


class Place(Protocol):
    """Where scores are, and the names of its views in SQL."""

    @property
    def scores(self) -> str: ...

    @property
    def ledger(self) -> str: ...

    def rows(self, sql: str) -> list[Row]:
        """What a statement gives."""


@dataclass(frozen=True)
class Folder:
    """An output folder, asked with `foretide query`."""

    path: Path
    command: str = "foretide"
    scores: str = "scores"
    ledger: str = "ledger"

    def rows(self, sql: str) -> list[Row]:
        words = [*shlex.split(self.command), "query", "--output", str(self.path), "--format", "json", sql]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return [json.loads(line) for line in done.stdout.splitlines()]

    @property
    def runs(self) -> Path:
        """Links to the generations of runs, by run."""
        return self.path / "current"


@dataclass(frozen=True)
class Tables:
    """A table of scores, and what `foretide schema apply` made beside it. `client` is one of google-cloud-bigquery."""

    name: str  # PROJECT.DATASET.TABLE
    client: Any

    @property
    def scores(self) -> str:
        return f"`{self.name}_current`"

    @property
    def ledger(self) -> str:
        return f"`{self.name}_ledger`"

    def rows(self, sql: str) -> list[Row]:
        return [dict(row) for row in self.client.query(sql).result()]


def places(settings: Settings, as_of: str, started: str, client: Callable[[str], Any]) -> tuple[Place, Place]:
    """Of the candidates that a backfill made which began at this time, and of what is published.

    Args:
      client: makes the one of a project of BigQuery.
    """
    if settings.candidates.startswith("bq://"):
        names = [place.removeprefix("bq://") for place in (settings.candidates, settings.published)]
        candidates, published = (Tables(name, client(name.split(".")[0])) for name in names)
        return candidates, published
    command = settings.command
    return Folder(Path(settings.output(as_of, started)), command), Folder(Path(settings.published), command)


def check_ledger(place: Place, settings: Settings, as_of: str, started: str) -> dict[str, Any]:
    """The run that made the candidates, and the reasons to hold them back that its ledger gives.

    Args:
      started: when the backfill began. Tables have the ledgers of those before, too.
    """
    found = place.rows(
        f"SELECT run_id, attempt, status, {', '.join(COUNTS)}, differences,"
        f" (SELECT COUNT(*) FROM {place.scores} WHERE {of(settings.task)} AND {at(as_of)}) AS there"
        f" FROM {place.ledger} WHERE {of(settings.task)} AND started_at >= {time(started)}"
        " ORDER BY finished_at DESC LIMIT 1"
    )
    if not found:
        return {"reasons": [f"there is no ledger of a run of task {settings.task}"]}
    [row] = found
    reasons = ledger_reasons(row, settings.limits)
    if not reasons and row["there"] != row["scored"]:
        reasons = [f"the run scored {row['scored']:,}, and there are {row['there']:,} scores as of {as_of}"]
    return {"run_id": row["run_id"], "attempt": row["attempt"], "reasons": reasons}


def ledger_reasons(row: Row, limits: Limits) -> list[str]:
    """Why a run with this ledger must not be published: none if all adds up, and few were refused."""
    reasons = []
    n = {name: row[name] or 0 for name in COUNTS}
    if row["status"] != "published":
        reasons.append(f"the run was {row['status']}")
    accounted = n["accepted"] + n["rejected"] + n["duplicates"] + n["outside"] + n["filtered"]
    if n["read"] != accounted or n["sequences"] != n["scored"] + n["failed"]:
        reasons.append("the ledger does not add up")
    reasons += row["differences"] or []
    for refused, of_all, what in (("rejected", "read", "events"), ("failed", "sequences", "sequences")):
        if n[refused] > limits.dead_letters * n[of_all]:
            share = n[refused] / n[of_all]
            reasons.append(f"{n[refused]:,} of {n[of_all]:,} {what} were refused: {share:.1%}")
    if not n["scored"]:
        reasons.append("nothing was scored")
    return reasons


@dataclass(frozen=True)
class Spread:
    """How many scores there are of some as-ofs, and how they spread over the bins."""

    as_ofs: int
    scored: int
    recent: int  # entities with an event shortly before the as-of
    bins: Mapping[str, Sequence[int]]  # by what is compared


def check_drift(candidates: Place, published: Place, settings: Settings, as_of: str) -> list[str]:
    """Reasons to hold back candidates, if they differ much from the published scores of earlier as-ofs.

    None where nothing was published earlier.
    """
    if isinstance(published, Folder) and not published.runs.is_dir():
        return []  # views of an empty folder lack the columns of scores
    limits, task = settings.limits, of(settings.task)
    tiles = published.rows(earlier_sql(published.scores, task, as_of, limits))
    if not tiles:
        return []
    below = {
        name: dict(sorted((t["upper"], t["below"]) for t in tiles if t["name"] == name and t["upper"] is not None))
        for name in COMPARED
    }
    bins = {name: _bins([0, *numbers.values()]) for name, numbers in below.items()}
    before = Spread(tiles[0]["as_ofs"], tiles[0]["scored"], tiles[0]["recent"], bins)
    edges = {name: list(numbers)[:-1] for name, numbers in below.items()}
    [row] = candidates.rows(spread_sql(candidates.scores, f"{task} AND {at(as_of)}", edges, limits))
    bins = {
        name: _bins([0, *(row[f"{name}_{i}"] for i in range(len(uppers))), row[f"{name}_all"]])
        for name, uppers in edges.items()
    }
    return drift_reasons(before, Spread(1, row["scored"], row["recent"], bins), limits)


def _bins(below: Sequence[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(below)]


def earlier_sql(scores: str, task: str, as_of: str, limits: Limits) -> str:
    """A row of each tenth of what is compared: its upper end, and how many do not exceed it, in the last published
    as-ofs. Each row also has how many these are, their scores, and the entities with recent events.
    """
    tenths = " UNION ALL ".join(
        f"SELECT '{name}' AS name, MAX(x) AS upper, MAX(below) AS below FROM ("
        f"SELECT {x} AS x, NTILE({BINS}) OVER (ORDER BY {x}) AS tile, COUNT({x}) OVER (ORDER BY {x}) AS below"
        f" FROM rows_before) AS tiled GROUP BY tile"
        for name, x in _compared(limits).items()
    )
    return f"""
        WITH earlier AS (
            SELECT DISTINCT as_of FROM {scores} WHERE {task} AND as_of < {time(as_of)}
            ORDER BY as_of DESC LIMIT {limits.earlier}
        ),
        rows_before AS (
            SELECT * FROM {scores} WHERE {task} AND as_of < {time(as_of)} AND as_of IN (SELECT as_of FROM earlier)
        ),
        numbers AS (SELECT COUNT(DISTINCT as_of) AS as_ofs, {_numbers(limits)} FROM rows_before),
        tenths AS ({tenths})
        SELECT name, upper, below, as_ofs, scored, recent FROM tenths CROSS JOIN numbers"""


def spread_sql(scores: str, where: str, edges: Mapping[str, Sequence[float]], limits: Limits) -> str:
    """One row: numbers of scores, and of those that do not exceed each edge."""
    columns = [_numbers(limits)]
    for name, x in _compared(limits).items():
        columns.append(f"COUNT({x}) AS {name}_all")
        columns += [
            f"COUNT(CASE WHEN {x} <= {upper:.17e} THEN 1 END) AS {name}_{i}" for i, upper in enumerate(edges[name])
        ]
    return f"SELECT {', '.join(columns)} FROM {scores} WHERE {where}"


def _compared(limits: Limits) -> dict[str, str]:
    """The expressions behind `COMPARED`, as 64-bit floats."""
    return dict(zip(COMPARED, (f"({limits.score}) * 1e0", "n_events * 1e0"), strict=True))


def _numbers(limits: Limits) -> str:
    recent = f"last_event_time >= as_of - INTERVAL {limits.recent_hours} HOUR"
    return f"COUNT(*) AS scored, COUNT(CASE WHEN {recent} THEN 1 END) AS recent"


def drift_reasons(before: Spread, now: Spread, limits: Limits) -> list[str]:
    """How scores differ from those of earlier as-ofs by more than the limits, and by more than chance."""
    reasons = []
    for what, mean, n in (
        ("scores", before.scored / before.as_ofs, now.scored),
        (f"entities with events in the last {limits.recent_hours} h", before.recent / before.as_ofs, now.recent),
    ):
        if not mean / limits.ratio <= n <= mean * limits.ratio:
            reasons.append(f"there are {n:,} {what}, and {mean:,.0f} in the mean of {before.as_ofs} earlier as-ofs")
    for name, what in zip(COMPARED, (limits.score, "events of an entity"), strict=True):
        index, limit = psi(before.bins[name], now.bins[name]), psi_limit(before.bins[name], now.bins[name], limits)
        if index > limit:
            reasons.append(f"{what}: the population stability index is {index:.2f}, above {limit:.2f}")
    return reasons


def psi(before: Sequence[int], now: Sequence[int]) -> float:
    """The population stability index of two histograms: the sum of (q - p) ln(q / p) over the shares p, q of the bins.

    Half a row is added to each bin, so that empty ones can be compared.
    """
    p, q = ([(n + 0.5) / (sum(bins) + 0.5 * len(bins)) for n in bins] for bins in (before, now))
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def psi_limit(before: Sequence[int], now: Sequence[int], limits: Limits) -> float:
    """The limit, or, where there are few rows, what equal populations exceed once in a thousand times."""
    few = CHANCE * sum(1 / max(1, sum(bins)) for bins in (before, now))
    return max(limits.psi, few)


def held_for(ledger: Sequence[str], drift: Sequence[str], accept_drift: bool) -> list[str]:
    """To hold scores back, of all that the checks gave. Drift can be accepted, what the ledger says cannot."""
    return [*ledger, *(() if accept_drift else drift)]


def publish(candidates: Place, published: Place, settings: Settings, as_of: str, run: Row) -> str:
    """Brings the scores of an as-of into the published place, all at once, and says what was done.

    Nothing changes there if it has scores of this as-of. Raises Refused if those are others.

    Args:
      run: what `check_ledger` found.
    """
    if isinstance(candidates, Folder) and isinstance(published, Folder):
        done = _publish_folder(candidates, published, settings, as_of, run["run_id"])
    else:
        assert isinstance(candidates, Tables)
        assert isinstance(published, Tables)
        done = _publish_tables(candidates, published, settings, as_of, run)
    return f"scores as of {as_of}: {done} {settings.published}"


def _publish_folder(candidates: Folder, published: Folder, settings: Settings, as_of: str, run_id: str) -> str:
    source = (candidates.runs / run_id).resolve(strict=True)
    sql = f"SELECT DISTINCT run_id FROM {published.scores} WHERE {of(settings.task)} AND {at(as_of)}"
    there = [row["run_id"] for row in published.rows(sql)] if published.runs.is_dir() else []
    if there:
        if there != [run_id] or not _equal(source, (published.runs / run_id).resolve()):
            raise Refused(_others(settings, as_of))
        return "were already in"
    target = published.path / "generations" / source.name
    fresh = target.with_name(f".new.{source.name}")
    for folder in (published.runs, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for left in (fresh, target):  # of a try that ended before the link
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, fresh)
    fresh.rename(target)
    os.sync()  # whole on the disk before anybody sees it
    (published.runs / run_id).symlink_to(Path("..", "generations", source.name))
    return "came into"


def _equal(a: Path, b: Path) -> bool:
    """Whether two generations have the same scores, byte for byte."""
    names = sorted(os.listdir(a / "scores"))
    if names != sorted(os.listdir(b / "scores")):
        return False
    return all(filecmp.cmp(a / "scores" / n, b / "scores" / n, shallow=False) for n in names)


def _publish_tables(candidates: Tables, published: Tables, settings: Settings, as_of: str, run: Row) -> str:
    where = f"{of(settings.task)} AND {at(as_of)}"
    added = _insert(published, "", f"FROM {candidates.scores} WHERE {where}", where)
    columns = ", ".join(c for c in _columns(published, "") if c not in ("run_id", "scored_at"))
    ours, theirs = (f"SELECT {columns} FROM {place.scores} WHERE {where}" for place in (candidates, published))
    [other] = published.rows(
        f"SELECT COUNT(*) AS n FROM (({ours} EXCEPT DISTINCT {theirs}) UNION ALL ({theirs} EXCEPT DISTINCT {ours}))"
    )
    if other["n"]:
        raise Refused(_others(settings, as_of))
    this = f"run_id = {text(run['run_id'])}"
    _insert(published, "_ledger", f"FROM {candidates.ledger} WHERE {this} AND attempt = {text(run['attempt'])}", this)
    return "came into" if added else "were already in"


def _insert(published: Tables, suffix: str, source: str, there: str) -> int:
    """Adds rows in one step if there are none yet of those that the condition names. Returns how many."""
    table, columns = f"`{published.name}{suffix}`", ", ".join(f"`{c}`" for c in _columns(published, suffix))
    job = published.client.query(
        f"INSERT INTO {table} ({columns}) SELECT {columns} {source}"
        f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {there})"
    )
    job.result()
    return int(job.num_dml_affected_rows or 0)


def _columns(published: Tables, suffix: str) -> list[str]:
    return [f.name for f in published.client.get_table(published.name + suffix).schema]


def _others(settings: Settings, as_of: str) -> str:
    return (
        f"{settings.published} has other scores as of {as_of}, which stay. To replace them, remove them there first, "
        "and tell those who use them"
    )


def of(task: str) -> str:
    return f"task = {text(task)}"


def at(as_of: str) -> str:
    return f"as_of = {time(as_of)}"


def time(value: str) -> str:
    """A time as SQL has it."""
    return f"TIMESTAMP {text(value)}"


def text(value: str) -> str:
    """A string as SQL has it. Names of tasks and runs, and times, have no quotes."""
    if "'" in value or "\\" in value:
        raise ValueError(f"{value}: quotes and backslashes are not taken")
    return f"'{value}'"
