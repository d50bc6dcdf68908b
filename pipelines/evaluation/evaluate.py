"""How good a model is on as-ofs after all it has seen, beside what is simpler: an evaluation, and what is told of it.

The figures of each kind of label are made in a module of its own; their form is in `schema`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pipelines.evaluation import churn, path
from pipelines.evaluation.baselines import DAY, thin
from pipelines.evaluation.schema import Evaluation, EvaluationHead, Set, Tested
from pipelines.evaluation.survey import Predict, Splits, Survey, number, see
from pipelines.models.example_files import Examples, Ints, check_rows
from pipelines.task.fields import format_time
from pipelines.task.spec import Task

SAMPLE = 1 << 15  # training rows, and validation rows, that the network is judged on, at most


class Kind(NamedTuple):
    """The functions that judge a kind of label."""

    judge: Callable[[Survey, Splits, EvaluationHead, Predict, str], Evaluation]  # the whole evaluation
    headline: Callable[[Any], dict[str, float]]  # what the manifest keeps of it
    lines: Callable[[Any], list[str]]  # what the terminal shows of it


KINDS = {
    "churn": Kind(churn.judge, churn.headline, churn.lines),
    "path": Kind(path.judge, path.headline, path.lines),
}


def evaluate(
    task: Task,
    examples: Examples,
    splits: Splits,
    predict: Predict,
    uncalibrated: Predict | None = None,
    *,
    version: str = "",
    method: str = "none",
    created: int = 0,
) -> Evaluation:
    """The network on the rows `test`, beside baselines that learn from the same rows as it did. Takes about as long as
    scoring the test rows and `SAMPLE` others, and the trees. The same arguments give the same numbers.

    Args:
      predict: the network, calibrated; its scores are in the order of the task's outputs.
      uncalibrated: before `method` was applied; without it the network counts as uncalibrated.
      version: of the model.
      created: us.

    Raises:
      UserError: there is nothing to judge by in the test rows, or LightGBM is not installed.
    """
    check_rows(task, examples, "test", splits.test)
    rows: dict[Set, Ints] = {
        "train": thin(splits.train, SAMPLE),
        "validation": thin(splits.validation, SAMPLE),
        "test": splits.test,
    }
    survey = Survey(task, examples, predict, {name: see(task, examples, r, predict) for name, r in rows.items()})
    head = _head(survey, version, created)
    return KINDS[task.label.kind].judge(survey, splits, head, uncalibrated or predict, method)


def headline(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation that the manifest keeps."""
    return {"test_entities": float(evaluation["test"]["entities"]), **KINDS[evaluation["kind"]].headline(evaluation)}


def lines(evaluation: Evaluation) -> list[str]:
    """The lines that the terminal shows: the network beside every baseline."""
    return KINDS[evaluation["kind"]].lines(evaluation)


def _head(survey: Survey, version: str, created: int) -> EvaluationHead:
    task, test = survey.task, survey.test
    as_ofs = sorted(set(survey.examples.as_of[test.rows].tolist()))
    share = task.label.share(survey.examples.label[test.rows])
    return EvaluationHead(
        task=task.task,
        version=version,
        description=task.description,
        horizon_days=number(task.horizon / DAY),
        created=format_time(created),
        test=Tested(
            as_ofs=[format_time(t) for t in as_ofs],
            entities=len(test.rows),
            share=None if share is None else number(share),
        ),
    )
