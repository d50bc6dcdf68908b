"""Beam's own servers in this process, on 127.0.0.1 alone.

Beam's local runner and its LOOPBACK workers add their ports as `[::]:0`, on every interface and without credentials,
and have no option for it. Who reaches them reads any file that this process may read, or has any code run.
"""

from __future__ import annotations

from typing import Any

import grpc
from apache_beam.runners.portability import abstract_job_service, local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import worker_pool_main

MODULES = (
    abstract_job_service,
    local_job_service,
    worker_handlers,
    worker_pool_main,
)  # all that Beam runs in a process
EVERYWHERE = ("[::]:", "0.0.0.0:", ":::")


def keep_beam_on_loopback() -> None:
    """Makes Beam's servers in this process listen on loopback alone. May be called again, in any thread."""
    for module in MODULES:
        module.grpc = LOOPBACK


def address(asked: str) -> str:
    """The address to listen at instead of host:port."""
    for everywhere in EVERYWHERE:
        if asked.startswith(everywhere):
            return f"127.0.0.1:{asked.removeprefix(everywhere)}"
    return asked


class _Loopback:
    """The module grpc, but for servers that would listen everywhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(grpc, name)

    def server(self, *args: Any, **options: Any) -> Any:
        server = grpc.server(*args, **options)
        add = server.add_insecure_port
        server.add_insecure_port = lambda asked: add(address(asked))
        return server


LOOPBACK = _Loopback()
