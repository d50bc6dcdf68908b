"""EventBlock: many events in columns, the only form in which events are shuffled or kept.

Everything here is a pure function on arrays: no Beam, no clock, no I/O. Reading tables is in `decode`, meaning in
`sequences`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Rows = slice | Ints | Mask

VERSION = 1
HEADER = struct.Struct("<B?xxHHHxxiii")  # version, arrival?, codes, values, hashes, events, keys, bytes of keys

HEADERS = np.dtype(
    {
        "names": ["version", "arrival", "codes", "values", "hashes", "events", "keys", "size"],
        "formats": ["u1", "?", "<u2", "<u2", "<u2", "<i4", "<i4", "<i4"],
        "offsets": [0, 1, 4, 6, 8, 12, 16, 20],
        "itemsize": HEADER.size,
    }
)

CHUNK = 1 << 22  # bytes of a packed block in state, at most: runners limit the size of an element
SMALL = 1 << 15  # bytes of a packed block that is joined to others column by column: too small for a pass of its own
LONG = 1024  # bytes of a string that is hashed word by word
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
NO_CODE = np.uint16(0xFFFF)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class EventBlock:
    """Events in columns: n events of k entities."""

    keys: pa.StringArray  # (k) distinct entities
    key: npt.NDArray[np.int32 | np.uint16]  # (n) index into keys
    time: Ints  # (n) event time, us
    id: Hashes  # (n) hash of the identity fields, 0 without identity
    codes: npt.NDArray[np.uint16]  # (C, n) fields of `task.categorical`: index into their values, or a larger number
    values: Floats  # (V, n) the fields of `task.numeric`; NaN for null, no -0.0
    hashes: Hashes  # (H, n) hashes of the texts in the fields of `task.hashed`, 0 for null
    arrival: Ints | None  # (n) us, if the task has it

    @staticmethod
    def empty(codes: int, values: int, hashes: int) -> EventBlock:
        """No events, with that many columns of each kind, and with arrival."""
        i8 = np.zeros(0, np.int64)
        columns = np.zeros((codes, 0), np.uint16), np.zeros((values, 0), np.float32), np.zeros((hashes, 0), np.uint64)
        return EventBlock(pa.array([], pa.string()), np.zeros(0, np.int32), i8, i8.view(np.uint64), *columns, i8)

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: Rows) -> EventBlock:
        """The events of `rows`; keys stay as they are."""
        return EventBlock(
            self.keys,
            self.key[rows],
            self.time[rows],
            self.id[rows],
            self.codes[:, rows],
            self.values[:, rows],
            self.hashes[:, rows],
            None if self.arrival is None else self.arrival[rows],
        )

    def pack(self) -> bytes:
        """Packs the block to bytes: little-endian columns behind one header, widest first so that each is aligned;
        `unpack` is the inverse.

        The length is a multiple of 8, so that packed blocks in a row are aligned, too.
        """
        offsets, data = _buffers(self.keys)
        wide = [self.time, self.id, self.hashes] + ([] if self.arrival is None else [self.arrival])
        sizes = (len(self.codes), len(self.values), len(self.hashes), len(self), len(self.keys), len(data))
        columns = [*wide, self.values, offsets, self.key.astype(_key_type(len(self.keys))), self.codes]
        head = HEADER.pack(VERSION, self.arrival is not None, *sizes)
        parts: list[bytes | memoryview] = [head, *(np.ascontiguousarray(c).tobytes() for c in columns), data]
        return b"".join([*parts, bytes(-sum(map(len, parts)) % 8)])


def unpack(raw: bytes) -> EventBlock:
    """The inverse of `EventBlock.pack`, without a copy: the arrays are read-only views of the bytes.

    Raises:
      ValueError: another version wrote them.
    """
    version, has_arrival, c, v, h, n, k, size = HEADER.unpack_from(raw)
    if version != VERSION:
        raise ValueError(f"an event block of version {version}; this code reads version {VERSION}")
    at = HEADER.size

    def column(dtype: str, count: int) -> Array:
        nonlocal at
        out = np.frombuffer(raw, dtype, count, at)
        at += out.nbytes
        return out

    time, id_, hashes = column("<i8", n), column("<u8", n), column("<u8", h * n).reshape(h, n)
    arrival = column("<i8", n) if has_arrival else None
    values, offsets = column("<f4", v * n).reshape(v, n), column("<i4", k + 1)
    key, codes = column(_key_type(k), n), column("<u2", c * n).reshape(c, n)
    keys = pa.StringArray.from_buffers(k, pa.py_buffer(offsets), pa.py_buffer(raw[at : at + size]))
    return EventBlock(keys, key, time, id_, codes, values, hashes, arrival)  # type: ignore[arg-type]


def _key_type(keys: int) -> str:
    """Narrow where it can be: every byte of an event is copied many times on its way through a shuffle."""
    return "<u2" if keys <= 1 << 16 else "<i4"


def concat(blocks: Sequence[EventBlock]) -> EventBlock:
    """All events of some blocks, at least one, in one block. Equal keys are merged by their text, never by a hash."""
    if len(blocks) == 1:
        return blocks[0]
    merged = pa.concat_arrays([b.keys for b in blocks]).dictionary_encode()
    index = np.split(merged.indices.to_numpy(), np.cumsum([len(b.keys) for b in blocks])[:-1])
    key = np.concatenate([i[b.key] for i, b in zip(index, blocks, strict=True)]).astype(np.int32, copy=False)
    arrivals = [b.arrival for b in blocks if b.arrival is not None]
    return EventBlock(
        merged.dictionary,
        key,
        np.concatenate([b.time for b in blocks]),
        np.concatenate([b.id for b in blocks]),
        np.concatenate([b.codes for b in blocks], axis=1),
        np.concatenate([b.values for b in blocks], axis=1),
        np.concatenate([b.hashes for b in blocks], axis=1),
        np.concatenate(arrivals) if arrivals else None,
    )


def arrivals(raw: bytes) -> Ints:
    """us (n): the arrivals of a packed block that has them, without unpacking the rest."""
    _, _, _, _, hashes, n, _, _ = HEADER.unpack_from(raw)
    return np.frombuffer(raw, "<i8", n, HEADER.size + 8 * n * (2 + hashes))


def joined(raws: Sequence[bytes]) -> EventBlock:
    """All events of packed blocks of one task, at least one: `concat`, quick for thousands of a few events each."""
    small = [raw for raw in raws if len(raw) < SMALL]
    blocks = [unpack(raw) for raw in raws if len(raw) >= SMALL]
    return concat([*blocks, _joined(small)] if small else blocks)


def _joined(raws: Sequence[bytes]) -> EventBlock:
    """Each column of all blocks in one pass."""
    whole = b"".join(raws)
    at = _starts(np.array([len(raw) for raw in raws]))
    head = np.frombuffer(whole, np.uint8)[at[:, None] + np.arange(HEADER.size)].view(HEADERS)[:, 0]
    if (head["version"] != VERSION).any():
        raise ValueError(f"an event block of another version; this code reads version {VERSION}")
    n, k, size = (head[name].astype(np.int64) for name in ("events", "keys", "size"))
    at += HEADER.size  # of the column that comes next, in each block

    def column(dtype: str, count: Ints) -> Array:
        item = np.dtype(dtype).itemsize
        place = np.repeat(at // item - _starts(count), count)
        place += np.arange(len(place))
        np.add(at, count * item, out=at)
        return np.frombuffer(whole, dtype, len(whole) // item)[place]

    def columns(dtype: str, rows: int) -> Array:
        return np.stack([column(dtype, n) for _ in range(rows)]) if rows else np.empty((0, int(n.sum())), dtype)

    time, id_, hashes = column("<i8", n), column("<u8", n), columns("<u8", int(head["hashes"][0]))
    arrival = column("<i8", n) if head["arrival"][0] else None
    values, offsets = columns("<f4", int(head["values"][0])), column("<i4", k + 1)
    key, codes = column("<u2", n), columns("<u2", int(head["codes"][0]))
    text = column("u1", size)
    ends = np.delete(offsets + np.repeat(_starts(size), k + 1), _starts(k + 1))
    offsets = np.append(0, ends).astype(np.int32)
    merged = pa.StringArray.from_buffers(int(k.sum()), pa.py_buffer(offsets), pa.py_buffer(text)).dictionary_encode()
    key = merged.indices.to_numpy()[key + np.repeat(_starts(k), n)]
    return EventBlock(merged.dictionary, key, time, id_, codes, values, hashes, arrival)  # type: ignore[arg-type]


def _starts(lengths: Ints) -> Ints:
    """Where each of a row of parts begins."""
    return np.cumsum(lengths) - lengths


def pruned(b: EventBlock) -> EventBlock:
    """The block without the keys that no event has."""
    used = np.zeros(len(b.keys), bool)
    used[b.key] = True
    if used.all():
        return b
    rank = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return replace(b, keys=b.keys.filter(pa.array(used)), key=rank[b.key])


def chunks(b: EventBlock, size: int = CHUNK) -> Iterator[bytes]:
    """A block packed in pieces of at most `size` bytes, unless a single event has more; none for no events."""
    if not len(b):
        return
    raw = pruned(b).pack()
    if len(raw) <= size or len(b) == 1:
        yield raw
        return
    half = len(b) // 2
    yield from chunks(b.take(slice(None, half)), size)
    yield from chunks(b.take(slice(half, None)), size)


def order(b: EventBlock) -> tuple[Ints, Ints]:
    """The canonical order of a block's events, by (key, time, id, arrival, content), however they came.

    Only runs of equal key and time pay for a lexsort of all that follows.

    Returns:
      rows (n) in that order, and the places in it (ascending) whose key and time are those of the place before.
    """
    rows = _by_key_and_time(b)
    key, time = b.key[rows], b.time[rows]
    same = (key[1:] == key[:-1]) & (time[1:] == time[:-1])
    if same.any():
        tied = np.concatenate(([False], same)) | np.concatenate((same, [False]))
        run = np.cumsum(np.concatenate(([True], ~same)))[tied]
        r = rows[tied]
        arrival = [] if b.arrival is None else [b.arrival[r]]
        content = [*(x[r] for x in b.hashes), *(x[r] for x in b.values), *(x[r] for x in b.codes)]
        rows[tied] = r[np.lexsort([*content, *arrival, b.id[r], run])]
    return rows, np.flatnonzero(same) + 1


def _by_key_and_time(b: EventBlock) -> Ints:
    """Rows (n) by (key, time); those of both equal stay in their order.

    Files are nearly in order of time. So rows that are grouped by key first (16 bits: a radix sort) are nearly sorted,
    and the stable sort of key and time as one number makes use of that: three times faster than sorting it at once.
    """
    if not len(b):
        return np.arange(0)
    start = b.time.min()
    bits = int(b.time.max() - start).bit_length()
    if bits + len(b.keys).bit_length() > 63:
        return np.lexsort((b.time, b.key))
    rows = np.argsort(b.key.astype(np.uint16) if len(b.keys) <= 1 << 16 else b.key, kind="stable")
    both = (b.key[rows].astype(np.int64) << bits) | (b.time[rows] - start)
    return rows[np.argsort(both, kind="stable")]


def tidy(b: EventBlock, identity: bool) -> tuple[EventBlock, Ints]:
    """The events in canonical order, each once: of several copies the one that arrived first.

    Without identity only events of one id, which then is that of a message, are copies. Where copies that arrived at
    once contradict one another, each field has its smallest value (see `sortable`; the smallest hash of a text) and
    a category has none: so no field depends on which others the task reads.

    Returns:
      A block, and for each of its events the row of `b` that it was; the first of those that arrived at once.
    """
    rows, tied = order(b)
    id_ = b.id[rows[tied]]
    copies = tied[(id_ == b.id[rows[tied - 1]]) & (identity | (id_ != 0))]
    kept = np.delete(rows, copies)
    out = b.take(kept)
    if len(copies):
        at, copies = copies - np.arange(1, len(copies) + 1), rows[copies]
        if b.arrival is not None:
            at_once = b.arrival[copies] == b.arrival[kept[at]]
            at, copies = at[at_once], copies[at_once]
        _merge(out, at, b.take(copies))
        np.minimum.at(kept, at, copies)
    return out, kept


def _merge(out: EventBlock, at: Ints, copies: EventBlock) -> None:
    """Settles each of `copies` with the event of `out` (places `at`, ascending) that stays for it, in place."""
    events, place = np.unique(at, return_inverse=True)
    for kept, new in zip(out.values, copies.values, strict=True):
        smallest = sortable(kept[events])
        np.minimum.at(smallest, place, sortable(new))
        kept[events] = _unsorted(smallest)
    for code, other in zip(out.codes, copies.codes, strict=True):
        code[at[code[at] != other]] = NO_CODE
    for kept_hash, new_hash in zip(out.hashes, copies.hashes, strict=True):
        less = kept_hash[events] - np.uint64(1)  # null, 0, comes last
        np.minimum.at(less, place, new_hash - np.uint64(1))
        kept_hash[events] = less + np.uint64(1)


def sortable(values: Floats) -> npt.NDArray[np.int32]:
    """i4 (n): whole numbers that have the order of the values, NaN last."""
    bits = np.where(np.isnan(values), np.float32(np.nan), values).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unsorted(order: npt.NDArray[np.int32]) -> Floats:
    """The inverse of `sortable`."""
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).view(np.float32)


def split(b: EventBlock, shards: int) -> Iterator[tuple[int, EventBlock]]:
    """The events of each shard that has some, by the hash of their entity; a block has the keys of its shard alone."""
    if not len(b):
        return
    of_key = (hash64(b.keys) % np.uint64(shards)).astype(np.int16 if shards < 32768 else np.int32)
    of_row = of_key[b.key]
    rows = np.argsort(of_row, kind="stable")
    cut = np.searchsorted(of_row[rows], np.arange(shards + 1))
    by = np.argsort(of_key, kind="stable")
    key_cut = np.searchsorted(of_key[by], np.arange(shards + 1))
    rank = np.empty(len(of_key), np.int32)
    rank[by] = np.arange(len(of_key)) - key_cut[of_key[by]]
    keys = b.keys.take(pa.array(by))
    moved = replace(b.take(rows), key=rank[b.key[rows]])
    for s in np.flatnonzero(np.diff(cut)):
        part = moved.take(slice(int(cut[s]), int(cut[s + 1])))
        yield int(s), replace(part, keys=keys.slice(key_cut[s], key_cut[s + 1] - key_cut[s]))


def mix64(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * MIX1
    x = (x ^ (x >> np.uint64(27))) * MIX2
    return np.asarray(x ^ (x >> np.uint64(31)))


def hash64(strings: pa.Array) -> Hashes:
    """A 64-bit hash of each string or binary value (null: 0), the same in every process, version and runner.

    Python's and Arrow's own hashes promise none of that. Vectorised over words of 8 bytes up to `LONG` bytes.
    """
    offsets, data = _buffers(strings)
    start, length = offsets[:-1], np.diff(offsets)
    padded = np.frombuffer(bytes(data) + b"\0" * 8, np.uint8)
    words = np.lib.stride_tricks.as_strided(padded[:8].view("<u8"), (len(padded) - 7,), (1,))
    h = (length.astype(np.uint64) + np.uint64(1)) * GOLDEN
    shared = min(int(length.min(initial=LONG)), LONG) // 8 * 8 if len(length) else 0
    for at in range(0, shared, 8):  # words that every string fills: no index needed
        h = mix64((h ^ words[start + at]) * GOLDEN)
    for row in np.flatnonzero(length > LONG):  # such as a whole line: not word by word
        text = padded[start[row] : start[row] + length[row]].tobytes()
        h[row] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    rows, at = np.flatnonzero((length > shared) & (length <= LONG)), shared
    while len(rows):
        left = length[rows] - at
        spare = np.uint64(8) * np.maximum(8 - left, 0).astype(np.uint64)
        word = words[start[rows] + at] & (~np.uint64(0) >> spare)
        h[rows] = mix64((h[rows] ^ word) * GOLDEN)
        rows, at = rows[left > 8], at + 8
    if strings.null_count:
        h[strings.is_null().to_numpy(zero_copy_only=False)] = 0
    return h


def _buffers(strings: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """(offsets from 0, bytes) of a string array that may be a slice."""
    if not len(strings):
        return np.zeros(1, np.int32), memoryview(b"")
    _, offsets, data = strings.buffers()
    off = np.frombuffer(offsets, np.int32, len(strings) + 1, strings.offset * 4)
    return off - off[0], memoryview(data or b"")[off[0] : off[-1]]
