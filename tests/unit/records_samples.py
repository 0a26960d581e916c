"""Folders of labelled captures for the tests of data sets."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path


def malware(captures: Path, place: Path, labels: Iterable[str]) -> Path:
    """The bundled malware captures of some labels below `place`, with the list of reserved ones beside them."""
    root = place / "MTD"
    for label in labels:
        shutil.copytree(captures / "MTD" / label, root / label)
    shutil.copy(captures / "reserved.csv", place / "reserved.csv")
    return root
