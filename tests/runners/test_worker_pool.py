"""The worker pool: a worker knows its job and where to log, and ends when it is told to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)

from pipelines.runners import worker_pool as workerpool
from pipelines.runners.worker_pool import Pool, environment
from pipelines.system.processes import bound
from tests.support.processes import alive, wait_until_dead


class Provision(beam_provision_api_pb2_grpc.ProvisionServiceServicer):
    """A TaskManager that says what a worker has to know."""

    def GetProvisionInfo(self, request: Any, context: Any) -> Any:
        answer = beam_provision_api_pb2.GetProvisionInfoResponse()
        worker = dict(context.invocation_metadata())["worker_id"]
        answer.info.pipeline_options.update({"beam:option:job_name:v1": f"of {worker}"})
        answer.info.runner_capabilities.append("beam:protocol:x")
        return answer


@pytest.fixture
def start() -> Iterator[Any]:
    """What a TaskManager sends for a worker."""
    server = grpc.server(ThreadPoolExecutor(2))
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(Provision(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield beam_fn_api_pb2.StartWorkerRequest(
        worker_id="1-1",
        control_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:1"),
        logging_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:2"),
        provision_endpoint=endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{port}"),
    )
    server.stop(0)


def test_a_worker_knows_its_job(start: Any) -> None:
    told = environment(start)
    assert json.loads(told.pop("PIPELINE_OPTIONS")) == {"beam:option:job_name:v1": "of 1-1"}
    assert told == {
        "WORKER_ID": "1-1",
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:1"\n',
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "localhost:2"\n',
        "RUNNER_CAPABILITIES": "beam:protocol:x",
    }


def test_workers_start_and_end(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids = []

    def sleeper(command: list[str], env: dict[str, str]) -> Any:
        assert command[-1] == "pipelines.runners.harness"
        assert env["WORKER_ID"] == "1-1"
        assert env["PATH"] == os.environ["PATH"]
        process = bound(["sleep", "600"])
        pids.append(process.pid)
        return process

    monkeypatch.setattr(workerpool, "bound", sleeper)
    pool = Pool()
    threading.Thread(target=pool.serve, daemon=True).start()
    assert pool.StartWorker(start, None).error == ""
    assert alive(pids[0])
    stop = beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1")
    assert pool.StopWorker(stop, None).error == ""
    wait_until_dead(pids[0])
    assert pool.StopWorker(stop, None).error == ""  # it has gone
    start.provision_endpoint.url = "127.0.0.1:1"
    assert "UNAVAILABLE" in pool.StartWorker(start, None).error
