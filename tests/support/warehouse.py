"""A BigQuery for tests: an emulator as a process of its own, which can be killed and comes back with its data.

The program lies next to the interpreter, where `make services` puts it. While a `Warehouse` is open, the clients of
`pipelines.google.bigquery` talk to it, in this process and in those that it starts.
"""

from __future__ import annotations

import itertools
import os
import shutil
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
from pipelines.storage.bigquery import schema
from pipelines.system.processes import bound, free_port

PROJECT = "test"
READY = 600.0  # seconds for it to answer
MANY = 150  # statements, after which one takes twice as long


class Warehouse:
    """An emulator, which may be killed: `with Warehouse(folder) as warehouse`.

    Args:
      folder: for its data and its log; made where it is missing.

    Raises:
      UserError: its program is missing; the message says what to run.
    """

    def __init__(self, folder: Path) -> None:
        self.ports = (free_port(), free_port())
        self._program = binary("bigquery-emulator")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._made: list[str] = []  # datasets that are there
        self._lent: list[tuple[tuple[str, ...], Table]] = []  # by `scores_tables`, of these outputs
        self._idle: dict[tuple[str, ...], list[Table]] = {}  # the same, when they have come back
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
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _forget_clients()

    def _wait(self) -> None:
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

    def scores_tables(self, *outputs: str) -> Table:
        """Empty tables for scores of these columns, with their views, in a dataset of their own.

        Such a dataset costs seconds, and so tests have it one after another: none may change a schema.
        """
        idle = self._idle.setdefault(outputs, [])
        if not idle:
            made = self.table()
            schema.apply(schema.plan(made, outputs))
            self._made.remove(made.dataset)
            idle.append(made)
        self._lent.append((outputs, idle.pop()))
        return self._lent[-1][1]

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """Datasets made in the block are dropped after it: each table makes every statement of the emulator slower.
        Those of `scores_tables` are emptied."""
        made, lent = len(self._made), len(self._lent)
        yield
        for name in self._made[made:]:
            client.client(PROJECT).delete_dataset(name, delete_contents=True, not_found_ok=True)
        for outputs, table in self._lent[lent:]:
            self._empty(table)
            self._idle[outputs].append(table)
        del self._made[made:], self._lent[lent:]

    def _empty(self, table: Table) -> None:
        own = {getattr(table, kind) for kind in schema.LAYOUTS}
        for each in client.client(PROJECT).list_tables(f"{table.project}.{table.dataset}"):
            if each.table_type == "TABLE" and each.full_table_id.replace(":", ".") not in own:
                client.client(PROJECT).delete_table(each)  # what a killed run has left
        self.sql("; ".join(f"TRUNCATE TABLE `{name}`" for name in sorted(own)))

    def start(self) -> None:
        """Starts the process; after `kill`, at the same addresses and with its data. It ends with its thread."""
        assert self._process is None
        self._folder.mkdir(parents=True, exist_ok=True)
        rest, grpc = map(str, self.ports)
        command = [str(self._program), "--host", "127.0.0.1", "--port", rest, "--grpc-port", grpc]
        with open(self._folder / "log", "ab") as log:
            self._process = bound([*command, "--data-dir", str(self._folder / "data"), "serve"], stdout=log, stderr=log)
        self._wait()

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

    def refresh(self) -> None:
        """Starts again without any data where it has become slow: it keeps the result of every statement."""
        if len(list(client.client(PROJECT).list_jobs(max_results=MANY))) == MANY:
            self.kill()
            shutil.rmtree(self._folder)
            self._made.clear()
            self._idle.clear()
            self.start()


def _forget_clients() -> None:
    for make in (client.client, client.writer, client.reader):
        make.cache_clear()
