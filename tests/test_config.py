"""As-ofs and the split by time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import yaml

from pipelines.config import Execution, Input, ScoreConfig, TrainConfig, parse_as_ofs
from pipelines.errors import UserError
from pipelines.spec import UNITS, format_time, parse_time
from pipelines.task import Task
from tests.small import TASK

DAY = UNITS["d"]


@pytest.fixture
def task() -> Task:
    import json

    return Task.model_validate_json(json.dumps(yaml.safe_load(TASK)))


def config(task: Task, patterns: tuple[str, ...] = ("a", "b"), workers: int = 1, **changes: object) -> ScoreConfig:
    values = {
        "task": task,
        "input": Input(patterns, None, 0.05),
        "as_ofs": parse_as_ofs(task, "2024-03-01"),
        "model": "m",
        "engine": "tensorflow",
        "device": "auto",
        "batch_size": 256,
        "output": "out",
        "execution": Execution(workers, None, (), False),
    }
    return ScoreConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_one_as_of_and_a_range(task: Task) -> None:
    assert parse_as_ofs(task, "2024-03-01") == (parse_time("2024-03-01"),)
    texts = [format_time(t) for t in parse_as_ofs(task, "2024-03-01..2024-03-16")]
    assert texts == ["2024-03-01", "2024-03-08", "2024-03-15"]


def test_the_latest_as_of_is_the_newest_that_is_due(task: Task) -> None:
    before = time.time_ns() // 1_000
    [latest] = parse_as_ofs(task, "latest")
    assert before - task.score.every < latest <= time.time_ns() // 1_000
    assert (latest - task.sequence.origin) % task.score.every == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "a time is a date"),
        ("2024-03-01T06:00", "the nearest are 2024-03-01 and 2024-03-02"),
        ("2024-03-08..2024-03-01", "ends before it starts"),
    ],
)
def test_as_ofs_that_cannot_be(task: Task, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_as_ofs(task, text)


def test_labels_of_training_are_known_before_validation_and_those_before_test(task: Task) -> None:
    test = parse_time("2024-05-01")
    here = Execution(1, None, (), False)
    train = TrainConfig(task, Input(("a",), None, 0.05), (test,), 3, 7 * DAY, 2, "m", "e", False, False, here)
    assert max(train.validation) + task.horizon <= test
    assert max(train.train) + task.horizon <= min(train.validation)
    assert [b - a for a, b in pairwise(train.train)] == [7 * DAY, 7 * DAY]
    assert [b - a for a, b in pairwise(train.validation)] == [7 * DAY]


def test_the_same_question_is_the_same_run(task: Task) -> None:
    run = config(task).run_id("v1")
    assert run.startswith("small_shop-2024-03-01-")
    assert config(task, ("b", "a"), workers=4, output="elsewhere").run_id("v1") == run
    others = [
        config(task).run_id("v2"),
        config(task, ("a",)).run_id("v1"),
        config(task, engine="openvino").run_id("v1"),
        config(task, as_ofs=parse_as_ofs(task, "2024-03-01..2024-03-08")).run_id("v1"),
    ]
    assert len({run, *others}) == 5
