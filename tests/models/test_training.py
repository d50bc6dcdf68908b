"""A network learns what is there to learn and nothing else, the same twice, and goes on where it was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.models import training
from pipelines.models.example_files import Examples
from pipelines.models.metrics import auc
from pipelines.models.predictor import Predictor
from pipelines.models.training import Data, Member, fit
from pipelines.task.spec import Task
from tests.support.toy_models import CHURN, DAY, PATH, STEPS, examples, plain, task, tensor

N = 600


def churn(shuffled: bool = False) -> Examples:
    """Who is active in the last steps stays; or, shuffled, anyone may."""
    x, random = tensor(N), np.random.default_rng(1)
    stays = random.random(N) < 0.5
    x[:, -6:, 0] = np.where(stays, 5, 0)[:, None]
    label = (~stays).astype(np.float32)[:, None]
    return examples(random.permutation(label) if shuffled else label, x, np.repeat([10 * DAY, 20 * DAY], N // 2))


def data(spec: Task, rows: Examples, folder: Path) -> Data:
    return Data(spec, rows, rows.at(10 * DAY), rows.at(20 * DAY), plain(), folder / "prepared.f4")


def quick(**model: object) -> Task:
    usual = {"units": [8], "epochs": 3, "batch_size": 32, "dropout": 0.2, "learning_rate": 2e-2}
    return task(CHURN, STEPS, **{**usual, **model})


def silent(_: str) -> None:
    """For logs that a test does not read."""


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm", "linear"])
def test_learns_churn_and_is_seeded(network: str, tmp_path: Path) -> None:
    lines, given = list[str](), data(quick(network=network, class_weights="balanced"), churn(), tmp_path)
    (model,), quality = fit(given, tmp_path / "a", lines.append)
    assert quality > 0.9
    assert lines[0].startswith("epoch 1/3: loss ")
    predictor = Predictor.calibrated(given.task, given.transform, [model], given.examples, given.validation)
    score = predictor.score(given.examples.tensor(given.validation))
    assert auc(given.examples.label[given.validation, 0], score[:, 0]) == pytest.approx(quality, abs=1e-3)
    (again,), _ = fit(given, tmp_path / "b", silent)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    assert list((tmp_path / "a" / "logs" / "member-0").glob("events.out.tfevents.*"))


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    """Features that held the label would still tell it."""
    given = data(quick(epochs=6), churn(shuffled=True), tmp_path)
    (model,), _ = fit(given, tmp_path, silent)
    label = np.random.default_rng(5).permutation(given.examples.label[given.validation, 0])
    predictor = Predictor.calibrated(given.task, given.transform, [model], given.examples, given.validation)
    score = predictor.score(given.examples.tensor(given.validation))
    positives = int(label.sum())
    deviation = np.sqrt((N // 2 + 1) / (12 * positives * (N // 2 - positives)))  # of the AUC of random scores
    assert abs(auc(label, score[:, 0]) - 0.5) < 4 * deviation


def test_members_differ_and_are_averaged(tmp_path: Path) -> None:
    given = data(quick(members=2, epochs=1), churn(), tmp_path)
    members, _ = fit(given, tmp_path, silent)
    one, two = (
        Predictor.calibrated(given.task, given.transform, [m], given.examples, given.validation) for m in members
    )
    both = Predictor.calibrated(given.task, given.transform, members, given.examples, given.validation)
    x = given.examples.tensor(given.validation[:20])
    assert not np.array_equal(one.outputs(x), two.outputs(x))
    np.testing.assert_allclose(both.outputs(x), (one.outputs(x) + two.outputs(x)) / 2, rtol=1e-6)


def test_stops_when_it_gets_no_better_and_keeps_the_best(tmp_path: Path) -> None:
    lines = list[str]()
    fit(data(quick(epochs=30, patience=2, dropout=0), churn(), tmp_path), tmp_path, lines.append)
    assert len(lines) < 30
    assert lines[-1].startswith("no better for 2 epochs: keeping epoch ")


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm"])
def test_learns_in_16_bits_and_scores_in_32(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "policy", lambda: "mixed_float16")
    given = data(quick(network=network), churn(), tmp_path)
    (model,), quality = fit(given, tmp_path, silent)
    assert quality > 0.9
    assert {w.dtype for w in model.weights} == {"float32"}
    predictor = Predictor.calibrated(given.task, given.transform, [model], given.examples, given.validation)
    score = predictor.score(given.examples.tensor(given.validation))
    assert auc(given.examples.label[given.validation, 0], score[:, 0]) == pytest.approx(quality, abs=0.01)


class Killed(Exception):
    """What ends a training in mid-epoch."""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = data(quick(members=2, epochs=2, batch_size=64), churn(), tmp_path)
    undisturbed, quality = fit(given, tmp_path / "whole", silent)
    save, saved, lines = Member._save, 0, list[str]()

    def save_and_die(member: Member) -> None:
        nonlocal saved
        save(member)
        saved += 1
        if saved % 5 == 0:
            raise Killed

    monkeypatch.setattr(Member, "_save", save_and_die)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    starts = 0
    while True:
        starts += 1
        try:
            members, same = fit(given, tmp_path / "killed", lines.append)
            break
        except Killed:
            continue
    assert starts == 5
    assert any("member 2/2, going on in epoch 2, batch " in line for line in lines)
    assert same == quality
    for a, b in zip(undisturbed, members, strict=True):
        assert all(np.array_equal(v, w) for v, w in zip(a.get_weights(), b.get_weights(), strict=True))


def test_learns_a_path(tmp_path: Path) -> None:
    x = tensor(N)
    up = np.random.default_rng(1).random(N) < 0.5
    x[:, :, 0] = np.where(up, 3, 0)[:, None]
    label = x[:, -1, 2:3] * np.where(up, 1.3, 0.7)[:, None].astype(np.float32) * np.ones((1, 3), np.float32)
    rows = examples(label, x, np.repeat([10 * DAY, 20 * DAY], N // 2))
    spec = task(PATH, units=[8], epochs=20, batch_size=32, dropout=0, learning_rate=1e-2)
    given = data(spec, rows, tmp_path)
    members, _ = fit(given, tmp_path, silent)
    predictor = Predictor.calibrated(spec, given.transform, members, rows, given.validation)
    y = predictor.score(rows.tensor(given.validation))
    assert y.shape == (N // 2, 9)
    assert np.abs(y[:, :3] / label[given.validation] - 1).mean() < 0.1


def test_a_level_that_is_not_known_is_not_learnt_from(tmp_path: Path) -> None:
    rows = examples(np.zeros((N, 3), np.float32), tensor(N), np.repeat([10 * DAY, 20 * DAY], N // 2))
    rows.label[0] = 100
    (model,), quality = fit(data(task(PATH, epochs=1), rows, tmp_path), tmp_path, silent)
    assert np.isfinite(quality)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_refuses_what_cannot_be_learnt(tmp_path: Path) -> None:
    given = data(task(), churn(), tmp_path)
    with pytest.raises(UserError, match="no validation examples"):
        fit(replace(given, validation=given.validation[:0]), tmp_path, silent)
    ones = given.train[given.examples.label[given.train, 0] == 1]
    with pytest.raises(UserError, match=r"every one of the \d+ training entities churned"):
        fit(replace(given, train=ones), tmp_path, silent)
