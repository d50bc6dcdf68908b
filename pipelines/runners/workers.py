"""The local runner with worker processes that are watched: a run ends with the first of them that ends too soon.

Beam's own handler waits for ever for one that died before it had connected, leaves them behind when this process is
killed, and serves every file of the machine to whoever asks its port for an artifact. Here they end with this process,
whatever ends it, and no artifact is served.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from apache_beam.portability.api import beam_fn_api_pb2, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms.environments import Environment
from google.protobuf import text_format

from pipelines.runners.loopback import keep_beam_on_loopback
from pipelines.system.processes import bound

URN = "foretide:env:watched_process:v1"
COMMAND = (sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main")
ENDING = 30.0  # s that a worker has to end when all is done
SAID = 1 << 14  # bytes of what it said that are looked at


class Workers:
    """The worker processes of one run."""

    def __init__(self, debug: bool) -> None:
        self.debug = debug
        self.failure: str | None = None  # how the first one ended that ended too soon
        self._handlers: list[_Worker] = []
        self._lock = threading.Lock()

    def add(self, worker: _Worker) -> int:
        """Adds a worker, and returns its number, from 1."""
        with self._lock:
            self._handlers.append(worker)
            return len(self._handlers)

    def fail(self, failure: str) -> None:
        """Ends all of them, and whatever waits for one."""
        with self._lock:
            self.failure, workers = self.failure or failure, list(self._handlers)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.control.fail(self.failure)

    def kill(self) -> None:
        with self._lock:
            workers = list(self._handlers)
        for worker in workers:
            worker.kill()

    def failed(self, within: float) -> str | None:
        """How the first one ended that ended too soon; a broken connection may tell it before its process has ended."""
        end = time.monotonic() + within
        while self.failure is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.failure


RUNS: dict[str, Workers] = {}  # under way in this process, by what their environment says


@contextmanager
def watched(debug: bool) -> Iterator[tuple[FnApiRunner, Workers]]:
    """A runner whose workers are processes of this one; none is left after the block.

    Args:
      debug: they write to standard error. Otherwise only their last words are told, of one that ends too soon.
    """
    keep_beam_on_loopback()
    name, workers, info = uuid.uuid4().hex, Workers(debug), ExtendedProvisionInfo()
    info.provision_info = None  # so that no artifact is served
    RUNS[name] = workers
    try:
        yield FnApiRunner(WatchedProcess(name), provision_info=info), workers
    finally:
        workers.kill()
        del RUNS[name]


@Environment.register_urn(URN, bytes)
class WatchedProcess(Environment):
    """Worker processes of a run that is under way here."""

    def __init__(self, run: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.run = run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatchedProcess) and self.run == other.run and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.run))

    def to_runner_api_parameter(self, context: object) -> tuple[str, bytes]:
        return URN, self.run.encode()

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Any, artifacts: Any, resource_hints: Any, context: object
    ) -> WatchedProcess:
        return WatchedProcess(
            payload.decode(), capabilities=capabilities, artifacts=artifacts, resource_hints=resource_hints
        )


class _Control:
    """What the runner asks a worker. Of one that has ended every answer is how it ended."""

    def __init__(self, connection: Any, data: Any) -> None:
        self._connection, self._data = connection, data
        self._waiting: dict[str, Any] = {}
        self._failure: str | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return any(not future.is_done() for future in list(self._waiting.values()))

    def push(self, request: Any) -> Any:
        future = self._connection.push(request)
        with self._lock:
            self._waiting = {name: f for name, f in self._waiting.items() if not f.is_done()}
            self._waiting[request.instruction_id] = future
            failure = self._failure
        if failure is not None:
            self._answer(failure)
        return future

    def fail(self, failure: str) -> None:
        with self._lock:
            first, self._failure = self._failure is None, failure
        self._answer(failure)
        if first:  # who writes data to a worker that takes none would wait for ever
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def close(self) -> None:
        self._connection.close()

    def abort(self, error: Exception) -> None:
        self.fail(str(error))

    def _answer(self, failure: str) -> None:
        with self._lock:
            waiting = {name: future for name, future in self._waiting.items() if not future.is_done()}
        for name, future in waiting.items():
            future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=failure))

    def _drain(self) -> None:
        deque(self._data._write_outputs(), maxlen=0)


@WorkerHandler.register_environment(URN, bytes)
class _Worker(GrpcWorkerHandler):
    """One worker process. Linux ends it with the thread that started it, which is the one that runs the pipeline."""

    def __init__(self, run: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._workers = RUNS[run.decode()]
        connection = grpc_server.control_handler.get_conn_by_worker_id(self.worker_id)
        self.control = self.control_conn = _Control(connection, self.data_conn)
        self.number = self._workers.add(self)
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._closing = False

    def host_from_worker(self) -> str:
        return "127.0.0.1"

    def start_worker(self) -> None:
        environment = {
            **os.environ,
            "PYTHONFAULTHANDLER": "1",
            "WORKER_ID": self.worker_id,
            "PIPELINE_OPTIONS": "{}",
            "CONTROL_API_SERVICE_DESCRIPTOR": _text(self.control_api_service_descriptor()),
        }
        if self._workers.debug:
            environment["LOGGING_API_SERVICE_DESCRIPTOR"] = _text(self.logging_api_service_descriptor())
        else:
            self._said = tempfile.TemporaryFile(prefix="worker-")  # noqa: SIM115
        self._process = bound(COMMAND, env=environment, stderr=self._said)
        threading.Thread(target=self._watch, args=(self._process,), name="watch_worker", daemon=True).start()
        if (failure := self._workers.failure) is not None:  # another one has ended while this one began
            self.kill()
            self.control.fail(failure)

    def close(self) -> None:
        """Waits for one that has done all, and ends one that has not."""
        self._closing = True
        if self.control.busy:
            self.kill()
            self.control.fail("the run has ended")
        try:
            super().close()
        finally:
            self.stop_worker()

    def stop_worker(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(ENDING)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._said is not None:
            self._said.close()

    def kill(self) -> None:
        self._closing = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._closing:
            self._workers.fail(f"worker process {self.number} {ending(code)}{last_words(self._said)}")


def ending(code: int) -> str:
    """How a process ended, by its exit code as subprocess gives it."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), by somebody or by the system for want of memory"
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended too soon, with exit code {code}"


def last_words(file: IO[bytes] | None) -> str:
    """The last error in what a process said, after a colon; empty where it told none."""
    if file is None or file.closed:
        return ""
    size = os.fstat(file.fileno()).st_size
    text = os.pread(file.fileno(), SAID, max(0, size - SAID)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if not line.startswith(" ")]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return f": {errors[-1][:300]}" if errors else ""


def _text(descriptor: endpoints_pb2.ApiServiceDescriptor) -> str:
    return str(text_format.MessageToString(descriptor))
