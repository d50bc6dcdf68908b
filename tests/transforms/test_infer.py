"""Scores in full batches: poison, values that are not finite, a full device, and the transform on Beam."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import RuntimeTimer, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from pipelines.events.sequences import SequenceBatch
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.ledger.metrics import NAMESPACE
from pipelines.models import serving
from pipelines.models.engines.base import OutOfMemory
from pipelines.models.engines.loading import load_engine
from pipelines.models.registry import promote, rollback
from pipelines.models.saved.manifest import load_manifest
from pipelines.transforms.infer import InferBatches, ScoreBlock, _Score, guarded, joined, without
from tests.support.model_shelf import HARMS, SEEDS, SIZE, Shelf, make_shelf, settle
from tests.support.toy_models import DAY, export_toy, task, tensor

Floats = npt.NDArray[np.float32]


class Model:
    """Two outputs: the sum of a row, and its negative. Raises where a row starts with `poison`, or is too large."""

    def __init__(self, poison: float = 7, room: int = 1 << 20, full: type[Exception] = OutOfMemory) -> None:
        self.poison, self.room, self.full = poison, room, full
        self.calls: list[int] = []

    def __call__(self, x: Floats) -> Floats:
        self.calls.append(len(x))
        if len(x) > self.room:
            raise self.full("no room")
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


@pytest.mark.parametrize("full", [OutOfMemory, MemoryError])  # of the device, and of arrays on the way to it
def test_out_of_memory_halves_and_is_remembered(full: type[Exception]) -> None:
    model, x = Model(room=60, full=full), rows(100)
    y, failed, size = guarded(model, x, 2, 192)
    assert np.array_equal(y[:, 0], x.sum(axis=(1, 2)))
    assert (failed, size) == ({}, 48)
    assert model.calls == [192, 96, 48, 48, 48]
    assert guarded(model, x, 2, size)[2] == 48
    assert max(model.calls[5:]) == 48


def test_a_device_without_any_room_is_no_fault_of_the_rows() -> None:
    with pytest.raises(OutOfMemory):
        guarded(Model(room=8), rows(4), 2, 64)


def test_a_model_that_fails_on_zeros_is_no_fault_of_the_rows() -> None:
    with pytest.raises(RuntimeError):
        guarded(Model(poison=0), rows(4), 2, 16)


def test_blocks_keep_rows_together() -> None:
    batches = [sequences("a", 3, 5 * DAY), sequences("b", 2, 6 * DAY)]
    block = joined(batches, np.arange(5, dtype=np.float32)[:, None], "v1")
    kept = without(block, [1, 4])
    assert kept.entities == ["a0", "a2", "b0"]
    assert kept.as_of.tolist() == [5 * DAY, 5 * DAY, 6 * DAY]
    assert kept.scores[:, 0].tolist() == [0, 2, 3]
    assert kept.n_events.tolist() == [0, 2, 0]
    assert block.as_of.dtype == np.int64
    assert (block.version, kept.version) == ("v1", "v1")


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


@pytest.mark.parametrize("size", [48, 240])
def test_on_beam(model: Path, size: int) -> None:
    def check_scores(blocks: list[ScoreBlock]) -> None:
        engine = load_engine(model, "tensorflow", "cpu")
        found = scored(blocks)
        assert {b.version for b in blocks} == {version}
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
        assert letters == [DeadLetter("infer", version, position, reason, 1, "")]

    def check_ledger(parts: list[Ledger]) -> None:
        assert total(parts) == Ledger(scored=ROWS - 1, failed=1)

    version = load_manifest(model).version
    infer = InferBatches(str(model), task(), "tensorflow", "cpu", size)
    with beam.Pipeline("FnApiRunner", PipelineOptions(["--direct_running_mode=in_memory"])) as p:
        out = p | beam.Create([0, 1]) | beam.ParDo(Make()) | infer
        assert_that(out.scores, check_scores, label="scores")
        assert_that(out.dead, check_dead, label="dead")
        assert_that(out.ledger, check_ledger, label="ledger")
    assert infer.device_in_use().startswith("cpu")


@pytest.mark.parametrize(("asked", "size"), [(1, 48), (48, 48), (256, 240), (1000, 960)])
def test_a_batch_has_no_rows_that_kernels_would_add_up_apart(asked: int, size: int) -> None:
    assert InferBatches("model", task(), "tensorflow", "cpu", asked).batch_size == size


BUNDLES = 60
NAMED = {0: 0, 10: 1, 30: 1, 40: 2, 50: 1}  # bundle: version that serves soon after it


def fed(bundle: int) -> list[SequenceBatch]:
    """Some full batches of SIZE rows and a part of one."""
    sizes = np.random.default_rng(bundle).integers(1, 3 * SIZE, 5).tolist()
    return [sequences(f"u{bundle}-{i}-", n, (20 + bundle) * DAY) for i, n in enumerate(sizes)]


NEXT = TimerSpec("next", TimeDomain.WATERMARK)
TIMER = beam.DoFn.TimerParam(NEXT)


class Feed(beam.DoFn):
    """A bundle each time that a timer fires, and promotions between them."""

    def __init__(self, folder: Path, shelf: Shelf) -> None:
        self.folder, self.shelf = folder, shelf

    def process(self, _: tuple[int, int], timer: RuntimeTimer = TIMER) -> None:
        timer.set(Timestamp(0))

    @on_timer(NEXT)
    def fire(self, now: Timestamp = beam.DoFn.TimestampParam, timer: RuntimeTimer = TIMER) -> Iterator[SequenceBatch]:
        bundle = int(now.seconds())
        if bundle + 1 < BUNDLES:
            timer.set(Timestamp(bundle + 1))
        _, b, c = self.shelf.versions
        if bundle == 10:
            promote(self.folder, b)
        elif bundle == 20:
            HARMS["weights that are no numbers"][0](self.folder / c, self.shelf)
            promote(self.folder, c)
        elif bundle in (30, 50):
            rollback(self.folder)
        elif bundle == 40:
            shutil.rmtree(self.folder / c)
            shutil.copytree(self.shelf.folder / c, self.folder / c)
            promote(self.folder, c)
        elif bundle % 10 == 5:
            settle()
        yield from fed(bundle)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return make_shelf(tmp_path_factory.mktemp("shelf"))


def test_versions_change_under_a_pipeline(shelf: Shelf, tmp_path: Path) -> None:
    """No score is lost, each is of the version that its row names, and a version that cannot serve never does."""
    folder = shelf.registry(tmp_path)
    promote(folder, shelf.versions[0])

    def check_scores(blocks: list[ScoreBlock]) -> None:
        engines = {v: load_engine(shelf.folder / v, "tensorflow", "cpu") for v in shelf.versions}
        rows = {
            (entity, b.as_of): x
            for bundle in range(BUNDLES)
            for b in fed(bundle)
            for entity, x in zip(b.entities, b.tensor, strict=True)
        }
        assert sum(len(b.entities) for b in blocks) == len(rows)
        made: dict[int, set[str]] = {}
        for b in blocks:
            x = np.zeros((SIZE, *tensor(1).shape[1:]), np.float32)
            x[: len(b.entities)] = [rows.pop((e, t)) for e, t in zip(b.entities, b.as_of.tolist(), strict=True)]
            assert engines[b.version].predict(x)[: len(b.entities)].tobytes() == b.scores.tobytes()
            for as_of in set(b.as_of.tolist()):
                made.setdefault(as_of // DAY - 20, set()).add(b.version)
        for bundle, versions in made.items():
            allowed = [shelf.versions[NAMED[n]] for n in sorted(NAMED) if n <= bundle]
            assert versions <= set(allowed[-1:] if bundle % 10 > 5 else allowed[-2:])

    infer = InferBatches(str(folder), task(network="mlp"), "tensorflow", "cpu", SIZE, watch=0)
    p = beam.Pipeline("FnApiRunner", PipelineOptions(["--direct_running_mode=in_memory"]))
    out = p | beam.Create([(0, 0)]) | beam.ParDo(Feed(folder, shelf)) | infer
    assert_that(out.scores, check_scores)
    result = p.run()
    result.wait_until_finish()
    metrics = result.metrics().query()
    counters = {m.key.metric.name: m.committed for m in metrics["counters"] if m.key.metric.namespace == NAMESPACE}
    assert counters == {"models_swapped": 3, "models_refused": 1}
    spread = {m.key.metric.name: m.committed for m in metrics["distributions"] if m.key.metric.namespace == NAMESPACE}
    calls = sum(-(-sum(len(b.entities) for b in fed(i)) // SIZE) for i in range(BUNDLES))
    assert spread["model_ms"].count == spread["batch_fill_percent"].count == calls
    assert spread["batch_fill_percent"].max == 100


def test_sequences_without_a_score_are_counted(shelf: Shelf) -> None:
    batch = next(iter(fed(0)))
    poisoned = replace(batch, tensor=np.concatenate([np.full_like(batch.tensor[:2], np.nan), batch.tensor[2:]]))
    infer = InferBatches(str(shelf.folder / shelf.versions[0]), task(network="mlp"), "tensorflow", "cpu", SIZE)
    p = beam.Pipeline("FnApiRunner")
    out = p | beam.Create([poisoned], reshuffle=False) | infer
    assert_that(out.dead | beam.Map(lambda letter: letter.stage), equal_to(["infer", "infer"]))
    result = p.run()
    result.wait_until_finish()
    [counted] = result.metrics().query(MetricsFilter().with_name("unscored"))["counters"]
    assert counted.committed == 2


def test_versions_change_under_threads(shelf: Shelf, tmp_path: Path) -> None:
    """Several DoFns of a process, as runners have them: each block is of the version it names, and of no other."""
    folder = shelf.registry(tmp_path)
    promote(folder, shelf.versions[0])
    infer, stop = InferBatches(str(folder), task(network="mlp"), "tensorflow", "cpu", SIZE, watch=0), threading.Event()
    made: set[str] = set()

    def score(seed: int) -> int:
        scorer, blocks = _Score(infer), 0
        scorer.setup()
        batch = replace(sequences("u", SIZE, DAY), tensor=tensor(SIZE, seed))
        while not stop.is_set():
            scorer.start_bundle()
            for block in [*scorer.process(batch), *scorer.process(batch)]:
                assert isinstance(block, ScoreBlock)
                assert block.scores.tobytes() == shelf.expected[block.version, seed]
                made.add(block.version)
                blocks += 1
            assert [out.tag for out in scorer.finish_bundle()] == ["ledger"]
        return blocks

    with ThreadPoolExecutor(SEEDS) as pool:
        try:
            threads = [pool.submit(score, seed) for seed in range(SEEDS)]
            for i in range(10):
                made.clear()
                promote(folder, shelf.versions[i % 3])
                while shelf.versions[i % 3] not in made and not stop.wait(0.001):
                    assert not any(t.done() for t in threads), [t.result() for t in threads]
        finally:
            stop.set()
        assert all(t.result() > 10 for t in threads)
    settle()


def named(out: ScoreBlock | TaggedOutput) -> str:
    """The version that a block or a dead letter names."""
    return out.version if isinstance(out, ScoreBlock) else out.value.source


def test_a_swap_right_after_a_call(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and dead letters name the version that made them, not the one that serves by then."""
    (a, b, _), folder = shelf.versions, shelf.registry(tmp_path)
    promote(folder, a)
    scorer = _Score(InferBatches(str(folder), task(network="mlp"), "tensorflow", "cpu", SIZE, watch=0))
    scorer.setup()
    served, call = scorer.serving, scorer.serving.model

    @contextmanager
    def swapped() -> Iterator[serving.Model]:
        with call() as model:
            yield model
        promote(folder, b)
        served.look()
        settle()

    monkeypatch.setattr(served, "model", swapped)
    batch = sequences("u", SIZE, DAY)
    batch.tensor[3] = np.nan
    scorer.start_bundle()
    assert [named(out) for out in scorer.process(batch)] == [a, a]
    assert [named(out) for out in scorer.process(batch)] == [b, b]
