"""What is loaded is what was written: hashes of files, kept while a file stays the same, and JSON files that carry their own hash."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, TrafficLLMError
from trafficllm.core.files import json_text, parse_json, read_bytes, read_json, sha256_bytes, sha256_file, write_json

SEAL = "own_sha256"
"""Key of a sealed JSON file: the SHA-256 of the file without this key, in the project's JSON form."""
LARGEST_MANIFEST = 64 << 20
_SETTLED_NS = 100_000_000
"""A file written within the last 100 ms may be written again under the same time stamp (a kernel's tick is 1 to 10 ms): its hash is not
kept. The same holds for git's index ("racy git")."""
_BIG = 64 << 20
"""Bytes from which a hash is also kept on disk for later processes: SHA-256 reads about 1.5 GB/s, a 16 GB base would take 10 s a start."""
_MOST = 1000
_SEAL_LINE = re.compile(rb'(?m)^ "own_sha256": "[0-9a-f]{64}",\n')
_Stamp = tuple[int, int, int, int, int]
_HASHES: dict[_Stamp, str] = {}
_SOUND: set[str] = set()
"""SHA-256 of sealed files whose seal was right: a command reads its adapter's manifest nine times, and to write it anew for comparison
takes ten times as long as hashing it."""


def current_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file as it is now; read again only where its device, inode, size or times have changed since the last call."""
    stamp, settled = _stamp(path)
    if stamp not in _HASHES:
        big = stamp[2] >= _BIG
        digest = (_stored().get(_text(stamp)) if big else None) or sha256_file(path)
        if not settled or _stamp(path)[0] != stamp:
            return digest
        _HASHES[stamp] = digest
        if big:
            _store(stamp, digest)
    return _HASHES[stamp]


def _stamp(path: str | Path) -> tuple[_Stamp, bool]:
    about = Path(path).stat()
    newest = max(about.st_mtime_ns, about.st_ctime_ns)
    stamp = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return stamp, time.time_ns() - newest > _SETTLED_NS


def _text(stamp: _Stamp) -> str:
    return ":".join(map(str, stamp))


def _store_path() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("trafficllm") / "hashes.json"


def _stored() -> dict[str, str]:
    try:
        body = read_json(_store_path(), largest=1 << 20)
    except TrafficLLMError:
        return {}
    return body if isinstance(body, dict) and all(isinstance(value, str) for value in body.values()) else {}


def _store(stamp: _Stamp, digest: str) -> None:
    """Remember the hash of a big file; a cache that cannot be written is none."""
    entries = [*_stored().items(), (_text(stamp), digest)]
    with contextlib.suppress(TrafficLLMError, OSError):
        write_json(_store_path(), dict(entries[-_MOST:]), private=True)


def sealed(body: Mapping[str, Any]) -> str:
    """JSON text of `body` with its own hash added under `own_sha256`."""
    # Once through JSON: tuples become lists, and numbers as keys text, which sorts otherwise.
    rest = parse_json(json_text({key: value for key, value in body.items() if key != SEAL}), SEAL)
    return json_text({**rest, SEAL: sha256_bytes(json_text(rest).encode())})


def read_sealed(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object as it was sealed. Files without a seal, of earlier versions, pass unless it is `required`.

    Raises InputError where it cannot be read, ArtifactError naming file, expected and found hash where it is not as it was written.
    """
    body, data = read_object(path)
    return opened(body, data, path, required=required)


def read_object(path: Path) -> tuple[dict[str, Any], bytes]:
    """(a JSON object, the bytes of its file); ArtifactError for JSON of another kind."""
    data = read_bytes(path, largest=LARGEST_MANIFEST)
    return parse_object(data, path), data


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that a file's bytes are; ArtifactError for JSON of another kind."""
    body = parse_json(data, path)
    if not isinstance(body, dict):
        raise ArtifactError("artifact.changed", "holds no JSON object", input=str(path), hint="restore it from a backup")
    return body


def _unsealed(text: bytes) -> bytes | None:
    """JSON text in the project's form without the line of its seal, as `json_text` would write the rest: to write a manifest once takes
    50 ms. None where that line is not found, or stands alone or last."""
    line = _SEAL_LINE.search(text)  # no string of JSON holds a line break, and only keys of the outermost object begin with one space
    return None if line is None else text[: line.start()] + text[line.end() :]


def opened(body: dict[str, Any], data: bytes, path: Path, *, required: bool) -> dict[str, Any]:
    """`body`, compared with the seal it carries; see `read_sealed`."""
    expected = body.get(SEAL)
    if expected is None and not required:
        return body
    whole = sha256_bytes(data)
    if whole in _SOUND:
        return body
    text = json_text(body).encode("utf-8", "surrogatepass")
    rest = _unsealed(text)
    if rest is None:
        rest = json_text({key: value for key, value in body.items() if key != SEAL}).encode("utf-8", "surrogatepass")
    digest = sha256_bytes(rest)
    if digest != expected or text != data:
        raise ArtifactError(
            "artifact.changed",
            f"{path.name} is not as it was written: expected {str(expected)[:64]}, found {digest}",
            input=str(path),
            hint="restore it from a backup, or make it again",
        )
    if len(_SOUND) < _MOST:
        _SOUND.add(whole)
    return body
