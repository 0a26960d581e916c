"""File safety: hashes, atomic writes, safe names and paths, strict JSON, free space.

Every write is: write, fsync the file, rename, fsync the folder; what was there before stays until the new is whole. A process that is
killed leaves at most a temporary sibling `.NAME.xxxxxxxx.tmp` (swept by `sweep`) or a folder moved aside as `.NAME.xxxxxxxx.old`, which
`recover` puts back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from trafficllm.core.errors import ArtifactError, InputError, ResourceError

_BLOCK = 1 << 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
"""Names that open a device on Windows, with any suffix."""
_LONGEST = 100
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL)
LARGEST_JSON = 256 << 20
"""Bytes of a JSON file at most: the largest of ours, the manifest of a data set of a million flows, has 40 MB."""
_LONG_NUMBER = re.compile(r"\d{20}|[eE][+-]?\d{3}")
_MOST_DIGITS = 40
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


# Hashes


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


# Errors of the system


def resource_error(error: OSError, target: str | Path) -> ResourceError:
    """The ResourceError for a failed write: full disk, missing permission or read-only file system, or any other failure."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceError(
            "resource.disk_full",
            "the disk is full",
            input=str(target),
            hint="free some space or choose another folder; nothing was left half-written",
        )
    if error.errno == errno.EROFS:
        return ResourceError("resource.permission", "the file system is read-only", input=str(target), hint="choose another folder")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ResourceError(
            "resource.permission", "no permission to write here", input=str(target), hint="choose a folder you may write to"
        )
    return ResourceError("resource.io", f"cannot write: {error.strerror or error}", input=str(target), hint="check the path and the disk")


# Whole files


def atomic_write(path: str | Path, data: bytes | str, *, private: bool = False) -> None:
    """Write a whole file or nothing: temporary file beside the target, fsync, rename, fsync of the folder.

    Its mode follows the umask; a `private` file is for its owner alone. Raises ResourceError on a full disk or missing permission; the
    old content then still stands.
    """
    with atomic_stream(path, private=private) as stream:
        stream.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_stream(path: str | Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """As `atomic_write`, for what is written piece by piece: a stream whose content becomes the file when the block ends well."""
    try:
        with replacing(path, private=private) as stream:
            yield stream
    except OSError as error:
        raise resource_error(error, Path(path)) from error


@contextlib.contextmanager
def replacing(path: str | Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """The mechanism of `atomic_stream`; OSErrors go on as they are, for callers with words of their own."""
    target = Path(path)
    make_folder(target.parent, private=private)
    temporary, handle = _new_file(target, private=private)
    try:
        with os.fdopen(handle, "wb", buffering=_BLOCK) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(target)  # before the stream closes: its lock tells `sweep` that the writer lives
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path, *, private: bool = False) -> None:
    """Make a folder and its parents, each fsynced into the one above; `private` gives the new ones mode 0700."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent, private=private)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700 if private else 0o777)
        sync_folder(path.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def sync_folder(path: Path) -> None:
    """fsync a folder, so that the names in it survive a power cut; file systems that cannot are left as they are."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


# Whole folders


@contextlib.contextmanager
def atomic_dir(target: str | Path, *, private: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` on success and vanishes on failure.

    An existing `target` is moved aside only after the new folder is complete and on disk, and back where the last rename fails; a kill
    between the two renames is mended by the next `atomic_dir` or `recover` of the same target. Modes follow the umask; `private` leaves
    them to the owner alone.
    """
    final = Path(target)
    try:
        make_folder(final.parent)
        sweep(final.parent, final.name)
        temporary, handle = _new_folder(final, private=private)
    except OSError as error:
        raise resource_error(error, final) from error
    try:
        yield temporary
        _settle(temporary, private=private)
        _swap(temporary, final)
    except OSError as error:
        raise resource_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _settle(folder: Path, *, private: bool) -> None:
    """Every file and folder below on disk, and closed to others where it is private."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place) / name
            if path.is_symlink() or not path.is_file():
                continue
            if private:
                path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o600)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if private:
            Path(place).chmod(stat.S_IMODE(Path(place).stat().st_mode) & 0o700)
        sync_folder(Path(place))


def _swap(temporary: Path, final: Path) -> None:
    old: Path | None = None
    if os.path.lexists(final):
        old = _sibling(final, "old")
        final.replace(old)
    try:
        temporary.replace(final)
    except OSError:
        if old is not None:
            old.replace(final)
        raise
    sync_folder(final.parent)
    if old is not None:
        remove(old)


def remove(path: Path) -> None:
    """Remove a file, link or folder as far as the system allows; what is left is swept later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def recover(target: str | Path) -> None:
    """Put a folder back that a killed `atomic_dir` had moved aside; nothing where `target` is in its place."""
    final = Path(target)
    if not final.exists() and final.parent.is_dir():
        with contextlib.suppress(OSError):
            sweep(final.parent, final.name)


def sweep(folder: str | Path, name: str = "") -> list[str]:
    """Remove what killed writers left in a folder, all of it or of one `name`; returns the names removed or put back.

    A writer holds a lock on its temporary file or folder, which the system releases when it dies: those in use are left alone. A folder
    that was moved aside goes back to its place where no other has taken it.
    """
    place = Path(folder)
    done: list[str] = []
    if not place.is_dir():
        return done
    entries = [(match, path) for path in sorted(place.iterdir()) if (match := _TEMPORARY.fullmatch(path.name)) is not None]
    wanted = [(match, path) for match, path in entries if not name or match["name"] == name[:_LONGEST]]
    busy = {match["name"] for match, path in wanted if match["kind"] == "tmp" and not _abandoned(path)}
    for match, path in wanted:
        if match["name"] in busy:
            continue
        final = place / (name or match["name"])
        if match["kind"] == "old" and not os.path.lexists(final):
            path.replace(final)
        else:
            remove(path)
        done.append(match[0])
    return done


def _abandoned(path: Path) -> bool:
    """Whether the writer of a temporary file or folder is gone: its lock is free."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sibling(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name[:_LONGEST]}.{secrets.token_hex(4)}.{kind}"


def _new_file(target: Path, *, private: bool) -> tuple[Path, int]:
    """A new locked temporary file beside `target`: (path, descriptor)."""
    while True:
        path = _sibling(target, "tmp")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600 if private else 0o666)
        except FileExistsError:
            continue
        if _locked(handle, path):
            return path, handle


def _new_folder(target: Path, *, private: bool) -> tuple[Path, int]:
    """A new locked temporary folder beside `target`: (path, descriptor)."""
    while True:
        path = _sibling(target, "tmp")
        try:
            path.mkdir(mode=0o700 if private else 0o777)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, FileNotFoundError):  # swept between the two calls
            continue
        if _locked(handle, path):
            return path, handle


def _locked(handle: int, path: Path) -> bool:
    """Lock a new temporary; False, and closed, where another process's sweep took it before it was locked."""
    with contextlib.suppress(OSError):  # file systems without locks: `sweep` leaves everything alone there
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        if os.path.samestat(os.fstat(handle), path.stat()):
            return True
    except FileNotFoundError:
        pass
    os.close(handle)
    return False


# Names


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


def is_plain(name: object) -> bool:
    r"""Whether a value is a plain file name: no folder, no `..`, no control character, at most 255 bytes.

    >>> is_plain("model-00001-of-00002.safetensors"), is_plain("../x"), is_plain("a\\b")
    (True, False, False)
    """
    if not isinstance(name, str) or name in {"", ".", ".."} or any(char in "/\\:" or not char.isprintable() for char in name):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= 255


def inside(folder: str | Path, name: object, *, nested: bool = False) -> Path:
    """The path of a file that an artifact names, in that artifact's `folder`; `nested` allows names like `wording/x.json`.

    Raises ArtifactError for anything but plain names and for links that lead out of the folder. The blobs of the local Hub cache, which
    its snapshots consist of links to, count as inside.
    """
    place = Path(folder)
    parts = name.split("/") if nested and isinstance(name, str) else [name]
    if not all(map(is_plain, parts)) or len(parts) > 8:
        raise _outside(place, f"it names the file {str(name)[:80]!r}, which is no plain file name")
    path = place.joinpath(*map(str, parts))
    try:
        real, home = path.resolve(), place.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise _outside(place, f"{name} cannot be resolved") from error
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(allowed) for allowed in homes):
        raise _outside(place, f"{name} is a link that leads out of the folder")
    return path


def _outside(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(
        "artifact.name", why, input=str(folder), hint="files of an artifact lie in its own folder; take it from a source you trust"
    )


# JSON


def read_json(path: str | Path, *, largest: int = LARGEST_JSON) -> Any:
    """Parse a JSON file strictly (see `parse_json`); InputError names the file and the place at fault."""
    return parse_json(read_bytes(path, largest=largest), path)


def read_bytes(path: str | Path, *, largest: int) -> bytes:
    """The bytes of a regular file of at most `largest`; a pipe or device in the place of one is refused, never waited for.

    Raises InputError naming the file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise InputError("input.unreadable", "not a regular file", input=str(path), hint="check the path")
            data = stream.read(about.st_size + 1) if about.st_size <= largest else None  # one more: it may grow meanwhile
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError("input.unreadable", f"cannot be read: {why}", input=str(path), hint="check the path and its owner") from error
    if data is None or len(data) > largest:
        raise InputError("input.large", f"larger than {largest >> 10} KiB", input=str(path), hint="is it the file you meant?")
    return data


def parse_json(data: bytes | str, source: str | Path, *, unique: bool = False) -> Any:
    """The value of JSON text, strictly: no NaN or Infinity, numbers of at most 40 digits and within float64, no lone surrogates, nesting
    within Python's limit, and with `unique` no object that names a key twice. Raises InputError naming `source` and the place."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, **_hooks(text, unique=unique))
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise _bad_json(source, "not valid JSON", f"line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise _bad_json(source, "not valid JSON", f"byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise _bad_json(source, "not valid JSON: a string holds half a character") from error
    except RecursionError as error:
        raise _bad_json(source, "not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise _bad_json(source, f"not valid JSON: {error}") from error
    return value


def _hooks(text: str, *, unique: bool) -> dict[str, Any]:
    """Checks in Python only where the text can need them: they cost several times the parse."""
    hooks: dict[str, Any] = {"object_pairs_hook": _unique} if unique else {}
    return {**hooks, "parse_int": _short_int, "parse_float": _finite} if _LONG_NUMBER.search(text) else hooks


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _short_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if len(digits) > 10 * _MOST_DIGITS or value in {float("inf"), float("-inf")}:
        raise ValueError("a number that is out of range")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:80]!r} is named twice")
    return body


def _bad_json(source: str | Path, why: str, where: str = "") -> InputError:
    return InputError("input.json", why, input=str(source), where=where, hint="the file may be cut or not what it says it is")


def json_text(value: Any) -> str:
    """The project's one JSON form: sorted keys, one-space indent, trailing newline, no NaN."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any, *, private: bool = False) -> None:
    """Write `value` atomically in the project's JSON form."""
    atomic_write(path, json_text(value), private=private)


# Space


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
