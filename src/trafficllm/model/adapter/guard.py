"""Is an adapter folder what it says, and does it fit a base? Checked before anything of it reaches a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import inside, parse_json, read_bytes
from trafficllm.model.adapter.allowed import config_reasons, target_reasons
from trafficllm.model.adapter.header import read_header
from trafficllm.model.adapter.layers import is_conv1d

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG = 1 << 20
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
_CODE = (".py", ".so", ".pyc", ".sh")
_NAME = re.compile(r"base_model\.model\.(?P<layer>[A-Za-z0-9_.]+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.\w+)?(\.weight)?")
_PREFIX = "prompt_embeddings"
KINDS = ("LORA", "PREFIX_TUNING")
"""Kinds of adapter that can be tuned here. The engine serves the first: many of them at once on one base."""
_TYPES = ("F32", "F16", "BF16")
LARGEST = 1e4
"""Of a weight: trained ones stay below 10; two of 1e19 multiply to infinity."""


def _config(folder: Path, kinds: Sequence[str], reasons: list[str]) -> dict[str, Any]:
    path = _file(folder, CONFIG, reasons)
    if path is None:
        return {}
    try:
        config = parse_json(read_bytes(path, largest=MAX_CONFIG), path, unique=True)
    except InputError as error:
        reasons.append(f"{CONFIG} is not JSON: {error.message}" if error.code == "input.json" else f"{CONFIG}: {error.message}")
        return {}
    if not isinstance(config, dict):
        reasons.append(f"{CONFIG} is no object")
        return {}
    strange = config_reasons(config, kinds)
    reasons += strange
    return {} if strange else config


def _header(folder: Path, reasons: list[str]) -> dict[str, Any]:
    """Name -> {dtype, shape, data_offsets} of the adapter's weights; empty with a reason where the file is none."""
    path = _file(folder, WEIGHTS, reasons)
    try:
        return read_header(path) if path is not None else {}
    except (ValueError, OSError) as error:
        reasons.append(str(error))
        return {}


def _file(folder: Path, name: str, reasons: list[str]) -> Path | None:
    try:
        path = inside(folder, name)
    except ArtifactError as error:
        reasons.append(error.message)
        return None
    if not path.is_file():
        reasons.append(f"no {name}")
        return None
    return path


def _layers(model: Any) -> dict[str, tuple[int, int]]:
    """Layer name -> (in, out) features of every linear layer an adapter may touch."""
    import torch

    if hasattr(model, "linear_weights"):  # a small Llama, whose weights are joined
        return {name: (wide, high) for name, (high, wide) in model.config.linear_layers().items()}
    head = model.get_output_embeddings()
    layers: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        plain = name.replace(".base_layer", "")
        if is_conv1d(module):
            layers[plain] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
        elif isinstance(module, torch.nn.Linear) and module is not head and ".lora_" not in f".{name}":
            layers[plain] = (module.in_features, module.out_features)
    return layers


def _shape_reasons(header: dict[str, Any], config: dict[str, Any], layers: dict[str, tuple[int, int]]) -> list[str]:
    reasons = []
    ranks = config.get("rank_pattern") or {}
    for name, entry in sorted(header.items()):
        match = _NAME.fullmatch(name)
        if match is None:
            reasons.append(f"tensor {name[:80]} is no LoRA weight")
            continue
        if match["layer"] not in layers:
            reasons.append(f"{match['layer'][:80]} is no linear layer of the base")
            continue
        wide, high = layers[match["layer"]]
        rank = next((r for key, r in ranks.items() if f".{match['layer']}".endswith(f".{key}")), config["r"])
        want = {"lora_A": [rank, wide], "lora_B": [high, rank], "lora_magnitude_vector": [high]}[match["part"]]
        if entry["shape"] != want:
            reasons.append(f"{name} has shape {entry['shape']}, the base needs {want}")
        if entry["dtype"] not in _TYPES:
            reasons.append(f"{name} has type {entry['dtype']}")
    return reasons


def _module_reasons(config: dict[str, Any], model: Any, layers: dict[str, tuple[int, int]]) -> list[str]:
    if hasattr(model, "linear_weights"):
        return target_reasons(config, sorted(layers), model.config.module_names())
    names = (name.replace(".base_layer", "") for name, _ in model.named_modules())
    modules = [name for name in names if name and ".lora_" not in f".{name}"]
    return target_reasons(config, sorted(layers), list(dict.fromkeys(modules)))


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
    """Tensors with values that are not finite or make outputs that are not, opened one at a time."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as stream:
            names = sorted(stream.keys())
            # A comparison with NaN is false, so this also finds what is not finite.
            wild = [name for name in names if not bool((stream.get_tensor(name).abs() <= LARGEST).all())]
            return [f"{name[:80]} is not finite, or beyond {LARGEST:g}" for name in wild]
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        return [f"{WEIGHTS}: {str(error)[:200]}"]


def _readout_reasons(folder: Path, model: Any) -> list[str]:
    from trafficllm.model.adapter import readout

    return readout.reasons(folder, model)


def check_adapter(folder: str | Path, base: Any, *, kinds: Sequence[str] = KINDS[:1]) -> None:
    """Refuse an adapter folder that could harm or does not fit `base` (a Base, a transformers model or None: folder only).

    `kinds` are the PEFT kinds that the caller can use. Raises ArtifactError with every reason found: files that hold pickles
    or code, links that lead out of the folder, a configuration with any key or value outside `allowed`, a weights file that is not
    sound, tensors of unknown name, wrong shape or type, values that are not finite.
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
        if config["peft_type"] == "PREFIX_TUNING":
            reasons += _prefix_reasons(header, config, model)
        else:
            layers = _layers(model)
            reasons += _module_reasons(config, model, layers) + _shape_reasons(header, config, layers)
    if header and not reasons:
        reasons += _value_reasons(place)
        reasons += _readout_reasons(place, model)
    if reasons:
        shown = "; ".join(reasons[:12]) + (f"; and {len(reasons) - 12} more" if len(reasons) > 12 else "")
        raise ArtifactError(
            "artifact.adapter", f"the adapter is refused: {shown}", input=str(folder), hint="take it from a source you trust"
        )
