"""The checks that a launch must pass: `score`, `stream`, `examples` and their dry runs ask them, and so does `doctor`.

A check is a function of `Facts` that yields what it finds, or raises it. To add one, write it and give it a line in
`CHECKS`. What a launch does not have (a model, an archive), or what of it cannot be read (a task), is not asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.errors import Exit, Finding, UserError
from pipelines.jobs.checks import data, needs
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import coded
from pipelines.jobs.launch import Launch

UNREAD = ("task", "span")  # what `doctor` may not be able to read; all else is left out by who launches


@dataclass(frozen=True)
class Check:
    """One look at a launch."""

    code: str  # of what it finds, where that says none itself
    look: Callable[[Facts], Iterator[Finding]]
    needs: tuple[str, ...] = ()  # of a `Launch`

    def findings(self, facts: Facts) -> Iterator[Finding]:
        """What it finds, of a launch that has what it needs. Raises UserError, with the code."""
        lacking = [name for name in self.needs if not getattr(facts.launch, name)]
        if [name for name in lacking if name not in UNREAD]:
            return
        if lacking:
            yield Finding(self.code, "skipped", self.code, f"not looked at: the {lacking[0]} is not known")
            return
        try:
            for finding in self.look(facts):
                yield finding if finding.code else replace(finding, code=self.code)
        except UserError as error:
            raise coded(error, self.code, self.subject(facts.launch)) from error.__cause__

    def subject(self, launch: Launch) -> str:
        """What an error is about that does not say it."""
        first = getattr(launch, self.needs[0]) if self.needs else None
        return first if isinstance(first, str) else self.code


CHECKS: tuple[Check, ...] = (
    Check("runner-options", needs.runner),
    Check("runner-options", needs.live_runner, needs=("stream",)),
    Check("model-found", needs.model, needs=("scoring",)),
    Check("model-task", needs.model_task, needs=("scoring", "task")),
    Check("model-loads", needs.model_operations, needs=("scoring",)),
    Check("runner-options", needs.output_runner, needs=("stream",)),
    Check("output-place", needs.output, needs=("scoring", "task")),
    Check("output-place", needs.archive, needs=("stream",)),
    Check("runner-reachable", needs.reachable),
    Check("messages", needs.payload, needs=("stream",)),
    Check("dead-letter-topic", needs.letters, needs=("stream",)),
    Check("subscription", needs.subscription, needs=("stream",)),
    Check("subscription-settings", needs.settings, needs=("stream",)),
    Check("input-found", data.found, needs=("input",)),
    Check("data-columns", data.columns, needs=("input", "task")),
    Check("time-unit", data.units, needs=("input", "task")),
    Check("rows-refused", data.refused, needs=("input", "task")),
    Check("memory", needs.memory, needs=("scoring", "task", "span")),
)


def passed(facts: Facts, checks: Sequence[Check] = CHECKS) -> list[str]:
    """Lines on what is not as it should be, for the user.

    Raises:
      UserError: the first error. That a sample of the rows has too many bad ones ends a dry run alone: it is no proof,
        and a run goes on with a warning.
    """
    lines = []
    for check in checks:
        for finding in check.findings(facts):
            if finding.severity == "error" and (facts.dry_run or finding.exit != Exit.REFUSED):
                raise UserError.of([finding])
            if finding.severity in ("warning", "error"):
                lines.append(f"warning     {finding}")
    return lines


def checked(launch: Launch, dry_run: bool) -> tuple[Facts, list[str]]:
    """What is known of a launch that passed, and lines of warnings. Raises UserError."""
    facts = Facts(launch, dry_run)
    return facts, passed(facts)
