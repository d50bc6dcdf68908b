"""Messages in flight: leased while the bundles they are in are open, then acknowledged, or given back when those are
lost. State of a process, safe among threads; it ends with the process, and the leases with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LONGEST = 600.0  # s: a bundle that is open for longer is not worth its leases
TICK = 3.0  # s between looks at the leases; the service's shortest is 10
CHUNK = 1_000  # ack ids in a request: one may have 512 KiB
ATTEMPTS = 4
PAUSES = (0.1, 0.5, 2.0)  # s between attempts

_LOGGER = logging.getLogger(__name__)


class ServiceRefused(Exception):
    """The service did not do what it was asked for."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final  # it makes no sense to ask again


class Service(Protocol):
    """What leases need from a subscription's service. Every call may raise Refused."""

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> None: ...

    def lease(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        """Leases messages from now on for so long; 0 gives them back at once."""


@dataclass(eq=False)
class Bundle:
    """The messages that were pulled for one bundle."""

    service: Service
    subscription: str
    puller: int
    position: int  # of the puller in its restriction
    deadline: int  # s of a lease
    number: int = 0  # among the bundles that the puller has begun in this process
    ids: list[str] = field(default_factory=list)
    opened: float = 0.0  # s
    leased: float = 0.0  # s
    lost: bool = False


class Leases:
    """The open bundles of a process."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._open: dict[int, Bundle] = {}  # by id()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._open)

    def open(self, bundle: Bundle) -> None:
        """Keeps a bundle's messages leased from now on. More may be put into it."""
        with self._lock:
            bundle.opened = bundle.leased = self._clock()
            self._open[id(bundle)] = bundle
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep, name="pubsub-leases", daemon=True)
                self._thread.start()

    def settle(self, bundle: Bundle) -> int:
        """Acknowledges the messages of a bundle that the runner has kept. Returns the requests that failed for good."""
        with self._lock:
            self._open.pop(id(bundle), None)
            ids = [] if bundle.lost else bundle.ids
        return sum(not self._acknowledge(bundle, ids[i : i + CHUNK]) for i in range(0, len(ids), CHUNK))

    def lose(self, subscription: str, puller: int, position: int) -> int:
        """Gives back what this puller has in bundles from `position` on, where the runner goes on. Returns how
        many messages."""
        with self._lock:
            lost = [
                b
                for b in self._open.values()
                if (b.subscription, b.puller) == (subscription, puller) and b.position >= position
            ]
            for bundle in lost:
                bundle.lost = True
                del self._open[id(bundle)]
        for bundle in lost:
            self._lease(bundle, 0)
        return sum(len(bundle.ids) for bundle in lost)

    def extend(self) -> bool:
        """Extends the leases of which a third is over. Returns whether any bundle is open."""
        now = self._clock()
        with self._lock:
            for bundle in [b for b in self._open.values() if now > b.opened + LONGEST]:
                del self._open[id(bundle)]
                _LOGGER.warning(
                    "%s: gave up the leases of %d messages, whose bundle has been open for %d minutes",
                    *(bundle.subscription, len(bundle.ids), LONGEST // 60),
                )
            if not self._open:
                self._thread = None
                return False
            due = [b for b in self._open.values() if now >= b.leased + b.deadline / 3]
        for bundle in due:
            bundle.leased = now
            self._lease(bundle, bundle.deadline)
        return True

    def _keep(self) -> None:
        while self.extend():
            self._sleep(TICK)

    def _lease(self, bundle: Bundle, seconds: int) -> None:
        ids = list(bundle.ids)
        for i in range(0, len(ids), CHUNK):
            try:
                bundle.service.lease(bundle.subscription, ids[i : i + CHUNK], seconds)
            except ServiceRefused as error:
                _LOGGER.warning("%s: leases of messages could not be changed: %s", bundle.subscription, error)

    def _acknowledge(self, bundle: Bundle, ids: Sequence[str]) -> bool:
        for attempt in range(ATTEMPTS):
            try:
                bundle.service.acknowledge(bundle.subscription, ids)
                return True
            except ServiceRefused as error:
                if error.final or attempt == ATTEMPTS - 1:
                    _LOGGER.warning("%s: %d messages are not acknowledged: %s", bundle.subscription, len(ids), error)
                    return False
            self._sleep(PAUSES[attempt])
        return False
