"""Prism, Beam's own portable runner, as a process of this one: where its program is, how it starts and ends.

Nothing here knows a pipeline. Prism serves one job endpoint on this machine, for as long as the block lasts. Beam's own
listens on every interface, and who reaches it can have any command run; `make services` builds one that does not
(emulators/prism).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions, PrismRunnerOptions
from apache_beam.runners.portability.prism_runner import PrismJobServer

from pipelines.errors import Exit, UserError
from pipelines.system.processes import bound, end, listeners

PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
READY = 60.0  # seconds for its job endpoint to come up
ENDING = 5.0  # seconds that it has to end by itself


def locate(options: PipelineOptions) -> Path:
    """Finds the program: --prism_location, or else beside this Python, on the PATH, or downloaded by Beam.

    Raises:
      UserError: there is none.
    """
    location = options.view_as(PrismRunnerOptions).prism_location
    if location and Path(location).is_file() and os.access(location, os.X_OK):
        return Path(location)
    found = None if location else beside() or shutil.which("prism")
    if found:
        return Path(found)
    try:
        command, _ = PrismJobServer(options).subprocess_cmd_and_endpoint()  # downloads it, or takes what it once has
    except Exception as error:
        version = apache_beam.__version__
        raise UserError(
            f"no Prism, Beam's runner for streams on this machine: {_reason(error)}",
            Exit.FAILED,
            remedy=f"Build it with `make services`, or with `go install {PACKAGE}@v{version}`, which other machines "
            "can reach, and --prism_location=PATH",
            code="runner-reachable",
        ) from error
    return Path(command[0])


def beside() -> Path | None:
    """The program beside this Python, where `make` puts it."""
    path = Path(sys.executable).parent / "prism"
    return path if path.is_file() else None


class Prism:
    """A running Prism: `with Prism(program) as prism: prism.endpoint`.

    Args:
        program: the path of the program.
        log: where it writes what it does; a temporary file, which goes with it, where None.
        exposed: whether it may listen where other machines reach it.

    Raises:
        UserError: it does not come up, or other machines reach it.
    """

    endpoint: str  # host:port of the job service
    warning: str | None = None  # where other machines reach it

    def __init__(self, program: Path, log: Path | None = None, exposed: bool = False) -> None:
        self._program, self._log, self._exposed = program, log, exposed
        self._file: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prism:
        self._file = open(self._log, "w+b") if self._log else tempfile.TemporaryFile(prefix="prism-")
        command = [str(self._program), "--job_port=0", "--serve_http=false", "--log_kind=json"]
        try:
            self._process = bound(command, stdout=self._file, stderr=self._file)
            self.endpoint = self._announced()
            self.warning = self._reachable(self._process.pid)
            if self.warning and not self._exposed:
                raise UserError(
                    f"{self.warning}. Build one that listens on this machine alone with `make services`, or name this "
                    f"one with --prism_location={self._program} where nobody else reaches the machine",
                    Exit.FAILED,
                )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            end(self._process, ENDING)
        if self._file is not None:
            self._file.close()

    def ended(self, within: float = 0.0) -> str | None:
        """How it ended and why, as far as it said; None if it still runs after so many seconds."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            return None
        said = [line for line in self._lines() if line.startswith(("panic:", "fatal error:", "flag "))]
        how = f"ended with {code}" if code >= 0 else f"was killed ({signal.Signals(-code).name})"
        return f"Prism {how}" + (f": {said[0][:300]}" if said else "")

    def _announced(self) -> str:
        """The endpoint that it names when it has chosen a free port."""
        end = time.monotonic() + READY
        while time.monotonic() < end:
            for line in self._lines():
                if "Serving JobManagement" in line:
                    return str(json.loads(line)["endpoint"])
            if (reason := self.ended()) is not None:
                raise UserError(f"{self._program}: {reason}", Exit.FAILED)
            time.sleep(0.02)
        raise UserError(f"{self._program} did not come up within {READY:.0f} s", Exit.FAILED)

    def _reachable(self, pid: int) -> str | None:
        """Where other machines reach it, and what that means; None where they do not."""
        open_to_all = [each for each in listeners(pid) if not each.loopback]
        if not open_to_all:
            return None
        return f"{self._program} listens on {open_to_all[0].host}: other machines can have this one run any command"

    def _lines(self) -> list[str]:
        """The start and the end of its log."""
        if self._file is None or self._file.closed:
            return []
        fd, size = self._file.fileno(), os.fstat(self._file.fileno()).st_size
        content = os.pread(fd, 1 << 16, 0) + (os.pread(fd, 1 << 16, max(1 << 16, size - (1 << 16))))
        return [line for line in content.decode(errors="replace").splitlines() if line.strip()]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"it could not be downloaded ({type(error).__name__}{': ' + lines[0][:200] if lines else ''})"
