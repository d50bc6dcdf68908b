"""What is set or kept for a whole process: all of it is listed here, with the reason why it is no object's own."""

from __future__ import annotations

import re
from pathlib import Path

import pipelines

ROOT = Path(pipelines.__path__[0])
SET = re.compile(
    r"os\.environ(\[.*\] =|\.(setdefault|update|pop)\()|threading\.excepthook = |signal\.signal\(|faulthandler\.enable"
    r"|os\.(umask|dup2)\(|sys\.std\w+(, sys\.std\w+)? = |redirect_std\w+\(|basicConfig\(|\.setLevel\(|\.addFilter\("
    r"|FileSystems\.set_options\(|\.grpc = |atexit\.register\("
)
KEPT = re.compile(
    r"^\w+(: [^=]+)? = (\{\}|\[\]|set\(\)|(threading\.)?Lock\(\)|(Pullers|Clock|_Interrupts)\(\))", re.MULTILINE
)

SETTINGS = {
    "api.py": "a function of Python prints nothing unless asked; put back after it",
    "cli.py": "a command sets up its own process: what TensorFlow and logging say, and where a crash is told",
    "commands/stream.py": "a job that nobody watches logs what happened to it",
    "flex.py": "Beam keeps the credentials of its file systems for the process",
    "jobs/checks/facts.py": "the same, for those of a launch",
    "models/engines/loading.py": "C++ writes to descriptor 2; put back after the block",
    "models/remote.py": "copies of models go with the process",
    "models/training.py": "TensorFlow has one logger",
    "runners/endings.py": "threads of Beam have no other handler; put back after the block",
    "runners/harness.py": "Beam's worker has one logger; its process is our own",
    "runners/loopback.py": "Beam's servers take their ports by a module's function",
    "runners/portable.py": "workers in this process print what they raise; put back after the block",
    "sandbox/flink_cluster.py": "a program of its own",
    "system/files.py": "the mask of new files, which DuckDB makes, is one of the process; put back after the block",
    "system/interrupts.py": "signals come to a process",
    "system/screen.py": "whoever prints, no control character reaches a terminal; put back after the block",
}
STATE = {
    "events/messages.py": "DoFns of a process, which decode, pause the one that pulls there",
    "models/preprocessing.py": "the pipeline of an analysis, in this process, carries a key and not the rows",
    "models/serving.py": "one model is loaded at a time, whichever DoFn asks",
    "runners/workers.py": "Beam makes a worker by a registered name, not by an object",
    "system/clock.py": "time that never goes back, for all threads of the process",
    "system/interrupts.py": "signals come to a process",
    "system/versioned.py": "coders of a kind are registered once, by the tag that bytes carry",
    "system/progress.py": "threads of a process write one file of progress",
    "transforms/infer.py": "one engine starts at a time",
    "transforms/read_messages.py": "after a restart a bundle starts at a position that its process did not end at",
}


def found(pattern: re.Pattern[str]) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in ROOT.rglob("*.py") if pattern.search(file.read_text())}


def test_what_is_set_for_a_process_is_listed() -> None:
    assert found(SET) == set(SETTINGS)


def test_what_is_kept_for_a_process_is_listed() -> None:
    assert found(KEPT) == set(STATE)
