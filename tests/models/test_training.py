"""A network learns what is there to learn, and the same twice."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.models.evaluation import auc
from pipelines.models.examples import Examples
from pipelines.models.training import fit, predict
from tests.toy import DAY, PATH, examples, task, tensor

N = 600


def churn() -> Examples:
    """Who is active in the last steps stays."""
    x = tensor(N)
    stays = np.random.default_rng(1).random(N) < 0.5
    x[:, -4:, 0] = np.where(stays, 3, 0)[:, None]
    return examples((~stays).astype(np.float32)[:, None], x, np.repeat([10 * DAY, 20 * DAY], N // 2))


def test_learns_churn_and_is_seeded() -> None:
    data, lines = churn(), list[str]()
    train, validation = data.at(10 * DAY), data.at(20 * DAY)
    spec = task(epochs=3, batch_size=32, dropout=0.2, learning_rate=1e-2)
    model = fit(spec, data, train, validation, lines.append)
    y = predict(spec, model, data, validation)
    assert auc(data.label[validation, 0], y[:, 0]) > 0.95
    assert lines[0].startswith("epoch 1/3: loss ")
    again = fit(spec, data, train, validation, lambda _: None)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_stops_when_it_gets_no_better_and_keeps_the_best() -> None:
    data, lines = churn(), list[str]()
    spec = task(epochs=30, patience=2, batch_size=32, learning_rate=1e-2)
    fit(spec, data, data.at(10 * DAY), data.at(20 * DAY), lines.append)
    assert len(lines) < 30
    assert lines[-1].startswith("no better for 2 epochs: keeping epoch ")


def test_learns_a_path() -> None:
    x = tensor(N)
    up = np.random.default_rng(1).random(N) < 0.5
    x[:, :, 0] = np.where(up, 3, 0)[:, None]
    label = x[:, -1, 2:3] * np.where(up, 1.3, 0.7)[:, None].astype(np.float32) * np.ones((1, 3), np.float32)
    data = examples(label, x, np.repeat([10 * DAY, 20 * DAY], N // 2))
    spec, validation = task(PATH, epochs=6, batch_size=32, dropout=0, learning_rate=1e-2), data.at(20 * DAY)
    y = predict(spec, fit(spec, data, data.at(10 * DAY), validation, lambda _: None), data, validation)
    assert y.shape == (N // 2, 3)
    assert np.abs(y / data.label[validation] - 1).mean() < 0.1


def test_refuses_what_cannot_be_learnt() -> None:
    data = churn()
    some = data.at(10 * DAY)
    with pytest.raises(UserError, match="no validation examples"):
        fit(task(), data, some, some[:0], print)
    ones = some[data.label[some, 0] == 1]
    with pytest.raises(UserError, match=r"every one of the \d+ training entities churned"):
        fit(task(), data, ones, some, print)
