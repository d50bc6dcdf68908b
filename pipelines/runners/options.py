"""The options of a command that go to Beam as they are: which of them Beam knows, and which must not be given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import UserError, unknown_option
from pipelines.runners.kinds import KINDS, Unknown, named

# Beam's options that are secrets, and the variables that do as well.
SECRETS = {
    "azure_connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "s3_secret_access_key": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
}


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
