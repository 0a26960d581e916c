"""What a data folder holds: labelled captures at any depth, in split folders or not.

`<label>/*.pcap`, `<label>/<anything>/*.pcap`, `train|val|test/<label>/*.pcap`. Labels are data: they name no path.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError
from trafficllm.core.files import slug
from trafficllm.core.types import NONE, UNKNOWN

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
    """The labelled captures under `root`; links to folders are followed.

    Raises InputError for a missing or unreadable folder, a loop of links, captures that no folder labels, split folders
    beside label folders, and labels that cannot be told apart or written down.
    """
    base = Path(root)
    if not base.exists():
        raise InputError("input.missing", "no such folder", input=str(root), hint="give a folder of <label>/*.pcap")
    if not base.is_dir():
        raise InputError("input.not_folder", "this is a file, not a folder", input=str(root), hint="give a folder of <label>/*.pcap")
    files, loose = [], []
    for path in sorted(_captures_in(base)):
        parts = path.relative_to(base).parts
        if any("\udc80" <= char <= "\udcff" for char in "".join(parts)):
            hint = "rename the file or folder"
            raise InputError("input.name", "a name that is not UTF-8", input=ascii("/".join(parts)), hint=hint)
        split = SPLITS.get(parts[0].lower(), "") if len(parts) > 1 else ""
        names = parts[1:] if split else parts
        if len(names) > 1:
            files.append(LabelledFile(names[0], path, "/".join(parts), split))
        else:
            loose.append("/".join(parts))
    if not files:
        hint = "put captures into one folder a label: <label>/*.pcap"
        raise InputError("input.no_captures", "no labelled captures here", input=str(root), hint=hint)
    if loose:
        hint = "move them into the folder of their label, or out of here"
        message = f"{len(loose)} captures lie in no label's folder"
        raise InputError("input.unlabelled", message, input=str(root), where=loose[0], hint=hint)
    _one_layout(files, base)
    _tellable({file.label for file in files}, base)
    return LabelledDir(base, tuple(files))


def scan_unlabelled(root: str | Path) -> LabelledDir:
    """Every capture below a folder, or the one that is named: their flows get labels elsewhere. Raises InputError where there is none."""
    base = Path(root)
    if base.is_file():
        return LabelledDir(base.parent, (LabelledFile("", base, base.name),))
    if not base.is_dir():
        raise InputError("input.missing", "no such folder", input=str(root), hint="give a folder of captures, or one capture")
    files = tuple(LabelledFile("", path, path.relative_to(base).as_posix()) for path in sorted(_captures_in(base)))
    if not files:
        raise InputError("input.no_captures", "no captures here", input=str(root), hint="captures are pcap or pcapng files")
    return LabelledDir(base, files)


def _captures_in(base: Path) -> Iterator[Path]:
    """Every capture below a folder. Raises InputError for what cannot be looked into, and for links that go in circles."""

    def refuse(error: OSError) -> None:
        hint = "check the folder's permissions"
        raise InputError("input.unreadable", f"cannot be read: {error.strerror}", input=str(error.filename), hint=hint) from error

    for folder, inner, names in os.walk(base, followlinks=True, onerror=refuse):
        place = Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in inner:
            if (place / name).is_symlink() and _holds(place, base, (place / name).resolve()):
                hint = "remove the link"
                raise InputError("input.link_loop", "a link to a folder that contains it", input=str(place / name), hint=hint)
        for name in names:
            path = place / name
            if path.is_symlink() and not path.exists() and name.lower().endswith(CAPTURES):
                raise InputError("input.missing", "a link to a file that is not there", input=str(path), hint="remove the link")
            if is_capture(path):
                yield path


def _holds(place: Path, base: Path, target: Path) -> bool:
    """Whether the walk came through `target` on its way from `base` to `place`, links followed."""
    way = [place, *(parent for parent in place.parents if parent.is_relative_to(base))]
    return any(step.resolve().is_relative_to(target) for step in way)


def _one_layout(files: Sequence[LabelledFile], base: Path) -> None:
    """Split folders hold all labels, or there are none."""
    plain = [file.rel for file in files if not file.split]
    if plain and len(plain) < len(files):
        hint = "put every label under train, val or test, or none"
        raise InputError("input.layout", "split folders and label folders side by side", input=str(base), where=plain[0], hint=hint)


def refuse_reserved(labels: Collection[str], root: Path) -> None:
    """InputError for a class named like an answer that is no class: "unknown" or "none", however it is capitalised."""
    for label in sorted(labels):
        if label.casefold() in {UNKNOWN, NONE}:
            raise InputError(
                "input.label_reserved",
                f"a class cannot be called {label!r}: that is an answer of its own",
                input=str(root),
                where=label,
                hint=f"rename the folder (or the label), for instance to 'other' or '{label}_class'",
            )


def _tellable(labels: Collection[str], base: Path) -> None:
    """Labels that `slug` takes, and that differ in more than how their accents are written."""
    refuse_reserved(labels, base)
    seen: dict[str, str] = {}
    for label in sorted(labels):
        slug(label)
        twin = seen.setdefault(unicodedata.normalize("NFC", label), label)
        if twin != label:
            hint = "rename one of the two folders"
            raise InputError("input.label_twice", f"two labels read {label!r}", input=str(base), where=label, hint=hint)


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
