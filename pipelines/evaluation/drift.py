"""How scores of an as-of differ from those of earlier ones: numbers of rows, and how they spread over tenths.

SQL that DuckDB and BigQuery both take, and arithmetic on what it counts; no library of either here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import UserError
from pipelines.task.fields import UNITS, format_duration

Row = Mapping[str, Any]
Ask = Callable[[str], Sequence[Row]]  # what gives the rows of a statement

BINS = 10
CHANCE = 27.88  # the quantile .999 of the chi-squared distribution with BINS - 1 degrees of freedom
COMPARED = ("score", "events")  # by the population stability index


@dataclass(frozen=True)
class Limits:
    """From where on scores are held back. Raises UserError for numbers that are no limits."""

    max_bad_share: float = 0.01  # of the events that were read, and of the sequences without a score
    psi: float = 0.25  # population stability index
    ratio: float = 2.0  # so many times more, or fewer, than in the mean of the earlier as-ofs
    earlier: int = 7  # published as-ofs to compare with
    recent: int = UNITS["d"]  # us before an as-of; entities with an event in them are counted
    score: str = "churn"  # what is compared: a column of scores, or an expression over some

    def __post_init__(self) -> None:
        for name, right, what in (
            ("max-bad-share", 0 <= self.max_bad_share <= 1, "a share from 0 to 1"),
            ("psi", self.psi >= 0, "at least 0"),
            ("ratio", self.ratio >= 1, "at least 1"),
            ("earlier", self.earlier >= 1, "at least 1"),
        ):
            if not right:
                raise UserError(f"--{name} {getattr(self, name.replace('-', '_'))}: must be {what}")


@dataclass(frozen=True)
class ScoreSpread:
    """How many scores there are of some as-ofs, and how they spread over the bins."""

    as_ofs: int
    scored: int
    recent: int  # entities with an event shortly before the as-of
    bins: Mapping[str, Sequence[int]]  # by what is compared


def drift(candidates: tuple[Ask, str], published: tuple[Ask, str], task: str, as_of: str, limits: Limits) -> list[str]:
    """How candidates differ from the published scores of earlier as-ofs; nothing where there are none.

    Args:
      candidates, published: each what answers SQL, and the view of current scores in it.
      task: a condition on rows.
      as_of: a time as SQL has it.
    """
    ask, scores = published
    if not ask(f"SELECT as_of FROM {scores} WHERE {task} AND as_of < {as_of} LIMIT 1"):
        return []  # there may be no column of scores either
    tiles = ask(earlier_sql(scores, task, as_of, limits))
    below = {
        name: dict(sorted((t["upper"], t["below"]) for t in tiles if t["name"] == name and t["upper"] is not None))
        for name in COMPARED
    }
    bins = {name: _bins([0, *numbers.values()]) for name, numbers in below.items()}
    before = ScoreSpread(tiles[0]["as_ofs"], tiles[0]["scored"], tiles[0]["recent"], bins)
    edges = {name: list(numbers)[:-1] for name, numbers in below.items()}
    ask, scores = candidates
    [row] = ask(spread_sql(scores, f"{task} AND as_of = {as_of}", edges, limits))
    bins = {
        name: _bins([0, *(row[f"{name}_{i}"] for i in range(len(uppers))), row[f"{name}_all"]])
        for name, uppers in edges.items()
    }
    return reasons(before, ScoreSpread(1, row["scored"], row["recent"], bins), limits)


def _bins(below: Sequence[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(below)]


def earlier_sql(scores: str, task: str, as_of: str, limits: Limits) -> str:
    """A row of each tenth of what is compared: its upper end, and how many do not exceed it, in the last published
    as-ofs. Each row also has how many these are, their scores, and the entities with recent events.
    """
    tenths = " UNION ALL ".join(
        f"SELECT '{name}' AS name, MAX(x) AS upper, MAX(below) AS below FROM ("
        f"SELECT {x} AS x, NTILE({BINS}) OVER (ORDER BY {x}) AS tile, COUNT({x}) OVER (ORDER BY {x}) AS below"
        f" FROM rows_before) AS tiled GROUP BY tile"
        for name, x in _compared(limits).items()
    )
    return f"""
        WITH earlier AS (
            SELECT DISTINCT as_of FROM {scores} WHERE {task} AND as_of < {as_of}
            ORDER BY as_of DESC LIMIT {limits.earlier}
        ),
        rows_before AS (
            SELECT * FROM {scores} WHERE {task} AND as_of < {as_of} AND as_of IN (SELECT as_of FROM earlier)
        ),
        numbers AS (SELECT COUNT(DISTINCT as_of) AS as_ofs, {_numbers(limits)} FROM rows_before),
        tenths AS ({tenths})
        SELECT name, upper, below, as_ofs, scored, recent FROM tenths CROSS JOIN numbers"""


def spread_sql(scores: str, where: str, edges: Mapping[str, Sequence[float]], limits: Limits) -> str:
    """One row: numbers of scores, and of those that do not exceed each edge."""
    columns = [_numbers(limits)]
    for name, x in _compared(limits).items():
        columns.append(f"COUNT({x}) AS {name}_all")
        columns += [
            f"COUNT(CASE WHEN {x} <= {upper:.17e} THEN 1 END) AS {name}_{i}" for i, upper in enumerate(edges[name])
        ]
    return f"SELECT {', '.join(columns)} FROM {scores} WHERE {where}"


def _compared(limits: Limits) -> dict[str, str]:
    """The expressions behind `COMPARED`, as 64-bit floats."""
    return dict(zip(COMPARED, (f"({limits.score}) * 1e0", "n_events * 1e0"), strict=True))


def _numbers(limits: Limits) -> str:
    recent = f"last_event_time >= as_of - INTERVAL {limits.recent // UNITS['s']} SECOND"
    return f"COUNT(*) AS scored, COUNT(CASE WHEN {recent} THEN 1 END) AS recent"


def reasons(before: ScoreSpread, now: ScoreSpread, limits: Limits) -> list[str]:
    """How scores differ from those of earlier as-ofs by more than the limits, and by more than chance."""
    found = []
    for what, mean, n in (
        ("scores", before.scored / before.as_ofs, now.scored),
        (
            f"entities with events in the last {format_duration(limits.recent)}",
            before.recent / before.as_ofs,
            now.recent,
        ),
    ):
        if not mean / limits.ratio <= n <= mean * limits.ratio:
            found.append(f"there are {n:,} {what}, and {mean:,.0f} in the mean of {before.as_ofs} earlier as-ofs")
    for name, what in zip(COMPARED, (limits.score, "events of an entity"), strict=True):
        index, limit = psi(before.bins[name], now.bins[name]), psi_limit(before.bins[name], now.bins[name], limits)
        if index > limit:
            found.append(f"{what}: the population stability index is {index:.2f}, above {limit:.2f}")
    return found


def psi(before: Sequence[int], now: Sequence[int]) -> float:
    """The population stability index of two histograms: the sum of (q - p) ln(q / p) over the shares p, q of the bins.

    Half a row is added to each bin, so that empty ones can be compared.
    """
    p, q = ([(n + 0.5) / (sum(bins) + 0.5 * len(bins)) for n in bins] for bins in (before, now))
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def psi_limit(before: Sequence[int], now: Sequence[int], limits: Limits) -> float:
    """The limit, or, where there are few rows, what equal populations exceed once in a thousand times."""
    few = CHANCE * sum(1 / max(1, sum(bins)) for bins in (before, now))
    return max(limits.psi, few)
