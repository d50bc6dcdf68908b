"""What the state of a live job was kept under, and what is told where another job finds it."""

from __future__ import annotations

import pytest

from pipelines.events.decode import Since
from pipelines.events.terms import Terms
from pipelines.system.versioned import StateError
from pipelines.task.spec import Task
from tests.transforms.test_live_sequences import TASK

SINCE = Since(0)


def changed(section: str, field: str, value: int) -> Task:
    """The task with another value in a section."""
    part = getattr(TASK, section)
    return TASK.model_copy(update={section: part.model_copy(update={field: value})})


def refused(task: Task = TASK, since: Since = SINCE, shards: int = 16) -> str:
    """What a job is told of the state that one with TASK kept."""
    kept, asked = Terms.of(TASK, SINCE, 16), Terms.of(task, since, shards)
    assert kept.digest != asked.digest
    error = asked.refuse(kept.pack())
    assert isinstance(error, StateError)
    return str(error)


def test_what_changes_no_state_changes_no_terms() -> None:
    other = TASK.model_copy(update={"description": "another one"})
    assert Terms.of(other, SINCE, 16) == Terms.of(TASK, SINCE, 16)
    assert Terms.of(TASK, SINCE, 16).digest == Terms.of(TASK, SINCE, 16).digest


@pytest.mark.parametrize(
    ("section", "field", "told"),
    [
        ("sequence", "steps", "sequence.steps was 3 and is 6."),
        ("sequence", "step", "sequence.step was 10s and is 20s."),
        ("score", "every", "score.every was 10s and is 20s."),
    ],
)
def test_what_was_asked_of_the_task_is_named(section: str, field: str, told: str) -> None:
    assert told in refused(changed(section, field, 2 * getattr(getattr(TASK, section), field)))


def test_so_is_what_was_asked_of_the_job() -> None:
    assert "--shards was 16 and is 8." in refused(shards=8)
    assert "--from was 1970-01-01 and is 1970-01-02." in refused(since=Since(86_400_000_000))
    assert "--from was 1970-01-01 and is 1970-01-02, --shards was 16 and is 8." in refused(
        since=Since(86_400_000_000), shards=8
    )


def test_a_state_without_terms_is_refused_too() -> None:
    assert "state layout was none and is 2" in str(Terms.of(TASK, SINCE, 16).refuse(None))
