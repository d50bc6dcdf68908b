"""The flags that several commands take. Those of one command stand in its own file."""

from __future__ import annotations

import os

from pipelines.commands import option_files
from pipelines.commands.flag import TemplateForm, flag, positive, share
from pipelines.events.formats.registry import FORMATS
from pipelines.google.tables import NAME as TABLE
from pipelines.runners.execution import ACCELERATOR
from pipelines.task.as_ofs import LATEST

# What Dataflow's form takes. Where something lies: in a bucket, or in the image; what a launcher's folder holds is of
# no use to workers.
PLACE = r"(gs://[a-z0-9][a-z0-9._-]+/[^,]+|/[^,]+)"
SOURCES = rf"({PLACE}|bq://.+)(,({PLACE}|bq://.+))*"
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
NATURAL = "[1-9][0-9]*"


def folder(path: str) -> str:
    """The path of a folder for processes in any. An empty one stays empty, and is refused."""
    return path if not path or "://" in path else os.path.abspath(path)


DEBUG = flag(
    "--debug",
    TemplateForm("Job", "Log in detail"),
    action="store_true",
    help="log what Beam does, and show traces of errors",
)
OPTIONS = flag(option_files.OPTION, "a launch gives each option by itself", metavar="FILE", help=option_files.HELP)
TASK = flag(
    "--task",
    TemplateForm("Question", "Task file", "GCS_READ_FILE", PLACE, "gs://my-bucket/tasks/churn_shop.yaml"),
    required=True,
    metavar="FILE",
    help="task file (YAML)",
)
AS_OF = flag(
    "--as-of",
    TemplateForm("Question", "As-of, or range", "TEXT", rf"{TIME}(\.\.{TIME})?|{LATEST}", "2024-01-01..2024-03-01"),
    required=True,
    metavar="TIME",
    help="2024-01-01; 2024-01-01..2024-03-01 for all that are due between; latest for the newest that is due",
)
INPUT = flag(
    "--input",
    TemplateForm("Events", "Events", "TEXT", SOURCES, "gs://my-bucket/events/*.parquet"),
    required=True,
    nargs="+",
    metavar="PATH",
    help="event files, folders, globs, bq://PROJECT.DATASET.TABLE or bq://PROJECT?QUERY",
)
FORMAT = flag(
    "--format",
    TemplateForm("Events", "Format of files"),
    choices=tuple(FORMATS),
    help="for files whose names do not say",
)
MAX_BAD_SHARE = flag(
    "--max-bad-share",
    TemplateForm("Events", "Share of bad rows", "NUMBER", r"0|1|0?\.[0-9]+|1\.0+", "0.01"),
    type=share,
    default=0.05,
    metavar="X",
    help="stop when more rows than this are bad (%(default)s)",
)
WORKERS = flag(
    "--workers",
    "processes of one machine; the job has num_workers and max_num_workers",
    type=positive,
    default=1,
    metavar="N",
    help="processes on this machine (%(default)s)",
)
SHARDS = flag(
    "--shards",
    TemplateForm("Job", "Groups of entities", "NUMBER", NATURAL, "64"),
    type=positive,
    metavar="N",
    help="groups of entities (by the size of the input)",
)
DRY_RUN = flag(
    "--dry-run",
    "a launch that makes no job has failed for Dataflow; `foretide doctor` checks before it",
    action="store_true",
    help="print what would be done, and do nothing",
)
MODEL = flag(
    "--model",
    TemplateForm(
        "Model",
        "Model",
        "GCS_READ_FOLDER",
        PLACE,
        "gs://my-bucket/models/churn_shop",
        "the folder of a task's models, of which one serves, or a version's own",
    ),
    required=True,
    metavar="FOLDER",
    help="models/TASK for the version that serves, or a version's own",
)
ENGINE = flag(
    "--engine",
    TemplateForm("Model", "Engine", help="what runs the model"),
    choices=("tensorflow", "openvino", "openvino-bf16"),
    default="tensorflow",
)
DEVICE = flag(
    "--device",
    TemplateForm("Model", "Device", help="what it runs on", parent=("engine", "tensorflow")),
    choices=("auto", "cpu", "gpu"),
    default="auto",
)
BATCH_SIZE = flag(
    "--batch-size",
    TemplateForm("Model", "Rows of a batch", "NUMBER", NATURAL, "1024"),
    type=positive,
    default=240,
    metavar="N",
    help="rows of a call of the model, at most: a multiple of 48 (%(default)s)",
)
ACCELERATORS = flag(
    "--accelerator",
    TemplateForm(
        "Job",
        "Accelerator",
        "TEXT",
        ACCELERATOR.pattern,
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        "of the workers for inference",
    ),
    metavar="TEXT",
    help="on Dataflow, of the workers for inference: 'type:nvidia-tesla-t4;count:1;install-nvidia-driver' (none)",
)
OUTPUT = flag(
    "--output",
    TemplateForm(
        "Output",
        "Table of scores",
        "TEXT",
        TABLE.pattern,
        "bq://my-project.churn.scores",
        "where scores go, and beside it dead letters and the ledger",
    ),
    required=True,
    metavar="PLACE",
    help="where scores, dead letters and ledger go: a folder, or bq://PROJECT.DATASET.TABLE",
)
METHOD = flag("--bigquery-method", TemplateForm("Output", "How rows are written"), dest="method", default="storage")
MODELS = flag("--models", default="models", metavar="FOLDER")

EVERY = (DEBUG, OPTIONS)  # of every command
PIPELINE = (TASK, MAX_BAD_SHARE, WORKERS, SHARDS, DRY_RUN)
SCORING = (MODEL, ENGINE, DEVICE, BATCH_SIZE, ACCELERATORS, OUTPUT)
