"""A pipeline of two worker processes that toil, as a command would run it.

`python -m tests.support.toiling_pipeline SECONDS [FILE]`: each of eight elements takes so long. FILE is there once one
is under way.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import apache_beam as beam

from pipelines.errors import UserError
from pipelines.runners.bounded import run
from pipelines.runners.execution import Execution
from pipelines.system import interrupts


def toil(element: int, seconds: float, mark: str) -> int:
    if mark:
        Path(mark).touch()
    time.sleep(seconds)
    return element


def main(seconds: float, mark: str) -> int:
    logging.basicConfig(level=logging.CRITICAL)

    def build(p: beam.Pipeline) -> None:
        _ = p | beam.Create(range(8)) | beam.Reshuffle() | beam.Map(toil, seconds, mark)

    try:
        run(Execution(2, None, (), False), build)
    except UserError as error:
        print(f"toiling: {error}", file=sys.stderr)
        return int(error.exit)
    return 0


if __name__ == "__main__":
    from tests.support import toiling_pipeline  # classes of __main__ would be pickled with all they refer to

    interrupts.install()
    try:
        code = toiling_pipeline.main(float(sys.argv[1]), "".join(sys.argv[2:3]))
    except KeyboardInterrupt:
        interrupts.leave(128 + (interrupts.received() or 0))
    sys.exit(code)
