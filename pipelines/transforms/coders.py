"""The coder of versioned values, which Beam takes wherever a stage says that it gives them."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from apache_beam.coders import Coder, FastPrimitivesCoder
from apache_beam.coders import registry as beam_registry

from pipelines.system.versioned import StateError, made, name_of, plain

PLAIN = FastPrimitivesCoder()
PICKLED = b"\x80"  # how state begins that was kept before values had versions


class VersionedCoder(Coder):
    """The coder of versioned values.

    Args:
      kinds: classes of the values; a worker that has the coder has imported them.
    """

    def __init__(self, *kinds: type) -> None:
        self.kinds = kinds

    def encode(self, value: object) -> bytes:
        """A value as bytes. Raises TypeError for one that holds what has no version."""
        try:
            return PLAIN.encode(plain(value))
        except UnicodeEncodeError:  # half a surrogate pair, which JSON allows
            return PLAIN.encode(plain(value, broken=True))

    def decode(self, encoded: bytes) -> Any:
        """The value of bytes. Raises StateError for one of another version, or without one."""
        if encoded.startswith(PICKLED):
            raise StateError(
                "the state was kept by a version of foretide from before states had versions: go on with that version, "
                "or start anew: without the savepoint, and with --bootstrap of the archive"
            )
        return made(PLAIN.decode(encoded))

    def is_deterministic(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionedCoder) and self.kinds == other.kinds

    def __hash__(self) -> int:
        return hash(self.kinds)

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: object) -> VersionedCoder:
        """The coder of a type: a versioned value, or a union of those, or of those and bytes. Raises ValueError."""
        members = getattr(typehint, "union_types", None)
        if members is None:
            members = get_args(typehint) if get_origin(typehint) in (Union, UnionType) else (typehint,)
        names = {name_of(kind): kind for kind in members if kind is not bytes}
        if None in names or not names:
            raise ValueError(f"{typehint} has no version")
        return cls(*(names[name] for name in sorted(filter(None, names))))


@cache
def install() -> None:
    """Makes Beam take the coder for versioned values; to be called before a graph is built."""
    beam_registry.register_fallback_coder(VersionedCoder)
