"""Beam's job server as it is built: its servers listen where they are told, and who builds it hears of another Beam."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.runners import flink
from tests.support.docker_images import ROOT


def module(name: str) -> ModuleType:
    """One of emulators/flink, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "emulators" / "flink" / f"{name}.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


listening = module("listening")


def test_one_line_changes() -> None:
    before = "a\nNettyServerBuilder.forPort(socket.getPort())\nb"
    assert listening.changed(before) == "a\nNettyServerBuilder.forAddress(socket)\nb"


@pytest.mark.parametrize("times", [0, 2])
def test_another_beam_ends_the_build(times: int) -> None:
    with pytest.raises(SystemExit, match="look on which interfaces its servers listen now"):
        listening.changed("NettyServerBuilder.forPort(socket.getPort())\n" * times)


def test_no_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "beam-sdks-java-core-1-sources.jar").touch()
    with pytest.raises(SystemExit, match="needs the javac of a JDK"):
        listening.listen_where_told(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_class_is_replaced_with_all_that_is_in_it(tmp_path: Path) -> None:
    name = listening.CLASS
    contents = []
    for lib in (tmp_path / "a", tmp_path / "b"):
        lib.mkdir()
        jar = lib / "beam-sdks-java-core-1.jar"
        with zipfile.ZipFile(jar, "w") as old:
            old.writestr("META-INF/", b"")
            old.writestr("META-INF/", b"")
            for entry in (f"{name}.class", f"{name}$1.class", f"{name}$Inner.class", f"{name}s.class"):
                old.writestr(entry, b"old")
        for inner in ("", "$Inner"):
            path = lib / "out" / f"{name}{inner}.class"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"new")
        listening.replace(jar, lib / "out")
        contents.append(jar.read_bytes())
        with zipfile.ZipFile(jar) as new:
            assert {entry: new.read(entry) for entry in new.namelist()} == {
                "META-INF/": b"",
                f"{name}s.class": b"old",
                f"{name}.class": b"new",
                f"{name}$Inner.class": b"new",
            }
            assert len(new.namelist()) == 4
    assert contents[0] == contents[1]


def test_no_server_in_the_jars_of_beam_throws_its_host_away() -> None:
    """Beam's own classes, without those of gRPC that they bring."""
    jars = sorted((flink.folder() / "job-server" / "lib").glob("beam-[rs]*.jar"))
    assert len(jars) > 5
    for jar in jars:
        with zipfile.ZipFile(jar) as found:
            names = [name for name in found.namelist() if name.endswith(".class") and "/vendor/" not in name]
            asking = [
                name for name in names if b"NettyServerBuilder" in (code := found.read(name)) and b"forPort" in code
            ]
        assert asking == [], f"{jar.name}: run `make flink`, which builds it anew"
