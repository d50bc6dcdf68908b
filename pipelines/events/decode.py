"""From the columns of an Arrow table to an EventBlock: which rows are events, and why others are not. Vectorised.

How a column converts is in `columns` and `times`; everything here and there is a pure function on arrays.

Values that do not convert are found with a mask, all of a column at once, and left out: so one bad row costs one row,
means nothing for the others, and takes little longer than a good one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.block import GOLDEN, EventBlock, Hashes, Ints, Mask, hash64, mix64
from pipelines.events.columns import DecodeError, WrongType, codes, filled, is_text, numbers, plain, text, utf8
from pipelines.events.formats.base import Flaw
from pipelines.events.times import micros
from pipelines.task.spec import Task, TimeField

SKEW = "events.max_skew"
BYTES = (pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)  # types of any bytes


@dataclass(frozen=True)
class Span:
    """Which events a run can use: those in the history of an as-of or in the horizon of its label."""

    as_ofs: tuple[int, ...]  # us, ascending, at least one
    horizon: int = 0  # us after an as-of that labels look at; 0 when scoring

    def usable(self, task: Task, time: Ints, arrival: Ints | None) -> Mask:
        """(n) whether any as-of of the run can use an event of that time (us) and arrival (us)."""
        as_ofs = np.asarray(self.as_ofs)
        after = np.searchsorted(as_ofs, time, side="right")
        first = after  # the first as-of after an event is the first to see it; a late event needs one still open
        if arrival is not None and not self.horizon:
            closed = as_ofs + task.score.allowed_lateness
            first = np.maximum(first, np.searchsorted(closed, arrival, side="right"))
        seen = time >= as_ofs[np.minimum(first, len(as_ofs) - 1)] - task.history
        history = np.asarray(seen & (first < len(as_ofs)))
        if not self.horizon:
            return history
        before = as_ofs[np.maximum(after - 1, 0)]
        return history | ((time >= before) & (time < before + self.horizon))


@dataclass(frozen=True)
class Since:
    """Which events a job without an end can use: those in the history of an as-of from `first` on, every
    `score.every`."""

    first: int  # us

    @property
    def horizon(self) -> int:
        """None: a job without an end has no labels."""
        return 0

    def after(self, task: Task, time: Ints) -> Ints:
        """(n) the first as-of of the job that is later than a time (us)."""
        every = task.score.every
        return self.first + np.maximum((time - self.first) // every + 1, 0) * every

    def usable(self, task: Task, time: Ints, arrival: Ints | None) -> Mask:
        """(n) whether any as-of of the job can use an event of that time (us) and arrival (us, else its time)."""
        known = time if arrival is None else arrival
        return time >= self.after(task, np.maximum(time, known - task.score.allowed_lateness)) - task.history


@dataclass(frozen=True)
class Decoded:
    """What became of the rows of one table: n = len(block) + len(refused) + filtered + outside."""

    block: EventBlock
    refused: dict[int, Flaw]  # by row of the table
    filtered: int
    outside: int
    first_time: int | None  # of all events, also those outside, us
    last_time: int | None


def without_arrival(task: Task) -> Task:
    """The task for rows whose arrival is known beside their fields, so that they need not have that one."""
    events = task.events.model_copy(update={"arrival": None})
    return Task.model_construct(**{**{name: getattr(task, name) for name in Task.model_fields}, "events": events})


def decode(
    task: Task,
    table: pa.Table,
    span: Span | Since,
    lines: pa.Array | None = None,
    arrival: Ints | None = None,
    ids: Hashes | None = None,
) -> Decoded:
    """Events of a table that has every column of `task.columns`; a row that cannot be one is refused, it alone.

    Args:
      lines: the rows as they stand in a text file; with identity `all` they are what is compared.
      arrival: (n) us, of messages: instead of the task's field. Rows of a stream without either arrived at their time.
      ids: (n) what makes a row itself with identity `none`; without them each is an event of its own.
    """
    ev, n = task.events, len(table)
    column = {name: _combined(table[name]) for name in table.column_names}
    bad: dict[int, Flaw] = {}
    wanted = _matches(column, ev.where, n, bad)
    filtered = n - int(wanted.sum())
    entity, named = entities(column[ev.entity], ev.entity, bad)
    time, time_ok = _times(column[ev.time.field], ev.time, bad)
    checks = [(named, f"{ev.entity} is missing"), (time_ok, f"{ev.time.field} is missing or out of range")]
    if arrival is not None:
        checks.append((time - arrival <= ev.max_skew, f"{ev.time.field} is later than its arrival by more than {SKEW}"))
    elif ev.arrival is not None:
        arrival, arrival_ok = _times(column[ev.arrival.field], ev.arrival, bad)
        late = f"{ev.time.field} is later than {ev.arrival.field} by more than {SKEW}"
        checks += [
            (arrival_ok, f"{ev.arrival.field} is missing or out of range"),
            (time - arrival <= ev.max_skew, late),
        ]
    elif isinstance(span, Since):
        arrival = time
    values = np.empty((len(task.numeric), n), np.float32)
    for i, name in enumerate(task.numeric):
        values[i] = converted(column[name], name, numbers, bad) + np.float32(0)  # -0.0 becomes 0.0
        checks.append((~np.isinf(values[i]), f"{name} is infinite or larger than a 32-bit float can be"))
    id_, id_ok = identity(task, column, lines, ids, n, bad)
    checks.append((id_ok, "every field of the identity is missing"))

    codes_ = [codes(_text(column[name], name, bad), ev.categories[name]) for name in task.categorical]
    hashes = [hash64(plain(_text(column[name], name, bad))) for name in task.hashed]
    refused = _refusals(wanted, checks, bad)
    ok = wanted.copy()
    ok[list(refused)] = False
    times = time[ok]
    ok &= span.usable(task, time, arrival)
    outside = len(times) - int(ok.sum())
    key = filled(entity.indices, 0).astype(np.int32, copy=False)
    block = EventBlock(
        entity.dictionary, key, time, id_, _stack(codes_, n, np.uint16), values, _stack(hashes, n, np.uint64), arrival
    )
    first, last = (int(times.min()), int(times.max())) if len(times) else (None, None)
    return Decoded(block if ok.all() else block.take(ok), refused, filtered, outside, first, last)


def entities(column: pa.Array, name: str, bad: dict[int, Flaw]) -> tuple[pa.DictionaryArray, Mask]:
    """A text column as distinct strings and indices, and which rows (n) have one: not null, not empty, UTF-8."""
    encoded = _distinct(_text(column, name, bad, _entity_text))
    strings = encoded.dictionary
    good = np.append(pc.binary_length(strings).to_numpy() > 0, False)
    index = filled(encoded.indices, len(strings))
    wrong = ~utf8(strings)
    if wrong.any():
        good[:-1] &= ~wrong
        refused = Flaw(f"{name} is not UTF-8")
        for row in np.flatnonzero(np.append(wrong, False)[index]).tolist():
            bad.setdefault(row, refused)
        encoded = pa.DictionaryArray.from_arrays(encoded.indices, pc.if_else(pa.array(wrong), "", strings))
    return encoded, good[index]


def identity(
    task: Task,
    column: dict[str, pa.Array],
    lines: pa.Array | None,
    ids: Hashes | None,
    n: int,
    bad: dict[int, Flaw],
) -> tuple[Hashes, Mask]:
    """A hash, u8 (n), of what makes an event itself, and whether there is anything to hash. Without identity ids, or
    0."""
    fields = task.events.identity
    if fields == "none":
        return np.zeros(n, np.uint64) if ids is None else ids, np.ones(n, bool)
    if fields == "all" and lines is not None:
        return hash64(lines), np.ones(n, bool)
    out, known = np.zeros(n, np.uint64), np.zeros(n, bool)
    for name in sorted(column) if fields == "all" else fields:
        hashes, there = _hashed(_any_text(column[name]) if fields == "all" else _text(column[name], name, bad))
        out = mix64((out ^ hashes) + GOLDEN)
        known |= there
    return out, known


def _hashed(strings: pa.Array) -> tuple[Hashes, Mask]:
    """(n) hashes, 0 for null, and which are not null. Values of a dictionary are hashed once, however long they are."""
    if not pa.types.is_dictionary(strings.type):
        return hash64(strings), strings.is_valid().to_numpy(zero_copy_only=False)
    hashes, known = _hashed(strings.dictionary)
    at = filled(strings.indices, len(hashes))  # where null: behind the last
    return np.append(hashes, np.uint64(0))[at], np.append(known, False)[at]


def _times(column: pa.Array, spec: TimeField, bad: dict[int, Flaw]) -> tuple[Ints, Mask]:
    return converted(column, spec.field, lambda c, _: micros(c, spec), bad)


def _entity_text(column: pa.Array, name: str) -> pa.Array:
    """Text, but not of numbers with a fraction: a name that is one is a mistake."""
    if pa.types.is_floating(column.type):
        cells = column.to_numpy(zero_copy_only=False)
        broken = ~np.isnan(cells) & (np.floor(cells) != cells)
        if broken.any():
            raise DecodeError(f"{name} is not a whole number or text", broken)
    return text(column, name)


def _text(
    column: pa.Array, name: str, bad: dict[int, Flaw], convert: Callable[[pa.Array, str], pa.Array] = text
) -> pa.Array:
    """Text, or dictionary-encoded text if that is how it was read."""
    if pa.types.is_dictionary(column.type) and column.type.value_type == pa.string():
        return column
    return converted(column, name, convert, bad)


T = TypeVar("T")


def converted(column: pa.Array, name: str, convert: Callable[[pa.Array, str], T], bad: dict[int, Flaw]) -> T:
    """A converted column, in which values that do not convert are null."""
    while True:
        try:
            return convert(column, name)
        except DecodeError as error:
            if pa.types.is_dictionary(column.type) and not isinstance(error, WrongType):
                column = plain(column)  # the error is about values of the dictionary
                continue
            wrong, reason = error.wrong if error.wrong.any() else np.ones(len(column), bool), str(error)
            rows, column = np.flatnonzero(wrong), _takeable(column)
            for row, value in zip(rows.tolist(), _shown(column.take(pa.array(rows))), strict=True):
                bad.setdefault(row, Flaw(reason, value))
            nothing = pa.nulls(len(column), pa.string())
            column = nothing if wrong.all() else pc.if_else(pa.array(wrong), None, column)


def _takeable(column: pa.Array) -> pa.Array:
    """The same values in a type that Arrow can take some of."""
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.large_binary()}
    return column.cast(views.get(column.type, column.type))


def _matches(column: dict[str, pa.Array], where: Mapping[str, str | bool | int], n: int, bad: dict[int, Flaw]) -> Mask:
    """(n) rows that `where` wants, or that it cannot judge."""
    out = np.ones(n, bool)
    for name, value in where.items():
        want = str(value).lower() if isinstance(value, bool) else str(value)
        same = pc.equal(plain(_text(column[name], name, bad)), want)
        out &= filled(same, False)
    out[list(bad)] = True
    return out


def _refusals(wanted: Mask, checks: list[tuple[Mask, str]], bad: dict[int, Flaw]) -> dict[int, Flaw]:
    """The reason for each wanted row that is bad or fails a check; the first one that holds."""
    out = {row: reason for row, reason in bad.items() if wanted[row]}
    for ok, reason in checks:
        if not ok.all():
            refused = Flaw(reason)
            for row in np.flatnonzero(wanted & ~ok).tolist():
                out.setdefault(row, refused)
    return out


def _distinct(column: pa.Array) -> pa.DictionaryArray:
    """Text as distinct strings, none of them null, and indices."""
    if not pa.types.is_dictionary(column.type):
        return column.dictionary_encode()
    values = column.dictionary
    if values.null_count == 0 and len(values.unique()) == len(values):
        return pa.DictionaryArray.from_arrays(column.indices.cast(pa.int32()), values)
    return plain(column).dictionary_encode()


def _any_text(column: pa.Array) -> pa.Array:
    """Text of a column of any type, only for comparing rows."""
    kind = column.type
    if pa.types.is_nested(kind):
        return _represented(column)
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(column.indices, _any_text(column.dictionary))
    if is_text(kind) or any(is_a(kind) for is_a in BYTES):
        return column.cast(pa.binary())
    try:
        return text(column, "")
    except DecodeError:
        pass
    try:
        return column.cast(pa.string())
    except pa.ArrowException:  # of a type that has no text
        return _represented(column)


def _represented(column: pa.Array) -> pa.Array:
    return pa.array([None if v is None else repr(v) for v in column.to_pylist()], pa.string())


def _shown(cells: pa.Array) -> list[str]:
    """Values, shortened, so that a dead letter says what stood there."""
    try:
        return [repr(value)[:80] for value in cells.to_pylist()]
    except (UnicodeDecodeError, ValueError, OverflowError):  # of one of them
        return (
            [""]
            if len(cells) == 1
            else [shown for cell in range(len(cells)) for shown in _shown(cells[cell : cell + 1])]
        )


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # one chunk is not copied


D = TypeVar("D", bound=np.generic)


def _stack(columns: Sequence[np.ndarray[tuple[int, ...], np.dtype[D]]], n: int, kind: type[D]) -> npt.NDArray[D]:
    return np.stack(columns) if columns else np.zeros((0, n), kind)
