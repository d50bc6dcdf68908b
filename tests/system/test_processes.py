"""Processes end with the one that started them, and what cannot be reached is told in a few words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest

from pipelines.system.processes import bound, end, free_port, listens, reason
from tests.support.processes import alive, wait_until_dead


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can bind a process to its parent")
def test_a_bound_process_dies_with_its_parent() -> None:
    code = """
from pipelines.system.processes import bound
print(bound(["sleep", "600"]).pid, flush=True)
input()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_until_dead(child)


def test_a_bound_process_is_the_program_itself() -> None:
    with bound(["sleep", "600"]) as process:
        end = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert os.getsid(process.pid) == process.pid
        process.kill()


def test_the_end_of_a_process_that_takes_no_hint() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with bound([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end(process, 0.2)
        assert process.returncode == -9


def test_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listens(f"localhost:{server.getsockname()[1]}") is None
    assert listens(f"127.0.0.1:{free_port()}") == "Connection refused"
    assert listens("localhost") == listens("localhost:http") == "it is not of the form HOST:PORT"
    assert listens("localhost:99999") is not None


def test_reasons_are_those_of_the_system() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    assert reason(refused) == reason(urllib.error.URLError(refused)) == "Connection refused"
    assert reason(ValueError("no")) == "no"
    assert reason(TimeoutError()) == "TimeoutError"
