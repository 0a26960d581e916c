"""QLoRA's frozen half: linear layers stored in 4 bits (NF4) by bitsandbytes, where that is installed.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from trafficllm.core.errors import ResourceError


def require() -> None:
    """ResourceError with the remedy where bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ResourceError(
            "resource.extra",
            "method 'qlora' needs the package bitsandbytes, which is not installed",
            input="method",
            hint="pip install bitsandbytes, or tune with method 'lora' (same adapter, base kept in 16 or 32 bits)",
        )


def quantize(model: Any, names: Sequence[str]) -> None:
    """Replace the named linear layers of `model` by NF4 ones, in place and for good; outputs stay in the model's type."""
    import torch

    require()
    import bitsandbytes as bnb  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for name in names:
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        old = getattr(parent, leaf)
        if type(old) is not torch.nn.Linear:
            continue
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=old.weight.dtype, quant_type="nf4"
        )
        new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4")
        if old.bias is not None:
            new.bias = old.bias
        setattr(parent, leaf, new.to(old.weight.device))
    model.is_loaded_in_4bit = True
