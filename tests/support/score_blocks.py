"""Scores and dead letters for tests of the sinks, and pipelines that write them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import apache_beam as beam
import numpy as np
from apache_beam.runners.runner import PipelineResult

from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.write_folder import part_of

DAY = 86_400_000_000


def block(rows: Sequence[tuple[str, int, int]], outputs: int = 1) -> ScoreBlock:
    """Scores of (entity, day, revision), each a function of its row."""
    scores = [[(part_of(e, 997) + day + revision + k) / 1000 for k in range(outputs)] for e, day, revision in rows]
    days = np.array([day for _, day, _ in rows], np.int64)
    return ScoreBlock(
        entities=[e for e, _, _ in rows],
        as_of=days * DAY,
        revision=np.array([r for _, _, r in rows], np.int32),
        scores=np.array(scores, np.float32).reshape(len(rows), outputs),
        n_events=days + 1,
        last_event_time=days * DAY - 1,
        version="m1",
    )


ROWS = [(f"user {i}", day, revision) for i in range(50) for day in (19_000, 19_007) for revision in (0, 1)]


def blocks(seed: int, size: int) -> list[ScoreBlock]:
    """The same rows, in another order and in blocks of another size."""
    rows = random.Random(seed).sample(ROWS, len(ROWS))
    return [block(rows[i : i + size]) for i in range(0, len(rows), size)]


def letter(position: str, source: str = "f", raw: str = "") -> DeadLetter:
    return DeadLetter("read", source, position, "bad", 1, raw)


def written(write: beam.PTransform, *inputs: Sequence[ScoreBlock | DeadLetter | Ledger]) -> dict[str, int]:
    """Counters of a pipeline that writes scores, dead letters and ledgers, and is over at once."""
    p = beam.Pipeline("FnApiRunner")
    given = zip(("Scores", "Dead", "Ledgers"), inputs, strict=True)
    tuple(p | name >> beam.Create(rows, reshuffle=False) for name, rows in given) | "Append" >> write
    result = p.run()
    result.wait_until_finish()
    return counters(result)


def counters(result: PipelineResult) -> dict[str, int]:
    return {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
