"""A manifest survives its file, and says all that does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.errors import Exit, UserError
from pipelines.models.saved.manifest import FILE, Manifest, check, load_manifest, signature
from tests.support.toy_models import DAY, PATH, task

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
    assert caught.value.exit == Exit.MODEL


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
    assert caught.value.exit == Exit.MODEL


def harmed(**changed: object) -> str:
    return json.dumps({**asdict(MANIFEST), **changed})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (harmed(version="../../etc"), "version: String should match pattern"),
        (harmed(version="a/b"), "version: String should match"),
        (harmed(version="a\n"), "version: String should match"),
        (harmed(task="/etc"), "task: String should match"),
        (harmed(task=["toy"]), "task: Input should be a valid string"),
        (harmed(created="yesterday"), "created: Input should be a valid integer"),
        (harmed(created=10**30), "created: "),
        (harmed(train=[]), "train: Tuple should have at least 1 item"),
        (harmed(test=[10**18]), r"test\.0: Input should be less than"),
        (harmed(step=-1), "step: Input should be greater than or equal to 0"),
        (harmed(steps=0), "steps: Input should be greater"),
        (harmed(features="count()"), "features: Input should be a valid tuple"),
        (harmed(label="guess"), "label: Input should be 'churn' or 'path'"),
        (harmed(metrics={"auc": "good"}), r"metrics\.auc: Input should be a valid number"),
        (harmed(metrics=[0.5]), "metrics: Input should be a valid dictionary"),
        (harmed(libraries={"keras": {"a": 1}}), r"libraries\.keras: Input should be a valid string"),
        (harmed(model={"network": "brain"}), r"model\.network: Input should be 'mlp'"),
        (harmed(model={"network": "mlp", "units": "many"}), r"model\.units: Input should be a valid tuple"),
        (harmed(outputs=["\ud800"]), "cannot be read: .*surrogates not allowed"),
        ("[" * 100_000, "cannot be read: it is nested too deep"),
        (harmed(model="x").replace('"x"', "[" * 60 + "]" * 60), "cannot be read: it is nested too deep"),
        ("9" * 5000, "cannot be read: Exceeds the limit"),
        ("\x00\x01", "cannot be read"),
        ('{"format": 2' + " " * (1 << 24) + "}", "cannot be read: it has more than 16,777,216 bytes"),
    ],
)
def test_a_field_of_another_kind_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=f"{FILE}:? .*{message}.*. Train the model again$") as caught:
        load_manifest(tmp_path)
    assert caught.value.exit == Exit.MODEL


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(UserError, match="cannot be read: it is no file"):
        load_manifest(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match="cannot be read: "):
        load_manifest(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["features"] == list(MANIFEST.features)
