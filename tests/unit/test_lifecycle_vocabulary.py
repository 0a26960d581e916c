"""Reading a data set to learn a vocabulary: training records only, and never more of them in memory than a few row groups."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trafficllm.core.files import write_json
from trafficllm.core.types import Silent
from trafficllm.lifecycle.bases.vocabulary import stream
from trafficllm.records.codec.units import bytes_units, codec_hash

GROUPS, ROWS, UNITS_EACH = 24, 2048, 100


def _data_set(folder: Path) -> int:
    """Bytes of a data set in many row groups, not compressed; every third is validation."""
    pool, schema = bytes_units(random.Random(0).randbytes(1 << 20)), pa.schema({"part": pa.string(), "units": pa.string()})
    with pq.ParquetWriter(folder / "records.parquet", schema, compression="none") as out:
        for group in range(GROUPS):
            texts = [pool[(k := (group * ROWS + row) * 17) : k + UNITS_EACH] for row in range(ROWS)]
            out.write_table(pa.table([["val" if row % 3 == 2 else "train" for row in range(ROWS)], texts], schema=schema))
    write_json(folder / "manifest.json", {"codec_hash": codec_hash()})
    return (folder / "records.parquet").stat().st_size


def test_a_data_set_is_read_in_pieces(tmp_path: Path) -> None:
    size = _data_set(tmp_path)
    before, most, seen = pa.total_allocated_bytes(), 0, Counter[str]()
    for place, text in enumerate(stream([tmp_path], seen, Silent())):
        assert len(text) == UNITS_EACH
        if place % 200 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert seen.total() == sum(1 for row in range(ROWS) if row % 3 < 2) * GROUPS
    assert size > 16 << 20
    assert 0 < most < size / 2
