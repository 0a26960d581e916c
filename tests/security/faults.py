"""A shim under file work: the k-th call to the system fails with an error, or the process ends there as if it were killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

CALLS = ("open", "mkdir", "rename", "replace", "fsync", "chmod", "unlink", "rmdir", "link", "fdopen")


class _Failing:
    """A stream whose writes are calls too."""

    def __init__(self, stream: Any, call: Callable[[], None]) -> None:
        self._stream, self._call = stream, call

    def write(self, data: bytes) -> int:
        """One write, counted."""
        self._call()
        return int(self._stream.write(data))

    def __enter__(self) -> _Failing:
        self._stream.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.__exit__(*details)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def fault(at: int, act: Callable[[], None], *, once: bool = True) -> Iterator[list[str]]:
    """Within the block, call number `at` (from 0) does `act` instead of its work; yields the names of the calls made so far."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}

    def count(name: str) -> None:
        made.append(name)
        if len(made) - 1 == at or (not once and len(made) - 1 > at):
            act()

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count(name)
            result = real[name](*args, **kwargs)
            return _Failing(result, lambda: count("write")) if name == "fdopen" and "w" in str(args[1:2]) else result

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield made
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def killed(at: int, work: Callable[[], object]) -> bool:
    """Do `work` in a forked process that ends at its call number `at`, with no clean-up; whether it got that far."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), fault(at, lambda: os._exit(9)):
            work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
