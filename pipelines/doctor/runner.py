"""Where the job is to run, as far as a launch itself finds out only when it starts."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import ok, skipped
from pipelines.runners import flink
from pipelines.runners.prism import locate


def here(facts: Facts) -> Iterator[Finding]:
    """Whether the runner is on this machine. Flink is asked before every launch, and Dataflow in `google`."""
    launch = facts.launch
    if launch.runner == "PrismRunner":
        yield ok("Prism", f"Prism is {locate(launch.options)}")
    elif launch.runner == "FnApiRunner":
        yield ok("--runner", f"the job runs here, in {launch.execution.workers} process(es)")
    elif not launch.on_dataflow and launch.runner not in flink.RUNNERS:
        yield skipped("--runner", f"there is no telling whether {launch.runner} would answer")
