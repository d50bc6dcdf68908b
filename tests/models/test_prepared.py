"""Prepared rows are what the network would have seen of the raw tensors, and are prepared once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.models.network import Shapes
from pipelines.models.training import prepared_rows
from tests.support.toy_models import examples, task, tensor

N = 2500  # more than are prepared at a time


class Texts(tf.Module):
    """A transform with a summary of the tensor and the codes of two columns."""

    shapes: Shapes = {  # noqa: RUF012
        "codes_0": ((None, 12), "int64"),
        "codes_1": ((None, 12), "int64"),
        "sequence": ((None, 12, 4), "float32"),
        "summary": ((None, 3), "float32"),
    }

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        codes = tf.cast(raw[:, :, :1], tf.int64) % 100_002
        summary = tf.reduce_mean(raw, axis=1)[:, :3]
        return {"codes_0": codes[:, :, 0], "codes_1": 1 - codes[:, :, 0], "sequence": raw, "summary": summary}


def test_is_what_the_network_sees(tmp_path: Path) -> None:
    x = tensor(N)
    x[:, -1, 0] = np.random.default_rng(1).integers(0, 100_002, N)
    data, rows = examples(np.zeros((N, 1), np.float32), x), np.random.default_rng(2).permutation(N)[:2000]
    kept, transform = prepared_rows(task(network="mlp"), data, rows, Texts(), tmp_path / "prepared.f4")
    some = rows[[5, 1999, 5, 1030]]
    got, want = transform(tf.constant(kept.tensor(some))), Texts()(tf.constant(x[some]))
    assert set(got) == {"codes_0", "codes_1", "summary"}
    assert np.array_equal(got["summary"], want["summary"])
    for name in ("codes_0", "codes_1"):
        assert got[name].dtype == tf.int64
        assert np.array_equal(got[name], want[name][:, -1:])
    assert np.array_equal(kept.label, data.label)


def test_is_computed_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, rows, file = examples(np.zeros((N, 1), np.float32), tensor(N)), np.arange(N), tmp_path / "prepared.f4"
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.models.training.os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepared_rows(task(network="mlp"), data, rows, Texts(), file)
    assert not file.exists()
    first, _ = prepared_rows(task(network="mlp"), data, rows, Texts(), file)
    before = first.tensor(rows)
    monkeypatch.setattr("pipelines.models.training._write", lambda *_: 1 / 0)
    again, _ = prepared_rows(task(network="mlp"), data, rows, Texts(), file)
    assert np.array_equal(again.tensor(rows), before)
