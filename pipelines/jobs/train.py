"""From event files to a model in the registry: examples, preprocessing, training, calibration, judgement, export.

Each step is a module of its own. What a killed training leaves, and `--resume` goes on with, lies in

    <models>/<task>/.training-<key>/    transform/, prepared.f4, member-<k>/checkpoint.npz, logs/
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import Exit, UserError
from pipelines.jobs import memory
from pipelines.jobs.config import TrainConfig
from pipelines.jobs.examples import make_examples, plan_lines, stored_lines
from pipelines.jobs.report import describe_as_ofs, ledger_lines
from pipelines.models import registry
from pipelines.models.engines.loading import silent_stderr
from pipelines.models.example_files import Examples, Ints, check_rows, load_examples
from pipelines.models.example_store import Stored
from pipelines.models.saved.manifest import Manifest
from pipelines.system.files import locked, make_private, replacing, writable
from pipelines.transforms.output_rows import now

if TYPE_CHECKING:
    from pipelines.models.network import Preprocessing

LOCK, PREPARED = ".lock", "prepared.f4"
PACKAGES = ("lightgbm", "plotly", "tensorboard", "tensorflow_transform")


def train(config: TrainConfig) -> int:
    """`trained`, for a command: returns the exit code."""
    trained(config)
    return Exit.OK


def trained(config: TrainConfig) -> Manifest:
    """Trains, prints how good the model is beside the baselines, and returns what is known of the new version.

    Raises:
      UserError: what `make_examples` raises, or there is nothing to learn from.
    """
    memory.training(config.task).lines()  # refuses before the examples are made
    data, stored = stored_examples(config, *config.train, *config.validation, *config.test)
    need = memory.training(config.task, len(data))
    print("\n".join(need.lines()))
    learn, check, test = (data.at(*as_ofs) for as_ofs in (config.train, config.validation, config.test))
    print("\n".join(_splits(config, data)), flush=True)
    for name, rows in (("test", test), ("training", learn), ("validation", check)):
        check_rows(config.task, data, name, rows)
    work = config.folder / f".training-{training_key(config, stored)}"
    with alone(work):
        _begin(work, config.resume)
        with memory.explained(need):
            manifest, lines = _fit(config, data, (learn, check, test), work)
        shutil.rmtree(work)
    folder = config.folder / manifest.version
    print("\n".join(["", *(f"{'test' if i == 0 else '':<12}{line}" for i, line in enumerate(lines))]))
    print(f"written     {folder}\nreport      {folder / 'report.html'}")
    _serve(config, manifest.version)
    return manifest


def stored_examples(config: TrainConfig, *as_ofs: int) -> tuple[Examples, Stored]:
    """The examples of the as-ofs: what the store lacks is computed."""
    _check(config)
    stored = make_examples(config.example_config(*as_ofs))
    lines = [f"task        {config.task.task}", *ledger_lines(stored.ledger), *stored_lines(config.task, stored)]
    print("\n".join(lines))
    return load_examples(config.task, stored), stored


def plan(config: TrainConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    _check(config)
    print("\n".join(plan_lines(config.example_config(*config.train, *config.validation, *config.test))))
    print("\n".join([*_splits(config), *memory.training(config.task).lines()]))
    print(f"models      {config.folder}\ndry run: nothing was trained or written")
    return Exit.OK


def _splits(config: TrainConfig, data: Examples | None = None) -> list[str]:
    """The as-ofs of each set, and how many examples they have."""
    sets = {"training": config.train, "validation": config.validation, "test": config.test}
    counts = {name: f": {len(data.at(*as_ofs)):,} examples" if data else "" for name, as_ofs in sets.items()}
    return [f"{name:<11} {describe_as_ofs(as_ofs)}{counts[name]}" for name, as_ofs in sets.items()]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, made where it is not there, for this process only.

    Raises:
      UserError: another process is at work there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)  # of models, which are no secret
    make_private(folder)
    with locked(folder / LOCK, wait=False) as held:
        if not held:
            raise UserError(f"another process trains the same, in {folder}: wait for it")
        yield


def _begin(folder: Path, resume: bool) -> None:
    """Keeps what an interrupted training left there if it is to be resumed."""
    left = any(folder.glob("member-*/checkpoint.npz"))
    if resume and not left:
        print("resume      there is no checkpoint of this training: starting anew")
    elif left and not resume:
        print("anew        an interrupted training is thrown away; --resume would have gone on with it")
    if not resume:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def _fit(config: TrainConfig, data: Examples, rows: tuple[Ints, Ints, Ints], work: Path) -> tuple[Manifest, list[str]]:
    """Imports the frameworks late: it takes seconds, and a mistake in the input is told before."""
    with silent_stderr():
        from pipelines.evaluation.evaluate import evaluate, headline, lines
        from pipelines.evaluation.page.page import page
        from pipelines.evaluation.survey import Splits
        from pipelines.models.export import Origin, export, version_of
        from pipelines.models.predictor import Predictor
        from pipelines.models.training import Data, fit

    task, (learn, check, test) = config.task, rows
    transform = preprocessing(config, data, learn, work)
    given = Data(task, data, learn, check, transform, work / PREPARED)
    members, _ = fit(given, work, lambda line: print(line, flush=True))
    predictor = Predictor.calibrated(task, transform, members, data, check)
    created = now()
    print("judging     beside the baselines", flush=True)
    evaluation = evaluate(
        task,
        data,
        Splits(learn, check, test),
        predictor.score,
        predictor.uncalibrated,
        version=version_of(predictor, config.train, config.test),
        method=predictor.calibration.method,
        created=created,
    )
    origin = Origin(config.train, config.validation, config.test, headline(evaluation), created)
    beside: dict[str, Path | str] = {
        "evaluation.json": json.dumps(evaluation, indent=1) + "\n",
        "report.html": page(evaluation),
        "logs": work / "logs",
        "transform": work / "transform",
    }
    return export(predictor, origin, config.folder, beside), lines(evaluation)


def preprocessing(config: TrainConfig, data: Examples, rows: Ints, work: Path) -> Preprocessing:
    """What TensorFlow Transform makes of the training rows, or has made of them before an interruption."""
    with silent_stderr():
        from pipelines.models.preprocessing import analyze, load_transform

    if not (work / "transform").exists():
        with replacing(work / "transform") as folder:
            analyze(config.task, data, rows, folder)
    return load_transform(work / "transform")


def _serve(config: TrainConfig, made: str) -> None:
    """The first version of a task serves at once; another when it is asked for."""
    if config.promote or registry.serving(config.folder) is None:
        registry.promote(config.folder, made)
    pointer = registry.serving(config.folder)
    if pointer is not None and pointer.version == made:
        print(f"serving     {config.folder} serves this version")
        model = shlex.quote(str(config.folder))
        print(f"next        foretide score --model {model} --as-of ... --output ... (same --task and --input)")
    else:
        print(f"serving     {config.folder} serves {pointer.version if pointer else 'none'}")
        print(f"next        foretide models promote {shlex.quote(str(config.folder / made))}")


def training_key(config: TrainConfig, stored: Stored) -> str:
    """A key of all that decides what is learnt."""
    facts = [version("foretide"), config.task.digest, config.train, config.validation, str(stored.folder)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]


def _check(config: TrainConfig) -> None:
    """Checks what a training needs before it takes its time.

    Raises:
      UserError: a package is missing, the features say too little, no model can be written, or it cannot be told
        which one serves.
    """
    if not all(map(find_spec, PACKAGES)):
        raise UserError("training is not installed: pip install foretide[train]")
    if not any(f.quantity for f in config.task.features):
        raise UserError(f"task {config.task.task}: add a feature that counts or measures, such as {{agg: count}}")
    if "://" in config.models:
        raise UserError(f"--models {config.models}: the models must be in a local folder")
    writable(str(config.folder), "--models")
    registry.serving(config.folder)
