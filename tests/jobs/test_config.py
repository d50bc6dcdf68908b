"""As-ofs and the split by time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
import yaml

from pipelines.errors import UserError
from pipelines.jobs.config import Input, ScoreConfig, TrainConfig, parse_as_ofs
from pipelines.runners.execution import Execution
from pipelines.task.fields import UNITS, format_time, parse_time
from pipelines.task.spec import Task
from tests.support.small_shop import TASK

DAY = UNITS["d"]


@pytest.fixture
def task() -> Task:
    import json

    return Task.model_validate_json(json.dumps(yaml.safe_load(TASK)))


def config(task: Task, patterns: tuple[str, ...] = ("a", "b"), workers: int = 1, **changes: object) -> ScoreConfig:
    values = {
        "task": task,
        "input": Input(patterns, None),
        "as_ofs": parse_as_ofs(task, "2024-03-01"),
        "model": "m",
        "engine": "tensorflow",
        "device": "auto",
        "batch_size": 256,
        "output": "out",
        "execution": Execution(workers, None, (), False),
        "max_bad_share": 0.05,
    }
    return ScoreConfig(**{**values, **changes})  # type: ignore[arg-type]


def training(
    task: Task, test: tuple[int, ...], here: Execution, train_as_ofs: int, every: int, validation: int
) -> TrainConfig:
    return TrainConfig(
        task=task,
        input=Input(("a",), None),
        test=test,
        train_as_ofs=train_as_ofs,
        train_every=every,
        validation_as_ofs=validation,
        models="m",
        examples="e",
        execution=here,
        max_bad_share=0.05,
    )


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


def every_second(task: Task) -> Task:
    sequence = task.sequence.model_copy(update={"step": UNITS["s"]})
    return task.model_copy(update={"sequence": sequence, "score": task.score.model_copy(update={"every": UNITS["s"]})})


def test_a_range_of_too_many_as_ofs_is_counted_and_not_made(task: Task) -> None:
    message = "789,004,801 as-ofs, one every 1s; a run has 1,000,000 at most, for .*: narrow the range"
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        parse_as_ofs(every_second(task), "2000-01-01..2025-01-01")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert len(parse_as_ofs(every_second(task), "2000-01-01..2000-01-02")) == 86_401


def test_numbers_that_nobody_means_are_refused_with_the_most_there_may_be(task: Task) -> None:
    here = Execution(1, None, (), False)
    second, test = every_second(task), (parse_time("2024-05-01"),)
    tries: dict[str, Callable[[], object]] = {
        "--workers 5000: at most 1,024, for each is a process": lambda: Execution(5000, None, (), False).check(),
        "--shards 1000000: at most 65,536": lambda: Execution(1, 1_000_000, (), False).check(),
        "--batch-size 16000000: at most 1,048,576": lambda: config(task, batch_size=16_000_000),
        "--train-as-ofs 1000000000: at most 1,000,000": lambda: training(second, test, here, 10**9, UNITS["s"], 1),
        "--validation-as-ofs 1000000000: at most": lambda: training(second, test, here, 2, UNITS["s"], 10**9),
    }
    for message, attempt in tries.items():
        with pytest.raises(UserError, match=message):
            attempt()


def test_labels_of_training_are_known_before_validation_and_those_before_test(task: Task) -> None:
    test = parse_time("2024-05-01")
    here = Execution(1, None, (), False)
    train = training(task, (test,), here, 3, 7 * DAY, 2)
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
