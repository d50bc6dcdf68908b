"""The graph of scoring, the same for files and for an endless stream: its input decides which of the two it is."""

from __future__ import annotations

from typing import Protocol

import apache_beam as beam

from pipelines.transforms import coders
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.infer import InferBatches


class EventsRead(Protocol):
    """What the step `Read` of a graph gives to the others."""

    @property
    def blocks(self) -> beam.PCollection[tuple[int, bytes]]:
        """The accepted events: (shard, packed EventBlock)."""

    @property
    def dead(self) -> beam.PCollection:
        """The rows that are no events: a DeadLetter for each."""

    @property
    def ledger(self) -> beam.PCollection:
        """The counts: a Ledger for each part that was read."""


def build(
    p: beam.Pipeline,
    read: beam.PTransform,
    sequences: Sequences,
    infer: InferBatches,
    write: beam.PTransform,
    state: str = "",
) -> None:
    """Builds the graph: events -> sequences -> scores -> sink. The names of the steps are part of what a running job
    is: see tests/golden.

    Args:
      read: gives `EventsRead`.
      write: takes (scores, dead letters, ledgers).
      state: on what the state of a live job depends, in a word. It is part of the name of the step that keeps it, so
        that a job is not updated to one that would misread it.
    """
    coders.install()
    events: EventsRead = p | "Read" >> read
    built = (events.blocks, events.ledger) | f"Sequences {state}".rstrip() >> sequences
    scored = built.sequences | "Infer" >> infer
    dead = (events.dead, built.dead, scored.dead) | "Dead" >> beam.Flatten()
    ledgers = (events.ledger, built.ledger, scored.ledger) | "Ledgers" >> beam.Flatten()
    (scored.scores, dead, ledgers) | "Write" >> write
