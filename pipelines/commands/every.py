"""All commands, in the order of `foretide --help`."""

from __future__ import annotations

from pipelines.commands import (
    doctor,
    examples,
    gate,
    models,
    query,
    rehearse,
    replay,
    savepoint,
    schema,
    score,
    stream,
    train,
    tune,
)

COMMANDS = (
    score.COMMAND,
    stream.COMMAND,
    doctor.COMMAND,
    rehearse.COMMAND,
    replay.COMMAND,
    examples.COMMAND,
    train.COMMAND,
    tune.COMMAND,
    models.COMMAND,
    schema.COMMAND,
    savepoint.COMMAND,
    gate.COMMAND,
    query.COMMAND,
)
