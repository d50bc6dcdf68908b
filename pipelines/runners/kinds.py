"""All runners that are known, and which one a command line asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines.errors import UserError
from pipelines.runners.base import Runner
from pipelines.runners.dataflow import OnDataflow
from pipelines.runners.execution import Execution
from pipelines.runners.flink import OnFlink, OnPortable
from pipelines.runners.this_machine import InProcess, OnPrism

KINDS: Mapping[str, type[Runner]] = {
    "FnApiRunner": InProcess,
    "PrismRunner": OnPrism,
    "DataflowRunner": OnDataflow,
    "FlinkRunner": OnFlink,
    "PortableRunner": OnPortable,
}
DIRECT = ("DirectRunner", "FnApiRunner")  # what Beam runs here where nothing else is asked for
LOSING = {
    "BundleBasedDirectRunner": "it acknowledges messages before they are processed",
    "SwitchingDirectRunner": "it falls back to one that acknowledges messages before they are processed",
}


class Unknown(Runner):
    """A runner that Beam has, or somebody else."""

    def check_live(self, arrival_attribute: str | None = None) -> None:
        reason = LOSING.get(self.name, "it is not known to acknowledge messages only after they are kept")
        good = ", ".join(name for name, kind in KINDS.items() if kind is not InProcess)
        raise UserError(f"--runner={self.name} cannot run a live job: {reason}", remedy=f"Use one of {good}")


@cache
def resolve(execution: Execution, live: bool = False) -> Runner:
    """The runner that is asked for, by any of the names that Beam takes. Where none is, files are read in processes of
    this machine, for which Beam's own default would be fetched; and a stream runs on a Prism of this one."""
    asked = PipelineOptions(list(execution.beam_args)).view_as(StandardOptions).runner or DIRECT[0]
    name = named(str(asked))
    if name in DIRECT:
        name = "PrismRunner" if live else "FnApiRunner"
    return KINDS.get(name, Unknown)(name, execution, live)


def named(asked: str) -> str:
    """A runner's own name, by any that Beam takes: `flink`, `FlinkRunner`, `apache_beam.runners.FlinkRunner`."""
    short = asked.rpartition(".")[2]
    known = {name.lower(): name for name in (*KINDS, *DIRECT)}
    return known.get(short.lower()) or known.get(f"{short.lower()}runner") or short
