"""From packed blocks by shard to sequences: all at once where the input ends, live where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines.events.block import concat, tidy, unpack
from pipelines.events.decode import Since, Span
from pipelines.events.messages import BlockOrTick
from pipelines.events.sequences import SequenceBatch, backfill, examples
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.system.progress import Progress
from pipelines.task.spec import Task
from pipelines.transforms.live_sequences import LiveSequences, LiveSettings


@dataclass(eq=False)
class Sequences(beam.PTransform):
    """((shard, packed EventBlock), Ledgers of reading) -> `sequences`: SequenceBatch; `ledger`: Ledgers; and `dead`:
    DeadLetters of late events.

    Bounded blocks make the sequences of every as-of of a `Span`, one Ledger a shard and no dead letters; with a horizon
    in the span the sequences are labelled examples. Unbounded blocks make what is due `Since` the first as-of.

    Args:
      max_bad_share: of bounded input; when more was refused, there are no sequences.
      progress: of bounded input.
      live: of unbounded input.

    Raises:
      ValueError: the span or the settings are not those of the input, when the graph is made.
    """

    task: Task
    span: Span | Since
    max_bad_share: float = 1.0
    progress: Progress = field(default_factory=Progress)
    live: LiveSettings | None = None

    def expand(
        self, read: tuple[beam.PCollection[tuple[int, BlockOrTick]], beam.PCollection[Ledger]]
    ) -> beam.pvalue.DoOutputsTuple:
        blocks, ledgers = read
        if isinstance(self.span, Since) and self.live is not None and not blocks.is_bounded:
            return blocks | LiveSequences(self.task, self.span, self.live)
        if not isinstance(self.span, Span) or not blocks.is_bounded:
            raise ValueError("blocks without an end need a Since and LiveSettings, blocks with an end a Span")
        refused = beam.pvalue.AsSingleton(ledgers | "SumRead" >> beam.CombineGlobally(total).with_output_types(Ledger))
        build = beam.ParDo(_Build(self.task, self.span, self.max_bad_share, self.progress), refused)
        build = build.with_output_types(SequenceBatch, dead=DeadLetter, ledger=Ledger)
        shards = blocks | "ByShard" >> beam.GroupByKey()
        return shards | "Build" >> build.with_outputs("dead", "ledger", main="sequences")


class _Build(beam.DoFn):
    def __init__(self, task: Task, span: Span, max_bad_share: float, progress: Progress) -> None:
        self.task, self.span, self.max_bad_share, self.progress = task, span, max_bad_share, progress

    def process(self, shard: tuple[int, Iterable[bytes]], read: Ledger) -> Iterator[SequenceBatch | TaggedOutput]:
        blocks = [unpack(raw) for raw in shard[1]]
        block, rows = tidy(concat(blocks), self.task.events.identity != "none")
        duplicates = sum(map(len, blocks)) - len(rows)
        built = 0
        if read.bad_share <= self.max_bad_share:
            for batch in (examples if self.span.horizon else backfill)(self.task, block, self.span.as_ofs):
                built += len(batch.entities)
                yield batch
        yield TaggedOutput("ledger", Ledger(accepted=len(rows), duplicates=duplicates, sequences=built))
        self.progress.add("scoring", 1)
