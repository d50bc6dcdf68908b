"""Contestant (g): steps of a training of the benchmark's model, on examples from files: `... EXAMPLES`.

It is the training's own step, with its preprocessing, its loss and its optimizer, and batches in its own way.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import workload as w
from benchmarks.examples import load, training
from benchmarks.measure import Meter
from pipelines.models.preprocessing import analyze, load_transform
from pipelines.models.training import Data, Member, _batches, _step

WARM, BATCHES = 2, 12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("examples", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = training(folder, batch_size=w.BATCH)
        examples = load(config.task, args.examples)
        rows = examples.at(*config.train)
        analyze(config.task, examples, rows[: w.BATCH], folder / "transform")
        data = Data(config.task, examples, rows, rows, load_transform(folder / "transform"), folder / "prepared.f4")
        tf.config.experimental.enable_op_determinism()  # as a training does
        member = Member(data, 0, folder, print)
        learn = _step(data, member.model, member.optimizer)
        order = np.random.default_rng(1).permutation(rows)[: (WARM + BATCHES) * w.BATCH]
        for i, batch in enumerate(_batches(examples, order, w.BATCH)):
            if i == WARM:
                meter = Meter()
            loss = float(learn(*batch))
        meter.report(samples=BATCHES * w.BATCH, loss=loss)


if __name__ == "__main__":
    main()
