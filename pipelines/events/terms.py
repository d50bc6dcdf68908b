"""What the state of a live job was kept under: a job that goes on from a savepoint, or takes another one's place on
Dataflow, must have been asked for the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.events.decode import Since
from pipelines.system.versioned import StateError
from pipelines.task.fields import format_duration, format_time
from pipelines.task.spec import Task

LAYOUT = 2  # of the state of `transforms.live_sequences`: higher when a version cannot read what the one before it kept
SIZE = 8  # bytes of a digest
DURATIONS = ("events.max_skew", "sequence.step", "score.every", "score.allowed_lateness")


@dataclass(frozen=True)
class Terms:
    """Names of what decides which events are kept, how, and when they are looked at, and their values."""

    values: Mapping[str, object]

    @staticmethod
    def of(task: Task, since: Since, shards: int) -> Terms:
        parts = task.model_dump(
            mode="json", include={"events": True, "sequence": True, "score": {"every", "allowed_lateness"}}
        )
        values = dict(_flat("", parts))
        return Terms({**values, "--from": format_time(since.first), "--shards": shards, "state layout": LAYOUT})

    def pack(self) -> bytes:
        return json.dumps(self.values, sort_keys=True).encode()

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.pack()).digest()[:SIZE]

    def refuse(self, raw: bytes | None) -> StateError:
        """What is wrong with a state that was kept under other terms, packed."""
        kept = json.loads(raw or b"{}")
        names = sorted(n for n in {*kept, *self.values} if kept.get(n) != self.values.get(n))
        changes = ", ".join(f"{n} was {_text(n, kept.get(n))} and is {_text(n, self.values.get(n))}" for n in names)
        return StateError(
            f"the state was kept by a job that differs: {changes}. Ask for what it was, or start anew: without the "
            "savepoint, and with --bootstrap of the archive"
        )


def _flat(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in _flat(f"{prefix}.{key}" if prefix else key, inner)]
    return [(prefix, value)]


def _text(name: str, value: object) -> str:
    """As a task file has it."""
    if name in DURATIONS and isinstance(value, int):
        return format_duration(value)
    return "none" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
