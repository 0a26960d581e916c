"""Flows kept for scoring: only ever test, never seen by tokenizer, base, tuning, calibration or a threshold.

A list is a CSV with the columns task, label, file, part, why; `part` is "all" or "last 20% of flows by start time".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trafficllm.core.errors import InputError
from trafficllm.records.sources.folders import csv_rows

NAMES = ("reserved.csv", "RESERVED.csv")
_LAST = re.compile(r"last (\d+)% of flows by start time")


@dataclass(frozen=True, slots=True)
class Reserved:
    """A loaded list: (label, file name) -> share of the file's last flows that is kept (1.0: all of it)."""

    shares: dict[tuple[str, str], float]
    source: str = ""
    requests: frozenset[str] = frozenset()
    loads: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str | Path) -> Reserved:
        """Read a list; rows on text files name a folder and a rule ("requests whose ...", "last load ...")."""
        rows = csv_rows(Path(path))
        if rows and not {"label", "file", "part"} <= set(rows[0]):
            raise InputError("input.reserved", "no list of reserved captures", input=str(path), hint="columns: task,label,file,part,why")
        shares = {}
        folders: dict[str, set[str]] = {"requests": set(), "last load": set()}
        for row in rows:
            share = _share(row["part"])
            if share is not None:
                shares[_key(row["file"])] = share
            for rule, named in folders.items():
                if row["part"].startswith(rule):
                    named.add(_key(row["file"])[0])
        return cls(shares, str(path), frozenset(folders["requests"]), frozenset(folders["last load"]))

    @classmethod
    def find(cls, folder: str | Path) -> Reserved | None:
        """The list in a data folder or beside it, if there is one."""
        base = Path(folder).absolute()
        for place in (base, base.parent):
            for name in NAMES:
                if (place / name).is_file():
                    return cls.load(place / name)
        return None

    def share(self, file: str) -> float:
        """The share of a file's flows that is reserved: 0.0 none, 1.0 all. `file` is a path ending in <label>/<name>."""
        return self.shares.get(_key(file), 0.0)

    def is_reserved(self, file: str, order: int = 0, flows: int = 1) -> bool:
        """Whether flow number `order` (0-based, by start time) of the `flows` of a file is reserved."""
        share = self.share(file)
        return share > 0 and order >= flows - math.ceil(share * flows)

    def covers_requests(self, folder: str) -> bool:
        """Whether one request in five of the folder's text files is reserved, by hash."""
        return folder in self.requests

    def covers_loads(self, folder: str) -> bool:
        """Whether the last load of each site in the folder is reserved."""
        return folder in self.loads

    def mark(self, file: str, starts: Sequence[int]) -> list[bool]:
        """`is_reserved` for every flow of a file, given their start times."""
        ranked = sorted(range(len(starts)), key=lambda k: (starts[k], k))
        out = [False] * len(starts)
        for order, k in enumerate(ranked):
            out[k] = self.is_reserved(file, order, len(starts))
        return out

    def refuse(self, files: Collection[str], *, purpose: str) -> None:
        """Raise InputError where one of `files` has reserved flows: for readers that cannot leave flows out."""
        held = sorted(file for file in files if self.share(file) > 0)
        if held:
            hint = "leave these files out; they are scored, never learnt from"
            raise InputError("input.reserved", f"{len(held)} reserved captures in the input of {purpose}", input=held[0], hint=hint)


def _key(file: str) -> tuple[str, str]:
    parts = PurePosixPath(file.replace("\\", "/")).parts
    return (parts[-2] if len(parts) > 1 else "", parts[-1] if parts else "")


def _share(part: str) -> float | None:
    if part == "all":
        return 1.0
    match = _LAST.fullmatch(part.strip())
    return int(match.group(1)) / 100 if match else None
