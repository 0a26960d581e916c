"""A partitioned Parquet data set: a folder with one part a file, `_manifest.json`, and nothing else.

Every part says in its footer what it was made of, so that a run that was ended goes on where it stood: parts whose file, options and
version are the same are kept. Readers of partitioned data sets (pyarrow, DuckDB, Spark, Ray Data) pass over names that begin with `_`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm import __version__
from trafficllm.core.errors import InputError, ResourceError, UsageError
from trafficllm.core.files import atomic_stream, atomic_write, make_folder, remove, sha256_bytes, sha256_file, sweep

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.core.results import Failure

MANIFEST = "_manifest.json"
REVISION = 1
"""Raised when the same input would give other rows: parts of earlier versions are then made again."""
_FOOTER = b"trafficllm.part"
_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its file name, what it holds, and what `key` says it was made of. `facts` are the command's own, JSON throughout."""

    part: str
    key: str
    file: str
    sha256: str
    bytes: int
    rows: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """A part as it is planned: which file it is made of, and where it goes."""

    file: str
    path: Path
    key: str

    @property
    def name(self) -> str:
        """The hash of the file's name, which stands in the part's."""
        return self.path.stem.rpartition("-")[2]


class Parts:
    """The folder `out`, planned for some files. `options` is all that the rows depend on beside the files, JSON throughout."""

    def __init__(self, out: Path, command: str, files: Sequence[str], options: Mapping[str, Any]) -> None:
        self.out, self.command, self.options = out, command, options
        _require_own(out)
        self.refused: dict[int, InputError | ResourceError] = {}
        said = json.dumps({"command": command, "options": dict(options), "version": __version__, "revision": REVISION}, sort_keys=True)
        self.slots = [self._slot(place, file, said) for place, file in enumerate(files)]

    def _slot(self, place: int, file: str, said: str) -> Slot:
        try:
            stamp = _stamp(Path(file))
        except OSError as error:
            stamp = ()
            hint = "check the path and who may read it"
            self.refused[place] = InputError("input.missing", error.strerror or str(error), input=file, hint=hint)
        key = sha256_bytes(json.dumps([said, file, *stamp]).encode())
        name = sha256_bytes(file.encode("utf-8", "surrogatepass"))[:16]
        return Slot(file, self.out / f"part-{place:06d}-{name}.parquet", key)

    def _there(self) -> dict[str, Path]:
        """Parts that lie in the folder, by the hash of their file's name."""
        paths = sorted(self.out.iterdir()) if self.out.is_dir() else []
        return {match[2]: path for path in paths if (match := _NAME.fullmatch(path.name))}

    def done(self) -> dict[int, Part]:
        """The parts that are done already, by their place. Nothing in the folder is changed."""
        there, done = self._there(), {}
        for place, slot in enumerate(self.slots):
            path = there.get(slot.name)
            part = read_part(path) if path is not None else None
            if part is not None and part.key == slot.key:
                done[place] = Part(**{**asdict(part), "part": slot.path.name})
        return done

    def begin(self, done: Mapping[int, Part]) -> None:
        """Make the folder ready: the manifest and all parts but those that are `done` are removed."""
        make_folder(self.out)
        sweep(self.out)
        (self.out / MANIFEST).unlink(missing_ok=True)
        kept = {self.slots[place].name: self.slots[place].path for place in done}
        for name, path in self._there().items():
            if name not in kept:
                remove(path)
            elif path != kept[name]:
                path.replace(kept[name])

    def finish(self, parts: Mapping[int, Part], failed: Sequence[Failure]) -> None:
        """Write the manifest: the data set is complete."""
        ordered = [parts[place] for place in sorted(parts)]
        body = {
            "schema": "trafficllm.parts/1",
            "command": self.command,
            "version": __version__,
            "options": dict(self.options),
            "rows": sum(part.rows for part in ordered),
            "parts": [{name: value for name, value in asdict(part).items() if name != "key"} for part in ordered],
            "failed": [failure.as_dict() for failure in failed],
        }
        sweep(self.out)
        atomic_write(self.out / MANIFEST, json.dumps(body, indent=1, sort_keys=True) + "\n")  # ASCII: names of files may be no UTF-8


def _require_own(out: Path) -> None:
    """UsageError for a file, and for a folder with anything in it that is not of such a data set."""
    if not out.exists():
        return
    foreign = [path.name for path in out.iterdir() if not _is_ours(path.name)] if out.is_dir() else [out.name]
    if foreign:
        hint = "name a new or empty folder, or one that an earlier run wrote"
        raise UsageError("usage.out", f"not a folder for parts: it holds {min(foreign)}", input=str(out), hint=hint)


def _is_ours(name: str) -> bool:
    return name == MANIFEST or _NAME.fullmatch(name) is not None or name.startswith((f".{MANIFEST}.", ".part-"))


def _stamp(path: Path) -> tuple[int, ...]:
    """By which a file is taken to be the one that was read: its size and the time of its last change, ns."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def read_part(path: Path) -> Part | None:
    """What a part's footer says; None for a file that is no whole part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path).metadata or {}
        return Part(**json.loads(footer[_FOOTER]))
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowInvalid):
        return None


def write_part(slot: Slot, schema: pa.Schema, tables: Iterator[pa.Table], facts: Callable[[], dict[str, Any]]) -> Part:
    """Write a part, whole or not at all, and what it was made of into its footer. `facts` are asked for when all rows were read.

    Raises InputError for a file that changed meanwhile.
    """
    import pyarrow.parquet as pq

    file = Path(slot.file)
    before, rows = _stamp(file), 0
    with atomic_stream(slot.path) as stream:
        writer = pq.ParquetWriter(stream, schema, compression="zstd")
        for table in tables:
            if table.num_rows:
                writer.write_table(table)
                rows += table.num_rows
        part = Part(slot.path.name, slot.key, slot.file, sha256_file(file), before[0], rows, facts())
        if _stamp(file) != before:
            hint = "wait until its writer is done, then run the same command again"
            raise InputError("input.changed", "changed while it was read", input=slot.file, hint=hint)
        writer.add_key_value_metadata({_FOOTER: json.dumps(asdict(part)).encode()})
        writer.close()
    return part
