"""The one folder that a client may read from: every path is resolved after symlinks and must lie below it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError, UsageError

_NAME = 1024
"""Characters of a path that a client names at most."""
_LISTED = 500
_DEPTH = 6
_SUFFIXES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".pcap.zst", ".pcap.lz4")


@dataclass(frozen=True, slots=True)
class Root:
    """A folder below which a client may name files. Make one with `Root.of`, which resolves it."""

    folder: Path

    @classmethod
    def of(cls, folder: str | Path) -> Root:
        """The root at an existing folder; UsageError for anything else, and for the file system's own root."""
        place = Path(folder).expanduser()
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError("usage.root", "no such folder", input="--root", where=str(folder), hint="name an existing folder") from error
        if not real.is_dir():
            raise UsageError("usage.root", "not a folder", input="--root", where=str(folder), hint="name an existing folder")
        if real == Path(real.anchor):
            hint = "name the folder that holds the captures"
            raise UsageError("usage.root", "the whole file system is no root", input="--root", where=str(folder), hint=hint)
        return cls(real)

    def file(self, name: str) -> Path:
        """A regular file below the root by its path, relative to the root or absolute.

        Raises InputError for a path that leads out, does not exist, or is no regular file; what lies outside is not told apart.
        """
        path = self._inside(name)
        if not _is(path, stat.S_ISREG):
            raise InputError("input.missing", "no such file below the root", input=name[:_NAME], hint="see trafficllm://captures")
        return path

    def place(self, name: str) -> Path:
        """A folder below the root, or the root itself ("."), none of whose links leads out."""
        path = self.folder if name in {".", str(self.folder)} else self._inside(name)
        if not _is(path, stat.S_ISDIR):
            raise InputError("input.missing", "no such folder below the root", input=name[:_NAME], hint="name a folder below the root")
        for found in path.rglob("*"):
            if found.is_symlink() and not _below(found, self.folder):
                hint = "copy what it points to"
                raise InputError("input.outside", "the folder holds a link that leads out of the root", input=name[:_NAME], hint=hint)
        return path

    def new(self, name: str) -> Path:
        """A path below the root at which nothing is yet, in a folder that is there."""
        path = self._inside(name)
        if os.path.lexists(path) or not path.parent.is_dir():
            hint = "choose another name; nothing is overwritten, and no folder made"
            raise InputError("input.exists", "a file is there already, or its folder is missing", input=name[:_NAME], hint=hint)
        return path

    def name(self, path: Path) -> str:
        """A path below the root as a client names it."""
        return path.relative_to(self.folder).as_posix()

    def captures(self) -> list[str]:
        """Names of files below the root that are called captures, at most _LISTED, in order."""
        names: list[str] = []
        for path in _walk(self.folder, _DEPTH):
            if path.name.lower().endswith(_SUFFIXES) and _below(path, self.folder) and _is(path, stat.S_ISREG):
                names.append(self.name(path))
                if len(names) == _LISTED:
                    break
        return names

    def _inside(self, name: str) -> Path:
        """The path after symlinks; InputError unless it lies below the root."""
        outside = InputError("input.outside", "not below the root", input=name[:_NAME], hint=f"name a path below {self.folder}")
        if not name or len(name) > _NAME or "\0" in name:
            raise outside
        try:
            real = (self.folder / name).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise outside from error
        if real == self.folder or not real.is_relative_to(self.folder):
            raise outside
        return real


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def _below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        return False


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Files below a folder in order, links to folders not followed, hidden ones left out."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            if depth > 1:
                yield from _walk(path, depth - 1)
        else:
            yield path
