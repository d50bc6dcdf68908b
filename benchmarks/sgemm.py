"""Reference (f): the fastest f32 matrix product that TensorFlow or numpy reaches here, in GFLOP a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from benchmarks.measure import Meter

SIZES = (1024, 2048)
REPEATS = 8


def best(multiply: Callable[[], object], flop: float) -> tuple[float, float]:
    """GFLOP per wall second of the fastest of REPEATS calls, and per CPU second of all, after one to warm up."""
    multiply()
    whole, walls = Meter(), []
    for _ in range(REPEATS):
        one = Meter()
        multiply()
        walls.append(one.so_far()[1])
    return flop / min(walls) / 1e9, REPEATS * flop / whole.so_far()[0] / 1e9


def main() -> None:
    meter, rates = Meter(), []
    for n in SIZES:
        a = np.random.default_rng(n).random((n, n), np.float32)
        t = tf.constant(a)
        rates.append(best(partial(tf.linalg.matmul, t, t), 2.0 * n**3))
        rates.append(best(partial(np.matmul, a, a), 2.0 * n**3))
    meter.report(gflops=max(r[0] for r in rates), gflops_cpu=max(r[1] for r in rates))


if __name__ == "__main__":
    main()
