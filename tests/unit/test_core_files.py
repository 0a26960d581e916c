"""core.files: nothing half-written, no unsafe path, hashes that agree with their definitions."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficllm.core import files
from trafficllm.core.errors import ArtifactError, InputError, ResourceError


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


@pytest.mark.parametrize(
    "text",
    [
        '{"a": Infinity}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": -1e999}',
        "[" * 100_000 + "]" * 100_000,
        '{"a": ' + "9" * 10_000 + "}",
        '{"a": ' + "9" * 400 + ".0}",
        '{"a": ' + "9" * 41 + "}",
        '{"a": "\\ud800"}',
        '{"a": 1',
        "",
    ],
)
def test_json_that_a_parser_would_take_or_trip_over_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        files.read_json(path)
    assert caught.value.code == "input.json"
    assert caught.value.input == str(path)


def test_json_keeps_what_is_json(tmp_path: Path) -> None:
    value = {"a": [1, 2**64 - 1, -1.5e-300, "\U0001f600", None, True], "sha": "1" * 64, "n": 12345678901234567890}
    path = tmp_path / "x.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    path.write_text('"\\ud83d\\ude00"')
    assert files.read_json(path) == "\U0001f600"


def test_json_is_read_from_regular_files_of_bounded_size_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "big").write_text('"' + "x" * 5000 + '"')
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/zero"), tmp_path / "a\0b", tmp_path / "big"):
        with pytest.raises(InputError):
            files.read_json(path, largest=4096)


def test_a_key_named_twice_is_refused_where_asked() -> None:
    assert files.parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}
    with pytest.raises(InputError, match="'a' is named twice"):
        files.parse_json('{"b": {"a": 1, "a": 2}}', "x", unique=True)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0", "a\n", "x" * 256, 3, None, ["a"]])
def test_only_plain_names_stay_inside(tmp_path: Path, name: object) -> None:
    with pytest.raises(ArtifactError) as caught:
        files.inside(tmp_path, name)
    assert caught.value.code == "artifact.name"


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_text("x")
    (home / "real").write_text("x")
    (home / "in").symlink_to("real")
    (home / "out").symlink_to(tmp_path / "outside")
    (home / "loop").symlink_to("loop")
    (home / "sub" / "up").symlink_to(tmp_path)
    assert files.inside(home, "in") == home / "in"
    assert files.inside(home, "not-there-yet") == home / "not-there-yet"
    assert files.inside(home, "sub/x.json", nested=True) == home / "sub" / "x.json"
    for name in ("out", "loop", "sub/up/outside", "sub/../../outside", "/etc/passwd"):
        with pytest.raises(ArtifactError):
            files.inside(home, name, nested=True)


def test_snapshots_of_the_hub_cache_link_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "f00").write_text("x")
    (snapshot / "config.json").symlink_to("../../blobs/f00")
    (snapshot / "other.json").symlink_to("../../../elsewhere")
    assert files.inside(snapshot, "config.json").read_text() == "x"
    with pytest.raises(ArtifactError):
        files.inside(snapshot, "other.json")


@pytest.fixture(name="umask")
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o027, 0o640, 0o750)])
def test_modes_follow_the_umask_or_are_private(tmp_path: Path, umask: None, mask: int, file: int, folder: int) -> None:
    os.umask(mask)

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    files.atomic_write(tmp_path / "a", "x")
    files.atomic_write(tmp_path / "b", "x", private=True)
    for name, private in (("c", False), ("d", True)):
        with files.atomic_dir(tmp_path / name, private=private) as inside:
            (inside / "sub").mkdir()
            (inside / "sub" / "f").write_text("x")
    assert (mode(tmp_path / "a"), mode(tmp_path / "c"), mode(tmp_path / "c/sub"), mode(tmp_path / "c/sub/f")) == (
        file,
        folder,
        folder,
        file,
    )
    assert {mode(tmp_path / "b"), mode(tmp_path / "d/sub/f")} == {0o600}
    assert {mode(tmp_path / "d"), mode(tmp_path / "d/sub")} == {0o700}


def test_a_failed_second_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "d"
    target.mkdir()
    (target / "precious").write_text("x")
    calls, replace = [], Path.replace

    def second_fails(self: Path, to: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(ResourceError), files.atomic_dir(target) as inside:
        (inside / "new").write_text("y")
    assert [path.name for path in target.iterdir()] == ["precious"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_sweep_leaves_writers_that_live_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.00000000.tmp").write_text("left by a kill")
    (tmp_path / ".b.00000000.tmp").mkdir()
    (tmp_path / ".gone.11111111.old").mkdir()
    (tmp_path / ".here.11111111.old").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / ".hidden").write_text("not ours")
    with files.atomic_dir(tmp_path / "c"), files.replacing(tmp_path / "e") as stream:
        stream.write(b"whole")
        swept = files.sweep(tmp_path)
    assert swept == [".a.00000000.tmp", ".b.00000000.tmp", ".gone.11111111.old", ".here.11111111.old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "c", "e", "gone", "here"]
    assert (tmp_path / "e").read_bytes() == b"whole"
