"""Contestant (h): a training from its examples to its report, to see what memory it takes: `... EXAMPLES`.

One epoch of a network that is quick: all rows are read as they are for any other, and no network's memory depends on
how many there are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.examples import load, training
from benchmarks.measure import Meter
from pipelines.jobs.train import _fit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("examples", type=int)
    meter = Meter()
    with tempfile.TemporaryDirectory() as temporary:
        config = training(Path(temporary), network="linear", epochs=1)
        data = load(config.task, parser.parse_args().examples)
        rows = data.at(*config.train), data.at(*config.validation), data.at(*config.test)
        manifest, _ = _fit(config, data, rows, Path(temporary))
    meter.report(auc=manifest.metrics["auc"], auc_lightgbm=manifest.metrics["auc_lightgbm"])


if __name__ == "__main__":
    main()
