"""A job that runs on a Flink cluster, as the cluster's REST interface tells of it.

https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/ops/rest_api/
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import Exit, UserError
from pipelines.runners.endings import cause
from pipelines.system.processes import reason

POLL = 0.2  # s
ANSWER = 5.0  # s that a service has to answer
ENDED = ("FINISHED", "CANCELED", "FAILED")  # states of a job
OVER = (1 << 63) - 1  # ms, the watermark behind which nothing comes


@dataclass
class FlinkJob:
    """A job from its submission on.

    Args:
        master: URL of the REST interface.
        name: of the job, or its ID; no other of that name runs.
    """

    master: str
    name: str
    id: str | None = None  # once the cluster has it
    over: float | None = None  # s since 1970: all watermarks had come to their end
    _told: set[int] = field(default_factory=set)

    def look(self) -> tuple[list[str], str]:
        """(what failed since the last look, as stack traces; a line on how it stands)."""
        try:
            self.id = self.id or running(self.master, self.name)
            if self.id is None:
                return [], "the cluster has no such job yet"
            failures, status = list(self._failures()), self._status()
            if self.over is None and self._is_over():
                self.over = time.time()
        except (OSError, ValueError, KeyError) as error:
            return [], f"no answer from {self.master}: {reason(error)}"
        return failures, status

    @property
    def done(self) -> bool:
        """Whether its source has ended, and all that followed from it is kept. Flink lets such a job run on."""
        if self.over is None:
            return False
        try:
            newest = self._get("/checkpoints")["latest"]["completed"]
        except (OSError, ValueError, KeyError):
            return False
        return newest is not None and newest["trigger_timestamp"] > self.over * 1000

    def cancel(self) -> None:
        """Cancels the job. Raises OSError or ValueError."""
        ask(f"{self.master}/jobs/{self.id}", "PATCH")

    def stop(self, target: str | None, patience: float = 600.0) -> str:
        """Stops it with a savepoint. Returns the path of that.

        Args:
            target: folder of savepoints, as the cluster reaches it; the cluster's own where None.
            patience: seconds that it may take.

        Raises:
          UserError: there is no such job, or it cannot be stopped in this way.
        """
        try:
            self.id = self.id or running(self.master, self.name)
            if self.id is None:
                raise UserError(f"no job named {self.name} runs on the cluster at {self.master}")
            asked = {"drain": False, **({} if target is None else {"targetDirectory": target})}
            trigger = ask(f"{self.master}/jobs/{self.id}/stop", "POST", asked)["request-id"]
            due = time.monotonic() + patience
            while (found := self._get(f"/savepoints/{trigger}"))["status"]["id"] != "COMPLETED":
                if time.monotonic() > due:
                    raise UserError(f"no savepoint within {patience:.0f} s: the job {self.id} runs on", Exit.FAILED)
                time.sleep(POLL)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"the cluster at {self.master} did not stop {self.name}: {reason(error)}") from error
        if "location" not in found["operation"]:
            said = str(found["operation"]["failure-cause"]["stack-trace"])
            raise UserError(f"no savepoint of {self.name}, which runs on: {cause(RuntimeError(said))}", Exit.FAILED)
        return str(found["operation"]["location"])

    def _status(self) -> str:
        state = str(self._get("")["state"]).lower()
        newest = self._get("/checkpoints")["latest"]["completed"]
        kept = "no checkpoint yet"
        if newest is not None:
            kept = f"last checkpoint {max(0.0, time.time() - newest['trigger_timestamp'] / 1000):.0f} s ago"
        return f"job {self.id} is {state}, {kept}, {len(self._told)} failure(s)"

    def _failures(self) -> Iterator[str]:
        for entry in reversed(self._get("/exceptions")["exceptionHistory"]["entries"]):
            if entry["timestamp"] not in self._told:
                self._told.add(entry["timestamp"])
                yield str(entry["stacktrace"])

    def _is_over(self) -> bool:
        """Sources have no watermark that comes in."""
        vertices = [v["id"] for v in self._get("")["vertices"] if not v["name"].startswith("Source:")]
        for vertex in vertices:
            marks = ask(f"{self.master}/jobs/{self.id}/vertices/{vertex}/watermarks")
            if not marks or any(int(mark["value"]) < OVER for mark in marks):
                return False
        return bool(vertices)

    def _get(self, path: str) -> Any:
        return ask(f"{self.master}/jobs/{self.id}{path}")


def ask(url: str, method: str = "GET", body: object = None) -> Any:
    """What the REST interface of a cluster answers. Raises OSError or ValueError.

    https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/ops/rest_api/
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER) as answer:
        return json.load(answer)


def running(master: str, name: str) -> str | None:
    """The ID of the job of that name or ID which has not ended. Raises OSError or ValueError."""
    jobs = [job for job in ask(f"{master}/jobs/overview")["jobs"] if job["state"] not in ENDED]
    return next((str(job["jid"]) for job in jobs if name in (job["name"], job["jid"])), None)
