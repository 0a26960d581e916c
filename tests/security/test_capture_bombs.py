"""Compression bombs: refused after 64 MiB, within 2 s, whatever the codec; honest captures that compress well are read."""

from __future__ import annotations

import gzip
import struct
import time
from pathlib import Path

import pyarrow as pa
import pytest

from trafficllm.capture.flows.info import capture_info
from trafficllm.core.errors import InputError

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
RECORD = struct.pack("<IIII", 1, 0, 60_000, 60_000) + bytes(60_000)


def _packed(codec: str, megabytes: int) -> bytes:
    raw = HEADER + RECORD * (megabytes * 1_000_000 // len(RECORD))
    if codec == "gzip":
        return gzip.compress(raw, 6)
    return bytes(pa.Codec(codec).compress(raw, asbytes=True))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
def test_a_bomb_is_refused_in_time(tmp_path: Path, codec: str) -> None:
    honest, bomb = tmp_path / "honest.pcap", tmp_path / "bomb.pcap"
    honest.write_bytes(_packed(codec, 2))
    packed = _packed(codec, 90)
    bomb.write_bytes(packed)
    assert 90_000_000 / len(packed) > 200
    assert capture_info([honest]).packets == 33
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        capture_info([bomb])
    assert time.process_time() - began < 2
    assert caught.value.code == "input.bomb"
    assert caught.value.hint
