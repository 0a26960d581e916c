"""What a data folder holds: labelled captures at any depth, in split folders or not.

`<label>/*.pcap`, `<label>/<anything>/*.pcap`, `train|val|test/<label>/*.pcap`. Labels are data: they name no path.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError
from trafficllm.core.files import slug

CAPTURES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".pcap.zst", ".pcapng.zst", ".pcap.lz4", ".pcapng.lz4")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_GENERIC = re.compile(r"(\d+|.{1,3}|capture|captures|dump|traffic|train|test|val|out|data|flows?|part\W?\d*)([_-]\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One capture: `rel` its path within the folder, `split` the split folder it lies in ("" for none)."""

    label: str
    path: Path
    rel: str
    split: str = ""

    def rel_to(self, root: Path) -> str:
        """<folder>/<rel>: the form that lists of reserved files use."""
        return f"{root.name}/{self.rel}"


@dataclass(frozen=True, slots=True)
class LabelledDir:
    """A folder of labelled captures, files in path order."""

    root: Path
    files: tuple[LabelledFile, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({file.label for file in self.files}))


def is_capture(path: Path) -> bool:
    """Whether the name is a capture's; what is inside decides the reader."""
    return path.is_file() and path.name.lower().endswith(CAPTURES) and not path.name.startswith(".")


def scan(root: str | Path) -> LabelledDir:
    """The labelled captures under `root`.

    Raises InputError for a missing folder, one without captures in label folders, or a label that leaves its folder.
    """
    base = Path(root)
    if not base.exists():
        raise InputError("input.missing", "no such folder", input=str(root), hint="give a folder of <label>/*.pcap")
    if not base.is_dir():
        raise InputError("input.not_folder", "this is a file, not a folder", input=str(root), hint="give a folder of <label>/*.pcap")
    files = []
    for path in sorted(base.rglob("*")):
        if not is_capture(path):
            continue
        parts = path.relative_to(base).parts
        split = SPLITS.get(parts[0].lower(), "") if len(parts) > 2 else ""
        names = parts[1:] if split else parts
        if len(names) > 1:
            slug(names[0])
            files.append(LabelledFile(names[0], path, "/".join(parts), split))
    if not files:
        hint = "put captures into one folder a label: <label>/*.pcap"
        raise InputError("input.no_captures", "no labelled captures here", input=str(root), hint=hint)
    return LabelledDir(base, tuple(files))


def origin_of(file: LabelledFile) -> str:
    """The capture a file was cut from: its name where that says something, its path where it does not.

    DPI-labelled collections cut one capture into a file a label, all of one name: those must stay together.
    """
    stem = file.path.name.split(".", 1)[0]
    return file.rel if _GENERIC.fullmatch(stem) else stem


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header. Raises InputError where it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError("input.csv", f"not a CSV file: {error}", input=str(path), hint="UTF-8 with a header row") from error
