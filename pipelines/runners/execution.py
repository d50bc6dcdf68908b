"""Where a job runs, as its command line says it. Nothing here loads Beam: a wrong flag is told before that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import UserError

WORKERS = 1_024  # processes of this machine, at most: each has the engine and the model in memory
SHARDS = 65_536  # at most: each block of events is divided into as many, and each is a key of the shuffle or the state

# How Dataflow names an accelerator, and memory.
OPTION = r"(;[A-Za-z0-9_-]+(:[A-Za-z0-9._-]+)?)*"
ACCELERATOR = re.compile(rf"type:[a-z0-9-]+;count:[1-9][0-9]*{OPTION};install-nvidia-driver(:[a-z0-9]+)?{OPTION}")
RAM = re.compile(r"[0-9]+(\.[0-9]+)?([KMGT]i?)?B")


@dataclass(frozen=True)
class Execution:
    """Where the pipeline runs. Which runner that is, and what it can do, `kinds.resolve` tells."""

    workers: int  # processes on this machine
    shards: int | None  # by the size of the input where None
    beam_args: tuple[str, ...]  # for Beam as they are, such as --runner=FlinkRunner
    debug: bool
    accelerator: str | None = None  # of workers on Dataflow, as it names them
    inference_ram: str | None = None  # of its workers for inference, such as 16GB

    def check(self) -> None:
        """
        Raises:
          UserError: more workers or shards than anybody means.
        """
        at_most("--workers", self.workers, WORKERS, "each is a process with the engine and the model in memory")
        at_most("--shards", self.shards or 1, SHARDS, "every block of events is divided into as many")


@dataclass(frozen=True)
class Job:
    """What a command asks for that a runner may not be able to do, by the flags that say it."""

    model: str = ""
    output: str | None = None  # where it is a folder of this machine
    inputs: Sequence[str] = ()  # of this machine
    archive: str | None = None
    device: str = "auto"


def at_most(flag: str, value: int, most: int, why: str) -> None:
    """
    Raises:
      UserError: a number that nobody means, and that would take all memory before it failed.
    """
    if value > most:
        raise UserError(f"{flag} {value}: at most {most:,}, for {why}")
