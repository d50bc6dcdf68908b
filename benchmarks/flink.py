"""A run over files on a Flink cluster of this machine, or here: `python -m benchmarks.flink WHERE EVENTS`.

Both score `w.NAIVE` events first and then all of them, with a small model, two processes or slots, and the same bytes
at the end. What the first run takes is the start: processes, imports and, on the cluster, a job server and what it
uploads. What the second one takes beyond that is the work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import workload as w
from benchmarks.measure import Meter
from benchmarks.model import Counts, export
from pipelines.sandbox.flink_cluster import FlinkCluster
from pipelines.storage.folder.query import connect
from pipelines.task.fields import format_time
from pipelines.task.file import load_task

UNITS = "units: [8]"


@contextmanager
def cluster(folder: Path) -> Iterator[list[str]]:
    """The options of a job for a running cluster."""
    with FlinkCluster(folder) as running:
        workers = ["--environment_type=EXTERNAL", f"--environment_config={running.pool}", "--parallelism=2"]
        yield ["--runner=FlinkRunner", f"--flink_master={running.master}", *workers]


def small(folder: Path) -> list[str]:
    """The options of the benchmark's task with a model that takes hardly any time."""
    task, model = folder / "task.yaml", folder / "model"
    task.write_text(w.TASK.read_text().replace(f"units: [{w.UNITS}, {w.UNITS}]", UNITS))
    export(load_task(task), Counts(), model, w.END)
    return ["--task", str(task), "--model", str(model), "--as-of", format_time(w.END)]


def score(events: int, out: Path, options: list[str]) -> float:
    """Seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", "score", *options, "--output", str(out)]
    subprocess.run([*command, "--input", *w.files("parquet", events)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


class Scores:
    """Of an output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def numbers(self) -> list[float]:
        """How many, and the sum of what they count and say."""
        found = connect(self.out).execute("SELECT count(*), sum(n_events), sum(churn::DOUBLE) FROM scores").fetchone()
        return [float(n) for n in found or ()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("where", choices=("here", "flink"))
    parser.add_argument("events", type=int)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        options = small(folder)
        meter = Meter()
        with cluster(folder / "flink") if args.where == "flink" else nullcontext(["--workers", "2"]) as more:
            few = score(w.NAIVE, folder / "few", [*options, *more])
            many = score(args.events, folder / "many", [*options, *more])
        meter.report(Scores(folder / "many"), start=few, work=many - few)


if __name__ == "__main__":
    main()
