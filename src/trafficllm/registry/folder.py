"""Adapter folders as data: which files may enter, their hashes, a safe copy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import inside, make_folder, sync_folder
from trafficllm.core.sealed import current_sha256
from trafficllm.registry.manifest import CARD, FILE, SIGNATURE

ALLOWED = frozenset({".safetensors", ".json", ".jsonl", ".md", ".toml", ".txt", ".parquet", ".csv", ".jinja"})
"""Formats that hold data and nothing that runs: no pickle, no .bin, no .pt, no .py."""

OWN = frozenset({FILE, CARD, SIGNATURE})
"""Files the registry itself writes into a version."""


def adapter_files(folder: Path) -> list[Path]:
    """Files of an adapter folder, relative, sorted; training checkpoints and hidden files left out.

    Raises ArtifactError with all reasons for links, for formats that can hold code, for a missing
    `adapter_config.json`, and for a folder that is not there.
    """
    if not folder.is_dir():
        raise ArtifactError("artifact.missing", "no such adapter folder", input=str(folder), hint="check the path given to `--from`")
    entries = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    files = [path for path in entries if not any(p.startswith((".", "checkpoint-")) for p in path.parts)]
    reasons = [f"{path} is a link" for path in files if (folder / path).is_symlink()]
    reasons += [f"{path}: format not accepted" for path in files if path.suffix.lower() not in ALLOWED]
    reasons += [f"{name} is missing" for name in ("adapter_config.json",) if Path(name) not in files]
    if reasons:
        raise ArtifactError(
            "artifact.adapter",
            "this folder cannot become an adapter version: " + "; ".join(reasons),
            input=str(folder),
            hint="an adapter is a stock PEFT folder: adapter_config.json and adapter_model.safetensors",
        )
    return [path for path in files if path.name not in OWN or len(path.parts) > 1]


def total_bytes(folder: Path, files: Sequence[Path]) -> int:
    """Sum of the sizes of `files` in bytes."""
    return sum((folder / path).stat().st_size for path in files)


def copy_files(source: Path, files: Sequence[Path], target: Path) -> dict[str, str]:
    """Copy `files` into `target`, for their owner alone and flushed to disk; returns their SHA-256 by POSIX path."""
    hashes = {}
    for path in files:
        place = target / path
        make_folder(place.parent, private=True)
        hashes[path.as_posix()] = _copy(inside(source, path.as_posix(), nested=True), place)
        sync_folder(place.parent)
    return hashes


def _copy(source: Path, target: Path) -> str:
    """SHA-256 of what was written: hashed on its way, so that a file which changes meanwhile cannot differ from its hash."""
    digest = hashlib.sha256()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as out, source.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def differences(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """What of a version's folder is not as its manifest says, each with file, expected and found hash; empty when all is well."""
    reasons = []
    for name, digest in sorted(hashes.items()):
        try:
            path = inside(folder, name, nested=True)
        except ArtifactError as error:
            reasons.append(error.message)
            continue
        if not path.is_file() or path.is_symlink():
            reasons.append(f"{name} is missing")
        elif (current := current_sha256(path)) != digest:
            reasons.append(f"{name} has changed: expected {digest}, found {current}")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    return reasons + [f"{name} was added" for name in sorted(present - set(hashes) - OWN)]
