"""Is an adapter folder what it says, and does it fit a base? Checked before anything of it reaches a model."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG = 1 << 20
MAX_HEADER = 16 << 20
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
_CODE = (".py", ".so", ".pyc", ".sh")
_NAME = re.compile(r"base_model\.model\.(?P<layer>[\w.]+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.\w+)?(\.weight)?")
_PREFIX = "prompt_embeddings"
KINDS = ("LORA", "PREFIX_TUNING")
"""Kinds of adapter that can be tuned here. The engine serves the first: many of them at once on one base."""
_TYPES = {"F32": 4, "F16": 2, "BF16": 2}


def _config(folder: Path, kinds: Sequence[str], reasons: list[str]) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        reasons.append(f"no {CONFIG}")
        return {}
    if path.stat().st_size > MAX_CONFIG:
        reasons.append(f"{CONFIG} is larger than 1 MiB")
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        reasons.append(f"{CONFIG} is not JSON")
        return {}
    if not isinstance(config, dict):
        reasons.append(f"{CONFIG} is no object")
        return {}
    if config.get("auto_mapping") or config.get("auto_map"):
        reasons.append("its config names code to import")
    if config.get("peft_type") not in kinds:
        reasons.append(f"peft_type is {config.get('peft_type')!r}, not {' or '.join(kinds)}")
    if config.get("modules_to_save"):
        reasons.append("it replaces whole modules (modules_to_save)")
    if config.get("trainable_token_indices"):
        reasons.append("it changes embeddings (trainable_token_indices)")
    size = "num_virtual_tokens" if config.get("peft_type") == "PREFIX_TUNING" else "r"
    rank = config.get(size)
    if not isinstance(rank, int) or not 1 <= rank <= 4096:
        reasons.append(f"{size} {rank!r} is out of range")
    return config


def _header(folder: Path, reasons: list[str]) -> dict[str, Any]:
    """The safetensors header, read by hand: name -> {dtype, shape, data_offsets}, sizes checked against the file."""
    path = folder / WEIGHTS
    if not path.is_file():
        reasons.append(f"no {WEIGHTS}")
        return {}
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = stream.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, max(size - 8, 0)):
            reasons.append(f"{WEIGHTS} is cut or no safetensors file")
            return {}
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            reasons.append(f"{WEIGHTS} has a broken header")
            return {}
    if not isinstance(header, dict):
        reasons.append(f"{WEIGHTS} has a broken header")
        return {}
    header.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in header.values() if isinstance(entry, dict)]
    if not header or len(ends) < len(header) or max(ends) != size - 8 - length:
        reasons.append(f"{WEIGHTS} is cut: its tensors do not fill the file")
        return {}
    return header


def _layers(model: Any) -> dict[str, tuple[int, int]]:
    """Layer name -> (in, out) features of every linear layer an adapter may touch."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        plain = name.replace(".base_layer", "")
        if isinstance(module, Conv1D):
            found[plain] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
        elif isinstance(module, torch.nn.Linear) and module is not head and ".lora_" not in f".{name}":
            found[plain] = (module.in_features, module.out_features)
    return found


def _shape_reasons(header: dict[str, Any], config: dict[str, Any], layers: dict[str, tuple[int, int]]) -> list[str]:
    reasons = []
    base_rank, alpha = config.get("r"), config.get("rank_pattern") or {}
    for name, entry in sorted(header.items()):
        match = _NAME.fullmatch(name)
        if match is None:
            reasons.append(f"tensor {name} is no LoRA weight")
            continue
        if match["layer"] not in layers:
            reasons.append(f"{match['layer']} is no linear layer of the base")
            continue
        wide, high = layers[match["layer"]]
        rank = next((r for key, r in alpha.items() if match["layer"].endswith(key)), base_rank)
        want = {"lora_A": [rank, wide], "lora_B": [high, rank], "lora_magnitude_vector": [high]}[match["part"]]
        if entry.get("shape") != want:
            reasons.append(f"{name} has shape {entry.get('shape')}, the base needs {want}")
        if entry.get("dtype") not in _TYPES:
            reasons.append(f"{name} has type {entry.get('dtype')}")
        elif entry["data_offsets"][1] - entry["data_offsets"][0] != _TYPES[entry["dtype"]] * math.prod(entry["shape"]):
            reasons.append(f"{name} has offsets that do not match its shape")
    return reasons


def _prefix_reasons(header: dict[str, Any], config: dict[str, Any], model: Any) -> list[str]:
    """A prefix is one table [virtual tokens, layers x keys and values x heads x head size]."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    want = [config.get("num_virtual_tokens"), text.num_hidden_layers * 2 * heads * size]
    entry = header.get(_PREFIX, {})
    if set(header) != {_PREFIX} or entry.get("shape") != want or entry.get("dtype") not in _TYPES:
        return [f"a prefix for this base is one tensor {_PREFIX} of shape {want}, not {sorted(header)[:3]} {entry.get('shape')}"]
    return []


def _value_reasons(folder: Path) -> list[str]:
    """Tensors with values that are not finite, opened one at a time."""
    import torch
    from safetensors import safe_open

    with safe_open(str(folder / WEIGHTS), framework="pt") as stream:
        names = sorted(stream.keys())
        return [f"{name} is not finite" for name in names if not torch.isfinite(stream.get_tensor(name)).all()]


def _readout_reasons(folder: Path, model: Any) -> list[str]:
    from trafficllm.model.adapter import readout

    return readout.reasons(folder, model)


def check_adapter(folder: str | Path, base: Any, *, kinds: Sequence[str] = KINDS[:1]) -> None:
    """Refuse an adapter folder that could harm or does not fit `base` (a Base, a transformers model or None: folder only).

    `kinds` are the PEFT kinds that the caller can use. Raises ArtifactError with every reason found: files that hold pickles
    or code, a config that names code or touches more than linear layers, tensors of unknown name, wrong shape or type, values
    that are not finite.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ArtifactError("artifact.adapter", "no such adapter folder", input=str(folder), hint="check the path")
    reasons = [
        f"{path.name} may hold {'a pickle' if path.suffix in _PICKLED else 'code'}"
        for path in sorted(place.iterdir())
        if path.suffix in (*_PICKLED, *_CODE)
    ]
    config, header = _config(place, kinds, reasons), _header(place, reasons)
    model = getattr(base, "model", base) if not hasattr(base, "get_output_embeddings") else base
    if header and config and model is not None:
        prefix = config.get("peft_type") == "PREFIX_TUNING"
        reasons += _prefix_reasons(header, config, model) if prefix else _shape_reasons(header, config, _layers(model))
    if header and not reasons:
        reasons += _value_reasons(place)
        reasons += _readout_reasons(place, model)
    if reasons:
        shown = "; ".join(reasons[:12]) + (f"; and {len(reasons) - 12} more" if len(reasons) > 12 else "")
        raise ArtifactError(
            "artifact.adapter", f"the adapter is refused: {shown}", input=str(folder), hint="take it from a source you trust"
        )
