from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from pipelines.events.formats import parquet
from tests.support import event_files
from tests.support.event_files import read, task

ROWS = event_files.records(100)


class Keys(encryption.KmsClient):
    """A key service that wraps nothing."""

    def __init__(self, config: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
        return base64.b64decode(wrapped)


def encrypted(path: Path, **footer: Any) -> Path:
    secrets = encryption.EncryptionConfiguration(footer_key="footer", column_keys={"amount": ["amount"]}, **footer)
    connection = encryption.KmsConnectionConfig()
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(connection, secrets)
    table = pa.Table.from_pylist(list(map(dict, ROWS)))
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("plain", [False, True])
def test_an_encrypted_file_is_refused_and_no_key_service_asked(tmp_path: Path, plain: bool) -> None:
    """What a file says of its key service is never followed (CVE-2026-92287)."""
    result = read(task(), encrypted(tmp_path / "x.parquet", plaintext_footer=plain))
    assert result.events == []
    assert result.ledger.bad_files == 1
    [letter] = result.dead
    assert "crypt" in letter.reason


@pytest.mark.parametrize("odd", [b"\xff\xfe", None])
def test_many_rows_are_shown_as_each_alone(odd: bytes | None) -> None:
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", odd, b"c"], pa.binary()).buffers())
    times = pa.array([0, 1 << 62, -5], pa.timestamp("us"))  # of which the second is in no calendar
    for columns in ({"t": texts}, {"t": texts, "at": times}, {"t": pa.array(["x", "y", "x"]).dictionary_encode()}):
        table = pa.table(columns)
        assert parquet.json_rows(table, [2, 0, 1]) == [parquet.json_row(table, row) for row in (2, 0, 1)]
    assert parquet.json_rows(pa.table({"t": ["é"]}), [0]) == ['{"t": "é"}']
