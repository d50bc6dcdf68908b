"""How each kind of label is judged: a module each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pipelines.evaluation import churn, path
from pipelines.evaluation.schema import Evaluation, EvaluationHead
from pipelines.evaluation.survey import Predict, Splits, Survey


class Kind(NamedTuple):
    """The functions that judge a kind of label."""

    judge: Callable[[Survey, Splits, EvaluationHead, Predict, str], Evaluation]  # the whole evaluation
    headline: Callable[[Any], dict[str, float]]  # what the manifest keeps of it
    lines: Callable[[Any], list[str]]  # what the terminal shows of it


KINDS = {
    "churn": Kind(churn.judge, churn.headline, churn.lines),
    "path": Kind(path.judge, path.headline, path.lines),
}
