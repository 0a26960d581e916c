"""core.sealed: a hash is of the file as it is now; a sealed file is as it was written, to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trafficllm.core import sealed
from trafficllm.core.errors import ArtifactError, TrafficLLMError
from trafficllm.core.files import sha256_bytes, sha256_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_HASHES", {})
    monkeypatch.setattr(sealed, "_store_path", lambda: tmp_path / "cache" / "hashes.json")


def test_a_file_just_written_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"aa", b"ab", b"ac"):
        path.write_bytes(content)
        assert sealed.current_sha256(path) == sha256_bytes(content)


def test_a_settled_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "x", []
    path.write_bytes(b"aa")
    monkeypatch.setattr(sealed, "_SETTLED_NS", -1)
    monkeypatch.setattr(sealed, "sha256_file", lambda place: reads.append(place) or sha256_file(place))
    assert sealed.current_sha256(path) == sealed.current_sha256(path) == sha256_bytes(b"aa")
    assert len(reads) == 1
    path.write_bytes(b"ab")
    os.utime(path, ns=(1, 1))  # the old time put back: the inode's own change time tells
    assert sealed.current_sha256(path) == sha256_bytes(b"ab")


def test_big_files_are_remembered_on_disk_and_a_broken_cache_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "x", []
    path.write_bytes(b"aa")
    monkeypatch.setattr(sealed, "_SETTLED_NS", -1)
    monkeypatch.setattr(sealed, "_BIG", 1)
    monkeypatch.setattr(sealed, "sha256_file", lambda place: reads.append(place) or sha256_file(place))
    first = sealed.current_sha256(path)
    sealed._HASHES.clear()
    assert sealed.current_sha256(path) == first
    assert len(reads) == 1
    assert (tmp_path / "cache" / "hashes.json").stat().st_mode & 0o777 == 0o600
    sealed._HASHES.clear()
    (tmp_path / "cache" / "hashes.json").write_text("[")
    assert sealed.current_sha256(path) == first
    assert len(reads) == 2


def test_every_flipped_bit_of_a_sealed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(sealed.sealed({"schema": "x/2", "temperature": 1e-05, "labels": ["a", "ü"], "flag": True}))
    assert sealed.read_sealed(path, required=True)["labels"] == ["a", "ü"]
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(TrafficLLMError) as caught:
            sealed.read_sealed(path, required=True)
        assert str(path) in str(caught.value)


def test_an_unsealed_file_passes_where_none_is_required(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"a": 1}))
    assert sealed.read_sealed(path) == {"a": 1}
    with pytest.raises(ArtifactError, match="expected None"):
        sealed.read_sealed(path, required=True)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="no JSON object"):
        sealed.read_sealed(path)


@pytest.mark.parametrize("body", [{"a": 1, "z": [1.5, "\n"]}, {"z": {"own_sha256": "0" * 64}, "p": 1}, {"a": 1}, {}])
def test_the_seal_is_that_of_the_rest_wherever_it_stands(tmp_path: Path, body: dict[str, Any]) -> None:
    """First, last, alone, and beside a key of the same name deeper down."""
    text = sealed.sealed(body)
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    assert {**sealed.read_sealed(path, required=True)} == json.loads(text)
    for spoilt in (text.replace(" ", "  ", 1), text.replace("1", "2", 1)):
        if spoilt != text:
            path.write_text(spoilt, encoding="utf-8")
            with pytest.raises(ArtifactError):
                sealed.read_sealed(path, required=True)
