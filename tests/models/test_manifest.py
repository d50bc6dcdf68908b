"""A manifest survives its file, and says all that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import Exit, UserError
from pipelines.models.manifest import FILE, Manifest, check, load_manifest, signature
from tests.toy import DAY, PATH, task

MANIFEST = Manifest(
    **signature(task()),
    task_digest=task().digest,
    version="19700121-0123abcd",
    train=(10 * DAY, 20 * DAY),
    validation=(30 * DAY,),
    test=(40 * DAY,),
    model={"network": "mlp"},
    metrics={"auc": 0.75},
    libraries={"keras": "3"},
    created=50 * DAY,
)


def test_survives_its_file(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert load_manifest(tmp_path) == MANIFEST


def test_fits_its_task() -> None:
    check(MANIFEST, task())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "other"}, "task is other in the model and toy in the task"),
        ({"steps": 24}, "steps is 24 in the model and 12 in the task"),
        ({"step": 7 * DAY}, "step is 1w in the model and 1d in the task"),
        ({"horizon": 14 * DAY}, "horizon is 2w in the model and 1w in the task"),
        ({"active_within": 2 * DAY}, "active within is 2d in the model and 1w in the task"),
        ({"features": MANIFEST.features[:3]}, "the model does not know the features mean(amount)"),
        ({"features": (*MANIFEST.features, "max(amount)")}, "the task lacks the features max(amount)"),
        (
            {"features": MANIFEST.features[::-1]},
            "the features stand in another order: feature 0 is mean(amount) in the model and count() in the task",
        ),
    ],
)
def test_names_what_does_not_fit(change: Mapping[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(replace(MANIFEST, **change), task())  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.code == Exit.MODEL


def test_names_every_difference() -> None:
    with pytest.raises(UserError) as caught:
        check(MANIFEST, task(PATH))
    for part in (
        "label is churn",
        "label field is",
        "horizon is 1w",
        "outputs is churn in the model and step_1",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no manifest.json"),
        ("{", "cannot be read"),
        ("[]", "not of format 2"),
        ('{"format": 99}', "not of format 2"),
        ('{"format": 2}', "missing or unknown fields: active_within"),
    ],
)
def test_refuses_what_is_no_manifest(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_manifest(tmp_path)
    assert caught.value.code == Exit.MODEL


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["features"] == list(MANIFEST.features)
