from __future__ import annotations

import gzip
import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events.formats import lines
from pipelines.events.formats.base import Refusal, Unreadable, readable
from pipelines.events.formats.compressions import inflate_gzip


def parts(content: bytes, size: int, start: int, end: int | None) -> list[bytes]:
    source = io.BytesIO(content[max(start - 1, 0) :])
    out = []
    for chunk in lines.chunks(iter(lambda: source.read(size), b""), start, end):
        assert not isinstance(chunk, Refusal)
        found = [chunk.line(i) for i in range(len(chunk))]
        assert chunk.array().to_pylist() == found
        assert [content[at : at + len(line)] for at, line in zip(chunk.at.tolist(), found, strict=True)] == found
        assert chunk.text().to_pybytes().replace(b"\r\n", b"\n").split(b"\n") == found or not found
        out += found
    return out


@given(
    st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\r\n", b"  ", b"ccc"]), max_size=60),
    st.integers(1, 20), st.lists(st.integers(0, 120), max_size=4),
)  # fmt: skip
def test_each_line_is_in_one_range(words: list[bytes], size: int, cuts: list[int]) -> None:
    content = b"".join(words)
    want = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    edges = sorted({0, *(c for c in cuts if c < len(content)), len(content)})
    got = [line for a, b in pairwise(edges) for line in parts(content, size, a, b)]
    assert got == [line for line in want if line.strip()]
    assert parts(content, size, 0, None) == got


def test_gzip_of_several_members_and_zeros_at_the_end() -> None:
    raw = gzip.compress(b"a" * 100_000) + gzip.compress(b"b") + b"\0" * 50
    assert b"".join(inflate_gzip(io.BytesIO(raw), 1_000)) == b"a" * 100_000 + b"b"


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw[:200], lambda raw: raw[:-5] + b"12345", lambda raw: raw + b"junk"]
)
def test_gzip_that_is_damaged_gives_what_it_has(damage: object) -> None:
    raw = damage(gzip.compress(bytes(i * i % 251 for i in range(5_000))))  # type: ignore[operator]
    out: list[bytes] = []
    with pytest.raises(Unreadable):
        out.extend(inflate_gzip(io.BytesIO(raw), 1_000))


def test_readable() -> None:
    assert readable(b"a\xff\xc3\xa9") == "a\\xffé"
    assert readable(b"x" * (1 << 20) + b"y").endswith("... (1048577 bytes in all)")
