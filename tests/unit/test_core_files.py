"""core.files: nothing half-written, no unsafe path, hashes that agree with their definitions."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficllm.core import files
from trafficllm.core.errors import InputError, ResourceError


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    assert files.sha256_file(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert files.hash64(b"a") != files.hash64(b"b")
    assert files.hash64(b"a") < 1 << 64


def test_atomic_write_keeps_the_old_content_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    files.atomic_write(target, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        files.atomic_write(target, "new")
    assert caught.value.code == "resource.disk_full"
    assert caught.value.exit_code == 6
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_atomic_dir_replaces_or_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with files.atomic_dir(target) as inside:
        (inside / "one").write_text("1")
    with files.atomic_dir(target) as inside:
        (inside / "two").write_text("2")
    assert [path.name for path in target.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), files.atomic_dir(target) as inside:
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [path.name for path in target.iterdir()] == ["two"]


@pytest.mark.parametrize("name", ["", " ", "..", "../x", "a/../b", "/etc", "~root", "..\\x", "a\x00b", "a\nb"])
def test_slug_refuses(name: str) -> None:
    with pytest.raises(InputError):
        files.slug(name)


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_slug_is_safe_and_keeps_names_apart(one: str, other: str) -> None:
    made = []
    for name in (one, other):
        try:
            made.append(files.slug(name))
        except InputError:
            return
    assert all(text and text.isascii() and "/" not in text and text not in {".", ".."} for text in made)
    assert (made[0] == made[1]) == (one == other)


def test_json_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(InputError) as caught:
        files.read_json(path)
    assert caught.value.where == "line 2"
    with pytest.raises(InputError, match="no such file"):
        files.read_json(tmp_path / "none.json")


def test_free_space(tmp_path: Path) -> None:
    files.free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(ResourceError):
        files.free_space(tmp_path, 1 << 60)
