"""Real services for tests, each a process of its own on loopback: a Pub/Sub emulator and Prism.

They lie next to the interpreter, where `make services` puts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.runners.prism import Prism
from pipelines.sandbox.pubsub_emulator import Counts, Emulator, binary, emulator
from pipelines.system.processes import free_port

__all__ = ["Counts", "Emulator", "binary", "emulator", "free_port", "prism"]


@contextmanager
def prism() -> Iterator[str]:
    """A running Prism on a free port: its job endpoint."""
    with Prism(binary("prism")) as service:
        yield service.endpoint
