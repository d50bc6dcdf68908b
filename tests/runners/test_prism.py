"""Prism as a process: where it is found, and that it ends with the one that started it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipelines.errors import UserError
from pipelines.runners import prism
from pipelines.runners.prism import Prism, locate
from tests.services import binary


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
