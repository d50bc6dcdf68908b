"""What a person reads: the last screen of a run. Text only; nothing is computed here but shares and rates."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.jobs.config import Input, ScoreConfig, StreamConfig
from pipelines.jobs.outputs.base import RunResult
from pipelines.jobs.outputs.kinds import output
from pipelines.jobs.source import InputSource
from pipelines.ledger.counts import NEVER, Ledger
from pipelines.models.saved.manifest import Manifest
from pipelines.system.screen import duration, one_line, quantity
from pipelines.task.fields import format_time
from pipelines.task.spec import Task

REASONS = 10  # that are shown one by one


def score_report(
    config: ScoreConfig,
    manifest: Manifest,
    source: InputSource,
    result: RunResult,
    device: str,
    seconds: float,
) -> str:
    """The last screen of `foretide score`."""
    ledger = result.ledger
    rate = quantity(ledger.read / max(seconds, 1e-9))
    lines = [
        "",
        f"task        {config.task.task} as of {describe_as_ofs(config.as_ofs)}",
        describe_input(source, config.input),
        *ledger_lines(ledger, "see dead_letters"),
        f"scored      {ledger.scored:,} of {ledger.sequences:,} sequences, {ledger.failed:,} failed",
        f"model       {manifest.version}, {config.engine} on {device}",
        f"time        {duration(seconds)}, {rate} events/s",
        *_ending(config, result, config.run_id(manifest.version)),
    ]
    return "\n".join(lines)


def live_report(config: StreamConfig, ledger: Ledger) -> str:
    """The last screen of a live job: what became of everything that it read since it was first started."""
    subscription = ", ".join([config.subscription, *(config.bootstrap.patterns if config.bootstrap else ())])
    waiting = ledger.sequences - ledger.scored - ledger.failed
    lines = [
        "",
        f"task        {config.task.task} live, first as of {format_time(config.first)}",
        f"input       {one_line(subscription)}",
        *ledger_lines(ledger, f"see {config.dead_letters or 'dead_letters'}"),
        *([f"  pending   {ledger.pending:>12,}  held until the next as-of is due"] if ledger.pending > 0 else []),
        f"scored      {ledger.scored:,} of {ledger.sequences:,} sequences, {ledger.failed:,} failed",
        f"written     {one_line(config.output)} (run {config.run_id})",
    ]
    if ledger.pending < 0 or waiting < 0:
        lines.append("UNBALANCED  more is accounted for than was read: the runner kept what it did twice")
    return "\n".join([*lines, _next(config.output, config.task)])


def ledger_lines(ledger: Ledger, refused: str = "") -> list[str]:
    """What became of every event that was read; `refused` says where the rejected rows are."""
    late = f"{ledger.late:,} of them too late for a score that was closed" if ledger.late else ""
    counts = [
        ("accepted", ledger.accepted, late),
        ("rejected", ledger.rejected, refused),
        ("duplicate", ledger.duplicates, ""),
        ("outside", ledger.outside, "no as-of of this run could use them"),
        ("filtered", ledger.filtered, "left out by events.where"),
    ]
    period = "" if ledger.first_time == NEVER else f", from {_second(ledger.first_time)} to {_second(ledger.last_time)}"
    lines = [f"read        {ledger.read:,} events{period}"]
    lines += [f"  {name:<9} {n:>12,}{f'  {note}' if n and note else ''}" for name, n, note in counts]
    reasons = sorted(ledger.reasons, key=lambda r: -r[1])
    lines += [f"    {n:>12,}  {one_line(reason)}" for reason, n in reasons[:REASONS]]
    if len(reasons) > REASONS:
        lines.append(f"    {sum(n for _, n in reasons[REASONS:]):>12,}  for {len(reasons) - REASONS} other reasons")
    return lines


def describe_input(source: InputSource, input: Input) -> str:
    """The line about files and tables."""
    files = "" if source.tables else f"in {source.files} file(s) "
    return f"input       {quantity(source.size, 'B')} {files}of {one_line(', '.join(input.patterns))}"


def describe_as_ofs(as_ofs: Sequence[int]) -> str:
    """`2024-01-01`, or the first, the last and how many."""
    first, last = format_time(as_ofs[0]), format_time(as_ofs[-1])
    return first if len(as_ofs) == 1 else f"{first} to {last} ({len(as_ofs)} as-ofs)"


def _ending(config: ScoreConfig, result: RunResult, run_id: str) -> list[str]:
    ledger = result.ledger
    dead = f"next        {output(config.output).ask('dead_letters', 'LIMIT 20')}"
    if result.status == "refused":
        bad, limit = 100 * ledger.bad_share, 100 * config.max_bad_share
        share = f"{bad:.1f} % of the rows or files are bad, --max-bad-share is {limit:.1f} %"
        return [
            f"REFUSED     {share}: no score was published",
            dead,
        ]
    if result.status == "unbalanced":
        return [f"UNBALANCED  {'; '.join(result.differences)}: {result.note or 'no score was published'}"]
    if ledger.failed and not ledger.scored:
        failed = f"the model gave no finite score for any of {ledger.sequences:,} sequences"
        return [f"NO SCORES   {failed}", dead]
    if not ledger.read:
        return ["NO SCORES   the input holds no event that an as-of could use"]
    if not ledger.scored:
        hint = "no event falls in the history of an as-of: compare --as-of with the times above, and events.time.unit"
        return [f"NO SCORES   {hint}"]
    note = f": {result.note}" if result.note else ""
    return [
        f"written     {one_line(config.output)} (run {run_id}){note}",
        _next(config.output, config.task),
    ]


def _next(place: str, task: Task) -> str:
    view = task.label.view
    return f"next        {output(place).ask(view.name, f'{view.order} LIMIT 10')}"


def _second(micros: int) -> str:
    return format_time(micros // 1_000_000 * 1_000_000)
