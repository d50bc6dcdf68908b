"""Merging the many small files of a live job into few sorted ones, while others write and read. Files: `live`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from pipelines.storage.folder.live import (
    KINDS,
    Kind,
    MergedFiles,
    commit,
    counting,
    folder,
    level,
    literal,
    new_name,
    parquet,
    read_merged,
    time_of,
)
from pipelines.storage.rows import LAST, LETTER, NEWER, ROW_GROUP
from pipelines.system.background import repeating
from pipelines.system.files import create_private, locked, make_private, sync

FAN = 32  # files that are merged into one of the next level
BYTES = 32 << 20  # of the files that are merged at once, about a million scores; half of it is never merged again
MEMORY = "512MB"  # of a merge; what needs more goes by way of the disk
GRACE = 60.0  # seconds that replaced files stay
ABANDONED = 3600.0  # seconds after which a temporary file has no writer

ROWS: dict[Kind, tuple[str, str]] = {  # the rows of a run that stay, and their order
    "scores": (
        f"row_number() OVER (PARTITION BY score_id, revision ORDER BY {NEWER}) = 1 "
        "AND (revision >= 0 OR max(revision) OVER (PARTITION BY score_id) < 0)",
        "as_of, entity_id, revision",
    ),
    "dead_letters": (
        f"row_number() OVER (PARTITION BY {LETTER} ORDER BY written_at DESC) = 1",
        "written_at, source, position, reason",
    ),
    "ledger": (LAST, "finished_at, attempt"),
}


@contextmanager
def compacting(out: str | os.PathLike[str], run_id: str, every: float = 10.0) -> Iterator[None]:
    """Merges in a thread until the end of the block. What goes wrong is logged, and tried again: it costs no rows.

    Args:
      every: seconds between two looks when there was nothing to merge.
    """
    with repeating(lambda: compact(out, run_id), every, f"merging the files of run {run_id} in {out}"):
        yield


def compact(out: str | os.PathLike[str], run_id: str, grace: float = GRACE, fan: int = FAN) -> int:
    """Merges once in each kind where there is something to merge, and removes what was replaced `grace` seconds ago.

    A merge takes `fan` files of a level, or as many as make BYTES. Of scores and dead letters it drops the rows that
    the views no longer show: copies, and early scores that others followed; of ledgers it keeps the last row of each
    attempt. The merged file is on the disk before it counts, and the next call tidies up after one that was killed.

    Returns:
      The number of files that were merged; 0 when there is nothing to do, or another process is at it.
    """
    run = folder(out, run_id, "scores").parent
    with locked(run / ".lock", wait=False) as alone:
        return sum(_compact(run / kind, kind, grace, fan) for kind in KINDS) if alone else 0


def _compact(place: Path, kind: Kind, grace: float, fan: int) -> int:
    state = _tidy(place, read_merged(place), grace)
    chosen = choose(counting(state, os.listdir(place)), lambda name: (place / name).stat().st_size, fan)
    if not chosen:
        return 0
    merged = new_name(level(chosen[0]) + 1, time_of(chosen[0]))
    _merge(kind, [place / name for name in chosen], place / merged)
    now, taken = _now(), set(chosen)
    files = (*(name for name in state.files if name not in taken), merged)
    commit(place, MergedFiles(files, (*state.replaced, *((name, now) for name in chosen))))
    return len(chosen)


def choose(names: Sequence[str], size: Callable[[str], int], fan: int) -> list[str]:
    """The oldest files of the lowest level that has enough of them: `fan`, or so many that they make BYTES.

    Args:
      names: of the files that count, oldest first.
      size: bytes of one.
    """
    levels = {name: level(name) for name in names}
    for lowest in sorted(set(levels.values())):
        chosen: list[str] = []
        taken = 0
        for name in (n for n in names if levels[n] == lowest):
            if (more := size(name)) > BYTES // 2:
                continue
            if taken + more > BYTES:
                return chosen
            chosen.append(name)
            taken += more
            if len(chosen) == fan:
                return chosen
    return []


def _tidy(place: Path, state: MergedFiles, grace: float) -> MergedFiles:
    """Removes files that were replaced long enough ago, and what killed processes left: of a merge at once, for no
    other is under way; of an append when it is too old to have a writer."""
    due = {name for name, at in state.replaced if at <= _now() - grace * 1e6}
    known = {*state.files, *(name for name, _ in state.replaced)}
    for name in os.listdir(place):
        never_counted = level(name) > 0 and name not in known
        broken_off = name.endswith(".part") and (not name.startswith("0-") or _age(place / name) > ABANDONED)
        if name in due or never_counted or broken_off:
            (place / name).unlink(missing_ok=True)
    if not due:
        return state
    kept = replace(state, replaced=tuple(r for r in state.replaced if r[0] not in due))
    commit(place, kept)
    return kept


def _merge(kind: Kind, files: Sequence[Path], to: Path) -> None:
    """One file of the rows of many; in one thread and bounded memory."""
    stay, order = ROWS[kind]
    spill, part = to.with_name("spill"), to.with_name(f"{to.name}.part")
    shutil.rmtree(spill, ignore_errors=True)
    make_private(spill)
    create_private(part).close()
    with duckdb.connect(config={"threads": 1, "memory_limit": MEMORY, "temp_directory": str(spill)}) as con:
        con.execute(
            f"COPY (SELECT * FROM {parquet(files)} QUALIFY {stay} ORDER BY {order}) "
            f"TO {literal(part)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}, USE_TMP_FILE false)"
        )
    sync(part)
    os.replace(part, to)
    shutil.rmtree(spill, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _now() -> int:
    return time.time_ns() // 1000
