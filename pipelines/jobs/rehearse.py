"""A rehearsal: a live job on an emulator gets the events of files as it would have got them, and the scores are held
against those of a backfill, bit for bit.

What had arrived before the rehearsal is the job's history; what arrived during it is published, in the order of
arrival and at a chosen speed, each message with its arrival as an attribute. With `mess`, publishers misbehave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import Exit, UserError
from pipelines.events.block import Ints
from pipelines.events.columns import DecodeError
from pipelines.events.decode import without_arrival
from pipelines.events.formats.base import Rows
from pipelines.events.formats.registry import format_of
from pipelines.events.messages import Messages
from pipelines.events.times import micros
from pipelines.google.subscription import EMULATOR
from pipelines.jobs.config import Input
from pipelines.ledger.counts import NEVER
from pipelines.models import registry
from pipelines.models.engines.base import EngineName
from pipelines.models.saved.manifest import check, load_manifest
from pipelines.sandbox.pubsub_emulator import Emulator, emulator
from pipelines.storage.folder.live import live_runs, stop_file
from pipelines.storage.folder.query import select
from pipelines.system.files import replaceable, replacing
from pipelines.system.processes import bound, end
from pipelines.task.fields import format_time
from pipelines.task.spec import Task
from pipelines.transforms.archive import write_messages
from pipelines.transforms.read_files import find, plan

ATTRIBUTE = "arrival"
MARK = "rehearsal.json"
PULSE = 0.05  # seconds between two publications
SEED = 7
ENDING = 3.0  # s that a command has to end by itself; it leaves nothing half done however it ends
COMPARED = "score_id, task, entity_id, as_of, revision, {outputs}, model_version, n_events, last_event_time"


@dataclass(frozen=True)
class RehearseConfig:
    task: Task
    task_file: str
    input: Input
    start: int  # us, the first as-of
    end: int  # us, the last one
    speed: int  # us of event time in a second
    mess: bool
    model: str
    engine: EngineName
    output: str
    stream_args: tuple[str, ...]  # for foretide stream as they are


@dataclass(frozen=True)
class Parity:
    """What the comparison of live and backfilled rows found."""

    as_ofs: int
    rows: int
    corrected: int  # of the rows, those that a late event changed after their time
    missing: int  # rows that only the backfill has
    extra: int  # rows that only the live job has
    different: int

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.different)


def rehearse(config: RehearseConfig) -> int:
    """Publishes, scores live, backfills, compares, and says so.

    Raises:
      UserError: the model does not fit, a command failed, or the emulator is not installed.
    """
    check(load_manifest(registry.resolve(config.model)), config.task)
    target = replaceable(config.output, MARK, "rehearsal")
    with replacing(target, private=True) as folder:
        (folder / MARK).write_text(json.dumps({"task": config.task.task}))
        history, live = messages_of(config)
        write_messages(folder / "history", history)
        write_messages(folder / "published", live)
        print(
            f"rehearsal   {config.task.task}: {len(history):,} messages of history, {len(live):,} to publish",
            flush=True,
        )
        with emulator(os.environ.get(EMULATOR)) as pubsub:
            _stream(config, folder, target, pubsub, live)
        _backfill(config, folder)
        parity = compare(folder / "live", folder / "backfill", config.task.outputs)
    print(report(parity, target))
    return Exit.OK if parity.equal else Exit.FAILED


def messages_of(config: RehearseConfig) -> tuple[Messages, Messages]:
    """(what had arrived before the rehearsal, what arrives during it), each in the order of arrival.

    Rows without a time or an arrival are left out: nobody could say when to publish them.
    """
    task, closing = config.task, _closing(config.task, config.end)
    times, arrivals, payloads = [], [], []
    for part in _rows(config):
        time, arrival = _known(task, part)
        rows = np.flatnonzero((time >= config.start - task.history) & (arrival < closing))
        times.append(time[rows])
        arrivals.append(arrival[rows])
        payloads += list(_payloads(task, part.table.take(pa.array(rows))))
    time, arrival = np.concatenate(times), np.concatenate(arrivals)
    if config.mess:
        arrival, copies = messy(task, time, arrival, config.start)
    else:
        copies = np.arange(len(arrival))
    order = np.argsort(arrival, kind="stable")
    order = order[arrival[order] < closing]  # a messy one may come later
    arrival, copies = arrival[order], copies[order]
    live = int(np.searchsorted(arrival, config.start))
    if live == len(arrival):
        raise UserError(f"no event arrived between {format_time(config.start)} and {format_time(config.end)}")
    history = _messages("history", [payloads[i] for i in copies[:live].tolist()], arrival[:live])
    return history, _messages("live", [payloads[i] for i in copies[live:].tolist()], arrival[live:])


def messy(task: Task, time: Ints, arrival: Ints, start: int) -> tuple[Ints, Ints]:
    """Arrivals (m >= n) of messages and the event (m) that each holds, as of careless publishers: of the events since
    the start 12 % come out of order, 5 % late, 2 % too late for some score, and 3 % twice."""
    rng = np.random.default_rng(SEED)
    n, every, lateness = len(time), task.score.every, task.score.allowed_lateness
    fate, share = rng.random(n), rng.random(n)
    delay = np.zeros(n)
    delay[fate < 0.12] = 0.1 * task.sequence.step
    delay[fate < 0.07] = every + lateness / 2
    delay[fate < 0.02] = every + 2 * lateness
    held = np.where(arrival >= start, arrival + (delay * share).astype(np.int64), arrival)
    twice = np.flatnonzero((arrival >= start) & (rng.random(n) < 0.03))
    again = held[twice] + (rng.random(len(twice)) * 2 * every).astype(np.int64)
    return np.concatenate([held, again]), np.concatenate([np.arange(n), twice])


def compare(live: Path, backfill: Path, outputs: Sequence[str]) -> Parity:
    """Compares every column of every row that says something about an entity, to the bits of its scores."""
    columns = COMPARED.format(outputs=", ".join(outputs))
    sql = f"SELECT {columns} FROM scores WHERE revision >= 0"
    want = {row[0]: row for row in select(backfill, sql).rows}
    as_ofs = {row[3] for row in want.values()}
    got = {row[0]: row for row in select(live, sql).rows if row[3] in as_ofs}
    return Parity(
        as_ofs=len(as_ofs),
        rows=len(want),
        corrected=sum(1 for row in want.values() if row[4]),
        missing=len(want.keys() - got.keys()),
        extra=len(got.keys() - want.keys()),
        different=sum(1 for key in want.keys() & got.keys() if want[key] != got[key]),
    )


def report(parity: Parity, output: Path) -> str:
    rows = f"{parity.rows:,} rows of {parity.as_ofs} as-ofs compared, {parity.corrected:,} of them corrected"
    if parity.equal:
        return f"parity      {rows}: live and backfilled are equal, bit for bit. All of it is in {output}"
    wrong = f"{parity.different:,} different, {parity.missing:,} missing, {parity.extra:,} extra in the live job"
    return f"NO PARITY   {rows}: {wrong}. All of it is in {output}"


def _rows(config: RehearseConfig) -> Iterator[Rows]:
    for piece in plan(find(config.input.patterns, config.input.format)):
        for part in format_of(piece.format).read(piece, config.task) if piece.size else ():
            if isinstance(part, Rows):
                yield part


def _known(task: Task, part: Rows) -> tuple[Ints, Ints]:
    """(event time, arrival) of the rows in us; NEVER where one is missing."""
    try:
        time, ok = micros(part.table[task.events.time.field].combine_chunks(), task.events.time)
        if part.arrival is not None:
            arrival, known = part.arrival, ok
        elif task.events.arrival is not None:
            arrival, known = micros(part.table[task.events.arrival.field].combine_chunks(), task.events.arrival)
        else:
            arrival, known = time, ok
    except DecodeError as error:
        raise UserError(f"the input cannot be rehearsed: {error}") from error
    return time, np.where(ok & known, arrival, NEVER)


def _payloads(task: Task, table: pa.Table) -> Iterator[bytes]:
    """Each row as JSON, without its arrival: that is what the message has."""
    arrival = task.events.arrival
    if arrival is not None and arrival.field not in without_arrival(task).columns:
        table = table.drop_columns([arrival.field])
    for row in table.to_pylist():
        yield json.dumps(row, default=_text, separators=(",", ":"), ensure_ascii=False).encode()


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


def _messages(name: str, payloads: list[bytes], arrival: Ints) -> Messages:
    ids = tuple(f"{name}-{i}" for i in range(len(payloads)))
    return Messages(tuple(payloads), ids, arrival, ({},) * len(payloads))


def _closing(task: Task, end: int) -> int:
    """The arrival at which the last as-of is closed."""
    return end + task.score.allowed_lateness + task.score.every


def _stream(config: RehearseConfig, folder: Path, target: Path, pubsub: Emulator, live: Messages) -> None:
    """Runs the live job from its history to the last message. What it prints names `target`, where `folder` goes."""
    topic = pubsub.topic("events")
    command = [
        *(sys.executable, "-m", "pipelines.cli", "stream", "--task", config.task_file),
        *("--subscription", pubsub.subscription(topic), "--arrival-attribute", ATTRIBUTE),
        *("--bootstrap", str(folder / "history"), "--from", format_time(config.start)),
        *("--model", config.model, "--engine", config.engine, "--output", str(folder / "live"), *config.stream_args),
    ]
    environment = {**os.environ, **pubsub.environment}
    with _running("the live job", command, env=environment, stdout=subprocess.PIPE, text=True) as job:
        printer = Thread(target=_print, args=(job.stdout, str(folder), str(target)), daemon=True)
        printer.start()
        _publish(config, pubsub, topic, live, job)
        _close(config, pubsub, topic, job)
        for run in live_runs(folder / "live"):
            stop_file(folder / "live", run).touch()
        job.wait()
        printer.join(ENDING)


def _print(lines: Iterable[str], place: str, later: str) -> None:
    """Prints lines as they come, with the place where files are now as the one where they will be."""
    for line in lines:
        print(line.replace(place, later), end="", flush=True)


def _publish(
    config: RehearseConfig, pubsub: Emulator, topic: str, live: Messages, job: subprocess.Popen[bytes]
) -> None:
    """All messages in the order of arrival, as fast as the speed says."""
    began, sent = time.monotonic(), 0
    while sent < len(live) and job.poll() is None:
        now = config.start + (time.monotonic() - began) * config.speed
        due = int(np.searchsorted(live.arrival, now))
        if due > sent:
            stamps = [{ATTRIBUTE: str(t)} for t in live.arrival[sent:due].tolist()]
            pubsub.publish(topic, live.data[sent:due], stamps)
            sent = due
        time.sleep(PULSE)


def _close(config: RehearseConfig, pubsub: Emulator, topic: str, job: subprocess.Popen[bytes]) -> None:
    """Empty messages that move the clock of arrivals past the last correction."""
    pubsub.publish(topic, [b""], [{ATTRIBUTE: str(_closing(config.task, config.end))}])
    while pubsub.counts(topic).outstanding and job.poll() is None:
        time.sleep(PULSE)


def _backfill(config: RehearseConfig, folder: Path) -> None:
    as_ofs = f"{format_time(config.start)}..{format_time(config.end)}"
    command = [
        *(sys.executable, "-m", "pipelines.cli", "score", "--task", config.task_file, "--as-of", as_ofs),
        *("--input", str(folder / "history"), str(folder / "published")),
        *("--model", config.model, "--engine", config.engine, "--output", str(folder / "backfill")),
    ]
    with _running("the backfill", command, stdout=subprocess.DEVNULL):
        pass


@contextmanager
def _running(what: str, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A command that runs beside the block, which waits for its end. Raises UserError where that is no good one."""
    job = bound(command, **options)
    try:
        yield job
        code = job.wait()
    finally:
        if job.poll() is None:
            end(job, ENDING)
    if code:
        raise UserError(f"{what} ended with exit code {code}", Exit(code) if code in list(Exit) else Exit.FAILED)
