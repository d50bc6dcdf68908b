"""Scores in full batches: poison, values that are not finite, a full device, and the transform on Beam."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that

from pipelines.errors import UserError
from pipelines.ledger import DeadLetter, Ledger, total
from pipelines.models.engine import OutOfMemory
from pipelines.models.loading import load_engine
from pipelines.transforms.inference import Infer, ScoreBlock, guarded, joined, without
from pipelines.transforms.sequences import SequenceBatch
from tests.toy import DAY, export_toy, tensor

Floats = npt.NDArray[np.float32]


class Model:
    """Two outputs: the sum of a row, and its negative. Raises where a row starts with `poison`, or is too large."""

    def __init__(self, poison: float = 7, room: int = 1 << 20) -> None:
        self.poison, self.room = poison, room
        self.calls: list[int] = []

    def __call__(self, x: Floats) -> Floats:
        self.calls.append(len(x))
        if len(x) > self.room:
            raise OutOfMemory("no room")
        if (x[:, 0, 0] == self.poison).any():
            raise RuntimeError("poison")
        s = x.sum(axis=(1, 2))
        s[x[:, 0, 0] == 8] = np.nan
        return np.stack([s, -s], axis=1)


def rows(n: int) -> Floats:
    return np.arange(n * 6, dtype=np.float32).reshape(n, 3, 2) + 100


def test_full_batches_of_one_shape() -> None:
    model, x = Model(), rows(70)
    y, failed, size = guarded(model, x, 2, 32)
    assert np.array_equal(y[:, 0], x.sum(axis=(1, 2)))
    assert (failed, size, model.calls) == ({}, 32, [32, 32, 32])


def test_no_rows_no_calls() -> None:
    model = Model()
    y, failed, _ = guarded(model, rows(0), 2, 32)
    assert (y.shape, failed, model.calls) == ((0, 2), {}, [])


def test_poison_costs_its_row_only() -> None:
    model, x = Model(), rows(64)
    x[[17, 40], 0, 0] = 7
    y, failed, _ = guarded(model, x, 2, 64)
    assert failed == {17: "RuntimeError: poison", 40: "RuntimeError: poison"}
    assert np.flatnonzero(np.isnan(y).any(axis=1)).tolist() == [17, 40]
    assert set(model.calls) == {64}


def test_values_that_are_not_finite_never_reach_the_model() -> None:
    model, x = Model(), rows(32)
    x[3, 1, 1], x[9, 2, 0] = np.nan, np.inf
    y, failed, _ = guarded(model, x, 2, 32)
    assert failed == dict.fromkeys((3, 9), "the sequence has a value that is not finite")
    assert np.isfinite(np.delete(y, [3, 9], axis=0)).all()
    assert model.calls == [32]


def test_scores_that_are_not_finite_fail_alone() -> None:
    model, x = Model(), rows(32)
    x[5, 0, 0] = 8
    y, failed, _ = guarded(model, x, 2, 32)
    assert failed == {5: "the model gave a score that is not finite"}
    assert np.isfinite(np.delete(y, 5, axis=0)).all()
    assert model.calls == [32]


def test_out_of_memory_halves_and_is_remembered() -> None:
    model, x = Model(room=40), rows(100)
    y, failed, size = guarded(model, x, 2, 128)
    assert np.array_equal(y[:, 0], x.sum(axis=(1, 2)))
    assert (failed, size) == ({}, 32)
    assert model.calls == [128, 64, 32, 32, 32, 32]
    assert guarded(model, x, 2, size)[2] == 32
    assert max(model.calls[6:]) == 32


def test_a_device_without_any_room_is_no_fault_of_the_rows() -> None:
    with pytest.raises(OutOfMemory):
        guarded(Model(room=8), rows(4), 2, 64)


def test_a_model_that_fails_on_zeros_is_no_fault_of_the_rows() -> None:
    with pytest.raises(RuntimeError):
        guarded(Model(poison=0), rows(4), 2, 16)


def test_blocks_keep_rows_together() -> None:
    batches = [sequences("a", 3, 5 * DAY), sequences("b", 2, 6 * DAY)]
    block = joined(batches, np.arange(5, dtype=np.float32)[:, None])
    kept = without(block, [1, 4])
    assert kept.entities == ["a0", "a2", "b0"]
    assert kept.as_of.tolist() == [5 * DAY, 5 * DAY, 6 * DAY]
    assert kept.scores[:, 0].tolist() == [0, 2, 3]
    assert kept.n_events.tolist() == [0, 2, 0]
    assert block.as_of.dtype == np.int64


def sequences(name: str, n: int, as_of: int) -> SequenceBatch:
    seed = as_of // DAY
    at = np.arange(n)
    return SequenceBatch([f"{name}{i}" for i in at], as_of, np.zeros(n, np.int32), tensor(n, seed), at, as_of - 1 - at)


class Make(beam.DoFn):
    """60 batches of 1 to 29 rows at three as-ofs; one row has a NaN."""

    def process(self, start: int) -> Iterator[SequenceBatch]:
        sizes = np.random.default_rng(0).integers(1, 30, 60).tolist()
        for i, n in enumerate(sizes[start::2]):
            batch = sequences(f"u{start}-{i}-", n, (20 + i % 3) * DAY)
            if (start, i) == (1, 10):
                batch.tensor[0, 0, 0] = np.nan
            yield batch


ROWS = int(np.random.default_rng(0).integers(1, 30, 60).sum())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "toy"
    export_toy(directory)
    return directory


def scored(blocks: list[ScoreBlock]) -> dict[tuple[str, int], bytes]:
    return {(e, int(t)): s.tobytes() for b in blocks for e, t, s in zip(b.entities, b.as_of, b.scores, strict=True)}


@pytest.mark.parametrize("size", [32, 256])
def test_on_beam(model: Path, size: int) -> None:
    def check_scores(blocks: list[ScoreBlock]) -> None:
        engine = load_engine(model, "tensorflow", "cpu")
        found = scored(blocks)
        assert len(found) == sum(len(b.entities) for b in blocks) == ROWS - 1
        for start in (0, 1):
            for batch in Make().process(start):
                x = np.zeros((size, *batch.tensor.shape[1:]), np.float32)
                x[: len(batch.entities)] = np.nan_to_num(batch.tensor)
                y = engine.predict(x)
                for i, entity in enumerate(batch.entities):
                    if np.isfinite(batch.tensor[i]).all():
                        assert found[entity, batch.as_of] == y[i].tobytes()

    def check_dead(letters: list[DeadLetter]) -> None:
        reason = "the sequence has a value that is not finite"
        position = "u1-10-0 as of 1970-01-22"
        assert letters == [DeadLetter("infer", "v1", position, reason, 1, "")]

    def check_ledger(parts: list[Ledger]) -> None:
        assert total(parts) == Ledger(scored=ROWS - 1, failed=1)

    infer = Infer(str(model), "v1", "tensorflow", "cpu", size)
    with beam.Pipeline("FnApiRunner", PipelineOptions(["--direct_running_mode=in_memory"])) as p:
        out = p | beam.Create([0, 1]) | beam.ParDo(Make()) | infer
        assert_that(out.scores, check_scores, label="scores")
        assert_that(out.dead, check_dead, label="dead")
        assert_that(out.ledger, check_ledger, label="ledger")
    assert infer.device_in_use().startswith("cpu")


def test_refuses_a_size_that_kernels_would_cut() -> None:
    with pytest.raises(UserError, match="--batch-size 100: must be a multiple of 16"):
        Infer("model", "v1", "tensorflow", "cpu", 100)
