"""What `foretide train`, `score` and `query` do, as functions that return values. Beam's steps are in `steps`.

Paths, times and durations are given as on the command line. What a user can mend is raised as UserError, and nothing
is printed unless it is asked for.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pyarrow as pa

from pipelines.errors import Exit, UserError
from pipelines.jobs.config import Input, ScoreConfig, TrainConfig
from pipelines.jobs.outputs.kinds import output as output_of
from pipelines.models import registry
from pipelines.models.engines.base import DeviceName, EngineName
from pipelines.models.saved.manifest import load_manifest
from pipelines.runners.execution import Execution
from pipelines.storage.rows import score_schema
from pipelines.task.as_ofs import parse_as_ofs, steps_of
from pipelines.task.spec import Task

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Trained:
    """A version of a model, and how good it is."""

    version: str
    folder: Path  # with the model, evaluation.json and report.html
    metrics: Mapping[str, float | None]  # on the test as-ofs, by name, beside those of baselines


def train(
    task: Task,
    inputs: Inputs,
    *,
    test_as_of: str,
    test_every: str | None = None,
    train_as_ofs: int = 24,
    train_every: str | None = None,
    validation_as_ofs: int = 1,
    models: str | os.PathLike[str] = "models",
    examples: str | os.PathLike[str] = "examples",
    format: str | None = None,
    max_bad_share: float = 0.05,
    workers: int = 1,
    promote: bool = False,
    show: bool = False,
) -> Trained:
    """Trains a model on earlier as-ofs, judges it on `test_as_of`, and puts it into the registry `models`.

    Args:
      promote: serve the new version; the first one of a task serves anyway.
      show: print what `foretide train` prints.
    """
    config = TrainConfig(
        task=task,
        input=_input(inputs, format),
        test=parse_as_ofs(task, str(test_as_of), "test_as_of", steps_of(task, "test_every", test_every)),
        train_as_ofs=train_as_ofs,
        train_every=steps_of(task, "train_every", train_every) or max(task.score.every, task.horizon),
        validation_as_ofs=validation_as_ofs,
        models=os.fspath(models),
        examples=os.fspath(examples),
        resume=False,
        promote=promote,
        execution=_execution(workers),
        max_bad_share=max_bad_share,
    )
    with _told(show):
        from pipelines.jobs.train import trained

        manifest = trained(config)
    return Trained(manifest.version, config.folder / manifest.version, manifest.metrics)


def score(
    task: Task,
    inputs: Inputs,
    *,
    as_of: str,
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    engine: EngineName = "tensorflow",
    device: DeviceName = "auto",
    batch_size: int = 240,
    format: str | None = None,
    max_bad_share: float = 0.05,
    workers: int = 1,
    show: bool = False,
) -> pa.Table:
    """Scores every entity as of one or more times: a row for each, ordered by as-of and entity.

    Warns of rows that were refused and of sequences without a score where no `output` keeps them as dead letters.

    Args:
      model: a task's folder in the registry, for the version that serves; or a version's own.
      output: a folder that keeps scores, dead letters and ledger; none are kept by default.
      show: print what `foretide score` prints.
    """
    with nullcontext(output) if output else tempfile.TemporaryDirectory() as place, _told(show) as told:
        config = scoring(task, inputs, as_of, model, place, engine, device, batch_size, format, max_bad_share, workers)
        where = f"WHERE run_id = '{config.run_id(load_manifest(registry.resolve(config.model)).version)}'"
        from pipelines.jobs.score import score as run

        code = run(config)
        if code:
            lines = [line for line in told.getvalue().splitlines() if line and not line.startswith("next ")]
            raise UserError("\n".join(["no score was published", *lines]), Exit(code))
        columns = ", ".join(f'"{name}"' for name in (*score_schema(task.outputs).names, "scored_at"))
        rows = query(config.output, f"SELECT {columns} FROM scores_history {where} ORDER BY as_of, entity_id")
        [ledger] = query(config.output, f"SELECT rejected, failed FROM ledger {where}").to_pylist()
    if not output and any(ledger.values()):
        warnings.warn(
            f"{ledger['rejected']:,} events were refused, and {ledger['failed']:,} sequences have no score: "
            "name an output to see why in its dead letters",
            stacklevel=2,
        )
    return rows


def query(output: str | os.PathLike[str], sql: str) -> pa.Table:
    """What a statement gives over the views of an output folder: scores, dead_letters, ledger, ..."""
    return output_of(os.fspath(output)).arrow(sql)


def scoring(
    task: Task,
    inputs: Inputs,
    as_of: str,
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    engine: EngineName = "tensorflow",
    device: DeviceName = "auto",
    batch_size: int = 240,
    format: str | None = None,
    max_bad_share: float = 0.05,
    workers: int = 1,
) -> ScoreConfig:
    """What `foretide score` would be asked."""
    return ScoreConfig(
        task=task,
        input=_input(inputs, format),
        as_ofs=parse_as_ofs(task, str(as_of), "as_of"),
        model=os.fspath(model),
        engine=engine,
        device=device,
        batch_size=batch_size,
        output=os.fspath(output),
        execution=_execution(workers),
        max_bad_share=max_bad_share,
    )


def _input(inputs: Inputs, format: str | None) -> Input:
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    if not paths or not all(map(os.fspath, paths)):
        raise UserError("inputs: name files, folders or tables")
    return Input.located([os.fspath(path) for path in paths], format)


def _execution(workers: int) -> Execution:
    execution = Execution(workers, None, (), False)
    execution.check()
    return execution


@contextmanager
def _told(show: bool) -> Iterator[StringIO]:
    """Keeps what the program prints, and what its libraries log, to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    text, before = StringIO(), logging.root.manager.disable
    if show:
        yield text
        return
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(text), redirect_stderr(StringIO()):
            yield text
    finally:
        logging.disable(before)
