"""Makes training examples, straight into files of the store, once: `python -m benchmarks.examples 80000`.

Users are as uneven as those of the events, and types as frequent. A quarter of the users leave within the 30 days
before an as-of and stay away; the others churn when a month goes by without an event, as it may for those with few.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import workload as w
from benchmarks.measure import Tensor
from pipelines.events.sequences import SequenceBatch
from pipelines.jobs.config import Input, TrainConfig
from pipelines.jobs.examples import record_batch
from pipelines.ledger.counts import Ledger
from pipelines.models.example_files import Examples, load_examples
from pipelines.models.example_store import PREFIX, Layer, Stored, feature_id, read_layer, uses, write_layer
from pipelines.runners.execution import Execution
from pipelines.system.files import replacing
from pipelines.task.file import load_task
from pipelines.task.spec import Task

FILES = 8
MONTH = 30  # days: the horizon of the label, and of its scope
LEAVE = 0.25


def training(models: Path, **model: object) -> TrainConfig:
    """How the benchmark trains: on as-ofs a week apart, and tests on the benchmark's one as-of.

    Args:
      model: values of the task's `model` to change.
    """
    task = load_task(w.TASK)
    task = task.model_copy(update={"model": task.model.with_values(model)})
    local = Execution(workers=1, shards=None, beam_args=(), debug=True)
    return TrainConfig(
        task=task,
        input=Input((), None),
        test=(w.END,),
        train_as_ofs=6,
        train_every=7 * w.DAY,
        validation_as_ofs=1,
        models=str(models),
        examples=str(w.DATA / "examples"),
        resume=False,
        promote=False,
        execution=local,
        max_bad_share=0.0,
    )


def load(task: Task, examples: int, data: Path = w.DATA) -> Examples:
    """The generated examples."""
    layer = read_layer(_layer(examples, data))
    found = uses(task, layer.as_ofs, [layer])
    ledger = layer.ledger
    return load_examples(
        task, Stored(layer.folder, task.task, layer.as_ofs, sum(layer.examples), ledger, (), (), found)
    )


def generate(examples: int, data: Path = w.DATA) -> None:
    """Writes so many examples, at the as-ofs of `training`, unless they are there."""
    folder = _layer(examples, data)
    if folder.exists():
        return
    config = training(data)
    as_ofs = (*config.train, *config.validation, *config.test)
    n = examples // len(as_ofs)
    rates = np.random.default_rng(1).lognormal(0, 1, n) * w.PER_ENTITY / w.STEPS
    with replacing(folder) as partial:
        for i, users in enumerate(np.array_split(np.arange(n), FILES)):
            _write(partial / f"part-{i:03d}.arrow", as_ofs, users, rates[users])
        features = tuple(feature_id(f) for f in config.task.features)
        write_layer(Layer(partial, as_ofs, features, dict(config.task.columns), (n,) * len(as_ofs), Ledger()))


def _layer(examples: int, data: Path) -> Path:
    return data.resolve() / "examples" / f"{PREFIX}{examples}"


def _write(path: Path, as_ofs: tuple[int, ...], users: w.Ints, rates: w.Doubles) -> None:
    """A file of the store: some users at all as-ofs."""
    batches = _batches(np.random.default_rng(int(users[0])), as_ofs, users, rates)
    first = record_batch(next(batches))
    with pa.ipc.new_file(str(path), first.schema) as out:
        out.write_batch(first)
        for batch in batches:
            out.write_batch(record_batch(batch))


def _batches(
    random: np.random.Generator, as_ofs: tuple[int, ...], users: w.Ints, rates: w.Doubles
) -> Iterator[SequenceBatch]:
    for as_of in as_ofs:
        for start in range(0, len(users), w.BATCH):
            part = slice(start, start + w.BATCH)
            yield draw(random, as_of, users[part], rates[part])


def draw(random: np.random.Generator, as_of: int, users: w.Ints, rates: w.Doubles) -> SequenceBatch:
    """Users at an as-of, by their mean number of events a day."""
    n = len(users)
    left = random.random(n) < LEAVE
    days = np.where(left, w.STEPS - random.integers(0, MONTH, n), w.STEPS)  # with events, the first so many
    x = tensor(random, rates, days)
    events = x[:, :, : w.COUNTED].sum(axis=2)
    away = (events > 0)[:, ::-1].argmax(axis=1)
    return SequenceBatch(
        entities=[f"u{i * 2654435761 % 2**32:010d}" for i in users.tolist()],
        as_of=as_of,
        revision=np.zeros(n, np.int32),
        tensor=x,
        n_events=events.sum(axis=1).astype(np.int64),
        last_event_time=as_of - away * w.DAY - random.integers(1, w.DAY, n),
        label=(left | (random.poisson(rates * MONTH) == 0)).astype(np.float32)[:, None],
    )


def tensor(random: np.random.Generator, rates: w.Doubles, days: w.Ints) -> Tensor:
    """(n, STEPS, FEATURES): Poisson counts, and sums of values; at least one event, on the last of the days."""
    n = len(rates)
    types = 1 / np.arange(1, w.COUNTED + 1) ** 0.8
    means = (rates[:, None] * types / types.sum())[:, None].repeat(w.STEPS, axis=1)
    before = np.arange(w.STEPS)[None, :, None] < days[:, None, None]
    counts = random.poisson(means) * before
    counts[np.arange(n), days - 1, 0] += 1
    values = np.round(random.gamma(2, 10, counts[:, :, : w.SUMMED].shape) * 4) / 4
    return np.concatenate([counts, values * counts[:, :, : w.SUMMED]], axis=2, dtype=np.float32, casting="unsafe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=int)
    generate(parser.parse_args().examples)


if __name__ == "__main__":
    main()
