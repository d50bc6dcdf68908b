"""Settings shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.live_world import World
    from tests.support.services import Emulator
    from tests.support.warehouse import Warehouse

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The same cases every time, and no verdict on speed: the machine is shared.
settings.register_profile("foretide", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foretide")

SERVICES: pytest.StashKey[dict[str, object]] = pytest.StashKey()  # where they are
ENDING: pytest.StashKey[ExitStack] = pytest.StashKey()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what only a soak does, and puts first what takes long: no process waits at the end for another."""
    for item in items:
        mark = item.get_closest_marker("soak")
        if mark and mark.kwargs.get("only") and "FORETIDE_SOAK" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="only in make soak"))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of the process that hands out tests, before it starts one that runs them: all of these share the services."""
    from tests.support import services  # they are slow to import

    stash = node.config.stash
    if SERVICES not in stash:
        stash[ENDING] = ExitStack()
        stash[SERVICES] = services.started(stash[ENDING])
    node.workerinput["services"] = stash[SERVICES]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the services."""
    if ENDING in config.stash:
        config.stash[ENDING].close()


def shared(config: pytest.Config, name: str) -> Any:
    """Where a service is that all processes of a run share; None where this one is alone."""
    return getattr(config, "workerinput", {}).get("services", {}).get(name)


@pytest.fixture(scope="session")
def pubsub(pytestconfig: pytest.Config) -> Iterator[Emulator]:
    """A Pub/Sub emulator that many tests share: take topics of your own, and end another one if you must."""
    from tests.support import services

    place = shared(pytestconfig, "pubsub")
    with nullcontext(services.Emulator(**place)) if place else services.emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def prism(pytestconfig: pytest.Config) -> Iterator[str]:
    """The job endpoint of a Prism that many tests share."""
    from pipelines.runners.endings import connections_end
    from tests.support import services

    place = shared(pytestconfig, "prism")
    with connections_end(), nullcontext(place) if place else services.prism() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def lasting_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The BigQuery emulator of a process that runs tests. One for all processes would be slow: see `refresh`."""
    from tests.support.warehouse import Warehouse

    with Warehouse(tmp_path_factory.mktemp("bigquery")) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def warehouse(lasting_warehouse: Warehouse) -> Warehouse:
    """A BigQuery emulator that many tests share: take datasets of your own, and end another one if you must."""
    lasting_warehouse.refresh()
    return lasting_warehouse


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small stream of events, a task and a model for it, which many tests share."""
    from tests.support.live_world import make_world  # it needs TensorFlow

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _datasets_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """Datasets that a test made go with it; those of its module stay."""
    if "warehouse" not in request.fixturenames:
        yield
        return
    with request.getfixturevalue("warehouse").tidied():
        yield
