"""Reference (e): the tensors of the fastest polars script into the bare serving function of the same SavedModel.

`python -m benchmarks.infer_polars KIND EVENTS`; TensorFlow has its threads as it sets them itself.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf

from benchmarks import workload as w
from benchmarks.features_polars import arrays
from benchmarks.measure import Meter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["parquet", "jsonl"])
    parser.add_argument("events", type=int)
    args = parser.parse_args()
    meter = Meter()
    serve = tf.saved_model.load(str(w.MODEL / "saved_model")).signatures["serving_default"]
    loaded, inference, scores = meter.so_far(), [0.0, 0.0], []
    for batch in arrays(w.files(args.kind, args.events)):
        before = meter.so_far()
        (y,) = serve(sequence=tf.constant(batch.tensor)).values()
        scores.append(y.numpy()[:, 0])
        inference = [i + now - b for i, now, b in zip(inference, meter.so_far(), before, strict=True)]
    flat = np.concatenate(scores)
    meter.report(
        scores=len(flat), mean=float(flat.mean()), load_cpu=loaded[0], infer_cpu=inference[0], infer_wall=inference[1]
    )


if __name__ == "__main__":
    main()
