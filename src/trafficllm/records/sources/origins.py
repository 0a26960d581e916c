"""Where captures come from: the repository or laboratory behind each file of a data folder.

Splits by source and thresholds over sources need it. It stands in a `manifest.csv` in the data folder or above it, in a table of the
user's own (`file,source`), or in a folder level; else a data folder is one source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trafficllm.core.errors import InputError
from trafficllm.records.sources.folders import csv_rows

MANIFEST = "manifest.csv"
_ABOVE = 3
"""How far up a manifest is looked for: the folder itself, the folder of all data sets, and one more."""


def source_name(origin: str) -> str:
    """The repository or laboratory that an origin begins with: up to the first `@` or blank.

    >>> source_name("zeek/zeek@a13de64f testing/btest/Traces/http.pcap"), source_name("lab-7")
    ('zeek/zeek', 'lab-7')
    """
    return re.split(r"[@\s]", origin.strip(), maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class Origins:
    """The origin and source of each capture of one data folder.

    `folder` is the folder's own name, with up to two folders above it; `table` maps file names as the list writes them to origins,
    `listed` is that list's path ("" where there is none). With `whole` every file must be listed; with `level` the source is the name
    of that folder level below the data folder, 1 the label's.
    """

    folder: str
    table: Mapping[str, str] = field(default_factory=dict)
    listed: str = ""
    whole: bool = False
    level: int = 0

    @classmethod
    def find(cls, folder: str | Path, *, table: str | Path | None = None, level: int = 0) -> Origins:
        """The origins of a data folder: from `table` (CSV with columns file, source), from a folder `level`, or from its manifest.

        Raises InputError for a table that is missing or lacks the columns.
        """
        base = Path(folder).absolute()
        base = base.parent if base.is_file() else base
        name = "/".join(base.parts[1:][-_ABOVE:])
        if table is not None:
            return cls(name, _column(Path(table), "source"), str(table), whole=True)
        if level:
            return cls(name, level=level)
        for place in (base, *list(base.parents)[: _ABOVE - 1]):
            path = place / MANIFEST
            column = _names_origins(path) if path.is_file() else ""
            if column:
                return cls(name, _column(path, column), str(path))
        return cls(name)

    @property
    def default(self) -> str:
        """The source where nothing says more: the data folder's name."""
        return PurePosixPath(self.folder).name

    def origin_of(self, capture: str) -> str:
        """The whole origin of a capture as its list states it, "" where it is not listed.

        `capture` is the path within the data folder (`FlowMeta.capture`). A row of a list may name the file, with or without the data
        folder and those above it, or a folder that holds it; the longest name counts.
        """
        above = PurePosixPath(self.folder).parts
        parts = PurePosixPath(capture.replace("\\", "/")).parts
        for stop in range(len(parts), -1, -1):
            for start in range(len(above) + 1):
                key = "/".join((*above[start:], *parts[:stop]))
                if key and key in self.table:
                    return self.table[key]
        return ""

    def source_of(self, capture: str) -> str:
        """The source of a capture; the data folder's name where nothing says more.

        Raises InputError for a capture that the user's table does not list, or that lies in fewer folders than `level`.
        """
        if self.level:
            folders = PurePosixPath(capture).parts[:-1]
            if len(folders) < self.level:
                hint = "choose a level that every capture has, or name the sources in a table with --sources"
                raise InputError("input.source", f"no folder at level {self.level}", input=self.default, where=capture, hint=hint)
            return folders[self.level - 1]
        name = source_name(self.origin_of(capture))
        if not name and self.whole:
            hint = "add a row `file,source` for it, or for the folder that holds it"
            raise InputError("input.source", "a capture without a source", input=self.listed, where=capture, hint=hint)
        return name or self.default

    def sources_of(self, captures: Iterable[str]) -> dict[str, str]:
        """`source_of` each of several captures, by capture."""
        return {capture: self.source_of(capture) for capture in captures}


def _names_origins(path: Path) -> str:
    """The column of a manifest that says where its files come from: `origin`, else `source`; "" where it has neither."""
    try:
        rows = csv_rows(path)
    except InputError:  # a file of that name which is nothing of ours
        return ""
    columns = set(rows[0]) if rows else set()
    return next((name for name in ("origin", "source") if {"file", name} <= columns), "")


def _column(path: Path, name: str) -> dict[str, str]:
    """File names and one column beside them. Raises InputError where the table is missing, or lacks either."""
    hint = f"a CSV file with the columns file and {name}"
    if not path.is_file():
        raise InputError("input.missing", "no such file", input=str(path), hint=hint)
    rows = csv_rows(path)
    if not rows or not {"file", name} <= set(rows[0]):
        raise InputError("input.csv", f"no columns file and {name}", input=str(path), hint=hint)
    return {str(PurePosixPath(row["file"].strip())): (row[name] or "").strip() for row in rows if (row["file"] or "").strip()}
