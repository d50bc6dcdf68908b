"""Files and messages drawn by structure: nesting, counts, lengths, recursion, compression, dictionaries, numbers.

`python -m tests.support.structure_fuzzer FORMAT SEED COUNT FOLDER` draws them, reads each in at most 2 GB, and checks
that good rows beside them are all there and all is accounted for. It prints a number before each, and the peak of
memory at the end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import re
import resource
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.events.block import EventBlock
from pipelines.events.decode import Since, without_arrival
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import Messages, Payload
from pipelines.ledger.counts import DeadLetter, Ledger, total
from tests.support import event_files

LIMIT = 2 << 30  # bytes of memory
SYNC = b"0123456789abcdef"
GOOD = event_files.records(12)
NUMBERS = ("1e400", "-1e-400", "1" * 5_000, "0." + "3" * 5_000, "1e" + "9" * 300, "-0", "12345678901234567890.5", "NaN")


def size(r: random.Random) -> int:
    """Mostly small, at times large."""
    return int(10 ** r.choice((0, 1, 1, 2, 2, 3, 3, 4, 5)) * r.uniform(0, 2))


def json_value(r: random.Random, depth: int = 0) -> str:
    """A JSON value, or nearly one."""
    kind = r.randrange(10)
    if kind == 0:
        n, closes = size(r), r.random() < 0.7
        opening, closing = r.choice((("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")))
        return opening * n + "1" + (closing * n if closes else "")
    if kind == 1:
        return r.choice(NUMBERS)
    if kind == 2:
        return json.dumps(r.choice(("x", "[", "{", '"', "\\", "é", "\ud800", "\0", "],}")) * size(r))
    if kind == 3:
        return "[" + ",".join(r.choice(("[]", "{}", "0", "null", '""')) for _ in range(size(r))) + "]"
    if kind == 4:
        return "{" + ",".join(f'"{i}":{i}' for i in range(min(size(r), 20_000))) + "}"
    if kind == 5 and depth < 5:
        return "{" + ",".join(f'"{name}":{json_value(r, depth + 1)}' for name in ("user", "x", "x")) + "}"
    if kind == 6 and depth < 5:
        return "[" + ",".join(json_value(r, depth + 1) for _ in range(r.randrange(5))) + "]"
    return r.choice(("null", "true", "-", "", "1", '"text"', "1704067200"))


def json_row(r: random.Random) -> bytes:
    """A good row with odd fields, on one line."""
    row = {name: json.dumps(value) for name, value in r.choice(GOOD).items()}
    for _ in range(r.randint(1, 2)):
        row[r.choice((*event_files.FIELDS, "more", "and more"))] = json_value(r)
    text = "{" + ", ".join(f'"{name}": {value}' for name, value in row.items()) + "}"
    return (text if r.random() < 0.8 else json_value(r)).encode("utf-8", "surrogatepass").replace(b"\n", b" ")


def csv_row(r: random.Random) -> bytes:
    cells = [str(r.choice(GOOD)[name]) for name in event_files.FIELDS]
    for _ in range(r.randint(1, 2)):
        odd = r.choice((*NUMBERS, "x", '"', '""', ",", "é", "\0", "=1+1", "[", "2024-01-01", "inf"))
        cells[r.randrange(len(cells))] = odd * (size(r) if len(odd) < 5 else 1)
    cells += ["x"] * (size(r) if r.random() < 0.1 else 0)
    return ",".join(cells).encode()


def text_file(r: random.Random, path: Path, line: Callable[[random.Random], bytes], good: bytes) -> int:
    """Writes good and odd lines, zipped or not; returns how many there are."""
    lines, head = good.rstrip(b"\n").split(b"\n"), b""
    if path.suffix == ".csv":
        head, *lines = lines
        head += b"\n"
    for _ in range(r.randint(1, 4)):
        lines.insert(r.randrange(len(lines) + 1), line(r))
    content = head + b"\n".join(lines) + b"\n"
    path.write_bytes(content)
    return sum(bool(x.strip()) for x in lines)


def zigzag(value: int) -> bytes:
    out, rest = bytearray(), (value << 1) ^ (value >> 63)
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def avro_type(r: random.Random, depth: int = 0, names: tuple[str, ...] = ("event",)) -> Any:
    """A type of a schema; at times one that holds itself, or has no bytes."""
    kind = r.randrange(12 if depth < 6 else 6)
    if kind == 0:
        return r.choice(("null", "boolean", "int", "long", "float", "double", "bytes", "string", *names))
    if kind == 1:
        return {"type": "fixed", "name": f"f{r.randrange(10**9)}", "size": r.choice((0, 0, 1, 16, 10**9, -1))}
    if kind == 2:
        return {"type": "enum", "name": f"e{r.randrange(10**9)}", "symbols": ["A", "B"]}
    if kind == 3:
        scale, precision = r.choice((0, 2, 10**9)), r.choice((5, 10**6))
        return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    if kind in (4, 5):
        return r.choice(("null", "int", {"type": "long", "logicalType": "timestamp-micros"}, "string"))
    if kind in (6, 7):
        return {"type": "array", "items": avro_type(r, depth + 1, names)}
    if kind == 8:
        return {"type": "map", "values": avro_type(r, depth + 1, names)}
    if kind == 9:
        return ["null", r.choice(names), avro_type(r, depth + 1, names)]
    if kind == 10:
        deep: Any = "null"
        for _ in range(r.choice((10, 60, 70, 500, 900))):
            deep = {"type": "array", "items": deep}
        return deep
    name = f"r{r.randrange(10**9)}"
    fields = [{"name": f"f{i}", "type": avro_type(r, depth + 1, (*names, name))} for i in range(r.randrange(4))]
    return {"type": "record", "name": name, "fields": fields}


def avro_data(r: random.Random, kind: Any, depth: int = 0) -> bytes:
    """Data of a type, which at times say of themselves what is not true."""
    if isinstance(kind, dict) and kind["type"] in ("array", "map"):
        count = r.choice((0, 1, 3, 10**3, 10**6, 4 * 10**8, 2**62, -5, -(2**62)))
        inner = avro_data(r, kind.get("items", kind.get("values")), depth + 1) if depth < 70 else b""
        key = zigzag(1) + b"k" if kind["type"] == "map" else b""
        some = (key + inner) * min(abs(count), 300 if len(inner) < 100 else 2 if len(inner) < 5_000 else 1)
        return zigzag(count) + (zigzag(len(some)) if count < 0 else b"") + some + (zigzag(0) if count else b"")
    if isinstance(kind, dict) and kind["type"] == "record":
        return b"".join(avro_data(r, f["type"], depth + 1) for f in kind["fields"]) if depth < 70 else b""
    if isinstance(kind, list):
        branch = r.choice((0, 0, 1, 2, 2, 50, -1))
        if branch == 1 and r.random() < 0.5:
            return zigzag(1) * size(r)  # as deep as a record that holds itself can be
        return zigzag(branch) + (avro_data(r, kind[2], depth + 1) if branch == 2 and depth < 70 else b"")
    name = kind["type"] if isinstance(kind, dict) else kind
    if name in ("string", "bytes"):
        raw = r.choice((b"x", b"\xff", b"\x7f")) * size(r)
        return zigzag(r.choice((len(raw), len(raw), 2**40, -1))) + raw
    if name == "fixed":
        return bytes(max(min(kind["size"], 100), 0))
    length = {"null": 0, "boolean": 1, "float": 4, "double": 8}.get(name)
    return zigzag(r.choice((0, 1, -1, 2**62, 7))) if length is None else bytes(length)


def avro_codec(r: random.Random, data: bytes) -> tuple[bytes, bytes]:
    codec = r.choice((b"null", b"deflate", b"bzip2", b"xz", b"snappy", b"zstandard", b"none such"))
    return codec, _compressed(codec, data)


def _compressed(codec: bytes, data: bytes) -> bytes:
    if codec == b"deflate":
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        return engine.compress(data) + engine.flush()
    if codec == b"snappy":
        return bytes(pa.compress(data, "snappy", asbytes=True)) + zlib.crc32(data).to_bytes(4, "big")
    if codec == b"zstandard":
        return bytes(pa.compress(data, "zstd", asbytes=True))
    if codec == b"bzip2":
        return bz2.compress(data)
    return lzma.compress(data) if codec == b"xz" else data


def avro_container(r: random.Random, good: bool) -> tuple[bytes, bool]:
    """A container of a good block, where one can be, and an odd one; and whether the good one can be read."""
    plain = r.random() < 0.3  # a schema that is good, with data that are not
    extra = "null" if plain else avro_type(r)
    schema = {**event_files.SCHEMA, "fields": [*event_files.SCHEMA["fields"], {"name": "x", "type": extra}]}
    rows = [(_event(row), row) for row in GOOD]
    odd = r.choice([
        _event(GOOD[0]) + avro_data(r, extra),
        b"\x00" * size(r),
        bytes(r.randrange(256) for _ in range(r.randrange(300))),
        bytes(r.choice((10**3, 10**6, 80 * 10**6)) if r.random() < 0.1 else 10),
    ])  # fmt: skip
    codec, packed = avro_codec(r, odd)
    count = r.choice((1, 1, 1, 3, 1_000, 10**6, 4 * 10**8, 2**62, -1))
    length = r.choice((len(packed), len(packed), len(packed), 2**40, 0, -1))
    blocks = [zigzag(count) + zigzag(length) + packed + SYNC]
    readable = good and plain and codec != b"none such"
    if readable:
        data = _compressed(codec, b"".join(raw for raw, _ in rows))
        blocks.insert(r.randrange(2), zigzag(len(rows)) + zigzag(len(data)) + data + SYNC)
    pairs = {b"avro.schema": json.dumps(schema).encode(), b"avro.codec": codec}
    lies = r.choice((0, 0, 0, 0, 10**9, 2**62)) if not readable else 0
    meta = b"".join(zigzag(len(k)) + k + zigzag(len(v)) + v for k, v in pairs.items())
    head = b"Obj\x01" + zigzag(2 + lies) + meta + zigzag(0) + SYNC
    return head + b"".join(blocks), readable


def _event(row: event_files.Record) -> bytes:
    def text(value: object) -> bytes:
        return zigzag(1) + zigzag(len(str(value))) + str(value).encode()

    ts = zigzag(1) + zigzag(int(str(row["ts"])))
    amount = zigzag(1) + np.float64(str(row["amount"])).tobytes()
    return text(row["user"]) + ts + text(row["kind"]) + amount + text(row["id"])


def parquet_file(r: random.Random) -> tuple[bytes, bool]:
    """A file of good row groups and odd columns, and whether it is whole."""
    n = r.choice((12, 120, 1_200))
    rows = pa.Table.from_pylist([dict(row) for row in GOOD] * (n // 12))
    for i in range(r.randrange(3)):
        rows = rows.append_column(f"x{i}", parquet_column(r, n))
    delta = r.random() < 0.2
    out = io.BytesIO()
    pq.write_table(
        rows,
        out,
        row_group_size=r.choice((1, 5, 50, n)) if n < 1_200 else r.choice((100, n)),
        compression=r.choice(("none", "snappy", "zstd", "gzip", "brotli", "lz4")),
        use_dictionary=not delta and r.random() < 0.8,
        column_encoding={"id": "DELTA_BYTE_ARRAY"} if delta else None,
        data_page_version=r.choice(("1.0", "2.0")),
        data_page_size=r.choice((100, 1 << 20)),
        store_schema=r.random() < 0.7,
    )
    content = bytearray(out.getvalue())
    whole = r.random() < 0.5
    if not whole:
        footer = int.from_bytes(content[-8:-4], "little")
        area = (len(content) - 8 - footer, len(content) - 4) if r.random() < 0.6 else (4, len(content) - 8 - footer)
        for _ in range(r.choice((1, 1, 2, 5))):
            content[r.randrange(*area)] = r.choice((0, 0x7F, 0x80, 0xFF, 0x0C, 0x19, 0x2C, 0x5C, r.randrange(256)))
    return bytes(content), whole


def parquet_column(r: random.Random, n: int) -> pa.Array:
    kind = r.randrange(7)
    if kind == 0:
        one = pa.array([r.choice(("v", "é")) * min(size(r), 100_000)])
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), one)
    if kind == 1:
        return pa.array([b"\xff" * r.choice((0, 10, 1_000))] * n, pa.binary())
    if kind == 2:
        return pa.array([[None] * (size(r) if i == 3 else 0) for i in range(n)], pa.list_(pa.int32()))
    if kind == 3:
        deep: Any = 1
        for _ in range(r.choice((2, 20, 60))):
            deep = [deep]
        return pa.array([deep] * n)
    if kind == 4:
        return pa.array([{f"k{j}": [{"a": "x"}] for j in range(r.choice((1, 30)))}] * n)
    if kind == 5:
        return pa.array([None] * n, r.choice((pa.null(), pa.decimal256(76, 70), pa.timestamp("ns"))))
    return pa.array([bytes(1_000)] * n, pa.binary(1_000))


def _spec(r: random.Random) -> Any:
    return event_files.task(identity=r.choice((("id",), "all")))


def _survive(result: event_files.Result, rows: int = len(GOOD)) -> None:
    want: Counter[tuple[object, object]] = Counter((row["user"], int(str(row["ts"])) * 1_000_000) for row in GOOD)
    lost = want - Counter((e[0], e[1]) for e in result.events)
    assert not lost, f"lost {len(lost)} of {rows}, such as {next(iter(lost))}"


def check_text(r: random.Random, folder: Path, name: str) -> None:
    line, good = (json_row, event_files.jsonl(GOOD)) if name == "jsonl" else (csv_row, event_files.comma(GOOD))
    path = folder / f"{name}.{name}"
    rows = text_file(r, path, line, good)
    if r.random() < 0.2:
        packed = gzip.compress(path.read_bytes(), 1)
        path = event_files.written(folder / f"{name}.{name}.gz", packed)
    result = event_files.read(_spec(r), path)
    _survive(result)
    assert result.ledger.read == rows


def check_avro(r: random.Random, folder: Path, name: str) -> None:
    content, readable = avro_container(r, True)
    result = event_files.read(_spec(r), event_files.written(folder / "x.avro", content))
    if readable:
        _survive(result)
    else:
        assert result.ledger.read


def check_parquet(r: random.Random, folder: Path, name: str) -> None:
    content, whole = parquet_file(r)
    result = event_files.read(_spec(r), event_files.written(folder / "x.parquet", content))
    if whole:
        _survive(result)
        assert not result.ledger.rejected


def check_messages(r: random.Random, folder: Path, name: str) -> None:
    odd = [_message(r) for _ in range(r.randint(1, 3))]
    data = [event_files.jsonl([row]).strip() for row in GOOD]
    for each in odd:
        data.insert(r.randrange(len(data) + 1), each)
    n, now = len(data), event_files.START * 1_000_000 + 31 * event_files.DAY
    sent = Messages(tuple(data), tuple(map(str, range(n))), np.full(n, now), ({},) * n)
    spec = without_arrival(_spec(r))
    parts = list(take_in(spec, Since(now), parse(spec, sent, Payload()), "messages"))
    dead = [p for p in parts if isinstance(p, DeadLetter)]
    blocks = [p for p in parts if isinstance(p, EventBlock)]
    ledger = total(p for p in parts if isinstance(p, Ledger))
    assert ledger.read == sum(map(len, blocks)) + ledger.rejected + ledger.outside + ledger.filtered
    assert ledger.rejected == sum(d.rows for d in dead)
    _survive(event_files.Result(blocks, dead, ledger))


def _message(r: random.Random) -> bytes:
    kind = r.randrange(4)
    if kind == 0:
        return b"[" + b",".join(json_row(r) for _ in range(r.randrange(5))) + r.choice((b"]", b""))
    if kind == 1:
        return json_row(r) + r.choice((b"", b"\n")) + json_row(r)
    return json_row(r) if kind == 2 else avro_container(r, r.random() < 0.5)[0]


CHECKS: dict[str, Callable[[random.Random, Path, str], None]] = {
    "jsonl": check_text,
    "csv": check_text,
    "avro": check_avro,
    "parquet": check_parquet,
    "messages": check_messages,
}


def main(name: str, seed: int, count: int, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    for i in range(seed, seed + count):
        print(i, flush=True)
        CHECKS[name](random.Random(f"{name} {i}"), folder, name)
    # Not `ru_maxrss`: it counts what the process was before it became this program, a copy of a large one.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    print("peak", int(peak) << 10)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
