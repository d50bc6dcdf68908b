"""Files of a live job for tests; and, as a process, one that forks children which merge them and die.

Reads lines: `once N` merges in a child that kills itself before its Nth file operation (0: never) and prints how the
child ended; `loop` starts a child that merges without end and prints its process id; `wait PID` waits for its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.compaction import compact
from pipelines.storage.folder.live import append
from pipelines.storage.rows import DEAD_LETTERS, Run, live_ledger_table, live_schema, score_schema
from tests.support.publishing_process import die_before

RUN = "churn-live"
FAN = 3
HOUR = 3_600_000_000

Row = tuple[str, int, int, float]  # entity, as-of in hours, revision, score


def append_scores(out: Path, rows: Sequence[Row], at: int, run_id: str = RUN, task: str = "churn") -> Path:
    same = {"task": task, "model_version": "m", "n_events": 1, "last_event_time": 0, "run_id": run_id, "scored_at": at}
    columns = [
        {"score_id": f"{task} {e} {t}", "entity_id": e, "as_of": t * HOUR, "revision": revision, "churn": score, **same}
        for e, t, revision, score in rows
    ]
    table = pa.Table.from_pylist(columns, schema=live_schema(score_schema(["churn"])))
    return append(out, run_id, "scores", table, at)


def append_letters(out: Path, positions: Sequence[str], at: int, run_id: str = RUN) -> Path:
    same = {"stage": "read", "source": "s", "reason": "bad", "rows": 1, "raw": "\\xff", "payload": b"\xff"}
    same |= {"attributes": '{"k": "v"}', "run_id": run_id, "written_at": at}
    table = pa.Table.from_pylist([{"position": p, **same} for p in positions], schema=live_schema(DEAD_LETTERS))
    return append(out, run_id, "dead_letters", table, at)


def append_ledger(out: Path, ledger: Ledger, at: int, run_id: str = RUN, attempt: str = "a") -> Path:
    """All that an attempt has counted so far."""
    run = Run(run_id, attempt, "churn", ("churn",), ("projects/p/subscriptions/s",), 5)
    return append(out, run_id, "ledger", live_ledger_table(run, ledger, at), at)


class Compactors:
    """The forking process, which has no threads."""

    def __init__(self, out: Path, grace: float) -> None:
        command = [sys.executable, "-m", "tests.support.live_job_files", str(out), str(grace)]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def fork(out: Path, grace: float, step: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    if step is None:
        while True:
            compact(out, RUN, grace, FAN)
    if step:
        die_before(step, str(out))
    compact(out, RUN, grace, FAN)
    os._exit(0)


def main(out: Path, grace: float) -> None:
    for words in map(str.split, sys.stdin):
        if words[0] == "loop":
            print(fork(out, grace, None), flush=True)
        else:
            pid = int(words[1]) if words[0] == "wait" else fork(out, grace, int(words[1]))
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
