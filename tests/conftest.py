"""Settings shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.services import Emulator
    from tests.warehouse import Warehouse

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The same cases every time, and no verdict on speed: the machine is shared.
settings.register_profile("foretide", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foretide")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what only a soak does."""
    for item in items:
        mark = item.get_closest_marker("soak")
        if mark and mark.kwargs.get("only") and "FORETIDE_SOAK" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="only in make soak"))


@pytest.fixture(scope="session")
def pubsub() -> Iterator[Emulator]:
    """A Pub/Sub emulator that many tests share: take topics of your own, and end another one if you must."""
    from tests import services  # they are slow to import

    with services.emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def prism() -> Iterator[str]:
    """The job endpoint of a Prism that many tests share."""
    from pipelines.runners.endings import connections_end
    from tests import services

    with connections_end(), services.prism() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A BigQuery emulator that many tests share: take datasets of your own, and end another one if you must."""
    from tests.warehouse import Warehouse

    with Warehouse(tmp_path_factory.mktemp("bigquery")) as emulator:
        yield emulator
