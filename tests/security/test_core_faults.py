"""Every system call of a write fails once, or is the last before a kill: the old or the new is there, whole, and nothing else stays."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from faults import fault, killed

from trafficllm.core import files
from trafficllm.core.errors import ResourceError

OLD, NEW = {"f": "old", "g": "old"}, {"f": "new", "sub/h": "new"}


def _write(target: Path, content: dict[str, str]) -> None:
    with files.atomic_dir(target) as folder:
        for name, text in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            files.atomic_write(folder / name, text)


def _read(target: Path) -> dict[str, str]:
    return {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}


def _calls(work: Callable[[], object]) -> int:
    with fault(-1, lambda: None) as made:
        work()
    return len(made)


class _Either:
    """An outcome that may be a refusal of ours or none."""

    refused = False

    def __enter__(self) -> _Either:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.refused = kind is not None
        return kind is None or issubclass(kind, ResourceError)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failed_call_leaves_the_old_or_the_new_folder(tmp_path: Path, number: int) -> None:
    target = tmp_path / "d"
    _write(target, OLD)
    count = _calls(lambda: _write(target, NEW))
    assert count > 20
    refused = 0

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(count):
        _write(target, OLD)
        with _Either() as outcome, fault(at, fail):
            _write(target, NEW)
        refused += outcome.refused
        assert _read(target) in (OLD, NEW), at
    assert refused > 15  # the rest fail while cleaning up, when all is done
    _write(target, NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_from_some_call_on_the_disk_is_gone(tmp_path: Path) -> None:
    """Not one failure but all that follow: also the way back is barred. The next use on a mended disk finds the old or the new."""
    target = tmp_path / "d"
    _write(target, OLD)

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for at in range(_calls(lambda: _write(target, NEW))):
        _write(target, OLD)
        with _Either(), fault(at, fail, once=False):
            _write(target, NEW)
        files.recover(target)
        assert _read(target) in (OLD, NEW), at


def test_a_kill_between_any_two_calls_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    target = tmp_path / "d"
    _write(target, OLD)
    count = _calls(lambda: _write(target, NEW))
    kills = 0
    for at in range(count):
        _write(target, OLD)
        kills += killed(at, lambda: _write(target, NEW))
        files.recover(target)
        assert _read(target) in (OLD, NEW), at
    assert kills == count
    _write(target, NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_kill_between_any_two_calls_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    files.atomic_write(target, "old")
    count = _calls(lambda: files.atomic_write(target, "new" * 1000))
    for at in range(count):
        files.atomic_write(target, "old")
        assert killed(at, lambda: files.atomic_write(target, "new" * 1000))
        assert target.read_text() in {"old", "new" * 1000}
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
