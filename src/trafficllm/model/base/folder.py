"""A checkpoint folder read as a stranger's: which files it may name, and whether they are those that its manifest was written for.

Names come from the folder's own JSON files (`weight_map`, `tokenizer_config.json`): each must be a plain name of a file in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import inside, read_json, sha256_bytes
from trafficllm.core.sealed import current_sha256, read_sealed

MANIFEST = "trafficllm.json"
CARD = "README.md"
SEEN = "seen.bin"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
"""Files beside tokenizer.json that a tokenizer class may read; copied as they are."""
READ = (CONFIG, "generation_config.json", INDEX, TOKENIZER, *COMPANIONS)
"""Files that transformers reads of a checkpoint besides its weights."""
FORMAT = 2
"""Of `trafficllm.json`: from 2 on it holds the hash of every file and its own."""
_LARGEST_CONFIG = 16 << 20
_MOST_SHARDS = 4096


def has_chat_template(folder: Path) -> bool:
    """Whether a checkpoint brings a chat template: it has learnt to answer people. Nothing is rendered."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool(_object(folder, "tokenizer_config.json").get("chat_template"))


def weight_files(folder: Path) -> list[str]:
    """Names of a checkpoint's safetensors files; ArtifactError where it has none, or names files outside its folder."""
    if (folder / INDEX).is_file():
        return shards(folder)
    if (folder / WEIGHTS).is_file():
        inside(folder, WEIGHTS)
        return [WEIGHTS]
    pickled = [path.name for path in folder.glob("pytorch_model*.bin")] if folder.is_dir() else []
    raise ArtifactError(
        "artifact.weights",
        "holds pickled weights only, which are never opened" if pickled else "is no model: no safetensors weights here",
        input=str(folder),
        hint="convert it to safetensors first" if pickled else "name a Hugging Face checkpoint folder",
    )


def shards(folder: Path) -> list[str]:
    """Names of the files in a checkpoint's index, sorted, each checked to be a plain safetensors name inside the folder."""
    names = set(index_of(folder)["weight_map"].values())
    for name in names:
        inside(folder, name)
        if not name.endswith(".safetensors"):
            raise _bad_index(folder, f"it names {name[:80]!r}, which is no safetensors file")
    if not 0 < len(names) <= _MOST_SHARDS:
        raise _bad_index(folder, f"it names {len(names)} files")
    return sorted(names)


def index_of(folder: Path) -> dict[str, Any]:
    """The index of a sharded checkpoint: {"weight_map": {tensor: file}, "metadata": {...}}; ArtifactError where it is none."""
    try:
        index: dict[str, Any] = read_json(inside(folder, INDEX), largest=_LARGEST_CONFIG)
    except InputError as error:
        raise _bad_index(folder, error.message) from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise _bad_index(folder, "it has no weight_map from tensors to file names")
    if not isinstance(index.get("metadata") or {}, dict):
        raise _bad_index(folder, "its metadata is no object")
    return index


def _bad_index(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(
        "artifact.weights", f"its index is unusable: {why}", input=str(folder / INDEX), hint="download the checkpoint again"
    )


def check_folder(folder: Path) -> None:
    """Refuse a checkpoint folder that names or links files outside itself, or would be opened as something else than it says.

    Checked before transformers reads anything: it follows `*_file` keys of the tokenizer's configuration in some versions, and an
    `adapter_config.json` to the base that this names. Raises ArtifactError.
    """
    for name in READ:
        if (folder / name).is_symlink() or (folder / name).exists():
            inside(folder, name)
    if (folder / "adapter_config.json").exists():
        hint = "name the base with --base, and the adapter where an adapter is asked for"
        raise ArtifactError("artifact.model", "is an adapter, or a base and an adapter in one folder", input=str(folder), hint=hint)
    if (folder / INDEX).is_file() or (folder / WEIGHTS).is_symlink():
        weight_files(folder)
    for name, value in _object(folder, "tokenizer_config.json").items():
        if name.endswith("_file") and value is not None:
            inside(folder, value)
    _object(folder, CONFIG)


def _object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder; empty where there is none."""
    if not (folder / name).exists():
        return {}
    try:
        body = read_json(folder / name, largest=_LARGEST_CONFIG)
    except InputError as error:
        raise ArtifactError("artifact.model", f"{name}: {error.message}", input=str(folder), hint="the folder may be cut") from error
    if not isinstance(body, dict):
        raise ArtifactError("artifact.model", f"{name} holds no object", input=str(folder), hint="name a Hugging Face checkpoint folder")
    return body


# What is loaded is what was written


def weights_sha256(folder: str | Path) -> str:
    """One hash of a checkpoint: its config's and every weight file's, in name order."""
    place = Path(folder)
    names = [CONFIG, *weight_files(place)]
    return sha256_bytes("\n".join(f"{name} {current_sha256(place / name)}" for name in names).encode())


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that loading the folder reads, and of the record of what it was trained on."""
    names = [*READ, SEEN, *(weight_files(folder))]
    return {name: current_sha256(folder / name) for name in sorted(set(names)) if (folder / name).is_file()}


def checked_manifest(folder: Path) -> dict[str, Any]:
    """`trafficllm.json`, compared with the files it was written for; for a folder without one, hashes of the files as they are.

    Raises ArtifactError naming file, expected and found hash, or a format newer than this version reads.
    """
    here = {"base_sha256": weights_sha256(folder)}
    if (folder / TOKENIZER).is_file():
        here["tokenizer_sha256"] = current_sha256(folder / TOKENIZER)
    if not (folder / MANIFEST).exists():
        return here
    manifest = {**here, **read_manifest(folder)}
    reasons = _differences(folder, manifest, here)
    if reasons:
        raise ArtifactError(
            "artifact.changed",
            "the base is not as it was written: " + "; ".join(reasons[:8]),
            input=str(folder),
            hint="restore it from a backup, or make it again: `tokenizer extend`",
        )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """`trafficllm.json` as it was written, not compared with the other files; ArtifactError where it is damaged or newer."""
    path = inside(folder, MANIFEST)
    try:
        manifest = read_sealed(path)
    except InputError as error:
        raise ArtifactError(
            "artifact.changed", f"{MANIFEST}: {error.message}", input=str(path), where=error.where, hint=error.hint
        ) from error
    written = manifest.get("format", 1)
    if type(written) is not int or not 1 <= written <= FORMAT:
        hint = "it was written by a newer trafficllm, or is damaged: update, or restore it from a backup"
        raise ArtifactError("artifact.schema", f"its format is {written!r}, this version reads up to {FORMAT}", input=str(path), hint=hint)
    return read_sealed(path, required=written >= FORMAT)


def _differences(folder: Path, manifest: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    files = manifest.get("files")
    if not isinstance(files, dict):
        return _old_differences(manifest, here)
    hashes = file_hashes(folder)
    reasons = [f"{name} was added" for name in sorted(set(hashes) - set(files))]
    for name, expected in sorted(files.items()):
        if name not in hashes:
            reasons.append(f"{str(name)[:80]} is missing")
        elif hashes[name] != expected:
            reasons.append(f"{name}: expected {str(expected)[:64]}, found {hashes[name]}")
    return reasons


def _old_differences(manifest: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    """Manifests of format 1 hold two hashes: of the configuration with the weights, and of tokenizer.json."""
    what = {"base_sha256": f"{CONFIG} and weights", "tokenizer_sha256": TOKENIZER}
    return [
        f"{name}: expected {str(manifest[key])[:64]}, found {here.get(key)}"
        for key, name in what.items()
        if key in manifest and manifest[key] != here.get(key)
    ]
