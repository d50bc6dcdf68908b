"""How a job ends: the cause of its failure, and Beam's threads that would otherwise report the end of their runner."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

NAMED = re.compile(r"[\w.]*(Error|Exception): ")  # a line that says what kind of error it is
ENDING = 1.0  # s that threads have to end; some of them never do
READERS = (
    "run_worker_",
    "read_state",
    "read_grpc_client_inputs",
    "wait_until_finish_read",
    "beam_control_read",
)  # names of Beam's threads


@contextmanager
def connections_end() -> Iterator[None]:
    """Lets threads of Beam that read from a runner end with it; each would report that its connection is gone."""
    before, report = set(threading.enumerate()), threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, grpc.RpcError):
            report(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        end = time.monotonic() + ENDING
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(READERS):
                thread.join(max(0.0, end - time.monotonic()))
        threading.excepthook = report


def cause(error: BaseException) -> str:
    """The last line of the innermost error, without a full stop: runners wrap it in the trace of the worker."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(" ")]
    picked = next(
        (line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1] if lines else ""
    )
    return (picked if NAMED.match(picked) else f"{type(error).__name__}: {picked}")[:500].rstrip(".")
