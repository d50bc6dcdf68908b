"""The part of the output folder that runs over files publish to, each whole and in one step: layout, locks, clean-up.
What live jobs append is in `live`, and what the files hold in `rows`.

    <out>/current/<run_id>                  link to ../generations/<run_id>.<attempt>; also <run_id>.refused and
                                            <run_id>.unbalanced, for runs that must not replace a good one
    <out>/generations/<run_id>.<attempt>/   scores/, dead_letters/, ledger.parquet; never changes once it is linked
    <out>/tmp/<run_id>.<attempt>/           of a running run: lock, progress/, outcome.json, data/ (to be a generation)

A run holds the lock of its own folder under tmp/ for as long as it lives; the system lets go of it however the process
ends. Links and folders change only under tmp/.lock, so that one run never takes another's step for a leftover.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.ledger.counts import Status
from pipelines.system.files import locked, make_private, sync, write_file
from pipelines.system.versioned import versioned

KINDS = ("scores", "dead_letters")
LEDGER = "ledger.parquet"
VOLATILE = ("attempt", "started_at", "finished_at")  # columns of the ledger in which equal runs differ
ATTEMPT = r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
NEW, DEAD = ".new.", ".dead."
LOCK = Path("tmp", ".lock")  # of all that changes in the folder


@dataclass(frozen=True)
class Attempt:
    """One execution of a run: `run_id` says what is computed, `attempt` is new each time. Neither holds a dot."""

    out: Path
    run_id: str
    attempt: str

    def __post_init__(self) -> None:
        if not re.fullmatch(ATTEMPT, self.name):
            raise ValueError(f"run_id and attempt take letters, digits, _ and -: {self.name!r}")

    @property
    def name(self) -> str:
        return f"{self.run_id}.{self.attempt}"

    @property
    def tmp(self) -> Path:
        return self.out / "tmp" / self.name

    @property
    def progress(self) -> Path:
        return self.tmp / "progress"

    @property
    def data(self) -> Path:
        """Where the parts are written, in `scores/` and `dead_letters/`, which exist."""
        return self.tmp / "data"

    @property
    def generation(self) -> Path:
        return self.out / "generations" / self.name


@versioned("outcome")
@dataclass(frozen=True)
class Outcome:
    """How a run ended. Not `changed`: what stood there already is the same, and was left alone."""

    status: Status
    changed: bool
    path: str  # of the generation with the run's scores, dead letters and ledger


def link_name(run_id: str, status: Status) -> str:
    """The name under current/: only a published run may replace a published run."""
    return run_id if status == "published" else f"{run_id}.{status}"


def link_status(name: str) -> Status:
    """The inverse of `link_name`."""
    suffix = name.partition(".")[2]
    return "refused" if suffix == "refused" else "unbalanced" if suffix == "unbalanced" else "published"


@contextmanager
def begin(out: str | os.PathLike[str], run_id: str, attempt: str) -> Iterator[Attempt]:
    """Makes the folders of a run, locked until the end of the block, when the temporary ones go.

    What killed runs left behind is removed first. Raises UserError if the folder cannot be used.
    """
    run = Attempt(Path(os.path.realpath(out)), run_id, attempt)
    with ExitStack() as held:
        try:
            _create(run, held)
        except OSError as e:
            why = f"cannot write to the output folder {run.out}: {e.strerror or e}"
            raise UserError(why, remedy="Choose another one") from e
        try:
            yield run
        finally:
            with suppress(FileNotFoundError), locked(run.out / LOCK):
                _discard(run)


def publish(run: Attempt, status: Status, parts: Collection[str]) -> Outcome:
    """Makes `run.data`, reduced to `parts` and the ledger, the current generation in one step.

    Args:
        run: inside its `begin` block, in any process.
        status: decides the name it is published under.
        parts: the committed files, such as `scores/part-00000.parquet`; others (of a bundle that was retried) go.

    Readers see the old generation or the new one, whole. If both hold the same, the old one stays.
    The generation before the current one stays for those who still read it; older ones are removed.
    Raises FileNotFoundError if a part is missing.
    """
    with locked(run.out / LOCK):
        _sweep(run.out)
        _prune(run.data, {*parts, LEDGER})
        name = link_name(run.run_id, status)
        old = current(run.out).get(name)
        if old is not None and _same(old, run.data):
            outcome = Outcome(status, False, str(old))
        else:
            _swap(run, name)
            outcome = Outcome(status, True, str(run.generation))
            _remove_older(run, old)
        if status == "published":
            for other in ("refused", "unbalanced"):
                (run.out / "current" / f"{run.run_id}.{other}").unlink(missing_ok=True)
        write_file(_outcome_path(run), lambda f: f.write(json.dumps(asdict(outcome)).encode()))
        return outcome


def adopt(out: str | os.PathLike[str], generation: Path) -> bool:
    """Publishes a copy of another folder's generation here, in one step; whether its run was not here yet.

    Raises:
      FileExistsError: the run is here with other scores, which stay.
    """
    with begin(out, *generation.name.split(".")) as run:
        old = current(run.out).get(run.run_id)
        if old is not None:
            if not _equal_files(old / "scores", generation / "scores"):
                raise FileExistsError(old)
            return False
        files = [str(f.relative_to(generation)) for f in sorted(generation.rglob("*.parquet"))]
        for name in files:
            with open(generation / name, "rb") as source:
                write_file(run.data / name, partial(shutil.copyfileobj, source))
        publish(run, "published", files)
    return True


def read_outcome(run: Attempt) -> Outcome | None:
    """What `publish` did, inside the `begin` block; None if it has not been called."""
    try:
        return Outcome(**json.loads(_outcome_path(run).read_text()))
    except FileNotFoundError:
        return None


def current(out: Path) -> dict[str, Path]:
    """The generation behind each name of current/; none for a folder without runs. Takes no lock."""
    links = out / "current"
    names = sorted(n for n in os.listdir(links) if not n.startswith(".")) if links.is_dir() else []
    found = {}
    for name in names:
        with suppress(OSError):  # gone, or not a link
            found[name] = out / "generations" / Path(os.readlink(links / name)).name
    return found


def _outcome_path(run: Attempt) -> Path:
    return run.tmp / "outcome.json"


def _create(run: Attempt, held: ExitStack) -> None:
    """The folders of a run, whose lock is held as long as `held` is."""
    for name in ("current", "generations", "tmp"):
        make_private(run.out / name)
    with locked(run.out / LOCK):
        _sweep(run.out)
        for folder in (run.tmp, run.progress, run.data, *(run.data / k for k in KINDS)):
            make_private(folder)
        held.enter_context(locked(run.tmp / "lock"))


def _alive(folder: Path) -> bool:
    """Whether the run of this folder under tmp/ still holds its lock."""
    with locked(folder / "lock", wait=False) as alone:
        return not alone


def _sweep(out: Path) -> None:
    """Removes what killed runs left."""
    for folder in ("current", "tmp", "generations"):
        for name in os.listdir(out / folder):
            if name.startswith(NEW):
                (out / folder / name).unlink()
            elif name.startswith(DEAD):
                shutil.rmtree(out / folder / name, ignore_errors=True)
    for name in os.listdir(out / "tmp"):
        if re.fullmatch(ATTEMPT, name) and not _alive(out / "tmp" / name):
            _discard(Attempt(out, *name.split(".")))


def _discard(run: Attempt) -> None:
    """Removes a run's folder under tmp/, and its generation if that was moved in place but never linked."""
    if read_outcome(run) is None and run.generation not in current(run.out).values():
        _remove(run.generation)
    _remove(run.tmp)


def _remove(folder: Path) -> None:
    """The folder vanishes at once, so that nobody sees half of it; a deletion cut short ends at the next run."""
    dead = folder.with_name(f"{DEAD}{folder.name}")
    with suppress(FileNotFoundError):
        os.rename(folder, dead)
    shutil.rmtree(dead, ignore_errors=True)


def _prune(data: Path, keep: set[str]) -> None:
    """Removes the other files. Raises FileNotFoundError if one of `keep` is not there."""
    files = {str(p.relative_to(data)) for p in data.rglob("*") if p.is_file()}
    missing = sorted(keep - files)
    if missing:
        raise FileNotFoundError(f"{data / missing[0]} was written and is gone")
    for name in files - keep:
        (data / name).unlink()


def _same(old: Path, new: Path) -> bool:
    """Whether two generations hold the same bytes, and ledgers that differ in nothing but times."""
    if not (old / LEDGER).is_file() or not _ledgers_equal(old / LEDGER, new / LEDGER):
        return False
    return all(_equal_files(old / kind, new / kind) for kind in KINDS)


def _equal_files(old: Path, new: Path) -> bool:
    names = sorted(os.listdir(old))
    return names == sorted(os.listdir(new)) and not any(filecmp.cmpfiles(old, new, names, shallow=False)[1:])


def _ledgers_equal(a: Path, b: Path) -> bool:
    old, new = (pq.ParquetFile(p).read(use_threads=False) for p in (a, b))
    facts = [n for n in new.column_names if n not in VOLATILE]
    return set(old.column_names) == set(new.column_names) and bool(old.select(facts).equals(new.select(facts)))


def _swap(run: Attempt, name: str) -> None:
    """The commit: everything is on the disk before the link, and the link is replaced in one step."""
    for folder in (*(run.data / k for k in KINDS), run.data):
        sync(folder)
    os.rename(run.data, run.generation)
    sync(run.generation.parent)
    links = run.out / "current"
    fresh = links / f"{NEW}{run.name}"
    fresh.symlink_to(Path("..", "generations", run.name))
    os.replace(fresh, links / name)
    sync(links)


def _remove_older(run: Attempt, previous: Path | None) -> None:
    keep = {*current(run.out).values(), previous}
    for name in os.listdir(run.out / "generations"):
        folder = run.out / "generations" / name
        if name.split(".")[0] == run.run_id and folder not in keep:
            _remove(folder)
