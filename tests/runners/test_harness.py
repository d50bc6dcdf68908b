"""A worker process: it does not tell the options of its job."""

from __future__ import annotations

import json
import os
import subprocess
import sys

START = """
import logging, os, sys
from apache_beam.runners.worker import sdk_worker_main
from pipelines.runners import harness
logging.basicConfig(stream=sys.stdout, format="%(message)s")
harness.keep_options_secret()
sdk_worker_main.create_harness(os.environ, dry_run=True)
"""


def test_options_are_not_logged() -> None:
    options = json.dumps({"beam:option:s3_secret_access_key:v1": "hidden"})
    given = {**os.environ, "PIPELINE_OPTIONS": options, "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:1"'}
    told = subprocess.run([sys.executable, "-c", START], env=given, capture_output=True, text=True, check=True)
    assert "semi_persistent_directory" in told.stdout  # the line before the one with the options
    assert "hidden" not in told.stdout + told.stderr
