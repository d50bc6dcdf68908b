"""What every contestant of the benchmark works on: names, sizes and times of the generated events. Computes nothing.

The tensor is (entities, STEPS, FEATURES) f4: a count for each event type, then a sum of `value` for the first SUMMED
types, over the STEPS days before END, which is the one as-of. `task.yaml` says the same to Foretide.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

HERE = Path(__file__).parent
DATA = HERE / "data"
TASK = HERE / "task.yaml"
MODEL = DATA / "model"

EVENTS = 5_000_000
QUICK = 500_000
NAIVE = 100_000  # the part that the naive pipeline gets
EXAMPLES = (20_000, 80_000)  # of trainings
BUNDLES = (10, 100, 1_000)  # messages in a bundle of a live job
RATES = (500, 2_000)  # messages a second that a live job gets
SCORES = 1_000_000  # rows that are written into BigQuery
PER_ENTITY = 250  # events of an entity, on average: 5 million events are 20,000 entities

STEPS = 90
TYPES = tuple(f"evt_{i:02d}" for i in range(30))
COUNTED = len(TYPES)
SUMMED = 20
FEATURES = COUNTED + SUMMED

DAY = 86_400_000_000
START = 1_735_689_600_000_000  # 2025-01-01, microseconds
FIRST_DAY = START // DAY
END = START + STEPS * DAY

UNITS = 512
BATCH = 256
# A multiply-add counts as 2: two GRU layers (three gates; input and recurrent kernels), one dense layer of two classes.
FLOP = 2 * 3 * UNITS * (FEATURES + UNITS) * STEPS + 2 * 3 * UNITS * 2 * UNITS * STEPS + 2 * UNITS * 2


def files(kind: str, events: int, data: Path = DATA) -> list[str]:
    """The generated files of a kind (`parquet` or `jsonl`), in order."""
    return sorted(str(p) for p in (data / str(events) / kind).glob("part-*"))
