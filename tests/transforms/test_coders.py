"""The coder of versioned values: what goes in comes out, and what it cannot read is refused by name."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import astuple, dataclass, replace

import numpy as np
import pytest
from apache_beam.coders import registry
from apache_beam.typehints import typehints
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from pipelines.events.formats.base import Piece
from pipelines.events.messages import BlockOrTick, Messages, Tick
from pipelines.events.sequences import SequenceBatch
from pipelines.ledger.counts import Appended, DeadLetter, Ledger, Running, WindowRows
from pipelines.system.versioned import StateError, plain, versioned
from pipelines.transforms import coders as beam_coders
from pipelines.transforms.coders import VersionedCoder
from pipelines.transforms.infer import ScoreBlock

CODER = VersionedCoder()
LEDGER = Ledger(read=3, accepted=2, rejected=1, reasons=(("bad", 1),))


@pytest.mark.parametrize(
    "value",
    [
        LEDGER,
        Ledger(),
        DeadLetter("read", "s", "message 1", "bad", 1, "half \ud800", b"\0", (("k", "\udc00"),)),
        Piece("a.csv", "csv", 0, 1 << 40, 5, True),
        Running("a", LEDGER, 7, True, {(5, 0): WindowRows(2, 1), (6, -1): WindowRows(3)}, 9),
        Appended({}),
    ],
)
def test_values_come_back_as_they_were(value: object) -> None:
    back = CODER.decode(CODER.encode(value))
    assert (type(back), back) == (type(value), value)


def test_arrays_come_back_with_their_type_and_shape() -> None:
    batch = SequenceBatch(
        ["a", "é"], 5, np.zeros(2, np.int32), np.ones((2, 3, 1), np.float32), np.arange(2), np.arange(2)
    )
    one = np.arange(1)
    scores = ScoreBlock(["a"], one, one.astype(np.int32), np.zeros((1, 2), np.float32), one, one, "v")
    messages = Messages((b"{}", b""), ("1", "2"), np.arange(2), ({"a": "b"}, {}), None, ("2",))
    for value in (batch, scores, messages):
        back = CODER.decode(CODER.encode(value))
        for a, b in zip(astuple(value), astuple(back), strict=True):
            assert type(a) is type(b)
            if isinstance(a, np.ndarray):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                assert np.array_equal(a, b)
            else:
                assert a == b


def test_no_module_path_is_in_the_bytes() -> None:
    assert b"pipelines" not in CODER.encode(Running("a", LEDGER))


@pytest.mark.parametrize("hint", [Ledger, Ledger | Appended, typehints.Union[Ledger, Appended]])
def test_beam_takes_it_for_versioned_values_and_unions_of_them(hint: object) -> None:
    kinds = VersionedCoder.from_type_hint(hint, None).kinds
    assert kinds == ((Ledger,) if hint is Ledger else (Appended, Ledger))


def test_a_tick_is_told_from_a_packed_block_of_any_bytes() -> None:
    coder = VersionedCoder.from_type_hint(BlockOrTick, None)
    assert coder.kinds == (Tick,)
    for element in (Tick(5), b"", bytes(8), VersionedCoder(Tick).encode(Tick(5))):
        assert coder.decode(coder.encode(element)) == element
    beam_coders.install()
    assert registry.get_coder(convert_to_beam_type(tuple[int, BlockOrTick])).coders()[1] == coder


@pytest.mark.parametrize("hint", [int, str | None, Ledger | None, list[Ledger], "Ledger"])
def test_other_types_are_not_its_own(hint: object) -> None:
    with pytest.raises(ValueError, match="has no version"):
        VersionedCoder.from_type_hint(hint, None)


def test_what_has_no_version_is_not_kept() -> None:
    with pytest.raises(TypeError, match="object has no version"):
        CODER.encode(replace(LEDGER, read=object()))  # type: ignore[arg-type]


OLD = (  # what version 0.1.0 kept: `pickle.dumps(Running("attempt", Ledger()))` of its time
    "gAWVogEAAAAAAACMHHBpcGVsaW5lcy50cmFuc2Zvcm1zLnJ1bm5pbmeUjAdSdW5uaW5nlJOUKYGUfZQojAdhdHRlbXB0lGgFjAV0b3RhbJSM"
)


@pytest.mark.parametrize("raw", [base64.b64decode(OLD), pickle.dumps(LEDGER)])
def test_state_from_before_versions_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(StateError, match=r"before states had versions.*--bootstrap"):
        CODER.decode(raw)


def test_a_value_of_another_version_or_with_unknown_fields_is_refused_by_name() -> None:
    mark, name, version, content = plain(LEDGER)
    for terms, told in [
        ((mark, name, version + 1, content), "ledger of version 2, and this version of foretide reads version 1"),
        ((mark, name, version, {**content, "later": 1}), "ledger of version 1"),
        ((mark, "soup", 1, {}), "soup of version 1, .* reads none of that name"),
    ]:
        with pytest.raises(StateError, match=told):
            CODER.decode(_encoded(terms))


def test_a_field_that_came_later_has_its_default() -> None:
    mark, name, version, content = plain(LEDGER)
    del content["reasons"]
    assert CODER.decode(_encoded((mark, name, version, content))) == replace(LEDGER, reasons=())


def test_a_name_stands_for_one_class() -> None:
    with pytest.raises(ValueError, match="two values are named ledger"):

        @versioned("ledger")
        @dataclass
        class Other:
            pass


def test_the_kept_state_is_in_plain_terms() -> None:
    """None of it would be read by a pickle, whose bytes hold the names of modules."""
    from tests.support.golden_jobs import GOLDEN

    kept = json.loads((GOLDEN / "state.json").read_text())
    assert all(not base64.b64decode(raw).startswith(b"\x80") for raw in kept.values())


def _encoded(terms: object) -> bytes:
    from pipelines.transforms.coders import PLAIN

    return bytes(PLAIN.encode(terms))
