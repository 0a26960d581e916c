"""A traffic extension as a small delta: new rows and low-rank matrices in 8 bits, added to the weights of the base it was trained on.

Folder: `delta.json` (sealed: hashes of the other files, source, training, hash of the base that it `gives`), `delta.safetensors`,
`vocabulary.json` (traffic tokens by unit names), `seen.bin`. A stored matrix is `NAME.q` int8 [rows, columns] and `NAME.s` float32 [rows],
its value q * s.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import atomic_dir, atomic_write, inside, read_json, sha256_file, write_json
from trafficllm.core.sealed import read_sealed, sealed
from trafficllm.model.base.extend import make_traffic_base, write_manifest
from trafficllm.model.base.folder import SEEN, read_manifest, weight_files, weights_sha256
from trafficllm.records.codec.units import UNIT_NAMES, codec_hash

DELTA, TENSORS, VOCABULARY = "delta.json", "delta.safetensors", "vocabulary.json"
FORMAT = 1
_OTHER = "its weights are not, bit by bit, those that the extension was measured with: adapters made elsewhere will not fit"
_NAMES = {name: char for char, name in UNIT_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Change:
    """What an extension adds: `rows` maps a vocabulary tensor to its new rows [tokens, features], `low_rank` a weight tensor to (A [rank,
    inputs], B [outputs, rank]); the weight becomes W + scale * B A."""

    tokens: Sequence[str]
    rows: Mapping[str, Any]
    low_rank: Mapping[str, tuple[Any, Any]]
    scale: float


def quantise(value: Any) -> tuple[Any, Any]:
    """(int8 [rows, columns], float32 scale [rows]) of a matrix; the largest value of a row becomes 127.

    >>> import torch
    >>> quantise(torch.tensor([[1.0, -2.0]]))[0].tolist()
    [[64, -127]]
    """
    import torch

    scale = (value.float().abs().amax(dim=1) / 127).clamp_min(1e-12)
    return torch.round(value.float() / scale[:, None]).to(torch.int8), scale


def write_delta(out: str | Path, change: Change, *, seen: Sequence[int], **facts: Any) -> dict[str, Any]:
    """Write a delta folder; `facts` (source, training, ...) go into its manifest. Returns the manifest."""
    from safetensors.torch import save_file

    tensors = {}
    matrices = {f"rows/{name}": value for name, value in change.rows.items()}
    for name, (first, second) in change.low_rank.items():
        matrices |= {f"low_rank/{name}.A": first, f"low_rank/{name}.B": second}
    for name, value in matrices.items():
        tensors[f"{name}.q"], tensors[f"{name}.s"] = quantise(value)
    with atomic_dir(out) as folder:
        save_file(tensors, folder / TENSORS)
        write_json(folder / VOCABULARY, [" ".join(UNIT_NAMES[char] for char in token) for token in change.tokens])
        atomic_write(folder / SEEN, np.asarray(sorted(set(seen)), dtype="<u8").tobytes())
        manifest = {
            "kind": "delta",
            "format": FORMAT,
            **facts,
            "scale": change.scale,
            "codec_hash": codec_hash(),
            "seen": len(set(seen)),
            "files": {name: sha256_file(folder / name) for name in (TENSORS, VOCABULARY, SEEN)},
        }
        atomic_write(folder / DELTA, sealed(manifest))
    return manifest


def apply_delta(plain: str | Path, delta: str | Path, out: str | Path, *, name: str) -> None:
    """Write the traffic base `plain` + `delta` to `out`. Sums are taken in float64, so that every machine writes the same bytes; where the
    hash is still not the one that the delta `gives`, the manifest says so among its `warnings`.

    Raises ArtifactError where the delta is damaged, of another codec, or was trained on another base.
    """
    base, place = Path(plain), Path(delta)
    facts = _checked(place, base)
    tokens = _tokens(place)
    with atomic_dir(out) as folder:
        make_traffic_base(base, tokens, folder / "extended", init="global", name=name)
        for path in sorted((folder / "extended").iterdir()):
            path.replace(folder / path.name)
        (folder / "extended").rmdir()
        first = int(read_manifest(folder)["tokenizer"]["first_id"])
        _add(folder, place, first=first, count=len(tokens), scale=float(facts["scale"]))
        shutil.copyfile(inside(place, SEEN), folder / SEEN)
        digest = sha256_file(place / DELTA)
        warnings = [_OTHER] if facts.get("gives") not in {None, weights_sha256(folder)} else []
        write_manifest(folder, name=name, init="delta", training=facts["training"], delta_sha256=digest, warnings=warnings)


def _checked(place: Path, base: Path) -> dict[str, Any]:
    """The delta's manifest, compared with its files and with the base."""
    try:
        facts = read_sealed(place / DELTA, required=True)
    except InputError as error:
        raise ArtifactError(
            "artifact.delta", f"is no delta: {error.message}", input=str(place), hint="install the package again"
        ) from error
    reasons = [f"format {facts.get('format')!r}"] if facts.get("format") != FORMAT else []
    if facts.get("codec_hash") != codec_hash():
        reasons.append("it was made with another codec version")
    files = facts.get("files") or {}
    for file in (TENSORS, VOCABULARY, SEEN):
        if not (place / file).is_file() or sha256_file(inside(place, file)) != files.get(file):
            reasons.append(f"{file} is not as it was written")
    manifest = read_manifest(base)
    wanted, source = facts.get("source", {}).get("sha256"), manifest.get("source", {}).get("sha256")
    if wanted != source:
        reasons.append(f"it was trained on {str(wanted)[:12]}..., the base was made from {str(source)[:12]}...")
    if not isinstance(facts.get("scale"), float) or not math.isfinite(facts["scale"]):
        reasons.append("its scale is no number")
    if reasons:
        raise ArtifactError("artifact.delta", "does not fit: " + "; ".join(reasons), input=str(place), hint="install the package again")
    return facts


def _tokens(place: Path) -> list[str]:
    try:
        return ["".join(_NAMES[name] for name in words.split(" ")) for words in read_json(place / VOCABULARY)]
    except (KeyError, AttributeError, TypeError) as error:
        raise ArtifactError("artifact.delta", f"names an unknown unit: {error}", input=str(place)) from error


def _parts(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """(rows, pairs A and B) in float64, by the names of the tensors that they change."""
    values = {
        name[:-2]: value.double() * stored[f"{name[:-2]}.s"].double()[:, None] for name, value in stored.items() if name.endswith(".q")
    }
    rows = {name.removeprefix("rows/"): value for name, value in values.items() if name.startswith("rows/")}
    first = [name.removesuffix(".A") for name in values if name.startswith("low_rank/") and name.endswith(".A")]
    return rows, {name.removeprefix("low_rank/"): (values[f"{name}.A"], values[f"{name}.B"]) for name in first}


def _add(folder: Path, place: Path, *, first: int, count: int, scale: float) -> None:
    """Rewrite the weight files of `folder` with the delta's rows and matrices; every part of the delta must find its tensor."""
    from safetensors.torch import load_file, save_file

    rows, pairs = _parts(load_file(place / TENSORS))
    left = {*rows, *pairs}
    for file in weight_files(folder):
        tensors = load_file(folder / file)
        for name in left & set(tensors):
            weight = tensors[name]
            if name in rows:
                if rows[name].shape != (count, weight.shape[1]):
                    raise ArtifactError("artifact.delta", f"{name} has another shape", input=str(place))
                weight[first : first + count] = rows[name].to(weight.dtype)
            if name in pairs:
                a, b = pairs[name]
                tensors[name] = (weight.double() + scale * (b @ a)).to(weight.dtype)
        left -= set(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if left:
        raise ArtifactError("artifact.delta", f"the base has no tensor {sorted(left)[0][:80]}", input=str(place))
