"""The gate between scores and those who use them: what a run made is checked, and published once, or held back.

Candidates and published scores are two output folders, or two tables of BigQuery; the statements are the same for both.
What is published of an as-of never changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.errors import Exit, UserError
from pipelines.evaluation.drift import Limits, Row, drift
from pipelines.google.bigquery import client, execute, explained
from pipelines.google.tables import Table, is_bigquery, parse_table
from pipelines.storage.folder.query import select
from pipelines.storage.folder.runs import adopt, current
from pipelines.task.fields import format_time

COUNTS = ("read", "accepted", "rejected", "duplicates", "outside", "filtered", "sequences", "scored", "failed")


@dataclass(frozen=True)
class GateConfig:
    """Which scores are to be published, and what holds them back."""

    task: str  # its name, as rows have it
    as_of: int  # us
    candidates: str  # a folder, or bq://PROJECT.DATASET.TABLE
    output: str  # likewise
    limits: Limits
    since: int | None = None  # us; runs that began earlier made no candidates
    accept_drift: bool = False

    def __post_init__(self) -> None:
        if "'" in self.task or "\\" in self.task:
            raise UserError(f"{self.task}: names of tasks have no quotes and backslashes")
        if is_bigquery(self.candidates) != is_bigquery(self.output):
            raise UserError("--candidates and --output: both must be folders, or both tables of BigQuery")
        if self.candidates == self.output:
            raise UserError(f"--candidates and --output are the same place, {self.output}")

    @property
    def of_task(self) -> str:
        return f"task = '{self.task}'"

    @property
    def time(self) -> str:
        """The as-of as SQL has it."""
        return f"TIMESTAMP '{format_time(self.as_of)}'"

    @property
    def where(self) -> str:
        """The condition on the scores in question."""
        return f"{self.of_task} AND as_of = {self.time}"


@dataclass(frozen=True)
class Verdict:
    """The run that made the candidates, and the reasons to hold them back."""

    run_id: str
    attempt: str
    ledger: Sequence[str]
    drift: Sequence[str]

    def reasons(self, accept_drift: bool) -> list[str]:
        """Drift can be accepted, what the ledger says cannot."""
        return [*self.ledger, *(() if accept_drift else self.drift)]


@dataclass(frozen=True)
class Folder:
    """An output folder, and what its views are called."""

    path: Path
    scores: str = "scores"
    ledger: str = "ledger"

    def rows(self, sql: str) -> list[Row]:
        """What a statement gives; nothing where nothing was ever written."""
        if not (self.path / "current").is_dir():
            return []
        result = select(self.path, sql)
        return [dict(zip(result.names, row, strict=True)) for row in result.rows]

    def adopt(self, other: Folder, where: str, verdict: Verdict) -> bool:
        """Takes a run's scores from another folder, all at once; whether they were not there yet.

        Raises:
          FileExistsError: there are other scores.
        """
        there = [row["run_id"] for row in self.rows(f"SELECT DISTINCT run_id FROM {self.scores} WHERE {where}")]
        if there not in ([], [verdict.run_id]):
            raise FileExistsError
        return adopt(self.path, current(other.path.resolve())[verdict.run_id])


class Tables:
    """A table of scores, and what `foretide schema apply` made beside it: as `Folder`."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.scores, self.ledger = f"`{table.view('current')}`", f"`{table.ledger}`"

    def rows(self, sql: str) -> list[Row]:
        return [dict(row) for row in execute(self.table.project, sql).result()]

    def adopt(self, other: Tables, where: str, verdict: Verdict) -> bool:
        added = self._insert(self.table.scores, f"FROM {other.scores} WHERE {where}", where)
        columns = ", ".join(c for c in self._columns(self.table.scores) if c not in ("`run_id`", "`scored_at`"))
        ours, theirs = (f"SELECT {columns} FROM {place.scores} WHERE {where}" for place in (other, self))
        if self.rows(f"({ours} EXCEPT DISTINCT {theirs}) UNION ALL ({theirs} EXCEPT DISTINCT {ours}) LIMIT 1"):
            raise FileExistsError
        this = f"run_id = '{verdict.run_id}'"
        self._insert(self.table.ledger, f"FROM {other.ledger} WHERE {this} AND attempt = '{verdict.attempt}'", this)
        return added > 0

    def _insert(self, name: str, source: str, there: str) -> int:
        """Adds rows in one step if there are none yet of those that the condition names. Returns how many."""
        columns = ", ".join(self._columns(name))
        absent = f"NOT EXISTS (SELECT 1 FROM `{name}` WHERE {there})"
        sql = f"INSERT INTO `{name}` ({columns}) SELECT {columns} {source} AND {absent}"
        return int(execute(self.table.project, sql).num_dml_affected_rows or 0)

    def _columns(self, name: str) -> list[str]:
        return [f"`{field.name}`" for field in client(self.table.project).get_table(name).schema]


Place = Folder | Tables


def place(text: str, flag: str) -> Place:
    """The place that a flag names."""
    return Tables(parse_table(text, flag)) if is_bigquery(text) else Folder(Path(text))


def gate(config: GateConfig, dry_run: bool = False, as_json: bool = False) -> int:
    """Checks and publishes, and prints what became of it.

    Raises:
      UserError: scores are held back (exit code 3), or others are published.
    """
    candidates, output = place(config.candidates, "--candidates"), place(config.output, "--output")
    as_of, done = format_time(config.as_of), "nothing holds them back from"
    with explained():
        verdict = judged(config, candidates, output)
        held = verdict.reasons(config.accept_drift)
        if not held and not dry_run:
            done = publish(config, candidates, output, verdict)
    if as_json:
        print(json.dumps({**asdict(verdict), "held": held}))
    if held:
        raise UserError(
            f"scores as of {as_of} are held back: {'; '.join(held)}. "
            f"They are in {config.candidates}; {config.output} is as it was",
            Exit.REFUSED,
        )
    if not as_json:
        print(f"scores as of {as_of}: {done} {config.output}")
    return int(Exit.OK)


def judged(config: GateConfig, candidates: Place, output: Place) -> Verdict:
    """What the ledger of the candidates' run says, and, if that is nothing, how their scores have drifted."""
    since = "" if config.since is None else f" AND started_at >= TIMESTAMP '{format_time(config.since)}'"
    found = candidates.rows(
        f"SELECT run_id, attempt, status, {', '.join(COUNTS)}, differences,"
        f" (SELECT COUNT(*) FROM {candidates.scores} WHERE {config.where}) AS there"
        f" FROM {candidates.ledger} WHERE {config.of_task}{since} ORDER BY finished_at DESC LIMIT 1"
    )
    if not found:
        return Verdict("", "", [f"there is no ledger of a run of task {config.task}"], [])
    [row] = found
    reasons = ledger_reasons(row, config.limits)
    if not reasons and row["there"] != row["scored"]:
        as_of = format_time(config.as_of)
        reasons = [f"the run scored {row['scored']:,}, and there are {row['there']:,} scores as of {as_of}"]
    sides = [(p.rows, p.scores) for p in (candidates, output)]
    drifted = [] if reasons else drift(sides[0], sides[1], config.of_task, config.time, config.limits)
    return Verdict(row["run_id"], row["attempt"], reasons, drifted)


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
        if n[refused] > limits.max_bad_share * n[of_all]:
            share = n[refused] / n[of_all]
            reasons.append(f"{n[refused]:,} of {n[of_all]:,} {what} were refused: {share:.1%}")
    if not n["scored"]:
        reasons.append("nothing was scored")
    return reasons


def publish(config: GateConfig, candidates: Place, output: Place, verdict: Verdict) -> str:
    """Brings the candidates into the published place, and says what was done. Nothing changes there if it has some."""
    try:
        came = output.adopt(candidates, config.where, verdict)  # type: ignore[arg-type]  # of one kind, by the config
    except FileExistsError:
        raise UserError(
            f"{config.output} has other scores as of {format_time(config.as_of)}, which stay. To replace them, remove "
            "them there first, and tell those who use them"
        ) from None
    return "came into" if came else "were already in"
