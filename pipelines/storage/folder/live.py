"""The part of the output folder that live jobs append to, file by file, merged in the background (`compaction`). What
runs over files publish is in `runs`, and what the files hold in `rows`.

    <out>/live/<run_id>/<kind>/<level>-<us>-<random>.parquet   kind: scores, dead_letters, ledger
    <out>/live/<run_id>/<kind>/merged.json                     which merged files count, and which files they replaced
    <out>/live/<run_id>/stop                               when it is there, the job ends
    <out>/live/<run_id>/.lock                                  held by the one that merges, see `compaction`

A file of level 0 is one `append`, and counts from the moment it has its name until merged.json calls it replaced. A
merged file (level 1 and up) counts only while merged.json lists it. One rename of merged.json thus exchanges many files
for one: whoever asks for `parts` gets every row in one file, whatever is written, merged or killed meanwhile. Replaced
files stay for a grace period, for those who got the list before.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.ledger.counts import Ledger
from pipelines.storage.rows import live_ledger, write_table
from pipelines.system.files import make_private, sync, write_file

Kind = Literal["scores", "dead_letters", "ledger"]
KINDS: tuple[Kind, ...] = ("scores", "dead_letters", "ledger")
RUN_ID = r"[A-Za-z0-9_-]+"
NAME = re.compile(r"(\d+)-(\d+)-[0-9a-f]+\.parquet")
MERGED = "merged.json"


@dataclass(frozen=True)
class MergedFiles:
    """What merged.json says. Names are without folder."""

    files: tuple[str, ...] = ()  # that count
    replaced: tuple[tuple[str, int], ...] = ()  # that do not, and since when, us


def make_folders(out: str | os.PathLike[str], run_id: str) -> None:
    """Makes the folders that `append` needs. Raises UserError if the output folder cannot be used."""
    if not re.fullmatch(RUN_ID, run_id):
        raise ValueError(f"a run_id takes letters, digits, _ and -: {run_id!r}")
    try:
        for kind in KINDS:
            make_private(folder(out, run_id, kind))
    except OSError as e:
        raise UserError(
            f"cannot write to the output folder {out}: {e.strerror or e}", remedy="Choose another one"
        ) from e


def folder(out: str | os.PathLike[str], run_id: str, kind: Kind) -> Path:
    """The folder of the files of a kind."""
    return Path(os.path.realpath(out)) / "live" / run_id / kind


def stop_file(out: str | os.PathLike[str], run_id: str) -> Path:
    """The file that ends the source of a live job."""
    return folder(out, run_id, "scores").parent / "stop"


def live_runs(out: str | os.PathLike[str]) -> list[str]:
    """The runs that ever appended to the output folder."""
    live = Path(os.path.realpath(out)) / "live"
    return sorted(n for n in os.listdir(live) if re.fullmatch(RUN_ID, n)) if live.is_dir() else []


def append(out: str | os.PathLike[str], run_id: str, kind: Kind, table: pa.Table, at: int) -> Path:
    """Writes rows into a file of their own, which is there whole, and on the disk, when this returns.

    Any number of processes may do so at once, without waiting for each other.

    Args:
      table: with the columns of `rows.live_schema`, or of `rows.LEDGER`.
      at: when it is written, us; merging goes by this order.
    """
    place = folder(out, run_id, kind)
    path = place / new_name(0, at)
    write_table(table, path)
    sync(place)
    return path


def parts(place: Path) -> list[Path]:
    """The files of a `folder` that together hold every row once, oldest first; none if there is no such folder.

    They stay for a grace period. Takes no lock.
    """
    while place.is_dir():
        before, names = read_merged(place), os.listdir(place)
        if before == read_merged(place):  # then nothing but replaced files vanished between the two
            return [place / name for name in counting(before, names)]
    return []


def read_live_ledger(out: str | os.PathLike[str], run_id: str) -> Ledger:
    """What became of every event that the live job read, up to the last row of each attempt.

    A runner that recovers goes on with its attempt, and nothing counts twice. An attempt that was killed has counted
    what it took without acknowledging it, and the next one counts that again.
    """
    while True:
        try:
            return live_ledger(map(read_rows, parts(folder(out, run_id, "ledger"))))
        except FileNotFoundError:  # replaced, and the grace period is over
            continue


def counting(merged: MergedFiles, names: Iterable[str]) -> list[str]:
    """The files of a folder whose rows count, oldest first, by the names in it."""
    files, gone = set(merged.files), {name for name, _ in merged.replaced}
    return sorted((n for n in names if n in files or (level(n) == 0 and n not in gone)), key=time_of)


def read_merged(place: Path) -> MergedFiles:
    """What the folder's merged.json says; nothing was merged if there is none."""
    try:
        state = json.loads((place / MERGED).read_bytes())
    except FileNotFoundError:
        return MergedFiles()
    return MergedFiles(tuple(state["files"]), tuple((name, at) for name, at in state["replaced"]))


def commit(place: Path, merged: MergedFiles) -> None:
    """Takes the one step in which merged files begin to count, and those that they replace cease to."""
    sync(place)
    write_file(place / MERGED, lambda f: f.write(json.dumps(asdict(merged)).encode()))
    sync(place)


def new_name(level: int, at: int) -> str:
    """A name that no other file has."""
    return f"{level}-{at}-{uuid.uuid4().hex}.parquet"


def level(name: str) -> int:
    """How many times the rows were merged; -1 for what is not a file of rows."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else -1


def time_of(name: str) -> int:
    """When the oldest rows were written, us."""
    return int(name.split("-")[1])


def read_rows(path: Path) -> pa.Table:
    """The rows of one file."""
    return pq.ParquetFile(path).read(use_threads=False)


def parquet(files: Sequence[Path | str]) -> str:
    """The rows of some files in DuckDB's SQL, by the names of their columns."""
    return f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true, hive_partitioning = false)"


def literal(path: Path | str) -> str:
    """A path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
