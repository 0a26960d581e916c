"""What an adapter's configuration may say: keys and values that this project's methods need, each within bounds; all else is refused.

PEFT takes regular expressions for module names, code to import, decompositions of the base at load time and copies of layers. None of
these is needed to serve LoRA or a prefix, and each lets a file from a stranger hang, fill or change the process that opens it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_RANK = 256
"""As in `TuneOptions.r`."""
MAX_ALPHA = 1 << 14
MAX_PREFIX = 512
MAX_NAMES = 20_000
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}")
"""A module's name or its last parts, spelt out."""
_TEXT = 1024

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _TEXT and value.isprintable())


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


def _alpha(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and 0 < value <= MAX_ALPHA


def _share(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value < 1


def _names(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_NAMES and all(map(is_module_name, value)) and len(set(value)) == len(value)


def _pattern(check: Check) -> Check:
    def checked(value: Any) -> bool:
        return isinstance(value, dict) and len(value) <= MAX_NAMES and all(is_module_name(k) and check(v) for k, v in value.items())

    return checked


def _size(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << 20)


def one_of(*values: Any) -> Check:
    """A check for exactly these values, types included."""
    return lambda value: any(value == allowed and type(value) is type(allowed) for allowed in values)


def is_module_name(value: Any) -> bool:
    """Whether a value is the plain name of a module, or its last parts: no pattern.

    >>> is_module_name("layers.0.q_proj"), is_module_name("(a+)+b"), is_module_name(".*")
    (True, False, False)
    """
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


_FALSE = ("use_qalora", "lora_bias", "ensure_weight_tying", "prefix_projection")
_EMPTY: Mapping[str, object] = {"loftq_config": {}, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": [], "target_parameters": []}


def is_off(key: str, value: Any) -> bool:
    """Whether a value switches its key off, in the form that PEFT writes: null, false of a flag, {} of a few.

    >>> is_off("corda_config", None), is_off("corda_config", False), is_off("use_qalora", False)
    (True, False, True)
    """
    if value is False:
        return key in _FALSE
    return value is None or (key in _EMPTY and value == _EMPTY[key] and type(value) is type(_EMPTY[key]))


_COMMON: Mapping[str, Check] = {
    "peft_type": lambda value: isinstance(value, str),
    "task_type": one_of("CAUSAL_LM"),
    "base_model_name_or_path": _text,
    "revision": _text,
    "peft_version": _text,
    "inference_mode": _flag,
}
_LORA: Mapping[str, Check] = {
    **_COMMON,
    "r": _rank,
    "lora_alpha": _alpha,
    "lora_dropout": _share,
    "target_modules": _names,
    "bias": one_of("none"),
    "use_rslora": _flag,
    "use_dora": _flag,
    "fan_in_fan_out": _flag,
    "init_lora_weights": one_of(True, False, "gaussian"),
    "rank_pattern": _pattern(_rank),
    "alpha_pattern": _pattern(_alpha),
    # Defaults that PEFT writes though nothing uses them:
    "megatron_core": one_of("megatron.core", None),
    "qalora_group_size": _size,
}
_PREFIX: Mapping[str, Check] = {
    **_COMMON,
    "num_virtual_tokens": lambda value: type(value) is int and 1 <= value <= MAX_PREFIX,
    "token_dim": _size,
    "num_transformer_submodules": one_of(1, None),
    "num_attention_heads": _size,
    "num_layers": _size,
    "encoder_hidden_size": _size,
}
_NEEDED: Mapping[str, Sequence[str]] = {"LORA": ("r", "lora_alpha", "target_modules"), "PREFIX_TUNING": ("num_virtual_tokens",)}
_WHY = {
    "auto_mapping": "its config names code to import",
    "auto_map": "its config names code to import",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "trainable_token_indices": "it changes embeddings (trainable_token_indices)",
}


def config_reasons(config: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """Why an adapter's configuration is refused; empty where every key is known and every value within bounds."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in kinds:
        return [f"peft_type is {_shown(kind)}, not {' or '.join(kinds)}", *_strange(config, _COMMON)]
    table = _PREFIX if kind == "PREFIX_TUNING" else _LORA
    reasons = [f"{key} is missing" for key in _NEEDED[kind] if key not in config]
    return reasons + _strange(config, table)


def _strange(config: Mapping[str, Any], table: Mapping[str, Check]) -> list[str]:
    reasons = []
    for key, value in config.items():
        check = table.get(key)
        if check is not None and not check(value) and not (value is None and key == "task_type"):
            reasons.append(f"{key} {_shown(value)} is out of range")
        elif check is None and not is_off(key, value):
            reasons.append(_WHY.get(key, f"{str(key)[:60]} {_shown(value)} is nothing that an adapter here may ask for"))
    return reasons


def _shown(value: Any) -> str:
    text = repr(value)[:200]
    return text if len(text) <= 60 else text[:57] + "..."


def target_reasons(config: Mapping[str, Any], layers: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Why an adapter's names do not fit a model: each must select linear layers of it (`layers`) and no other of its `modules`."""
    linear = set(layers)
    ends: dict[str, list[str]] = {}
    for name in modules:
        parts = name.split(".")
        for place in range(max(0, len(parts) - 16), len(parts)):
            ends.setdefault(".".join(parts[place:]), []).append(name)
    reasons = []
    names = [*config.get("target_modules", ()), *(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())]
    for name in dict.fromkeys(names):
        selected = ends.get(name, [])
        if not selected:
            reasons.append(f"{name} is no layer of the base")
        elif other := [module for module in selected if module not in linear]:
            reasons.append(f"{name} selects {other[0]}, which is no linear layer that an adapter may touch")
    return reasons
