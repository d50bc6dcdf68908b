"""The cluster on this machine: what is not there is told; it ends with the one that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.runners import flink
from pipelines.sandbox import flink_cluster as flinkcluster
from pipelines.sandbox.flink_cluster import FlinkCluster, Ports, main, stop
from pipelines.system.processes import listens
from tests.support.processes import wait_until_dead


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Flink seems to be."""
    jar = tmp_path / "flink" / "job-server" / "job-server.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    monkeypatch.setattr(flink, "folder", lambda: tmp_path / "flink")
    return tmp_path


def test_what_is_missing_names_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flink, "folder", lambda: tmp_path)
    with pytest.raises(UserError, match="run `make flink`"), FlinkCluster(tmp_path):
        pass
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="Flink needs Java 17"):
        flinkcluster.java()


def test_a_process_that_ends_is_told_with_its_last_words(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fetched / "java"
    java.write_text("#!/bin/sh\necho no room for $1 >&2\nexit 7\n")
    java.chmod(0o755)
    monkeypatch.setattr(flinkcluster, "java", lambda: str(java))
    with (
        pytest.raises(UserError, match=r"[\w-]+ ended with 7: no room for -Xmx\d+m \(.*/log/[\w-]+\)"),
        FlinkCluster(fetched / "a"),
    ):
        pass


@pytest.mark.parametrize("name", ["rest", "zookeeper"])
def test_a_port_that_is_taken(fetched: Path, name: str) -> None:
    ports = Ports.free()
    port = getattr(ports, name)
    with subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as other:
        while listens(f"127.0.0.1:{port}"):
            assert other.poll() is None
        with (
            pytest.raises(UserError, match=f"port {port} already"),
            FlinkCluster(fetched / "a", ports=ports, high_availability=name == "zookeeper"),
        ):
            pass
        other.kill()
    wait_until_dead(other.pid)


def test_nothing_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop(tmp_path / "none") == "no Flink runs"
    assert main(["stop", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no Flink runs\n"
