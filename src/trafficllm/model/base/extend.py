"""A traffic base: any causal checkpoint with traffic rows in its embeddings, written as an ordinary Hugging Face folder.

Works on the safetensors files, never on the whole model: shards without vocabulary rows are cloned (copied where the file system cannot
clone), so that a 70 B model is extended in the memory of its embedding matrix.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_dir, atomic_write, free_space, hash64, inside, read_json, write_json
from trafficllm.core.sealed import current_sha256, sealed
from trafficllm.model.base.card import base_card
from trafficllm.model.base.folder import (
    CARD,
    COMPANIONS,
    FORMAT,
    INDEX,
    MANIFEST,
    SEEN,
    TOKENIZER,
    file_hashes,
    index_of,
    read_manifest,
    weight_files,
    weights_sha256,
)
from trafficllm.model.base.meta import first_line, meta_model
from trafficllm.model.tokenizer.extend import TokenizerReport, extend, load_auto
from trafficllm.records.codec.descriptions import described
from trafficllm.records.codec.units import CODEC_VERSION, codec_hash, meaning

_BLOCK = 16 << 20
_FICLONE = 0x40049409
ROW_MULTIPLE = 64
"""Vocabulary rows are padded to this: odd sizes cost matrix speed, and real checkpoints do the same."""
Init = Literal["description", "mean", "global", "random"]
NOISE = 0.3
"""Share of the native rows' spread added to a new row, so that tokens of the same pieces in another order differ."""


@dataclass(frozen=True, slots=True)
class BaseReport:
    """What `make_traffic_base` wrote: rows before and after, tensors resized, shards taken over as they are (`linked`), hashes, the
    tokenizer's report."""

    path: str
    rows_before: int
    rows: int
    tensors: tuple[str, ...]
    linked: int
    base_sha256: str
    tokenizer: TokenizerReport

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def write_manifest(folder: str | Path, *, seen: Sequence[int] = (), **facts: Any) -> dict[str, Any]:
    """Write `trafficllm.json` and `seen.bin` beside a traffic base's weights; call again after training them.

    `seen` are 64-bit hashes of the masked records it was trained on. Facts of an earlier manifest are kept.
    """
    place = Path(folder)
    old = read_manifest(place) if (place / MANIFEST).is_file() else {}
    hashes = set(load_seen(place).tolist()) | set(seen)
    atomic_write(place / SEEN, np.asarray(sorted(hashes), dtype="<u8").tobytes())
    manifest = {
        **old,
        "kind": "traffic",
        "format": FORMAT,
        **facts,
        "base_sha256": weights_sha256(place),
        "tokenizer_sha256": current_sha256(place / TOKENIZER),
        "codec_version": CODEC_VERSION,
        "codec_hash": codec_hash(),
        "seen": len(hashes),
        "files": file_hashes(place),
    }
    atomic_write(place / MANIFEST, sealed(manifest))
    if (place / CARD).is_file():
        atomic_write(place / CARD, base_card(manifest))
    return manifest


def load_seen(folder: str | Path) -> npt.NDArray[np.uint64]:
    """Sorted uint64 hashes of the records a base was trained on; empty where it says nothing."""
    path = Path(folder) / SEEN
    if not path.is_file():
        return np.zeros(0, dtype=np.uint64)
    return np.fromfile(path, dtype="<u8").astype(np.uint64)


def _meta_names(folder: Path) -> tuple[list[str], int]:
    """(names of the tensors that have a row for each entry, rows) from the config alone: nothing is loaded."""
    model = meta_model(folder)
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = {id(parameter) for module in (entry, head) if module is not None for parameter in module.parameters()}
    names = [name for name, value in model.named_parameters(remove_duplicate=False) if id(value) in wanted]
    return names, int(entry.weight.shape[0])


def _stored_name(stored: str, names: Sequence[str]) -> bool:
    """Whether a stored tensor is one of the model's vocabulary tensors; old files drop leading parts of the name."""
    return any(stored == name or name.endswith("." + stored) for name in names)


Pieces: TypeAlias = Sequence[tuple[Sequence[int], Sequence[float]]]
"""For each new token the native ids that its row is the weighted mean of, and their weights; no ids: the mean of all."""


def _pieces(tokens: Sequence[str], folder: Path, used: int) -> Pieces:
    """Native ids below `used` of each traffic token's meaning in words, all of one weight."""
    tokenizer = load_auto(folder)
    words = [" ".join(meaning(char) for char in token) for token in tokens]
    cut = tokenizer(words, add_special_tokens=False)["input_ids"]
    kept = [[index for index in ids if index < used] for ids in cut]
    return [(ids, [1.0] * len(ids)) for ids in kept]


def _descriptions(tokens: Sequence[str], folder: Path, used: int) -> Pieces:
    """As `_pieces`, from the English descriptions of a token's units: each phrase counts by its weight, each unit alike."""
    units = sorted({char for token in tokens for char in token})
    phrases = sorted({phrase for char in units for phrase, _ in described(char)})
    cut = load_auto(folder)([f" {phrase}" for phrase in phrases], add_special_tokens=False)["input_ids"]
    ids_of = {phrase: [index for index in ids if index < used] for phrase, ids in zip(phrases, cut, strict=True)}
    made = []
    for token in tokens:
        weights: dict[int, float] = {}
        for char in token:
            for phrase, weight in described(char):
                for index in ids_of[phrase]:
                    weights[index] = weights.get(index, 0.0) + weight / len(ids_of[phrase])
        made.append((list(weights), list(weights.values())))
    return made


@dataclass(frozen=True, slots=True)
class _Plan:
    """New rows of the vocabulary tensors: `used` native entries stay, `pieces` a new one each, padded to `total`."""

    used: int
    total: int
    pieces: Pieces
    init: Init


def _new_rows(old: Any, pieces: Pieces, init: Init, seed: int) -> Any:
    """Rows [tokens, ...] for the new entries from the native rows `old` [used, ...], float32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    table = old.float()
    noise = torch.randn((len(pieces), *table.shape[1:]), generator=generator) * table.std(dim=0)
    if init == "random":
        return noise
    centre = table.mean(dim=0)
    if init == "global":
        return centre + NOISE * noise
    if init == "mean":
        rows = torch.stack([table[list(ids)].mean(dim=0) if len(ids) else centre for ids, _ in pieces])
    else:
        rows = torch.stack([_weighted(table, ids, weights) if len(ids) else centre for ids, weights in pieces])
    return rows + NOISE * noise


def _weighted(table: Any, ids: Sequence[int], weights: Sequence[float]) -> Any:
    """The weighted mean of rows."""
    import torch

    return torch.einsum("n,n...->...", torch.tensor(weights) / sum(weights), table[list(ids)])


def _resize(tensor: Any, plan: _Plan, name: str) -> Any:
    """A vocabulary tensor with the new rows after the used ones; what lay there in the source was padding."""
    import torch

    used = plan.used
    fresh = _new_rows(tensor[:used], plan.pieces, plan.init, hash64(name.encode()) % 2**31).to(tensor.dtype)
    end = used + len(plan.pieces)
    tail = torch.zeros((max(plan.total, tensor.shape[0]) - end, *tensor.shape[1:]), dtype=tensor.dtype)
    if tensor.dim() == 1:  # a head's bias: an unused entry must never win
        tail += tensor[:used].min()
    return torch.cat([tensor[:used], fresh, tail]).contiguous()


def _write_weights(base: Path, folder: Path, names: Sequence[str], plan: _Plan) -> tuple[list[str], int]:
    """Rewrite shards that hold vocabulary tensors, copy the others: (tensors resized, shards copied)."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    resized: list[str] = []
    linked = 0
    for file in weight_files(base):
        target = _new(folder, file)
        with safe_open(str(base / file), framework="pt") as stream:
            held = [key for key in stream.keys() if _stored_name(key, names)]  # noqa: SIM118 - not a mapping
            metadata = stream.metadata()
        if not held:
            _clone(base / file, target)
            linked += 1
            continue
        tensors = load_file(str(base / file))
        for key in held:
            tensors[key] = _resize(tensors[key], plan, key)
        save_file(tensors, str(target), metadata=metadata or {"format": "pt"})
        resized += held
    return sorted(resized), linked


def _new(folder: Path, name: str) -> Path:
    """The place of a new file in a folder; ArtifactError where the name leads elsewhere or is taken."""
    path = inside(folder, name)
    if os.path.lexists(path):
        hint = "each shard is written once: the index may name a file twice in other letters"
        raise ArtifactError("artifact.name", f"{name} is there already", input=str(folder), hint=hint)
    return path


def _clone(source: Path, target: Path) -> None:
    """A copy that shares the source's blocks where the file system can (FICLONE: btrfs, XFS), else a plain one; never a hard link, by
    which a write to the copy would change the source."""
    with source.open("rb") as old, target.open("xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, _BLOCK)


def _tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors: the sum of the files without their headers (8 bytes of length, then that many)."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            total += path.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")
    return total


def _write_config(base: Path, folder: Path, rows: int, rows_before: int) -> None:
    config = read_json(base / "config.json")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part.get("vocab_size") == rows_before:
            part["vocab_size"] = rows
    atomic_write(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if (base / INDEX).is_file():
        index = index_of(base)
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": _tensor_bytes(folder)}
        write_json(folder / INDEX, index)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(inside(base, "generation_config.json"), _new(folder, "generation_config.json"))


def make_traffic_base(
    base_dir: str | Path, tokens: Sequence[str], out_dir: str | Path, *, init: Init = "mean", name: str = ""
) -> BaseReport:
    """Write `base_dir` extended by traffic `tokens` to `out_dir`: tokenizer, resized embeddings, manifest.

    New rows are the mean of the native pieces of each token's meaning ("tcp flags SA") or of the longer description of its units
    (`records.codec.descriptions`), plus noise; existing rows and all other weights keep their bits. Raises ArtifactError where the
    folder is no causal checkpoint or its tokenizer cannot be extended.
    """
    from safetensors import SafetensorError

    base = Path(base_dir)
    if not (base / "config.json").is_file():
        raise ArtifactError("artifact.model", "is no model folder: no config.json", input=str(base), hint="name a checkpoint folder")
    free_space(out_dir, sum((base / file).stat().st_size for file in weight_files(base)))
    names, rows_before = _meta_names(base)
    with atomic_dir(out_dir) as folder:
        report = extend(base, tokens, folder / "tokenizer")
        for file in (TOKENIZER, *COMPANIONS):
            if (folder / "tokenizer" / file).is_file():
                (folder / "tokenizer" / file).replace(folder / file)
        shutil.rmtree(folder / "tokenizer")
        rows = max(rows_before, -(-report.vocab_size // ROW_MULTIPLE) * ROW_MULTIPLE)
        used = min(report.base_vocab, rows_before)
        pieces = (_descriptions if init == "description" else _pieces)(tokens, base, used)
        try:
            tensors, linked = _write_weights(base, folder, names, _Plan(used, rows, pieces, init))
        except SafetensorError as error:
            raise ArtifactError("artifact.weights", first_line(error), input=str(base), hint="the file may be cut") from error
        if not tensors:
            raise ArtifactError("artifact.weights", "its embedding weights were not found", input=str(base))
        _write_config(base, folder, rows, rows_before)
        source = {"name": name or base.name, "sha256": weights_sha256(base), "tokenizer_sha256": report.base_sha256}
        manifest = write_manifest(folder, source=source, init=init, rows=rows, tokenizer=report.as_dict())
        atomic_write(folder / CARD, base_card(manifest))
    return BaseReport(str(out_dir), rows_before, rows, tuple(tensors), linked, str(manifest["base_sha256"]), report)
