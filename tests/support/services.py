"""The services that tests talk to, each a process of its own on loopback: started once a run, for all its processes.

They lie next to the interpreter, where `make services` puts them. A test that ends one starts its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.errors import UserError
from pipelines.runners.prism import Prism
from pipelines.sandbox.pubsub_emulator import Emulator, TopicCounts, binary, emulator
from pipelines.system.processes import free_port
from tests.support.warehouse import OwnWarehouse

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
        folder = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="foretide-tests-")))
        pubsub = until.enter_context(emulator())
        warehouse = OwnWarehouse(folder)
        warehouse.start(wait=False)
        until.callback(warehouse.kill)
        places = {"pubsub": {"address": pubsub.address, "_counts": pubsub._counts}, "warehouse": warehouse.ports}
        return {**places, "prism": until.enter_context(prism())}
    except UserError:
        return {}
