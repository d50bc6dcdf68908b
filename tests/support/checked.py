"""Inputs held against a task, as every launch does before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.events.decode import Since, Span
from pipelines.jobs.checks.before import passed
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.config import ExamplesConfig, Input
from pipelines.jobs.launch import Launch
from pipelines.runners.execution import Execution
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File

HERE = Execution(1, None, (), False)


@dataclass(frozen=True)
class Spanned(Launch):
    """Of a span of its own."""

    within: Span | Since = Span((0,))  # noqa: RUF009 (frozen)

    @property
    def span(self) -> Span | Since:
        return self.within


def checked(
    task: Task,
    *patterns: object,
    span: Span | Since = Span((0,)),  # noqa: B008 (frozen)
    dry_run: bool = False,
    files: Sequence[File] = (),
) -> Facts:
    """What is known of an input that passed; `files`: in place of those of the patterns. Raises UserError."""
    given = Input(tuple(map(str, patterns)) or ("x",), None)
    config = ExamplesConfig(task=task, input=given, as_ofs=(0,), output="", execution=HERE, max_bad_share=0.05)
    facts = Facts(Spanned(config, task, within=span), dry_run)
    if files:
        vars(facts)["_files"] = list(files)
    passed(facts)
    return facts
