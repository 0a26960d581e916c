"""A LoRA adapter added into linear weights, straight from its file: what PEFT's `merge_and_unload` does, without PEFT.

LoRA (Hu et al. 2021): W + s B A, with s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023). DoRA (Liu et al. 2024) then scales
each row of the sum to the length that the adapter learnt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import read_json
from trafficllm.model.adapter.guard import CONFIG, WEIGHTS

_BEFORE = "base_model.model."


def merged_weights(linears: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of `linears` (name -> [out, in]) that the checked adapter of a folder changes, changed; ArtifactError where it names
    others."""
    from safetensors.torch import load_file

    config: dict[str, Any] = read_json(folder / CONFIG)
    parts = {name.removeprefix(_BEFORE).removesuffix(".weight"): value.float() for name, value in load_file(str(folder / WEIGHTS)).items()}
    layers = dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in parts)
    changed = {}
    for layer in layers:
        weight, low, high = (linears.get(f"{layer}.weight"), parts.get(f"{layer}.lora_A"), parts.get(f"{layer}.lora_B"))
        if weight is None or low is None or high is None:
            raise ArtifactError("artifact.adapter", f"{layer[:80]} is not whole, or no linear layer of the base", input=str(folder))
        whole = weight + scaling(config, layer) * (high @ low)
        lengths = parts.get(f"{layer}.lora_magnitude_vector")
        changed[f"{layer}.weight"] = whole if lengths is None else (lengths / whole.norm(dim=1))[:, None] * whole
    return changed


def scaling(config: Mapping[str, Any], layer: str) -> float:
    """The factor of a layer's low-rank product: by the adapter's rank and alpha, or those given for this layer by the end of its name."""

    def own(patterns: str, default: str) -> float:
        table = config.get(patterns) or {}
        return float(next((value for end, value in table.items() if f".{layer}".endswith(f".{end}")), config[default]))

    rank, alpha = own("rank_pattern", "r"), own("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
