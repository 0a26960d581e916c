"""Adapter folders as data: which files may enter, their hashes, a safe copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import sha256_file

ALLOWED = frozenset({".safetensors", ".json", ".jsonl", ".md", ".toml", ".txt", ".parquet", ".csv", ".jinja"})
"""Formats that hold data and nothing that runs: no pickle, no .bin, no .pt, no .py."""

OWN = frozenset({"manifest.json", "README.md"})
"""Files the registry itself writes into a version."""


def adapter_files(folder: Path) -> list[Path]:
    """Files of an adapter folder, relative, sorted; training checkpoints and hidden files left out.

    Raises ArtifactError with all reasons for links, for formats that can hold code, for a missing
    `adapter_config.json`, and for a folder that is not there.
    """
    if not folder.is_dir():
        raise ArtifactError("artifact.missing", "no such adapter folder", input=str(folder), hint="check the path given to `--from`")
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    kept = [path for path in found if not any(p.startswith((".", "checkpoint-")) for p in path.parts)]
    reasons = [f"{path} is a link" for path in kept if (folder / path).is_symlink()]
    reasons += [f"{path}: format not accepted" for path in kept if path.suffix.lower() not in ALLOWED]
    reasons += [f"{name} is missing" for name in ("adapter_config.json",) if Path(name) not in kept]
    if reasons:
        raise ArtifactError(
            "artifact.adapter",
            "this folder cannot become an adapter version: " + "; ".join(reasons),
            input=str(folder),
            hint="an adapter is a stock PEFT folder: adapter_config.json and adapter_model.safetensors",
        )
    return [path for path in kept if path.name not in OWN or len(path.parts) > 1]


def total_bytes(folder: Path, files: Sequence[Path]) -> int:
    """Sum of the sizes of `files` in bytes."""
    return sum((folder / path).stat().st_size for path in files)


def copy_files(source: Path, files: Sequence[Path], target: Path) -> dict[str, str]:
    """Copy `files` into `target`, flushed to disk; returns their SHA-256 by POSIX path."""
    hashes = {}
    for path in files:
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, place)
        with place.open("rb") as stream:
            os.fsync(stream.fileno())
        hashes[path.as_posix()] = sha256_file(place)
    return hashes


def differences(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """What of a version's folder is not as its manifest says; empty when all is well."""
    found = []
    for name, digest in sorted(hashes.items()):
        path = folder / name
        if not path.is_file() or path.is_symlink():
            found.append(f"{name} is missing")
        elif sha256_file(path) != digest:
            found.append(f"{name} has changed")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return found + [f"{name} was added" for name in sorted(present - set(hashes) - OWN)]
