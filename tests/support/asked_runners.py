"""Runners as a command line asks for them."""

from __future__ import annotations

from pipelines.runners.base import Runner
from pipelines.runners.execution import Execution
from pipelines.runners.kinds import resolve


def asked(*args: str, live: bool = False, accelerator: str | None = None, ram: str | None = None) -> Runner:
    """The runner of a job with these options of Beam, and our own flags for its workers."""
    return resolve(Execution(1, None, args, False, accelerator, ram), live)
