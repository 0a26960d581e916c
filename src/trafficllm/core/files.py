"""File safety: hashes, atomic writes, safe path components, free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trafficllm.core.errors import InputError, ResourceError

_BLOCK = 1 << 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
"""Names that open a device on Windows, with any suffix."""
_LONGEST = 100


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash64(data: bytes) -> int:
    """Unsigned 64-bit BLAKE2b of `data`: stable over processes, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _resource_error(error: OSError, target: Path) -> ResourceError:
    if error.errno == errno.ENOSPC:
        return ResourceError(
            "resource.disk_full",
            "the disk is full",
            input=str(target),
            hint="free some space or choose another folder; nothing was left half-written",
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return ResourceError(
            "resource.permission", "no permission to write here", input=str(target), hint="choose a folder you may write to"
        )
    return ResourceError("resource.io", f"cannot write: {error.strerror or error}", input=str(target), hint="check the path and the disk")


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write a whole file or nothing: temporary file beside the target, fsync, rename.

    Raises ResourceError on a full disk or missing permission; the old content then still stands.
    """
    with atomic_stream(path) as stream:
        stream.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_stream(path: str | Path) -> Iterator[BinaryIO]:
    """As `atomic_write`, for what is written piece by piece: a stream whose content becomes the file when the block ends well."""
    try:
        with replacing(path) as stream:
            yield stream
    except OSError as error:
        raise _resource_error(error, Path(path)) from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """The mechanism of `atomic_stream`; OSErrors go on as they are, for callers with words of their own."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=_BLOCK) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(target: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` on success and vanishes on failure.

    An existing `target` is replaced only after the new folder is complete.
    """
    final = Path(target)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise _resource_error(error, final) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _swap(temporary, final)
    except OSError as error:
        raise _resource_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.replace(final)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old.", dir=final.parent))
    final.replace(old / "it")
    temporary.replace(final)
    shutil.rmtree(old, ignore_errors=True)


def slug(name: str) -> str:
    """A safe path component made from a label or task name, always ASCII and never empty.

    Names that try to leave their folder are refused, others keep their letters and get a short hash when
    anything had to be replaced, so that two names never share a path; so do very long ones and names of devices.

    >>> slug("Nsis-ay")
    'Nsis-ay'
    """
    if not name.strip() or any(unicodedata.category(char) == "Cc" for char in name):
        raise InputError(
            "input.name", "an empty name or one with control characters cannot name a folder", input=repr(name), hint="rename the label"
        )
    if {"..", "."} & set(re.split(r"[\\/]", name)) or name.startswith(("/", "\\", "~")):
        raise InputError(
            "input.name", "a name must not point outside its folder", input=name, hint="rename the label without '..' or a leading slash"
        )
    safe = _UNSAFE.sub("_", name).strip("._")
    plain = safe == name and len(safe) <= _LONGEST and not _DEVICE.fullmatch(safe)
    return safe if plain else f"{safe[:40] or 'x'}-{hash64(name.encode('utf-8', 'surrogatepass')):016x}"


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; raises InputError naming the file and the line at fault."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else f"byte {error.start}"
        raise InputError(
            "input.json", "not valid JSON", input=str(path), where=where, hint="the file may be cut or not what it says it is"
        ) from error


def json_text(value: Any) -> str:
    """The project's one JSON form: sorted keys, one-space indent, trailing newline, no NaN."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically in the project's JSON form."""
    atomic_write(path, json_text(value))


def free_space(path: str | Path, need: int) -> None:
    """Raise ResourceError unless `need` bytes are free where `path` is, or will be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise ResourceError(
            "resource.disk_full",
            f"{need:,} bytes are needed, {free:,} are free",
            input=str(path),
            hint="free some space or choose another folder",
        )
