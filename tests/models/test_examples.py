"""Examples survive their files, whatever the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import UserError
from pipelines.examples import record_batch
from pipelines.models.examples import load_examples
from pipelines.transforms.sequences import SequenceBatch
from tests.toy import DAY, STEPS, task, tensor


def batch(start: int, n: int, as_of: int) -> SequenceBatch:
    at = np.arange(start, start + n)
    label = (at % 2).astype(np.float32)[:, None]
    names = [f"user {i:03d}" for i in at]
    return SequenceBatch(names, as_of, np.zeros(n, np.int32), tensor(n, start), at, as_of - at - 1, label)


def write(path: Path, *batches: SequenceBatch) -> Path:
    parts = [record_batch(b) for b in batches]
    with pa.ipc.new_file(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_batch(part)
    return path


def test_survive_their_files_in_one_order(tmp_path: Path) -> None:
    parts = [batch(20, 10, DAY), batch(0, 20, DAY), batch(5, 7, 2 * DAY)]
    one = load_examples(task(), [write(tmp_path / "z", *parts)])
    two = load_examples(task(), [write(tmp_path / "b", *parts[:2]), write(tmp_path / "a", parts[2])])
    for data in (one, two):
        assert len(data) == 37
        assert data.as_of.tolist() == [DAY] * 30 + [2 * DAY] * 7
        assert data.entity.to_pylist() == [f"user {i:03d}" for i in [*range(30), *range(5, 12)]]
        assert data.n_events.tolist() == [*range(30), *range(5, 12)]
        assert data.last_event_time.tolist() == [t - i - 1 for t, i in zip(data.as_of, data.n_events, strict=True)]
        assert data.label[:, 0].tolist() == (data.n_events % 2).tolist()
        assert np.array_equal(data.tensor(np.arange(37)), np.concatenate([tensor(20, 0), tensor(10, 20), tensor(7, 5)]))
        assert np.array_equal(
            data.tensor(np.array([31, 0, 25])), np.stack([tensor(7, 5)[1], tensor(20, 0)[0], tensor(10, 20)[5]])
        )
    assert one.at(2 * DAY).tolist() == list(range(30, 37))
    assert one.at(DAY, 2 * DAY).tolist() == list(range(37))


def test_tensors_stay_in_their_files(tmp_path: Path) -> None:
    data = load_examples(task(), [write(tmp_path / "a", batch(0, 20, DAY))])
    assert data.tensors[0].shape == (20, STEPS, 4)
    assert not data.tensors[0].flags.writeable
    assert not data.tensors[0].flags.owndata


def test_refuses_examples_of_another_task(tmp_path: Path) -> None:
    file = write(tmp_path / "a", batch(0, 3, DAY))
    with pytest.raises(UserError, match="examples of another task"):
        load_examples(task(steps=STEPS + 1), [file])


def test_refuses_nothing() -> None:
    with pytest.raises(UserError, match="no examples for task toy"):
        load_examples(task(), [])
