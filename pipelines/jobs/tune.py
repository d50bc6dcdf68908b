"""Trying out what the task's `tune` section declares: a training for each combination, judged on the validation as-ofs.

    <models>/<task>/.tuning-<key>/    transform/, prepared.f4, trial-<digest>/{result.json, member-<k>/, logs/}

Trials that are done are not done again, and an interrupted one goes on: the same command resumes the sweep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import Exit, UserError
from pipelines.jobs import memory, train
from pipelines.jobs.config import TrainConfig
from pipelines.jobs.report import describe_as_ofs
from pipelines.models.engines.loading import silent_stderr
from pipelines.models.example_files import check_rows
from pipelines.system.files import write_file
from pipelines.task.spec import Task


@dataclass(frozen=True)
class TuneTrial:
    """A combination and how good it was, higher is better: validation AUC, or the pinball loss of a path, negative."""

    values: dict[str, Any]
    quality: float


def tune(config: TrainConfig) -> int:
    """Runs the trials that are missing, prints all, the best first, and returns the exit code.

    Raises:
      UserError: the task declares nothing to try, or what `train` raises.
    """
    task = config.task
    _check(task)
    need = max((memory.training(task.with_model(spec)) for spec in task.trials), key=lambda n: n.likely)
    lines = need.lines()
    data, stored = train.stored_examples(config, *config.train, *config.validation)
    print("\n".join(lines))
    learn, check = data.at(*config.train), data.at(*config.validation)
    for name, rows in (("training", learn), ("validation", check)):
        check_rows(task, data, name, rows)
    print(f"training    {describe_as_ofs(config.train)}\nvalidation  {describe_as_ofs(config.validation)}", flush=True)
    with silent_stderr():
        from pipelines.models.training import Data, fit

    folder, trials = config.folder / f".tuning-{train.training_key(config, stored)}", []
    with train.alone(folder), memory.explained(need):
        transform = train.preprocessing(config, data, learn, folder)
        for i, spec in enumerate(task.trials):
            values = {key: getattr(spec, key) for key in task.tune}
            digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:10]
            work = folder / f"trial-{digest}"
            print(f"trial {i + 1}/{len(task.trials)}   {_shown(values)}", flush=True)
            quality = _result(work)
            if quality is None:
                own = Data(task.with_model(spec), data, learn, check, transform, folder / train.PREPARED)
                _, quality = fit(own, work, lambda line: print(f"  {line}", flush=True))
                _write(work, values, quality)
            trials.append(TuneTrial(values, quality))
    print("\n".join(["", *_table(task, trials), f"written     {folder}"]))
    return Exit.OK


def plan(config: TrainConfig) -> int:
    """Checks all that a sweep checks, and prints what it would do."""
    _check(config.task)
    for spec in config.task.trials:
        print(f"trial       {_shown({key: getattr(spec, key) for key in config.task.tune})}")
    return train.plan(config)


def _check(task: Task) -> None:
    if not task.tune:
        raise UserError(
            f"task {task.task} has nothing to try: give it a section such as tune: {{dropout: [0.2, 0.5]}}, "
            "with keys of model and the values of each"
        )


def _table(task: Task, trials: Sequence[TuneTrial]) -> list[str]:
    ranked = sorted(trials, key=lambda t: -t.quality)
    from pipelines.models.heads import head

    of = head(task)
    lines = [f"{len(trials)} trials, by validation {of.measure}"]
    lines += [f"  {of.sign * t.quality:.5f}  {_shown(t.values)}" for t in ranked]
    return [*lines, f"best        model: {{{_shown(ranked[0].values)}}}"]


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}: {json.dumps(v)}" for k, v in values.items())


def _result(work: Path) -> float | None:
    try:
        return float(json.loads((work / "result.json").read_text())["quality"])
    except FileNotFoundError:
        return None


def _write(work: Path, values: dict[str, Any], quality: float) -> None:
    text = json.dumps({"model": values, "quality": quality})
    write_file(work / "result.json", lambda f: f.write(text.encode()))
