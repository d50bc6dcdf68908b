"""Prism as a process: where it is found, and that it ends with the one that started it."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path

import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipelines.errors import UserError
from pipelines.runners import prism
from pipelines.runners.execution import Execution
from pipelines.runners.portable import run_stream
from pipelines.runners.prism import Prism, locate
from pipelines.system.processes import listeners
from tests.support.services import binary


def test_it_serves_jobs_and_ends_with_the_block() -> None:
    with Prism(binary("prism")) as running, grpc.insecure_channel(running.endpoint) as channel:
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel).GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=30)
        assert not jobs.job_info
        assert running.ended() is None
    assert running.ended() == "Prism was killed (SIGTERM)"


def test_two_of_them_do_not_meet(tmp_path: Path) -> None:
    with Prism(binary("prism"), tmp_path / "log") as a, Prism(binary("prism")) as b:
        assert a.endpoint != b.endpoint
    assert a.endpoint in (tmp_path / "log").read_text()


def test_a_program_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no program .*/gone"), Prism(tmp_path / "gone"):
        pass
    with pytest.raises(UserError, match="/bin/false: Prism ended with 1"), Prism(Path("/bin/false")):
        pass


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(PipelineOptions([])) == binary("prism")
    given = tmp_path / "mine"
    given.symlink_to("/bin/true")
    assert locate(PipelineOptions([f"--prism_location={given}"])) == given
    on_path = tmp_path / "prism"
    on_path.symlink_to("/bin/true")
    monkeypatch.setattr(prism, "beside", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locate(PipelineOptions([])) == on_path


def test_none_anywhere_names_both_ways_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prism, "beside", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"make services.*go install .*prism@v\d.*--prism_location"):
        locate(PipelineOptions([f"--prism_location={tmp_path}/gone"]))


def open_to_all(folder: Path) -> Path:
    """A program that comes up as Beam's own Prism does, and listens where that one does."""
    program = folder / "exposed"
    program.write_text(f"""#!{sys.executable}
import json, socket, time
server = socket.create_server(("0.0.0.0", 0))
print(json.dumps({{"msg": "Serving JobManagement", "endpoint": f"localhost:{{server.getsockname()[1]}}"}}), flush=True)
time.sleep(600)
""")
    program.chmod(0o755)
    return program


def test_it_listens_on_this_machine_alone() -> None:
    with Prism(binary("prism")) as running:
        assert running.warning is None
        assert running._process is not None
        found = listeners(running._process.pid)
    assert len(found) == 1
    assert found[0].loopback


def test_one_that_others_reach_is_refused_unless_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = open_to_all(tmp_path)
    told = rf"{program} listens on 0\.0\.0\.0: other machines .* `make services`, or name .*--prism_location={program}"
    with pytest.raises(UserError, match=told), Prism(program):
        pass
    with Prism(program, exposed=True) as running:
        assert running.warning == f"{program} listens on 0.0.0.0: other machines can have this one run any command"
    monkeypatch.setattr(prism, "beside", lambda: program)
    with pytest.raises(UserError, match="make services"):
        run_stream(Execution(1, None, (), False), lambda p: None, tmp_path / "stop")
    text, named = io.StringIO(), Execution(1, None, (f"--prism_location={program}",), False)

    def refuse(p: object) -> None:
        raise UserError("far enough")

    with pytest.raises(UserError, match="far enough"):
        run_stream(named, refuse, tmp_path / "stop", to=text)
    assert text.getvalue().startswith(f"warning     {program} listens on 0.0.0.0")


def test_a_source_that_has_changed_is_not_built() -> None:
    build = runpy.run_path(str(Path(__file__).parents[2] / "emulators" / "prism" / "build.py"))
    changed = build["changed"]
    assert changed("a b", "b", "c") == "a c"
    for source in ("a", "a b b"):
        with pytest.raises(SystemExit, match="Prism of this version has changed: look where 'b' has gone"):
            changed(source, "b", "c")
    assert [file for file, old, new in build["CHANGES"] if "127.0.0.1" in new] == [build["SERVER"]]
