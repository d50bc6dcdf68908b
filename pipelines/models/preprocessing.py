"""What the networks see of a raw tensor: its columns scaled, a `summary` of each row, and text values as numbers.

TensorFlow Transform finds the constants in it (quantiles, means, vocabularies) by a pass over the training rows and
writes it as a graph, which training and serving share.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.models.engines.base import Floats
from pipelines.models.engines.loading import silent_stderr
from pipelines.models.example_files import Ints
from pipelines.models.summary import LARGEST, signed_log, summary
from pipelines.runners.bounded import run
from pipelines.runners.execution import Execution
from pipelines.task.spec import Task

try:
    with warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")
        import tensorflow_transform as tft
        import tensorflow_transform.beam as tft_beam
        from tensorflow_metadata.proto.v0.schema_pb2 import FixedShape, TensorRepresentation
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
except ImportError:
    raise UserError("training is not installed: pip install foretide[train]") from None

CELLS = 1 << 25  # of the rows that are analysed, at most
BATCH = 512  # rows, at most
BATCH_CELLS = 1 << 20
PARTS = 1000  # of equal size, in which quantiles divide values; the first and the last are clipped
EPSILON = 5e-4  # error of a quantile, as a share of the values
STILL = 1e-6  # a column that deviates less, as a share of its mean, is constant
FAR = 5.0  # deviations at which a summary is clipped

RAW = "raw"


class TensorSource(Protocol):
    """Where raw tensors come from: `example_files.Examples`."""

    def tensor(self, rows: Ints) -> Floats: ...


def analyze(task: Task, examples: TensorSource, rows: Ints, folder: Path) -> None:
    """Writes `folder`/transform_fn and `folder`/transformed_metadata, from the training rows.

    The same rows give the same constants. Where the rows have more than CELLS cells (64,000 rows of 52 steps and 10
    features), only evenly spaced ones are analysed: quantiles and means of more would hardly differ, and take more than
    half a minute. Rows are read in two passes, a batch at a time.
    """
    rows = thinned(np.sort(rows), task)
    size = max(1, min(BATCH, BATCH_CELLS // _cells(task)))
    key = uuid.uuid4().hex
    _sources[key] = lambda i: examples.tensor(rows[i : i + size])
    try:
        with (
            _quiet(),
            tempfile.TemporaryDirectory() as temporary,
            # The option makes the second pass read anew: else Beam would keep all rows in memory after the first.
            tft_beam.Context(temporary, use_deep_copy_optimization=True),
        ):
            local = Execution(workers=1, shards=None, beam_args=(), debug=True)
            run(local, lambda pipeline: _pipeline(pipeline, task, key, range(0, len(rows), size), folder))
    finally:
        del _sources[key]


def thinned(rows: Ints, task: Task) -> Ints:
    """All of the rows, or as many as have CELLS cells, evenly spaced."""
    n = max(1, CELLS // _cells(task))
    return rows if len(rows) <= n else rows[np.arange(n) * len(rows) // n]


@tf.autograph.experimental.do_not_convert
def features(task: Task, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """TensorFlow Transform's `preprocessing_fn`: f4 (B, steps, features), raw ->

    sequence  f4 (B, steps, n)  the columns that are numbers, scaled, clipped and standardised
    summary   f4 (B, k)         standardised, and clipped
    codes_i   i64 (B, steps)    of the i-th column of text values, as in the raw tensor; `Transform` numbers them
    """
    x = tf.clip_by_value(inputs[RAW], -LARGEST, LARGEST)
    steps, numbers = task.sequence.steps, [i for i, f in enumerate(task.features) if f.vocabulary is None]
    sequence = tf.reshape(scaled(task, x), (-1, len(numbers)))
    out = {
        "sequence": tf.reshape(_standard(_clipped(sequence), "sequence"), (-1, steps, len(numbers))),
        "summary": tf.clip_by_value(_standard(summary(task, x), "summary"), -FAR, FAR),
    }
    for i, column in enumerate(i for i, f in enumerate(task.features) if f.vocabulary is not None):
        codes = tf.cast(x[:, :, column], tf.int64)
        top = task.features[column].vocabulary
        tft.vocabulary(tf.boolean_mask(codes, codes > 0), top_k=top, vocab_filename=f"codes_{i}", name=f"codes_{i}")
        out[f"codes_{i}"] = codes
    return out


def scaled(task: Task, x: tf.Tensor) -> tf.Tensor:
    """The columns that are numbers as the task says. log: sign(x) log(1 + |x|); relative: log(x / last positive x of
    the series), 0 where x is not positive; none: as they are. f4 (B, steps, features) -> f4 (B, steps, n)."""
    x = tf.gather(x, [i for i, f in enumerate(task.features) if f.vocabulary is None], axis=2)
    scales = [f.scale for f in task.features if f.vocabulary is None]
    out = x
    if "log" in scales:
        out = tf.where([s == "log" for s in scales], signed_log(x), out)
    if "relative" in scales:
        out = tf.where([s == "relative" for s in scales], _relative(x), out)
    return out


class Transform(tf.Module):
    """The analysed preprocessing. What holds it can be saved and loaded again without TensorFlow Transform."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._loaded = tf.saved_model.load(str(folder / "transform_fn"))  # keeps its constants alive
        specs = self._loaded.transform_fn.structured_outputs
        self.shapes = {name: (tuple(specs[name].shape), specs[name].dtype.name) for name in sorted(specs)}
        names = [name for name in self.shapes if name.startswith("codes_")]
        assets = folder / "transform_fn" / "assets"
        read = {name: np.loadtxt(assets / name, np.int64, ndmin=1) for name in names}
        self._known = {name: codes[codes > 0] for name, codes in read.items()}  # it writes -1 where there is none

    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """f4 (B, steps, features), raw -> see `features`; but codes are 0 for no value, 1 for one that is not in the
        vocabulary, 2 and up for those that are, by falling frequency."""
        out = self._loaded.transform_fn({RAW: x})
        return {n: number(out[n], self._known[n]) if n in self._known else out[n] for n in self.shapes}


def load_transform(folder: Path) -> Transform:
    """What `analyze` wrote."""
    with silent_stderr():
        return Transform(Path(folder))


def number(codes: tf.Tensor, known: Ints) -> tf.Tensor:
    """i64, any shape -> the same shape: 0 stays, the k-th of `known` (positive, each once) becomes k + 2, others 1.

    A binary search in constants, for a hash table runs on no GPU and OpenVINO cannot convert it.
    """
    order = np.argsort(known)
    size = 1 << len(known).bit_length()
    edges = np.full(size, np.iinfo(np.int64).max)
    edges[: len(known) + 1] = [0, *known[order]]
    numbers = np.concatenate([[0], order + 2])
    at = tf.zeros_like(codes)
    half = size // 2
    while half:
        at = tf.where(tf.gather(edges, at + half) <= codes, at + half, at)
        half //= 2
    return tf.where(tf.gather(edges, at) == codes, tf.gather(numbers, at), tf.ones_like(codes))


# What the pipeline of `analyze` reads, by a key that it can carry. It runs in this process, see `bounded.run`.
_sources: dict[str, Callable[[int], Floats]] = {}


def _pipeline(pipeline: beam.Pipeline, task: Task, key: str, starts: range, folder: Path) -> None:
    """All starts are of one bundle: sums of several would depend on the order in which they end."""
    batches = (
        pipeline | "All" >> beam.Create([starts]) | "Starts" >> beam.FlatMap(iter) | "Read" >> beam.Map(_read, key)
    )
    shape = FixedShape(dim=[FixedShape.Dim(size=n) for n in (task.sequence.steps, len(task.features))])
    dense = TensorRepresentation(dense_tensor=TensorRepresentation.DenseTensor(column_name=RAW, shape=shape))
    config = TensorAdapterConfig(pa.schema([(RAW, pa.large_list(pa.float32()))]), {RAW: dense})
    analysis = tft_beam.AnalyzeDataset(functools.partial(features, task))
    _ = (batches, config) | "Analyze" >> analysis | "Write" >> tft_beam.WriteTransformFn(str(folder))


def _read(start: int, key: str) -> pa.RecordBatch:
    x = _sources[key](start)
    offsets = np.arange(len(x) + 1) * x[0].size
    return pa.RecordBatch.from_arrays([pa.LargeListArray.from_arrays(offsets, np.ravel(x))], [RAW])


def _clipped(x: tf.Tensor) -> tf.Tensor:
    """Each column of (N, n) between quantiles of its values other than 0, or 0."""
    # 0 is no event, and in columns of rare events nearly all there is. One a batch stays, for a column of nothing else.
    some = tf.concat([x[:1], tf.where(x[1:] != 0, x[1:], np.float32(np.nan))], axis=0)
    edges = tft.quantiles(some, PARTS, EPSILON, reduce_instance_dims=False, name="quantiles")
    return tf.clip_by_value(x, tf.minimum(edges[:, 0], 0.0), tf.maximum(edges[:, -1], 0.0))


def _standard(x: tf.Tensor, name: str) -> tf.Tensor:
    """Each column of (N, n) less its mean and by its deviation; 0 where it is constant."""
    mean = tft.mean(x, reduce_instance_dims=False, name=f"{name}_mean", output_dtype=tf.float64)
    variance = tft.var(x, reduce_instance_dims=False, name=f"{name}_variance", output_dtype=tf.float64)
    moves = variance > tf.square(STILL * mean)
    factor = tf.where(moves, tf.math.rsqrt(tf.where(moves, variance, 1.0)), 0.0)
    # A product: in a larger graph TensorFlow would make one of a quotient, and round in another way.
    return (x - tf.cast(mean, tf.float32)) * tf.cast(factor, tf.float32)


def _relative(x: tf.Tensor) -> tf.Tensor:
    """Without a gather by index: sums of one value and zeros are exact."""
    positive = x > 0
    place = tf.cast(positive, tf.float32) * np.arange(1, x.shape[1] + 1, dtype=np.float32)[:, None]
    newest = tf.reduce_max(place, axis=1, keepdims=True)
    last = tf.reduce_sum(tf.where(positive & (place == newest), x, 0.0), axis=1, keepdims=True)
    log = tf.math.log(tf.where(positive, x, 1.0)) - tf.math.log(tf.where(last > 0, last, 1.0))
    return tf.where(positive, log, 0.0)


def _cells(task: Task) -> int:
    return task.sequence.steps * len(task.features)


@contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow Transform and Beam warn of what is meant, such as a graph that is traced twice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
