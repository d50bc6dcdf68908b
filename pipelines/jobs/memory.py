"""What a run takes of memory, said before it runs: a line of the plan, a warning, or a refusal.

A need is a sum of parts. Each has a likely size, and a least one, below which it surely cannot be: a run is refused
when the least is more than there is, and warned of when the likely one is more than `CLOSE` of it. The figures below
were measured as the peak of resident memory of whole commands (Linux x86-64, Python 3.11, the versions of
requirements.lock) on generated events; tests/jobs/test_memory.py measures some anew. Refused rows are not counted: each
costs about its own text three times until the run ends.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.errors import Exit, Finding, Severity, UserError
from pipelines.events.sequences import BATCH, DENSE
from pipelines.models.engines.base import EngineName
from pipelines.system.background import repeating
from pipelines.system.machine import Room, left, room
from pipelines.system.screen import quantity, tell
from pipelines.task.spec import Task

CLOSE = 0.8  # of the room: what is likely to take more may end for want of it
LAST = 0.05  # of the room: a run that has no more left is warned of
WATCHED = 2.0  # s between two looks at it
MB = 1 << 20

# Of a process: Python, Beam and the engine, before any event. A good third is its own (340 MB of 780 with TensorFlow);
# the rest are pages of libraries, which all processes share and the system can drop.
ENGINES: Mapping[EngineName, int] = {"tensorflow": 800 * MB, "openvino": 320 * MB, "openvino-bf16": 320 * MB}
BEAM = 260 * MB  # without an engine
TRAINING = 900 * MB  # with TensorFlow Transform, LightGBM and plotly
OWN = 0.35
PRISM = 60 * MB

KEY = 16  # bytes of the name of an entity, in each block that has it
SHUFFLED = 4.0  # times that the runner has an event, packed
SORTED = 180  # bytes that an event of the shard at work takes, over and above
EACH = 20  # events of an entity, where nobody knows
SCORED = 400  # bytes of a row of scores, until it is written
LISTED = 150  # bytes of an as-of, in the plan, the graph and the steps of the job
TABLE = 2.0  # times that a table of steps is there: with the window of an as-of, filled, and its copy
CALLED = 5.5  # times that a batch is there: gathered, padded, as a tensor, and what preprocessing makes of it
RECURRENT = 6  # arrays (steps, units) of a row in a recurrent layer: gates, states, outputs
KEPT = 2.5  # times the memory of a call that a step of learning takes: what the gradient needs stays
EXAMPLE = 230  # bytes of an example beside its tensor, see `models.example_files.load_examples`
JUDGED = 1024  # rows of a call when a network is judged
TREES = 350 * MB  # the table of LightGBM, its bins and histograms, at most, see `evaluation.baselines`
LIVE = 3.0  # times that an event of the history is there, in Prism and on the way to it; an assumption

KILLED = re.compile(r"SIGKILL|signal 9\b")
OUT = re.compile(
    r"MemoryError|ResourceExhausted|OutOfMemory|\bOOM\b|bad_alloc|[Uu]nable to allocate|[Cc]annot allocate memory|"
    r"malloc of size|SIGKILL|signal 9\b"
)


class MemoryPart(NamedTuple):
    """One thing that takes memory."""

    what: str
    likely: float  # bytes
    least: float  # bytes
    lower: str  # what the user can do about it


@dataclass(frozen=True)
class Need:
    """What a command takes at its largest, all its processes together."""

    parts: tuple[MemoryPart, ...]
    here: bool = True  # else each worker, of machines that are not known
    to: str = ""  # do what, where a command does several things one after the other

    @property
    def likely(self) -> int:
        """The bytes that it is likely to take."""
        return round(sum(part.likely for part in self.parts))

    @property
    def least(self) -> int:
        """The bytes that it takes at least."""
        return round(sum(part.least for part in self.parts))

    @property
    def largest(self) -> MemoryPart:
        """What it helps most to lower; the engine comes first, and stays."""
        return max(self.parts[1:], key=lambda part: max(part.likely, part.least))

    def lines(self, there: Room | None = None) -> list[str]:
        """The lines for a plan and the beginning of a run: what it is likely to take, and a warning if that is close.

        Args:
          there: this machine's where None.

        Raises:
          UserError: it surely takes more than there is.
        """
        there = there or room()
        problem = self.problem(there)
        if problem is not None and problem.severity == "error":
            raise UserError.of([problem])
        return [self.line(there), *([f"warning     {problem}"] if problem else [])]

    def line(self, there: Room | None = None) -> str:
        """What it is likely to take; `there`: this machine's where None."""
        parts = sorted((p for p in self.parts if p.likely >= 0.1 * self.likely), key=lambda p: -p.likely)
        what = ", ".join(f"{quantity(part.likely, 'B')} {part.what}" for part in parts)
        size = quantity(self.likely, "B")
        if not self.here:
            return f"memory      about {size} of a worker's{self.to} ({what}); what workers have is not known here"
        there = there or room()
        return f"memory      about {size}{self.to}, {quantity(there.size, 'B')} {there.what} ({what})"

    def problem(self, there: Room | None = None) -> Finding | None:
        """What is wrong with it, and what to lower: an error where it surely takes more than there is."""
        there = there or room()
        if not self.here or max(self.likely, self.least) <= CLOSE * there.size:
            return None
        impossible = self.least > there.size + there.swap
        severity: Severity = "error" if impossible else "warning"
        size = f"at least {quantity(self.least, 'B')}" if impossible else f"about {quantity(self.likely, 'B')}"
        said = f"it takes {size} of memory{self.to}, {quantity(there.size, 'B')} {there.what}; {self.most}"
        return Finding("memory", severity, "memory", said, self.largest.lower)

    @property
    def most(self) -> str:
        """The largest part, in words."""
        part = self.largest
        return f"the most of it, {quantity(max(part.likely, part.least), 'B')}, is for {part.what}"


def scoring(
    task: Task,
    as_ofs: Sequence[int],
    events: int,
    shards: int,
    workers: int,
    engine: EngineName,
    batch: int,
    model: Mapping[str, Any],
    here: bool = True,
) -> Need:
    """The memory that `foretide score` needs.

    Args:
      events: about how many there are.
      shards: into which their entities are divided.
      workers: processes; with several, this one only leads them.
      batch: rows of a call of the model.
      model: the task's ModelSpec that it was made with.
      here: the processes are of this machine; otherwise it is what one worker takes.
    """
    processes = workers if here else 1
    return Need(
        (
            *_engine(ENGINES[engine], processes, str(engine)),
            *(_shuffle(task, events, workers) if here else ()),
            _shard(task, events // shards, processes),
            _table(task, as_ofs, processes),
            _calls(task, batch, model, processes),
            *(_rows(events, as_ofs) if here else ()),
        ),
        here,
    )


def making(task: Task, as_ofs: Sequence[int], events: int, shards: int, workers: int, here: bool = True) -> Need:
    """The memory that making examples of some as-ofs needs, see `scoring`."""
    processes = workers if here else 1
    return Need(
        (
            *_engine(BEAM, processes, "Beam"),
            *(_shuffle(task, events, workers) if here else ()),
            _shard(task, events // shards, processes),
            _table(task, as_ofs[:1], processes),
            MemoryPart("the list of as-ofs", LISTED * len(as_ofs), 32 * len(as_ofs), "Ask for fewer as-ofs"),
        ),
        here,
        " to make examples",
    )


def training(task: Task, examples: int = 0) -> Need:
    """The memory that learning and judging need, whatever the number of examples whose tensors stay in their files.

    Args:
      examples: of all sets, where they are known.
    """
    spec, batch = task.model, task.model.batch_size
    learn, judge = (n * _call(task, spec.network, spec.units) for n in (KEPT * batch, JUDGED))
    largest = "Lower model.batch_size" if learn > judge else "Take fewer or longer steps, or fewer features"
    weights = 4 * _weights(task) * (5 + 2 * spec.members)
    return Need(
        (
            *_engine(TRAINING, 1, "TensorFlow"),
            MemoryPart("batches", max(learn, judge), 4 * _cells(task) * min(batch, JUDGED), largest),
            MemoryPart("weights", weights, weights / 8, "Lower model.units, model.members or the vocabularies"),
            MemoryPart("trees to compare with", TREES, 0, "Take fewer as-ofs with --train-as-ofs"),
            MemoryPart("examples", EXAMPLE * examples, EXAMPLE * examples / 4, "Take fewer as-ofs with --train-as-ofs"),
        ),
        to=" to train",
    )


def streaming(
    task: Task,
    events: int,
    shards: int,
    engine: EngineName,
    batch: int,
    model: Mapping[str, Any],
    here: bool = True,
) -> Need:
    """The memory of a live job, with the history that it starts from. What it keeps later grows with its events."""
    parts = [*_engine(ENGINES[engine], 1, str(engine))]
    if here:
        lower = "Start from less history (--bootstrap), or run on Flink, which keeps its state on disk"
        parts += [MemoryPart("Prism", PRISM, PRISM / 2, lower)]
        parts += [MemoryPart("the history", LIVE * events * _packed(task), 0, lower)] if events else []
    return Need((*parts, _shard(task, events // shards, 1), _table(task, (0,), 1), _calls(task, batch, model, 1)), here)


@contextmanager
def explained(need: Need) -> Iterator[None]:
    """Warns on standard error when memory is nearly used up, and says what was expected, and what to lower, when it
    has run out all the same."""
    before = room()
    warned = False
    to = sys.stderr  # a live job lets go of it

    def watch() -> int:
        nonlocal warned
        now = left()
        if not warned and now.size + now.swap < LAST * before.size:
            warned = True
            said = f"only {quantity(now.size, 'B')} of memory are {now.what}; {need.most}. {need.largest.lower}"
            tell(to, f"warning     {said}")
        return 0

    with repeating(watch, WATCHED, "memory") if need.here else nullcontext():
        try:
            yield
        except (MemoryError, UserError) as error:
            if not (isinstance(error, MemoryError) or OUT.search(str(error))):
                raise
            had, wanted = quantity(before.size, "B"), quantity(need.likely, "B")
            killed = KILLED.search(str(error))
            looks = "Unless somebody did that, memory ran out" if killed else "It looks like a lack of memory"
            said = f"{str(error).rstrip('.') or 'MemoryError'}. {looks}{need.to}: there were {had} "
            said += f"{before.what}, and about {wanted} were expected to do"
            exit = getattr(error, "exit", Exit.FAILED)
            raise UserError(f"{said}; {need.most}", exit, remedy=need.largest.lower, code="memory") from error


def _engine(size: int, processes: int, name: str) -> Iterator[MemoryPart]:
    """This process, and the workers that it starts where there are several."""
    own, lower = OWN * size, "Take a larger machine"
    yield MemoryPart(f"Python and {name}", size, own, lower)
    if processes > 1:
        yield MemoryPart(f"{processes} more processes of it", processes * own, processes * own / 2, "Lower --workers")


def _shuffle(task: Task, events: int, workers: int) -> Iterator[MemoryPart]:
    lower = "Give it less input at a time, or run it on Flink (--runner=FlinkRunner), which shuffles on disk"
    times = SHUFFLED + (1 if workers > 1 else 0)
    yield MemoryPart(f"about {quantity(events)} events", times * events * _packed(task), 0, lower)


def _shard(task: Task, events: int, processes: int) -> MemoryPart:
    return MemoryPart("the shard at work", processes * events * (_packed(task) + SORTED), 0, "Use more --shards")


def _table(task: Task, as_ofs: Sequence[int], processes: int) -> MemoryPart:
    """The steps of some entities, once for all as-ofs (of one at a time, where events have an arrival)."""
    span = 0 if task.events.arrival else (as_ofs[-1] - as_ofs[0]) // task.sequence.step
    width, features = task.sequence.steps + span, len(task.features)
    entities = max(1, min(BATCH, DENSE // (width * features)))
    one = width * (4 * features + 16)
    lower = (
        "Narrow the range of --as-of" if span > task.sequence.steps else "Take fewer or longer steps (sequence.steps)"
    )
    return MemoryPart("a table of steps", processes * entities * (TABLE * one), processes * one, lower)


def _calls(task: Task, batch: int, model: Mapping[str, Any], processes: int) -> MemoryPart:
    call = batch * _call(task, str(model.get("network")), model.get("units") or ())
    lower = f"Lower --batch-size ({batch}) or sequence.steps ({task.sequence.steps:,})"
    return MemoryPart("batches of the model", processes * call, processes * batch * 4 * _cells(task), lower)


def _call(task: Task, network: str, units: Sequence[int]) -> float:
    """Bytes of a call of the model for each row."""
    recurrent = network in ("gru", "lstm")
    return 4 * (CALLED * _cells(task) + RECURRENT * recurrent * task.sequence.steps * max(units, default=0))


def _rows(events: int, as_ofs: Sequence[int]) -> Iterator[MemoryPart]:
    entities = max(1, events // EACH)
    lower = "Narrow the range of --as-of"
    yield MemoryPart("rows of scores", SCORED * entities * len(as_ofs), 0, lower)
    yield MemoryPart("the list of as-ofs", LISTED * len(as_ofs), 32 * len(as_ofs), lower)


def _cells(task: Task) -> int:
    return task.sequence.steps * len(task.features)


def _packed(task: Task) -> float:
    """Bytes of an event in a packed block, see `events.block`: time, id, columns, key, and the name of the key."""
    columns = 8 * len(task.hashed) + 4 * len(task.numeric) + 2 * len(task.categorical)
    return 16 + 8 * (task.events.arrival is not None) + columns + 4 + KEY


def _weights(task: Task) -> float:
    """Numbers that a network of the task learns, about."""
    spec, words = task.model, sum(f.vocabulary or 0 for f in task.features)
    inputs = len(task.features) * (30 if spec.network == "mlp" else 1) + 8 * sum(
        1 for f in task.features if f.vocabulary
    )
    gates = {"gru": 3, "lstm": 4}.get(spec.network, 0)
    total = 8.0 * words
    for units in spec.units:
        total += (inputs + units) * units * gates if gates else inputs * units
        inputs = units
    outputs = len(task.outputs)
    last = _cells(task) if spec.network == "linear" else inputs
    return total + last * outputs
