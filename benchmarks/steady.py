"""A live job under a steady load for as long as one likes: what it holds, what it scores, and whether that grows.

`python -m benchmarks.steady --minutes 30 --rate 500 --out FOLDER`. An emulator, Prism and the job run side by side; the
model that serves is changed under load, once to a version that is broken. At the end the job is drained, and every
score is held against backfills of its archive, one with each version: by column and bit, with the version that the row
names. Writes samples.jsonl, result.json and what the job said into FOLDER, and prints a report.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb
import numpy as np

from benchmarks import feed
from benchmarks.live_model import put_models
from benchmarks.measure import memory
from pipelines.events.block import HEADER
from pipelines.jobs.config import LIVE_SHARDS
from pipelines.models import registry
from pipelines.sandbox.pubsub_emulator import Emulator, emulator
from pipelines.storage.folder.query import connect
from pipelines.task.as_ofs import floor
from pipelines.task.fields import format_time
from pipelines.task.file import load_task

SAMPLE = 5.0  # s
EARLY = "2s"
MINUTE = 60.0  # s: what memory does within one is one value of a trend
FOLLOWED = 30.0  # s that a job has to follow a promotion, which it looks for every 5 s
SETTLE = 20.0  # s, beyond the allowed lateness, from the last message to the end
COMPARED = ("entity_id", "as_of", "revision", "churn", "n_events", "last_event_time")

Deed = Literal["promote 0", "promote 1", "promote broken", "rollback"]
DEEDS: tuple[Deed, ...] = (
    *("promote 1", "promote 0", "promote broken", "rollback"),
    *("promote 1", "promote 0", "promote 1", "promote 0", "promote 1"),
)


@dataclass(frozen=True)
class Sample:
    """What is held at a moment. Bytes; `rss` and `pss` by process, `files` and `sizes` by folder."""

    seconds: float
    rss: dict[str, int]
    pss: dict[str, int]
    cpu: dict[str, float]
    files: dict[str, int]
    sizes: dict[str, int]


class Served(NamedTuple):
    """A version that was to serve from a time on, s since 1970."""

    version: str
    since: float


class Trend(NamedTuple):
    """How a quantity grows, and the standard error of that."""

    per_hour: float
    error: float

    @property
    def flat(self) -> bool:
        """Whether it may well not grow at all."""
        return self.per_hour <= 2 * self.error


@dataclass(frozen=True)
class Rows:
    """What the comparison with the backfills found."""

    rows: int
    corrected: int
    missing: int  # that only the backfills have
    extra: int
    different: int  # from what the version that they name gives
    unknown: int  # of a version that never served
    misplaced: int  # of a version that did not serve when they were written
    alike: int  # that the versions score alike, so that nothing was compared between them
    by_version: dict[str, int]

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.different or self.unknown or self.misplaced)


def trend(seconds: Sequence[float], values: Sequence[float], block: float = MINUTE) -> Trend:
    """A least squares line through the means of blocks of time: what varies within one is no evidence.

    With fewer than three blocks the error is infinite.
    """
    t, v = np.asarray(seconds), np.asarray(values)
    which = ((t - t[0]) // block).astype(np.int64)
    blocks = [(t[which == b].mean(), v[which == b].mean()) for b in np.unique(which)]
    x, y = (np.array(c) / d for c, d in zip(zip(*blocks, strict=True), (3600, 1), strict=True))
    if len(x) < 3:
        return Trend(0.0, float("inf"))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    left = y - y.mean() - slope * x
    return Trend(slope, float(np.sqrt(left @ left / (len(x) - 2) / (x @ x))))


def said(log: str) -> dict[str, list[int]]:
    """The metrics of a job's last screen: [count] of a counter, [mean, least, most] of a distribution."""
    pattern = r"^  (\w+) +(?:mean ([\d,]+), ([\d,]+) to )?([\d,]+)$"
    found = re.findall(pattern, log, re.MULTILINE)
    return {name: [int(n.replace(",", "")) for n in numbers if n] for name, *numbers in found}


def packed(events: float, entities: float, name: float) -> float:
    """Bytes of a packed block of the task's events: time, id and arrival of 8 bytes each, two values of 4, and a key
    of 2; and of each entity an offset of 4 and its name."""
    return HEADER.size + events * (3 * 8 + 2 * 4 + 2) + entities * (4 + name)


def descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def processes(job: int, pubsub: Emulator) -> dict[str, int]:
    """The name and id of all that takes part, but for the publisher."""
    assert pubsub.process is not None
    found = {"job": job, "emulator": pubsub.process.pid}
    for pid in descendants(job):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        found[name if name not in found else f"{name} {pid}"] = pid
    return found


def sample(seconds: float, job: int, pubsub: Emulator, folders: Mapping[str, Path]) -> Sample:
    held = {name: memory(pid) for name, pid in processes(job, pubsub).items()}
    files = {name: list(_sizes(folder)) for name, folder in folders.items()}
    return Sample(
        round(seconds, 1),
        {name: m.rss for name, m in held.items()},
        {name: m.pss for name, m in held.items()},
        {name: m.cpu for name, m in held.items()},
        {name: len(sizes) for name, sizes in files.items()},
        {name: sum(sizes) for name, sizes in files.items()},
    )


def _sizes(folder: Path) -> Iterator[int]:
    """Of the files, but for those that vanish meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.stat(os.path.join(parent, name)).st_size


class Models:
    """A registry with two versions and a broken one, and which of them served when."""

    def __init__(self, root: Path) -> None:
        self.versions = put_models(root, range(2))
        self.folder = root / load_task(feed.TASK).task
        self.served: list[Served] = []
        self.log: list[str] = []
        self._break()
        self.do("promote 0")

    def do(self, deed: Deed) -> None:
        if deed == "rollback":
            pointer = registry.rollback(self.folder)
        else:
            which = deed.removeprefix("promote ")
            pointer = registry.promote(self.folder, which if which == "broken" else self.versions[int(which)])
        self.log.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {deed}")
        if pointer.version in self.versions:
            self.served.append(Served(pointer.version, time.time()))

    def _break(self) -> None:
        """A copy whose weights are cut off."""
        folder = Path(shutil.copytree(self.folder / self.versions[1], self.folder / "broken"))
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": "broken"}))
        (data,) = folder.glob("saved_model/variables/variables.data*")
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def load(out: Path, minutes: float, rate: float, models: Models) -> tuple[list[Sample], feed.Feed, int, int]:
    """Runs it all. (samples, what was published, the first as-of, the last one that is closed), times in us."""
    task, samples, source = load_task(feed.TASK), list[Sample](), feed.Feed()
    first = floor(task, time.time_ns() // 1000) + 2 * task.score.every
    folders = {"scores": out / "scores", "archive": out / "archive"}
    options = ("--early", EARLY, "--archive", str(out / "archive"), "--from", format_time(first))
    with emulator() as pubsub, (out / "samples.jsonl").open("w") as lines:
        topic = pubsub.topic("events")
        with feed.live(pubsub, topic, models.folder, out, *options) as job:
            seconds, deeds = minutes * 60, list(DEEDS)
            for passed in feed.publish(pubsub, topic, rate, seconds, source.take):
                feed.check(job, out)
                if deeds and passed > seconds * (len(DEEDS) - len(deeds) + 1) / (len(DEEDS) + 1):
                    models.do(deeds.pop(0))
                if passed >= len(samples) * SAMPLE:
                    samples.append(sample(passed, job.pid, pubsub, folders))
                    print(json.dumps(asdict(samples[-1])), file=lines, flush=True)
            last = floor(task, time.time_ns() // 1000)
            pubsub.wait_until_acked(topic, 120)
            time.sleep(task.score.allowed_lateness / 1e6 + SETTLE)
            feed.drain(job, out)
    return samples, source, first, last


def backfill(out: Path, models: Models, first: int, last: int) -> dict[str, Path]:
    """What each version gives for the archive, by version."""
    folders = {version: out / f"backfill-{version}" for version in models.versions}
    running = []
    for version, folder in folders.items():
        command = [
            *(sys.executable, "-m", "pipelines.cli", "score", "--task", str(feed.TASK)),
            *("--as-of", f"{format_time(first)}..{format_time(last)}", "--input", str(out / "archive")),
            *("--model", str(models.folder / version), "--output", str(folder)),
        ]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [each.wait() for each in running]
    if any(codes):
        raise RuntimeError("a backfill failed")
    return folders


def compare(live: Path, backfills: Mapping[str, Path], served: Sequence[Served], last: int, work: Path) -> Rows:
    """Every row up to the last as-of (us), with the row of the version that it names."""
    until = f"epoch_us(as_of) <= {last}"
    _final(live, f"{until}", work / "live.parquet")
    for version, folder in backfills.items():
        _final(folder, until, work / f"{version}.parquet")
    con = duckdb.connect()
    con.execute(f"SET memory_limit = '2GB'; SET temp_directory = '{work / 'spill'}'; SET threads = 1")
    con.execute(f"CREATE VIEW live AS FROM '{work / 'live.parquet'}'")
    wanted = " UNION ALL ".join(f"SELECT * FROM '{work / version}.parquet'" for version in backfills)
    con.execute(f"CREATE VIEW wanted AS {wanted}")
    one, *others = (f"'{work / version}.parquet'" for version in backfills)
    same = " AND ".join(f"l.{name} IS NOT DISTINCT FROM w.{name}" for name in COMPARED)
    placed = " OR ".join(
        f"(model_version = '{version}' AND epoch(scored_at) BETWEEN {since} AND {until + FOLLOWED})"
        for version, since, until in _intervals(served)
    )

    def count(sql: str) -> int:
        row = con.execute(f"SELECT count(*) FROM {sql}").fetchone()
        assert row is not None
        return int(row[0])

    versions = ", ".join(f"'{version}'" for version in backfills)
    by_version = con.execute("SELECT model_version, count(*) FROM live GROUP BY 1 ORDER BY 1").fetchall()
    return Rows(
        rows=count(one),
        corrected=count(f"{one} WHERE revision > 0"),
        missing=count(f"{one} w ANTI JOIN live l USING (score_id)"),
        extra=count(f"live l ANTI JOIN {one} w USING (score_id)"),
        different=count(f"live l JOIN wanted w USING (score_id, model_version) WHERE NOT ({same})"),
        unknown=count(f"live WHERE model_version NOT IN ({versions})"),
        misplaced=count(f"live WHERE NOT ({placed})"),
        alike=count(f"{one} a JOIN {others[0]} b USING (score_id) WHERE a.churn = b.churn"),
        by_version=dict(by_version),
    )


def _final(out: Path, where: str, to: Path) -> None:
    columns = f"score_id, model_version, scored_at, {', '.join(COMPARED)}"
    con = connect(out)
    con.execute(f"SET memory_limit = '2GB'; SET temp_directory = '{to.with_suffix('.spill')}'; SET threads = 1")
    con.execute(f"COPY (SELECT {columns} FROM scores WHERE revision >= 0 AND {where}) TO '{to}'")


def _intervals(served: Sequence[Served]) -> Iterator[tuple[str, float, float]]:
    """(version, since, until), s since 1970."""
    ends = [*(s.since for s in served[1:]), float(1 << 40)]
    for s, end in zip(served, ends, strict=True):
        yield s.version, s.since, end


def report(samples: Sequence[Sample], source: feed.Feed, rate: float, rows: Rows, log: str, deeds: list[str]) -> str:
    """All that was found, for people."""
    metrics = said(log)
    wrong = (
        f"{rows.missing:,} missing, {rows.extra:,} extra, {rows.different:,} different, {rows.unknown:,} of unknown "
        f"versions, {rows.misplaced:,} of a version that did not serve then"
    )
    lines = [
        f"load        {samples[-1].seconds / 60:.1f} minutes, {rate:,.0f} messages/s: {source.made:,} events and "
        f"{source.copies:,} copies of {feed.ENTITIES:,} entities",
        f"models      {', '.join(deeds)}",
        f"            {metrics.get('models_swapped', [0])[0]} swaps, {metrics.get('models_refused', [0])[0]} refused",
        *_resources(samples),
        *_state(rate, metrics),
        f"scores      {rows.rows:,} rows, {rows.corrected:,} of them corrected, against backfills: {wrong}",
        f"            by version {rows.by_version}; {rows.alike:,} that both versions score alike",
        f"            {'equal, bit for bit' if rows.equal else 'NOT EQUAL'}",
    ]
    return "\n".join(lines)


def _resources(samples: Sequence[Sample]) -> Iterator[str]:
    """What the processes and folders held."""
    end = samples[-1]
    start = next(s for s in samples if s.seconds >= min(MINUTE, end.seconds))
    half = [s for s in samples if s.seconds >= end.seconds / 2]
    middle, seconds = half[0], [s.seconds for s in half]
    yield "memory      MB after a minute, in the middle and at the end; growth in the second half in MB/hour"
    for kind in ("rss", "pss"):
        for name in end.rss:
            growth = trend(seconds, [getattr(s, kind).get(name, 0) / 1e6 for s in half])
            held = " ".join(f"{getattr(s, kind).get(name, 0) / 1e6:>7,.0f}" for s in (start, middle, end))
            word = "flat within noise" if growth.flat else "GROWS"
            told = "keeps every message for ever" if name == "emulator" else word
            yield f"  {kind} {name:<16} {held}  {growth.per_hour:+8.1f} ± {growth.error:.1f}  {told}"
    yield "cpu         cores, in the second half"
    for name in end.cpu:
        used = end.cpu[name] - middle.cpu.get(name, 0)
        yield f"  {name:<20} {used / (end.seconds - middle.seconds):.2f}"
    yield "files       number and MB, in the middle and at the end"
    for name in end.files:
        held = ", ".join(f"{s.files[name]:,} and {s.sizes[name] / 1e6:,.1f}" for s in (middle, end))
        yield f"  {name:<20} {held}"


def _state(rate: float, metrics: Mapping[str, list[int]]) -> list[str]:
    """What a shard should keep, and keeps: events of the history and the lateness, but for the step in between."""
    task = load_task(feed.TASK)
    span = (task.history + task.score.allowed_lateness - task.score.every) / 1e6
    events = rate * (1 - feed.TWICE) * span / LIVE_SHARDS
    entities = feed.ENTITIES / LIVE_SHARDS
    found, size = metrics.get("history_events", [0, 0, 0]), metrics.get("state_bytes", [0, 0, 0])
    name = np.mean([len(f"user {i}") for i in range(feed.ENTITIES)])
    held = packed(found[0], entities, float(name))
    return [
        f"state       of a shard: {events:,.0f} events predicted, {found[0]:,} on average, {found[2]:,} at most",
        f"            {held:,.0f} bytes predicted of those, {size[0]:,} on average with what came after a boundary, "
        f"{size[2]:,} at most ({held / max(found[0], 1):.1f} and {size[0] / max(found[0], 1):.1f} bytes an event)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=500, help="messages a second")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True)
    models = Models(out / "models")
    samples, source, first, last = load(out, args.minutes, args.rate, models)
    folders = backfill(out, models, first, last)
    (out / "compared").mkdir()
    rows = compare(out / "scores", folders, models.served, last, out / "compared")
    log = (out / "job.log").read_text()
    (out / "result.json").write_text(json.dumps({"rows": asdict(rows), "metrics": said(log)}, indent=2))
    print(report(samples, source, args.rate, rows, log, models.log))
    sys.exit(0 if rows.equal else 1)


if __name__ == "__main__":
    main()
