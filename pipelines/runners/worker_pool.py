"""A pool of Beam's worker processes, beside a TaskManager: what --environment_type=EXTERNAL asks for its workers.

    python -m pipelines.runners.worker_pool 50000

It listens on loopback only: who reaches it can have any code run. A worker has the options of its job and logs to the
TaskManager, as one in a container does, but for the options themselves, and ends with the pool. Beam's own pool listens
on all interfaces, and gives its workers neither.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)
from google.protobuf import json_format, text_format

from pipelines.errors import Exit, UserError
from pipelines.system.processes import bound, end

ENDING = 5.0  # s that a worker has to end by itself
ANSWER = 30.0  # s that a TaskManager has to say what it wants


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Takes requests in any thread. The one that serves starts all processes, which end with the thread."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[Any, Future[str]]] = SimpleQueue()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def StartWorker(self, request: Any, context: object) -> Any:
        return beam_fn_api_pb2.StartWorkerResponse(error=self._ask(request))

    def StopWorker(self, request: Any, context: object) -> Any:
        return beam_fn_api_pb2.StopWorkerResponse(error=self._ask(request))

    def serve(self) -> None:
        """Serves until the process ends."""
        while True:
            request, answer = self._requests.get()
            try:
                self._take(request)
                answer.set_result("")
            except Exception as error:  # the TaskManager is told, and may ask again
                answer.set_result(f"{type(error).__name__}: {error}")

    def _ask(self, request: Any) -> str:
        """The error, if any."""
        answer: Future[str] = Future()
        self._requests.put((request, answer))
        return answer.result()

    def _take(self, request: Any) -> None:
        self._workers = {name: worker for name, worker in self._workers.items() if worker.poll() is None}
        if isinstance(request, beam_fn_api_pb2.StartWorkerRequest):
            command = [sys.executable, "-m", "pipelines.runners.harness"]
            self._workers[request.worker_id] = bound(command, env={**os.environ, **environment(request)})
        elif request.worker_id in self._workers:
            end(self._workers.pop(request.worker_id), ENDING)


def environment(request: Any) -> dict[str, str]:
    """What a worker has to know of the TaskManager that asks for it, and of the job."""
    with grpc.insecure_channel(request.provision_endpoint.url) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        asked = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(asked, timeout=ANSWER, metadata=[("worker_id", request.worker_id)]).info
    return {
        "WORKER_ID": request.worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options, indent=None),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(request.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(request.logging_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def main(port: int) -> None:
    """Serves on a port of this machine.

    Raises:
      UserError: the port is taken.
    """
    pool, server = Pool(), grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise UserError(f"cannot listen on port {port}: {error}", Exit.FAILED) from error
    server.start()
    pool.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
