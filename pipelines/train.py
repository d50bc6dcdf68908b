"""From event files to an exported model: examples, training, judgement, export. Each step is a module of its own."""

from __future__ import annotations

from pipelines import examples
from pipelines.config import ExamplesConfig, TrainConfig
from pipelines.errors import Exit
from pipelines.folders import replaceable
from pipelines.models.examples import Examples, check_rows, load_examples
from pipelines.models.loading import silent_stderr
from pipelines.models.manifest import FILE, Manifest
from pipelines.report import describe_as_ofs, describe_input, ledger_lines, metric_lines
from pipelines.source import find
from pipelines.taskfile import describe
from pipelines.transforms.sink import now


def train(config: TrainConfig) -> int:
    """Trains, prints how good the model is beside the simplest rules, and returns the exit code.

    Raises:
      UserError: what `make_examples` raises, or there is nothing to learn from.
    """
    replaceable(config.output, FILE, "model")
    summary = examples.make_examples(_examples_config(config))
    print("\n".join([f"task        {config.task.task}", *ledger_lines(summary.ledger)]))
    data = load_examples(config.task, examples.example_files(_examples_folder(config)))
    manifest = _fit(config, data)
    print(f"\ntest        {metric_lines(config.task, manifest)}")
    print(f"written     {config.output} (version {manifest.version}); the examples are in {_examples_folder(config)}")
    print(f"next        foretide score --model {config.output} --as-of ... --output ... (same --task and --input)")
    return Exit.OK


def plan(config: TrainConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    source = find(config.task, config.input, config.execution)
    replaceable(config.output, FILE, "model")
    print(describe(config.task))
    print(describe_input(source, config.input))
    print(f"training    {describe_as_ofs(config.train)}")
    print(f"validation  {describe_as_ofs((config.validation,))}")
    print(f"test        {describe_as_ofs((config.test,))}")
    print(f"output      {config.output}\ndry run: nothing was trained or written")
    return Exit.OK


def _fit(config: TrainConfig, data: Examples) -> Manifest:
    """Imports the framework late: it takes seconds, and a mistake in the input is told before."""
    with silent_stderr():
        from pipelines.models.evaluation import evaluate
        from pipelines.models.export import Origin, export
        from pipelines.models.training import fit, predict

    task = config.task
    learn, check, test = data.at(*config.train), data.at(config.validation), data.at(config.test)
    print(f"examples    {len(learn):,} to learn from, {len(check):,} to validate with, {len(test):,} to test with")
    print(f"as-ofs      {describe_as_ofs(config.train)}; {describe_as_ofs((config.validation,))}; ", end="")
    print(describe_as_ofs((config.test,)), flush=True)
    check_rows(task, data, "test", test)
    model = fit(task, data, learn, check, lambda line: print(line, flush=True))
    metrics = evaluate(task, data, learn, test, predict(task, model, data, test))
    return export(model, task, Origin(config.train, config.validation, config.test, metrics, now()), config.output)


def _examples_folder(config: TrainConfig) -> str:
    return f"{config.output.rstrip('/')}.examples"


def _examples_config(config: TrainConfig) -> ExamplesConfig:
    as_ofs = tuple(sorted({*config.train, config.validation, config.test}))
    return ExamplesConfig(config.task, config.input, as_ofs, _examples_folder(config), config.execution)
