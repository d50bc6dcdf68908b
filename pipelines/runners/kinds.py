"""All runners that are known, which one a command line asks for, and which options go to Beam as they are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import cache

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines.errors import UserError, unknown_option
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

# Beam's options that are secrets, and the variables that do as well.
SECRETS = {
    "azure_connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "s3_secret_access_key": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
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


def beam_parser() -> argparse.ArgumentParser:
    """All options that Beam's Python knows."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        if hasattr(options, "_add_argparse_args"):
            options._add_argparse_args(known)
    return known


def check_beam_args(args: Sequence[str]) -> None:
    """Raises UserError for an option that no part of Beam knows, for a secret, and for one that would lose data."""
    known = beam_parser()
    runner = known.parse_known_args(list(args))[0].runner
    for name in KINDS.get(named(runner or ""), Unknown).flags:
        known.add_argument(f"--{name}", nargs="?")
    parsed, unknown = known.parse_known_args(list(args))
    secret = next((name for name in SECRETS if getattr(parsed, name, None) is not None), None)
    if secret is not None:
        raise UserError(
            f"--{secret}: a secret in the options of a job stands in the list of processes and in its runner's logs. "
            f"Leave it out, and set {SECRETS[secret]} in the environment of this command and of the workers"
        )
    if unknown:
        raise unknown_option(unknown, ": neither foretide nor Beam has it; see foretide --help")
    mode = getattr(parsed, "direct_running_mode", None)
    if mode == "multi_threading":
        raise UserError(
            "--direct_running_mode=multi_threading loses data in Beam: use --workers N, which takes processes"
        )
    if mode == "multi_processing":
        raise UserError(
            "--direct_running_mode=multi_processing takes processes that nobody watches: use --workers N, whose end "
            "with the run"
        )
