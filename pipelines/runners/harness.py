"""Beam's worker process, without the line in which it logs all options of its job: some of them may be secret.

python -m pipelines.runners.harness
"""

from __future__ import annotations

import logging
import sys

from apache_beam.runners.worker import sdk_worker_main

LOGGER = sdk_worker_main.__name__


def keep_options_secret() -> None:
    """Keeps the line with all options of a job from being logged, from now on."""
    logging.getLogger(LOGGER).addFilter(_is_harmless)


def _is_harmless(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Pipeline_options")


if __name__ == "__main__":
    keep_options_secret()
    sdk_worker_main.main(sys.argv)
