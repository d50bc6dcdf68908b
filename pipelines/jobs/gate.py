"""The gate between scores and those who use them: what a run made is checked, and published once, or held back.

Candidates and published scores are two output folders, or two tables of BigQuery; the statements are the same for both.
What is published of an as-of never changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipelines.errors import Exit, UserError
from pipelines.evaluation.drift import Limits, Row, drift
from pipelines.jobs.outputs.base import Output
from pipelines.jobs.outputs.kinds import output
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


def gate(config: GateConfig, dry_run: bool = False, as_json: bool = False) -> int:
    """Checks and publishes, and prints what became of it.

    Raises:
      UserError: scores are held back (exit code 3), or others are published.
    """
    candidates, published = output(config.candidates), output(config.output)
    if type(candidates) is not type(published):
        raise UserError("--candidates and --output: both must be folders, or both tables of BigQuery")
    as_of, done = format_time(config.as_of), "nothing holds them back from"
    verdict = judged(config, candidates, published)
    held = verdict.reasons(config.accept_drift)
    if not held and not dry_run:
        done = publish(config, candidates, published, verdict)
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


def judged(config: GateConfig, candidates: Output, published: Output) -> Verdict:
    """What the ledger of the candidates' run says, and, if that is nothing, how their scores have drifted."""
    since = "" if config.since is None else f" AND started_at >= TIMESTAMP '{format_time(config.since)}'"
    found = candidates.rows(
        f"SELECT run_id, attempt, status, {', '.join(COUNTS)}, differences,"
        f" (SELECT COUNT(*) FROM {candidates.view('current')} WHERE {config.where}) AS there"
        f" FROM {candidates.view('ledger')} WHERE {config.of_task}{since} ORDER BY finished_at DESC LIMIT 1"
    )
    if not found:
        return Verdict("", "", [f"there is no ledger of a run of task {config.task}"], [])
    [row] = found
    reasons = ledger_reasons(row, config.limits)
    if not reasons and row["there"] != row["scored"]:
        as_of = format_time(config.as_of)
        reasons = [f"the run scored {row['scored']:,}, and there are {row['there']:,} scores as of {as_of}"]
    sides = [(p.rows, p.view("current")) for p in (candidates, published)]
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


def publish(config: GateConfig, candidates: Output, published: Output, verdict: Verdict) -> str:
    """Brings the candidates into the published place, and says what was done. Nothing changes there if it has some."""
    try:
        came = published.adopt(candidates, config.where, verdict.run_id, verdict.attempt)
    except FileExistsError:
        raise UserError(
            f"{config.output} has other scores as of {format_time(config.as_of)}, which stay. To replace them, remove "
            "them there first, and tell those who use them"
        ) from None
    return "came into" if came else "were already in"
