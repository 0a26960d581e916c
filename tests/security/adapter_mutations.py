"""Adapter folders from a stranger: one sound folder, changed at random in its configuration, its headers or its bytes."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

CONFIG, WEIGHTS, READOUT = "adapter_config.json", "adapter_model.safetensors", "readout.safetensors"
Files = dict[str, bytes]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 4, 8, 257, 4096, 10**9, 10**30, 0.5, -0.0, 1e308, 1e-320, "", "x", "none", "all", "lora_only", "pissa",
    "pissa_niter_4", "olora", "eva", "corda", "loftq", "gaussian", "all-linear", ".*", "(a+)+$", "(.*)*x", "(?:a|aa)+$", "megatron.core",
    "os", "../x", "/etc/passwd", "q_proj", "lm_head", "embed_tokens", "c_attn", "\x00", "\ud7ff", "x" * 3000, [], {}, [[0, 2], [0, 2]],
    ["q_proj"], ["c_attn"], ["lm_head"], ["embed_tokens", "lm_head"], [".*"], ["(a+)+"], [""], [None], [3], ["c_attn"] * 3,
    {"c_attn": 2}, {"(a+)+": 4}, {"c_attn": 10**9}, {"c_attn": "x"}, {"lm_head": 4}, {"a": {"b": {}}}, {"bits": 4}, {"": ""},
    {"base_model_class": "os", "parent_library": "os"}, [0, 1], [10**9], {"weights": ["/etc/passwd"]}, {"r": 1},
)  # fmt: skip
TEXTS = (
    "Infinity",
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 3000,
    '{"a":' * 2000,
    "",
    "null",
    "[]",
    '"',
    '{"a":1,"a":2}',
    "\ufeff{}",
)
KEYS = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias",
    "rank_pattern", "alpha_pattern", "layer_replication", "init_lora_weights", "loftq_config", "megatron_config", "megatron_core",
    "modules_to_save", "auto_mapping", "auto_map", "trainable_token_indices", "target_parameters", "use_dora", "use_rslora", "use_qalora",
    "lora_bias", "fan_in_fan_out", "eva_config", "corda_config", "arrow_config", "kasa_config", "task_type", "base_model_name_or_path",
    "revision", "runtime_config", "inference_mode", "num_virtual_tokens", "encoder_hidden_size", "prefix_projection", "peft_version",
    "alora_invocation_tokens", "lora_ga_config", "velora_config", "use_bdlora", "monteclora_config", "ensure_weight_tying", "__class__",
)  # fmt: skip


def mutated(sound: Files, rng: random.Random) -> Files:
    """The sound folder's files with one to three changes."""
    files = dict(sound)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice((CONFIG, CONFIG, CONFIG, WEIGHTS, WEIGHTS, READOUT))
        if name not in files:
            continue
        files[name] = _config(files[name], rng) if name == CONFIG else _tensors(files[name], rng)
        if rng.random() < 0.05:
            files[name] = _bytes(files[name], rng)
    return files


def _config(data: bytes, rng: random.Random) -> bytes:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return data
    kind = rng.randrange(8)
    if kind < 5 and isinstance(body, dict):
        for _ in range(rng.choice((1, 1, 2))):
            body[rng.choice(KEYS)] = rng.choice(VALUES)
        return json.dumps(body).encode()
    if kind == 5 and isinstance(body, dict):
        body.pop(rng.choice(sorted(body) or [""]), None)
        return json.dumps(body).encode()
    if kind == 6:
        text = json.dumps(body)
        return (text[:-1] + f', "{rng.choice(KEYS)}": {rng.choice(TEXTS)}}}').encode("utf-8", "surrogatepass")
    return rng.choice(TEXTS).encode("utf-8", "surrogatepass")


def _tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header over the same bytes, or another length."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    if not isinstance(header, dict) or not header or rng.random() < 0.2:
        return _bytes(data, rng)
    body = data[8 + length :]
    names = sorted(header)
    name = rng.choice(names)
    entry = header[name] if isinstance(header[name], dict) else {}
    kind = rng.randrange(9)
    if kind == 0:
        header[rng.choice([*names, "x", "__metadata__", "base_model.model.lm_head.lora_A.weight"])] = rng.choice([*VALUES, entry])
    elif kind == 1:
        header[name] = {**entry, rng.choice(["dtype", "shape", "data_offsets", "extra"]): rng.choice([*VALUES, "F64", "I8", "F32", [2, 2]])}
    elif kind == 2:
        other = header[rng.choice(names)]
        header[name] = {**entry, "data_offsets": other.get("data_offsets") if isinstance(other, dict) else 0}
    elif kind == 3:
        header.pop(name)
    elif kind == 4:
        header[rng.choice(["__metadata__"])] = {"readout": rng.choice(TEXTS), "format": "pt"}
    elif kind == 5:
        text = json.dumps(header)
        extra = f", {json.dumps(name)}: {json.dumps(entry)}}}"
        return _packed((text[:-1] + extra).encode(), body)
    elif kind == 6:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + rng.randbytes(rng.randrange(1, 64))
    elif kind == 7:
        body = struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38])) * (len(body) // 4) + body[len(body) // 4 * 4 :]
    else:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 1 << 20, 1 << 63, (1 << 64) - 1])) + data[8:]
    return _packed(json.dumps(header).encode("utf-8", "surrogatepass"), body)


def _packed(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _bytes(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    kind = rng.randrange(5)
    if kind == 0 and raw:
        raw[rng.randrange(min(len(raw), 4000))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[rng.randrange(len(raw) + 1) :]
    elif kind == 2:
        raw[rng.randrange(len(raw) + 1) :] = rng.randbytes(rng.randrange(40))
    elif kind == 3:
        place = rng.randrange(len(raw) + 1)
        raw[place:place] = rng.randbytes(rng.randrange(1, 20))
    else:
        raw = bytearray(rng.randbytes(rng.randrange(200)))
    return bytes(raw)
