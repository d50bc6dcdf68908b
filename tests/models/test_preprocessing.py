"""What TensorFlow Transform finds in the training rows, and that training and serving make the same of a raw tensor."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.models import preprocessing
from pipelines.models.calibration import Calibration
from pipelines.models.export import save
from pipelines.models.network import build
from pipelines.models.predictor import Predictor
from pipelines.models.preprocessing import (
    BATCH,
    CELLS,
    FAR,
    Transform,
    analyze,
    load_transform,
    number,
    scaled,
    thinned,
)
from pipelines.models.saved.operations import check_operations
from pipelines.models.summary import summary
from pipelines.task.spec import Task
from tests.support.toy_models import CHURN

STEPS, TOP, N = 12, 5, 1200
FEATURES: tuple[dict[str, object], ...] = (
    {"agg": "count"},
    {"agg": "last", "field": "place", "vocabulary": TOP},
    {"agg": "sum", "field": "amount"},
    {"agg": "last", "field": "price", "fill": "forward", "scale": "relative"},
    {"agg": "mean", "field": "amount", "scale": "none"},
    {"agg": "recency"},
    {"agg": "min", "field": "fee", "scale": "none"},
    {"agg": "max", "field": "fee"},
    {"agg": "distinct", "field": "rare"},
    {"agg": "first", "field": "title", "vocabulary": 100},
)
NUMBERS = [i for i, f in enumerate(FEATURES) if "vocabulary" not in f]
Array = npt.NDArray[np.float32]


def task(label: Mapping[str, object] = CHURN, **model: object) -> Task:
    return Task.model_validate(
        {
            "task": "toy",
            "events": {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"},
            "sequence": {"step": "1d", "steps": STEPS, "features": FEATURES},
            "score": {"every": "1d"},
            "label": label,
            "model": model,
        },
        strict=False,
    )


def tensor(n: int, seed: int) -> Array:
    """f4 (n, STEPS, 10). The lowest fee is always 7.3 and the highest 0; one step in 3,000 has a rare value."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 50, (n, STEPS, len(FEATURES))).astype(np.float32)
    x[:, :, 0] = random.poisson(0.5, (n, STEPS))
    x[:, :, 1] = random.zipf(1.6, (n, STEPS)).clip(0, 1 << 23) * (x[:, :, 0] > 0)
    x[:, :, 2] *= x[:, :, 0]
    x[:, :, 3] = 100 * np.exp(np.cumsum(random.normal(0, 0.1, (n, STEPS)), axis=1))
    x[::5, :4, 3] = 0
    x[:, :, 5] = random.exponential(2, (n, STEPS))
    x[:, :, 6:8] = [7.3, 0]
    x[:, :, 8] = random.random((n, STEPS)) < 1 / 3000
    x[:, :, 9] = 0
    return x


@dataclass
class Source:
    """Rows in memory, and which of them were read together."""

    x: Array
    reads: list[npt.NDArray[np.int64]]

    def tensor(self, rows: npt.NDArray[np.int64]) -> Array:
        self.reads.append(rows)
        return self.x[rows]


@dataclass
class Analysed:
    source: Source
    rows: npt.NDArray[np.int64]
    folder: Path
    transform: Transform


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """Over all rows but every tenth."""
    source, folder = Source(tensor(N, 0), []), tmp_path_factory.mktemp("analysed") / "transform"
    rows = np.flatnonzero(np.arange(N) % 10)
    analyze(task(), source, rows, folder)
    return Analysed(source, rows, folder, load_transform(folder))


def test_columns_are_clipped_and_standardised(analysed: Analysed) -> None:
    x = analysed.source.x[analysed.rows]
    got = np.asarray(analysed.transform(x)["sequence"])
    flat = np.asarray(scaled(task(), tf.constant(x)), np.float64).reshape(-1, len(NUMBERS))
    for i, column in enumerate(flat.T):
        edges = np.quantile(column[column != 0], [0.001, 0.999]) if column.any() else np.zeros(2)
        clipped = column.clip(min(edges[0], 0), max(edges[1], 0))
        deviation = clipped.std() if clipped.std() > 1e-9 else np.inf
        expected = (clipped - clipped.mean()) / deviation
        np.testing.assert_allclose(got[:, :, i].ravel(), expected, atol=0.5 if abs(expected).max() > 20 else 0.2)
        assert np.abs(got[:, :, i].ravel() - expected).mean() < 0.01
    moving = [i for i, column in enumerate(NUMBERS) if column not in (6, 7)]
    np.testing.assert_allclose(got.reshape(-1, len(NUMBERS))[:, moving].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(got.reshape(-1, len(NUMBERS))[:, moving].std(axis=0), 1, atol=1e-4)


def test_scales() -> None:
    spec = task().model_copy(update={"sequence": task().sequence.model_copy(update={"steps": 3})})
    x = np.zeros((2, 3, len(FEATURES)), np.float32)
    x[0, :, 0] = [0, 9, -9]  # log
    x[0, :, 3] = [0, 50, 100]  # relative, nothing before the first price
    x[1, :, 3] = [100, 200, 0]  # the last positive value is the base
    x[0, :, 4] = [-3, 0, 1e6]  # none
    y = np.array(scaled(spec, tf.constant(x)))
    count, price, mean = (NUMBERS.index(i) for i in (0, 3, 4))
    np.testing.assert_allclose(y[0, :, count], [0, np.log(10), -np.log(10)], rtol=1e-6)
    np.testing.assert_allclose(y[0, :, price], [0, -np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(y[1, :, price], [-np.log(2), 0, 0], rtol=1e-6)
    assert np.array_equal(y[0, :, mean], x[0, :, 4])
    y[:, :, [count, price, mean]] = 0
    assert not y.any()


def test_a_column_that_never_moved_says_nothing(analysed: Analysed) -> None:
    x = tensor(4, 1)
    x[:, :, 6:8] = 1e6
    sequence = np.asarray(analysed.transform(x)["sequence"])
    assert not sequence[:, :, [NUMBERS.index(6), NUMBERS.index(7)]].any()


def test_a_rare_value_is_not_clipped_away(analysed: Analysed) -> None:
    x = np.zeros((2, STEPS, len(FEATURES)), np.float32)
    x[1, 3, 8] = 1
    rare = np.asarray(analysed.transform(x)["sequence"])[:, :, NUMBERS.index(8)]
    assert rare[1, 3] > rare[0, 3] + 1


def test_the_summary_is_standardised(analysed: Analysed) -> None:
    x = analysed.source.x
    raw = np.asarray(summary(task(), tf.constant(x)), np.float64)
    seen = raw[analysed.rows]
    moves = seen.std(axis=0) > 1e-6 * np.abs(seen.mean(axis=0))
    expected = np.where(moves, (raw - seen.mean(axis=0)) / np.where(moves, seen.std(axis=0), 1), 0).clip(-FAR, FAR)
    np.testing.assert_allclose(np.asarray(analysed.transform(x)["summary"]), expected, atol=1e-3)


def test_any_finite_value_stays_finite(analysed: Analysed) -> None:
    largest = float(np.finfo(np.float32).max)
    x = np.random.default_rng(0).choice([-largest, -1e-45, 0, 1e-45, 1, largest], (64, STEPS, 10)).astype(np.float32)
    x[:, :, [1, 5, 9]] = 1  # codes, and a time in the window
    assert all(np.isfinite(np.asarray(y)).all() for y in analysed.transform(x).values())


def test_values_are_numbered_by_falling_frequency(analysed: Analysed) -> None:
    x = analysed.source.x
    seen = x[analysed.rows][:, :, 1].astype(int)
    # Of two as frequent, TensorFlow Transform puts the last in the order of text first.
    order = sorted(Counter(seen[seen > 0].tolist()).items(), key=lambda item: (item[1], str(item[0])), reverse=True)
    numbers = {0: 0, **{code: i + 2 for i, (code, _) in enumerate(order[:TOP])}}
    expected = [[numbers.get(int(code), 1) for code in row] for row in x[:, :, 1]]
    got = np.asarray(analysed.transform(x)["codes_0"])
    assert got.dtype == np.int64
    assert got.tolist() == expected
    assert set(got.ravel().tolist()) == set(range(TOP + 2))


def test_without_a_value_in_training_each_is_unknown(analysed: Analysed) -> None:
    x = tensor(2, 0)
    x[0, :, 9] = np.arange(STEPS)
    codes = np.asarray(analysed.transform(x)["codes_1"])
    assert codes[0].tolist() == [0] + [1] * (STEPS - 1)
    assert not codes[1].any()


@given(
    known=st.lists(st.integers(1, 1 << 23), max_size=40, unique=True),
    codes=st.lists(st.integers(0, 1 << 23), max_size=20),
)
def test_number_is_a_look_up(known: list[int], codes: list[int]) -> None:
    asked = [*codes, *known, *(k + 1 for k in known), 0]
    table = {0: 0, **{k: i + 2 for i, k in enumerate(known)}}
    got = number(tf.constant(asked, tf.int64), np.array(known, np.int64))
    assert got.numpy().tolist() == [table.get(code, 1) for code in asked]


def test_shapes_are_those_of_what_it_gives(analysed: Analysed) -> None:
    given_ = {n: (tuple(y.shape), y.dtype.name) for n, y in analysed.transform(tensor(3, 0)).items()}
    assert given_ == {n: ((3, *shape[1:]), kind) for n, (shape, kind) in analysed.transform.shapes.items()}
    assert all(shape[0] is None for shape, _ in analysed.transform.shapes.values())
    assert list(given_) == ["codes_0", "codes_1", "sequence", "summary"]
    assert given_["sequence"] == ((3, STEPS, len(NUMBERS)), "float32")


def test_reads_batches_and_keeps_none(analysed: Analysed) -> None:
    counts = Counter(np.concatenate(analysed.source.reads).tolist())
    assert sorted(counts) == analysed.rows.tolist()
    assert set(counts.values()) == {2}
    assert max(map(len, analysed.source.reads)) <= BATCH
    assert not preprocessing._sources


def test_the_same_rows_give_the_same_and_nothing_is_said(
    analysed: Analysed, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shuffled = np.random.default_rng(5).permutation(analysed.rows)
    analyze(task(), Source(analysed.source.x, []), shuffled, tmp_path / "again")
    again = load_transform(tmp_path / "again")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    first, second = (
        [np.asarray(c) for c in t._loaded.transform_fn.captured_inputs] for t in (analysed.transform, again)
    )
    assert first
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    assets = Path("transform_fn") / "assets"
    for name in ("codes_0", "codes_1"):
        assert (tmp_path / "again" / assets / name).read_bytes() == (analysed.folder / assets / name).read_bytes()


class Served(tf.Module):
    """A model with the preprocessing in it, as it is exported."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

        @tf.function(input_signature=[tf.TensorSpec((None, STEPS, len(FEATURES)), tf.float32, name="sequence")])
        def serve(sequence: tf.Tensor) -> dict[str, tf.Tensor]:
            return dict(transform(sequence))

        self.serve = serve


@pytest.fixture(scope="module")
def saved(analysed: Analysed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, path = Served(analysed.transform), tmp_path_factory.mktemp("saved") / "saved_model"
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


@pytest.mark.parametrize(
    ("network", "calibration"),
    [
        ("mlp", Calibration("none")),
        ("gru", Calibration("isotonic", (0, 1, 2), (0, 0.5, 1))),
        ("lstm", Calibration("platt", (1.5,), (0.5,))),
        ("linear", Calibration("identity")),
    ],
)
def test_whatever_is_exported_has_allowed_operations(
    analysed: Analysed, network: str, calibration: Calibration, tmp_path: Path
) -> None:
    """With every aggregation, scale, network, calibration and label."""
    path = {"kind": "path", "field": "price", "steps": 3}
    spec = task(path if calibration.method == "identity" else CHURN, network=network, units=[4])
    members = [build(spec, analysed.transform.shapes, 0)]
    save(Predictor(spec, analysed.transform, members, calibration), tmp_path / "saved_model")
    check_operations(tmp_path / "saved_model", tmp_path)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_training_and_serving_see_the_same_bits(analysed: Analysed, saved: Path, n: int) -> None:
    x = tf.constant(tensor(n, 2))
    in_training = tf.function(analysed.transform)(x)
    served = tf.saved_model.load(str(saved)).signatures["serving_default"](sequence=x)
    at_once = analysed.transform(x)
    assert set(served) == set(in_training)
    for name, y in served.items():
        assert y.numpy().tobytes() == in_training[name].numpy().tobytes() == at_once[name].numpy().tobytes()


def test_openvino_reads_it(analysed: Analysed, saved: Path) -> None:
    x = tensor(64, 3)
    core = ov.Core()
    model = core.read_model(str(saved))
    model.reshape({0: list(x.shape)})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given_ = compiled.create_infer_request().infer({0: x})
    expected = [np.asarray(y) for y in analysed.transform(x).values()]
    outputs = sorted((y for y in given_.values()), key=lambda y: (y.ndim, y.shape))
    for got, want in zip(outputs, sorted(expected, key=lambda y: (y.ndim, y.shape)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_more_rows_than_are_needed_are_thinned_evenly() -> None:
    cells = STEPS * len(FEATURES)
    assert thinned(np.arange(10), task()).tolist() == list(range(10))
    rows = thinned(np.arange(3 * CELLS // cells), task())
    assert len(rows) == CELLS // cells
    assert set(np.diff(rows)) == {3}


def test_without_the_extra_it_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_transform", None)
    spec = importlib.util.spec_from_file_location("without", str(preprocessing.__file__))
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(UserError, match=r"pip install foretide\[train\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
