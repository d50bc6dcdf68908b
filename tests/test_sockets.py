"""Whatever a command or a service listens on is reached from this machine alone."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import apache_beam
import psutil
import pytest

from pipelines.runners import loopback
from pipelines.runners.loopback import address
from pipelines.system.processes import Listener, listeners
from tests.support import small_shop
from tests.support.command_line import command
from tests.support.live_world import ENGINE, World
from tests.support.open_ports import ELSEWHERE, NO_NETWORK, strangers, watch
from tests.support.services import Emulator
from tests.support.warehouse import Warehouse

TOIL = [sys.executable, "-m", "tests.support.toiling_pipeline"]


def of(world: World, folder: Path) -> list[object]:
    files = ["--task", world.task, "--input", world.events, "--output", folder / "out"]
    return [*files, "--model", world.model, *ENGINE]


def test_what_listens_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        found = {each.port: each for each in listeners()}
        assert found[near.getsockname()[1]].loopback
        assert not found[far.getsockname()[1]].loopback
        assert strangers(set(found.values())) == [str(found[far.getsockname()[1]])]


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::", False),
        ("10.0.0.1", False),
        ("::2", False),
    ],
)
def test_what_is_loopback(host: str, near: bool) -> None:
    assert Listener(1, "x", host, 2).loopback == near


def test_addresses_that_beam_asks_for() -> None:
    assert address("[::]:0") == "127.0.0.1:0"
    assert address("0.0.0.0:17") == "127.0.0.1:17"
    assert address("localhost:5") == "localhost:5"


def test_each_place_where_beam_listens_is_known() -> None:
    """Of the Beam that is installed: a new one may listen elsewhere."""
    root, known = Path(apache_beam.__file__).parent, {Path(str(m.__file__)) for m in loopback.MODULES}
    services = {root / "runners/portability/expansion_service_main.py"}  # a program of its own, which nobody starts
    everywhere = re.compile(r"add_insecure_port|\[::\]|0\.0\.0\.0")
    sources = [path for path in root.rglob("*.py") if not path.name.endswith("_test.py")]
    found = {path for path in sources if "testing" not in path.parts and everywhere.search(path.read_text())}
    assert found - services == known


def test_scores_by_two_processes(world: World, tmp_path: Path) -> None:
    arguments = [*of(world, tmp_path), "--as-of", "2024-01-21", "--workers", 2]
    process = subprocess.Popen(command("score", *arguments), stdout=subprocess.DEVNULL)
    seen = watch(process)
    assert process.returncode == 0
    assert strangers(seen) == []
    assert len(seen) >= 4  # control, data, state, logging


@pytest.mark.soak(only=True)
def test_a_training_by_two_processes(tmp_path: Path) -> None:
    task, events = small_shop.write(tmp_path / "shop")
    arguments = ["--task", task, "--input", events, "--test-as-of", "2024-05-06", "--train-every", "7d"]
    arguments += ["--train-as-ofs", "4", "--models", tmp_path / "models", "--examples", tmp_path / "examples"]
    process = subprocess.Popen(command("train", *arguments, "--workers", 2), stdout=subprocess.DEVNULL)
    seen = watch(process)
    assert process.returncode == 0
    assert strangers(seen) == []
    assert len(seen) >= 4


def test_the_emulators(pubsub: Emulator, warehouse: Warehouse) -> None:
    here = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    listening = {cast(Any, c.laddr).port: c.pid for c in here}
    for port in (int(pubsub.address.rpartition(":")[2]), warehouse.ports[0]):
        seen = set(listeners(listening[port]))
        assert strangers(seen) == []
        assert len(seen) >= 2


def test_a_stranger_is_refused() -> None:
    """On a network of its own, where the machine has another address."""
    command = [sys.executable, "-m", "tests.support.open_ports", *TOIL, "0.3"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == NO_NETWORK:
        pytest.skip("the system gives a test no network of its own")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 4
    for name, answers in found.items():
        assert answers == {"127.0.0.1": True, ELSEWHERE: False}, name


def test_a_stranger_would_get_in_elsewhere() -> None:
    """What the test above would find of a server on every interface."""
    server = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); time.sleep(2)"
    run = [sys.executable, "-m", "tests.support.open_ports", sys.executable, "-c", server]
    done = subprocess.run(run, capture_output=True, text=True)
    if done.returncode == NO_NETWORK:
        pytest.skip("the system gives a test no network of its own")
    (answers,) = json.loads(done.stdout).values()
    assert answers == {"127.0.0.1": True, ELSEWHERE: True}
