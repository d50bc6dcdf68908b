"""The services that tests talk to, each a process of its own on loopback: started once a run, for all its processes.

They lie next to the interpreter, where `make services` puts them. A test that ends one starts its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipelines.errors import UserError
from pipelines.runners.prism import Prism
from pipelines.sandbox.pubsub_emulator import Emulator, TopicCounts, binary, emulator
from pipelines.system.processes import free_port

__all__ = ["Emulator", "TopicCounts", "binary", "emulator", "free_port", "prism", "started"]


@contextmanager
def prism() -> Iterator[str]:
    """A running Prism on a free port: its job endpoint."""
    with Prism(binary("prism")) as service:
        yield service.endpoint


def started(until: ExitStack) -> dict[str, object]:
    """Starts all services, which end with `until` or with this process, whatever ends it; where they are, as texts
    and numbers. Empty where a program is missing: what needs it then says so."""
    try:
        pubsub = until.enter_context(emulator())
        place = {"address": pubsub.address, "_counts": pubsub._counts}
        return {"pubsub": place, "prism": until.enter_context(prism())}
    except UserError:
        return {}
