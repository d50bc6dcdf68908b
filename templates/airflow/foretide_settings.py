"""The settings of the workflow in `foretide_dag.py`, and the commands that follow from them. Plain Python, without
Airflow and without the package `foretide`: its command runs in an environment of its own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Limits:
    """From where on scores are held back: options of `foretide gate`, which has values for those that are not given."""

    max_bad_share: float | None = None
    psi: float | None = None
    ratio: float | None = None
    earlier: int | None = None
    recent: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class Dataflow:
    """Where the Flex template runs."""

    template: str  # gs://BUCKET/batch.json
    project: str
    region: str
    environment: Mapping[str, object] = field(default_factory=dict)  # FlexTemplateRuntimeEnvironment
    connection: str = "google_cloud_default"


@dataclass(frozen=True)
class Settings:
    """Of one workflow."""

    task: str  # its name, as the rows have it
    task_file: str
    model: str
    input: Sequence[str]
    candidates: str  # a folder, in which each backfill has one of its own, or bq://PROJECT.DATASET.TABLE
    published: str
    ready: Sequence[str] = ()  # what must be there: files, gs:// objects, partitions of bq:// tables; {day}, {as_of}
    schedule: str = "0 0 * * *"  # when an as-of is due, in UTC
    start: str = "2024-01-01"
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # more of `foretide score`
    command: str = "foretide"
    dataflow: Dataflow | None = None  # else this machine runs the job
    poll_seconds: int = 300  # between two looks at the data, or at the job on Dataflow
    alert_url: str | None = None  # takes {"text": ...} by POST, as chats do
    limits: Limits = Limits()

    @classmethod
    def read(cls, name: str, values: Mapping[str, Any]) -> Settings:
        """Raises ValueError, which says what is wrong with the settings of this name."""
        settings: Settings = _read(cls, name, values)
        if isinstance(settings.input, str) or isinstance(settings.ready, str):
            raise ValueError(f"{name}: input and ready are lists")
        tables = [place.startswith("bq://") for place in (settings.candidates, settings.published)]
        if tables[0] != tables[1]:
            raise ValueError(f"{name}: candidates and published must be folders, or tables of BigQuery, both")
        if settings.candidates == settings.published:
            raise ValueError(f"{name}: candidates and published are the same place")
        if settings.dataflow and not tables[0]:
            raise ValueError(f"{name}: a job on Dataflow writes to BigQuery: name tables, bq://PROJECT.DATASET.TABLE")
        return settings

    @property
    def in_tables(self) -> bool:
        return self.candidates.startswith("bq://")

    def output(self, as_of: str, started: str) -> str:
        """Where the candidates of an as-of are, by a backfill that began at this time."""
        if self.in_tables:
            return self.candidates
        return os.path.join(self.candidates, as_of.replace(":", ""), started.replace(":", ""))

    def score_options(self, as_of: str) -> dict[str, str | bool | Sequence[str]]:
        """All but --output. In a table of candidates, scores of a newer model replace those before."""
        given = {k: v if isinstance(v, bool) else str(v) for k, v in self.options.items()}
        replace = {"replace-model": True} if self.in_tables else {}
        return {"task": self.task_file, "model": self.model, "input": self.input, "as-of": as_of, **replace, **given}

    def shell(self, as_of: str) -> str:
        """The backfill as a command of bash, whose last line is when it began.

        Refused and unbalanced runs (exit codes 3 and 4) are left to the checks, which read the ledger.
        """
        words = [*shlex.split(self.command), "score"]
        for name, value in self.score_options(as_of).items():
            if value is not False:
                values = [value] if isinstance(value, str) else [] if value is True else value
                words += [f"--{name}", *values]
        output = shlex.quote(self.output(as_of, ""))
        if not self.in_tables:
            output += '"${started//:/}"'
        return (
            f"started=$(date -u +%Y-%m-%dT%H:%M:%SZ)\n{shlex.join(words)} --output {output}"
            " || { code=$?; [ $code = 3 ] || [ $code = 4 ] || exit $code; }\necho $started"
        )

    def gate(self, as_of: str, started: str, *more: str) -> list[str]:
        """`foretide gate` as words, for the candidates of a backfill that began at this time."""
        limits = (
            f"--{name.replace('_', '-')}={value}" for name, value in vars(self.limits).items() if value is not None
        )
        places = f"--candidates={self.output(as_of, started)}", f"--output={self.published}"
        times = f"--as-of={as_of}", f"--since={started}"
        return [*shlex.split(self.command), "gate", self.task, *times, *places, *limits, *more]

    def launch(self, as_of: str, job: str) -> dict[str, Any]:
        """The backfill as the body of a launch of the Flex template."""
        assert self.dataflow is not None
        options = {**self.score_options(as_of), "output": self.candidates}
        return {
            "launchParameter": {
                "jobName": job,
                "containerSpecGcsPath": self.dataflow.template,
                "parameters": {k.replace("-", "_"): _joined(v) for k, v in options.items()},
                "environment": dict(self.dataflow.environment),
            }
        }

    def job(self, as_of: str) -> str:
        """The name of a job. Dataflow never runs two of one name at a time."""
        return re.sub("[^a-z0-9]+", "-", f"foretide-{self.task}-{as_of}".lower())


def _joined(value: str | bool | Sequence[str]) -> str:
    """As a parameter of a template has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else ",".join(value)


def _read(cls: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"{name}: there is no setting {unknown[0]}; there are {', '.join(sorted(known))}")
    nested = {"dataflow": Dataflow, "limits": Limits}
    made = {k: _read(nested[k], f"{name}.{k}", v) if k in nested and v is not None else v for k, v in values.items()}
    try:
        return cls(**made)
    except TypeError as error:
        raise ValueError(f"{name}: {str(error).partition('() ')[2]}") from None
