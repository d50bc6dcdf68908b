"""A process for tests of the output folder: forks children that publish, and that die at a chosen step or are killed.

Reads lines: `once N` publishes in a child that kills itself before its Nth file operation (0: never) and prints how the
child ended; `loop` starts a child that publishes without end and prints its process id; `wait PID` waits for its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.folder.runs import LEDGER, begin, publish
from pipelines.storage.rows import DEAD_LETTERS, Run, ledger_table, score_schema

RUN = "churn-1"
SCORES, LETTERS = "scores/part-00000.parquet", "dead_letters/part-00000.parquet"
PARTS = (SCORES, LETTERS)
VALUES = 5


def write_values(
    folder: Path, value: int, rows: int = 3, run: str = RUN, status: Status = "published", finished_at: int = 1
) -> None:
    """A generation's files, in which everything says `value`."""
    for name in ("scores", "dead_letters"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entities = [f"e{i}" for i in range(rows)]
    score = {"score_id": entities, "task": ["churn"] * rows, "entity_id": entities, "as_of": [0] * rows}
    score |= {"revision": [0] * rows, "churn": [float(value)] * rows, "model_version": ["m"] * rows}
    score |= {"n_events": [value] * rows, "last_event_time": [value] * rows, "run_id": [run] * rows}
    pq.write_table(pa.table(score, schema=score_schema(["churn"])), folder / SCORES)
    letter = ["read", "f", "row 1", "bad", value, "", None, None, run]
    pq.write_table(pa.table([[v] * rows for v in letter], schema=DEAD_LETTERS), folder / LETTERS)
    facts = Run(run, "a", "churn", ("churn",), (), 0, "m")
    ledger = Ledger(read=value, accepted=value)
    pq.write_table(ledger_table(facts, ledger, status, finished_at), folder / LEDGER)


def publish_copy(out: Path, template: Path) -> None:
    with begin(out, RUN, f"{time.time_ns()}-{os.getpid()}") as run:
        shutil.copytree(template, run.data, dirs_exist_ok=True)
        publish(run, "published", PARTS)


def die_before(step: int, where: str = "") -> None:
    """Kills this process when the interpreter announces its `step`th file operation, of those that name `where`."""
    steps = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        counts = event.startswith(("os.", "open", "shutil.", "fcntl.")) and any(where in str(a) for a in arguments)
        if counts and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def fork(out: Path, templates: Path, step: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    for i in count(time.time_ns()):
        if step:
            die_before(step)
        publish_copy(out, templates / str(i % VALUES))
        if step is not None:
            os._exit(0)
        time.sleep(0.03)
    raise AssertionError("unreachable")


def main(out: Path, templates: Path) -> None:
    for words in map(str.split, sys.stdin):
        if words[0] == "loop":
            print(fork(out, templates, None), flush=True)
        else:
            pid = int(words[1]) if words[0] == "wait" else fork(out, templates, int(words[1]))
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
