"""A BigQuery for tests: an emulator as a process of its own, which can be killed and comes back with its data.

The program lies next to the interpreter, where `make services` puts it. While a `Warehouse` is open, the clients of
`pipelines.google.bigquery` talk to it, in this process and in those that it starts.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.google import bigquery as client
from pipelines.google.tables import Table
from pipelines.sandbox.pubsub_emulator import binary
from pipelines.system.processes import bound, free_port

PROJECT = "test"
READY = 600.0  # seconds for it to answer


class Warehouse:
    """An emulator that runs: `with Warehouse(port, grpc_port) as warehouse`."""

    def __init__(self, rest: int, grpc: int) -> None:
        self.ports = (rest, grpc)
        self._made: list[str] = []  # datasets that are there
        self._numbers = itertools.count(1)
        self._before: dict[str, str | None] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs in its environment, and has if this one starts it."""
        rest, grpc = self.ports
        return {client.EMULATOR: f"http://127.0.0.1:{rest}", client.STORAGE_EMULATOR: f"127.0.0.1:{grpc}"}

    def __enter__(self) -> Self:
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        _forget_clients()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _forget_clients()

    def wait(self) -> None:
        """Waits until it answers; TimeoutError otherwise."""
        url = f"{self.environment[client.EMULATOR]}/bigquery/v2/projects/{PROJECT}/datasets"
        end = time.monotonic() + READY
        while True:
            try:
                urllib.request.urlopen(url, timeout=READY).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                self._look_for_its_end(error)
                if time.monotonic() > end:
                    raise TimeoutError(f"the BigQuery emulator does not answer: {error}") from error
            time.sleep(0.05)

    def _look_for_its_end(self, error: Exception) -> None:
        """Raises TimeoutError where it is known that nothing will ever answer."""

    def sql(self, text: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows that a statement gives, by column; see `pipelines.google.bigquery.execute`."""
        return [dict(row) for row in client.execute(PROJECT, text, parameters).result()]

    def dataset(self) -> str:
        """Creates a dataset, a new one at each call. Returns its name, without the project's."""
        name = f"d{os.getpid()}_{next(self._numbers)}"
        client.client(PROJECT).create_dataset(name)
        self._made.append(name)
        return name

    def table(self) -> Table:
        """Names in a new dataset, for which there are no tables yet."""
        return Table(PROJECT, self.dataset(), "scores")

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """Datasets made in the block are dropped after it: each table makes every statement of the emulator slower."""
        there = len(self._made)
        yield
        for name in self._made[there:]:
            client.client(PROJECT).delete_dataset(name, delete_contents=True, not_found_ok=True)
        del self._made[there:]


class OwnWarehouse(Warehouse):
    """An emulator of one's own, which may be killed: `with OwnWarehouse(folder) as warehouse`.

    Args:
      folder: for its data and its log; made where it is missing.

    Raises:
      UserError: its program is missing; the message says what to run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(free_port(), free_port())
        self._program = binary("bigquery-emulator")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        super().__exit__(kind, error, trace)

    def start(self, wait: bool = True) -> None:
        """Starts the process; after `kill`, at the same addresses and with its data. It ends with its thread."""
        assert self._process is None
        self._folder.mkdir(parents=True, exist_ok=True)
        rest, grpc = map(str, self.ports)
        command = [str(self._program), "--host", "127.0.0.1", "--port", rest, "--grpc-port", grpc]
        with open(self._folder / "log", "ab") as log:
            self._process = bound([*command, "--data-dir", str(self._folder / "data"), "serve"], stdout=log, stderr=log)
        if wait:
            self.wait()

    def _look_for_its_end(self, error: Exception) -> None:
        if self._process is None or self._process.poll() is not None:
            log = (self._folder / "log").read_text()[-2000:]
            raise TimeoutError(f"the BigQuery emulator has ended: {error}\n{log}") from error

    @property
    def pid(self) -> int | None:
        """None where it does not run."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """kill -9, of all its processes. Nothing where it does not run."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """`kill`, and `start` again."""
        self.kill()
        self.start()


def _forget_clients() -> None:
    for make in (client.client, client.writer, client.reader):
        make.cache_clear()
