"""The Beam main: `python -m pipelines.run --task=... --runner=...` is `foretide score` with the same flags."""

from __future__ import annotations

import sys

from pipelines.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
