"""Examples survive their files, whatever the layers and files, and are read without being kept."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.events.sequences import SequenceBatch
from pipelines.jobs.examples import record_batch
from pipelines.ledger.counts import Ledger
from pipelines.models.example_files import Examples, load_examples
from pipelines.models.example_store import Layer, Stored, feature_id, read_layers, uses, write_layer
from pipelines.task.spec import Task
from tests.support.toy_models import DAY, STEPS, task, tensor

ALL = (0, 1, 2, 3)


def batch(start: int, n: int, as_of: int, features: Sequence[int] = ALL) -> SequenceBatch:
    at = np.arange(start, start + n)
    label = (at % 2).astype(np.float32)[:, None]
    names = [f"user {i:03d}" for i in at]
    x = tensor(n, start)[:, :, list(features)]
    return SequenceBatch(names, as_of, np.zeros(n, np.int32), x, at, as_of - at - 1, label)


def layer(folder: Path, features: Sequence[int], *files: Sequence[SequenceBatch]) -> None:
    """Writes a layer of the toy task, each file with some batches."""
    folder.mkdir(parents=True)
    for i, batches in enumerate(files):
        parts = [record_batch(b) for b in batches]
        with pa.ipc.new_file(folder / f"{i}.arrow", parts[0].schema) as writer:
            for part in parts:
                writer.write_batch(part)
    as_ofs = tuple(sorted({b.as_of for batches in files for b in batches}))
    ids = tuple(feature_id(task().features[i]) for i in features)
    write_layer(Layer(folder, as_ofs, ids, {}, (0,) * len(as_ofs), Ledger()))


def stored(root: Path, as_ofs: Sequence[int], of: Task | None = None) -> Stored:
    used = uses(of or task(), as_ofs, read_layers(root))
    return Stored(root, "toy", tuple(as_ofs), 0, Ledger(), (), (), used)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same rows in one file, in several, and spread over layers with other features at other as-ofs."""
    root = tmp_path_factory.mktemp("stores")
    rows = ((20, 10, DAY), (0, 20, DAY), (5, 7, 2 * DAY))
    layer(root / "one" / "layer-0", ALL, [batch(*r) for r in rows])
    layer(root / "two" / "layer-0", ALL, [batch(*rows[2])], [batch(*r) for r in rows[:2]])
    layer(root / "spread" / "layer-0", (3, 0), [batch(*r, (3, 0)) for r in rows[:2]])
    layer(root / "spread" / "layer-1", (1, 2), [batch(*r, (1, 2)) for r in rows], [batch(0, 3, 3 * DAY, (1, 2))])
    layer(root / "spread" / "layer-2", (0, 2, 3), [batch(*rows[2], (0, 2, 3))])
    return [root / name for name in ("one", "two", "spread")]


def expected(rows: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.concatenate([tensor(20, 0), tensor(10, 20), tensor(7, 5)])[rows]


@pytest.mark.parametrize("store", [0, 1, 2])
def test_survive_their_files_in_one_order(stores: list[Path], store: int) -> None:
    data = load_examples(task(), stored(stores[store], (DAY, 2 * DAY)))
    assert len(data) == 37
    assert data.as_of.tolist() == [DAY] * 30 + [2 * DAY] * 7
    assert data.entity.to_pylist() == [f"user {i:03d}" for i in [*range(30), *range(5, 12)]]
    assert data.n_events.tolist() == [*range(30), *range(5, 12)]
    assert data.last_event_time.tolist() == [t - i - 1 for t, i in zip(data.as_of, data.n_events, strict=True)]
    assert data.label[:, 0].tolist() == (data.n_events % 2).tolist()
    assert data.at(2 * DAY).tolist() == list(range(30, 37))
    assert data.at(DAY, 2 * DAY).tolist() == list(range(37))


@given(rows=st.lists(st.integers(0, 36), max_size=60), store=st.integers(0, 2))
def test_any_rows_can_be_read_in_any_order(stores: list[Path], rows: list[int], store: int) -> None:
    data = load_examples(task(), stored(stores[store], (DAY, 2 * DAY)))
    found = data.tensor(np.array(rows, np.int64))
    assert found.shape == (len(rows), STEPS, 4)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected(rows))


def test_only_the_as_ofs_asked_for(stores: list[Path]) -> None:
    data = load_examples(task(), stored(stores[2], (2 * DAY,)))
    assert data.entity.to_pylist() == [f"user {i:03d}" for i in range(5, 12)]
    np.testing.assert_array_equal(data.tensor(np.arange(7)), tensor(7, 5))


def test_more_rows_in_a_row_than_the_system_reads_at_once(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", ALL, [batch(0, 1_000, DAY), batch(1_000, 1_500, DAY)])
    data = load_examples(task(), stored(tmp_path, (DAY,)))
    order = np.argsort([f"user {i:03d}" for i in range(2_500)])
    np.testing.assert_array_equal(
        data.tensor(np.arange(2_500)), np.concatenate([tensor(1_000, 0), tensor(1_500, 1_000)])[order]
    )


def test_read_by_threads_and_other_processes(stores: list[Path]) -> None:
    data = load_examples(task(), stored(stores[2], (DAY, 2 * DAY)))
    copy: Examples = pickle.loads(pickle.dumps(data))
    rows = [np.random.default_rng(i).permutation(37) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for r, found, again in zip(rows, pool.map(data.tensor, rows), pool.map(copy.tensor, rows), strict=True):
            np.testing.assert_array_equal(found, expected(r.tolist()))
            np.testing.assert_array_equal(again, found)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_reading_everything_keeps_nothing(tmp_path: Path) -> None:
    wide = replace(batch(0, 256, DAY), tensor=np.ones((256, STEPS, 4), np.float32).repeat(40, axis=1))
    layer(tmp_path / "layer-0", ALL, [replace(wide, as_of=DAY * (i + 1)) for i in range(200)])
    of = task(steps=40 * STEPS)
    data = load_examples(of, stored(tmp_path, [DAY * (i + 1) for i in range(200)], of))
    size = sum(f.stat().st_size for f in tmp_path.rglob("*.arrow"))
    assert size > 300 << 20
    data.tensor(np.arange(256))
    before = resident()
    for i in range(0, len(data), 256):
        assert data.tensor(np.arange(i, i + 256)).all()
    assert resident() - before < 30 << 20


def test_layers_that_hold_other_rows_are_refused(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", (0, 1), [batch(0, 20, DAY, (0, 1))])
    layer(tmp_path / "layer-1", (2, 3), [batch(0, 19, DAY, (2, 3))])
    with pytest.raises(UserError, match="do not hold the same rows: remove that folder"):
        load_examples(task(), stored(tmp_path, (DAY,)))


def test_layers_with_other_labels_are_refused(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", (0, 1), [batch(0, 20, DAY, (0, 1))])
    layer(tmp_path / "layer-1", (2, 3), [replace(batch(0, 20, DAY, (2, 3)), label=np.ones((20, 1), np.float32))])
    with pytest.raises(UserError, match="do not hold the same rows"):
        load_examples(task(), stored(tmp_path, (DAY,)))


def test_refuses_examples_of_another_task(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", ALL, [batch(0, 3, DAY)])
    of = task(steps=STEPS + 1)
    with pytest.raises(UserError, match="examples of another task"):
        load_examples(of, stored(tmp_path, (DAY,), of))


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", ALL, [batch(0, 30, DAY)])
    data = load_examples(task(), stored(tmp_path, (DAY,)))
    file = tmp_path / "layer-0" / "0.arrow"
    file.write_bytes(file.read_bytes()[:4_000])
    with pytest.raises(OSError, match="is cut short: make the examples anew"):
        data.tensor(np.arange(30))


def test_refuses_nothing(tmp_path: Path) -> None:
    layer(tmp_path / "layer-0", ALL)
    write_layer(replace(read_layers(tmp_path)[0], as_ofs=(DAY,), examples=(0,)))
    with pytest.raises(UserError, match="no examples for task toy"):
        load_examples(task(), stored(tmp_path, (DAY,)))
