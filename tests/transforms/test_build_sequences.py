"""Which way blocks go is decided by whether they end; what a stream does is in test_live_stream."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipelines.events.decode import Since, Span
from pipelines.events.sequences import SequenceBatch
from pipelines.ledger.counts import Ledger
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.live_sequences import LiveSettings
from tests.events.test_due import SECOND, block, event, task


def described(batch: SequenceBatch) -> tuple[list[str], int]:
    return batch.entities, batch.as_of // SECOND


@pytest.mark.parametrize("refused", [1, 2])
def test_blocks_that_end(refused: int) -> None:
    """One Ledger a shard; when too much was refused, there are no sequences."""
    blocks = [(3, block(event("a", 5, 5)).pack()), (3, block(event("a", 5, 6), event("b", 6, 6)).pack())]
    span = Span((10 * SECOND, 20 * SECOND))
    with beam.Pipeline("FnApiRunner") as p:
        read = (
            p | "Blocks" >> beam.Create(blocks),
            p | "Read" >> beam.Create([Ledger(read=8), Ledger(rejected=refused)]),
        )
        built = read | Sequences(task(), span, max_bad_share=0.2)
        good = refused == 1
        scores = [(["a", "b"], 10), (["a", "b"], 20)] if good else []
        assert_that(built.sequences | beam.Map(described), equal_to(scores), "sequences")
        assert_that(built.ledger, equal_to([Ledger(accepted=2, duplicates=1, sequences=4 * good)]), "ledger")
        assert_that(built.dead, equal_to([]), "dead")


@pytest.mark.parametrize(
    ("bounded", "span", "live"),
    [
        (True, Since(0), LiveSettings("sub")),
        (False, Span((0,)), LiveSettings("sub")),
        (False, Since(0), None),
    ],
)
def test_what_does_not_fit_is_refused(bounded: bool, span: Span | Since, live: LiveSettings | None) -> None:
    p = beam.Pipeline("FnApiRunner")
    blocks = p | "Blocks" >> beam.Create([(0, b"")])
    blocks.is_bounded = bounded
    with pytest.raises(ValueError, match="blocks without an end"):
        _ = (blocks, p | beam.Create([Ledger()])) | Sequences(task(), span, live=live)
