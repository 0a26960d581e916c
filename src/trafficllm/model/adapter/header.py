"""The header of a safetensors file, judged before anything of it is used: by this module first, then by `safetensors` itself.

Format: 8 bytes of length, that many bytes of JSON {name: {dtype, shape, data_offsets}}, then the tensors without gap or overlap.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from trafficllm.core.errors import InputError
from trafficllm.core.files import parse_json

MAX_HEADER = 16 << 20
MOST_TENSORS = 100_000
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_METADATA = "__metadata__"


def read_header(path: Path) -> dict[str, Any]:
    """Name -> {dtype, shape, data_offsets} of a safetensors file's tensors. ValueError with the reason for a file that is none:
    names given twice, offsets that overlap, leave gaps or do not fit shape and type, or anything that `safetensors` refuses."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = stream.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, max(size - 8, 0)):
            raise ValueError(f"{path.name} is cut or no safetensors file")
        text = stream.read(length)
    try:
        header: Any = parse_json(text, path, unique=True)
    except InputError as error:
        raise ValueError(f"{path.name} has a broken header: {error.message}") from error
    metadata = header.pop(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path.name} has a broken header: no object, or metadata that is no text")
    if not 0 < len(header) <= MOST_TENSORS:
        raise ValueError(f"{path.name} holds {len(header)} tensors")
    _check_layout(header, size - 8 - length, path.name)
    _ask_safetensors(path)
    return dict(header)


def _check_layout(header: dict[str, Any], size: int, file: str) -> None:
    spans = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{file}: {name[:80]} is no tensor's entry")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in BYTES:
            raise ValueError(f"{file}: {name[:80]} has type {str(entry['dtype'])[:20]}")
        if not _sizes(shape) or len(shape) > 8 or not _sizes(offsets) or len(offsets) != 2:
            raise ValueError(f"{file}: {name[:80]} has a shape or offsets that are no sizes")
        if offsets[1] - offsets[0] != BYTES[entry["dtype"]] * math.prod(shape):
            raise ValueError(f"{file}: {name[:80]} has offsets that do not match its shape")
        spans.append(tuple(offsets))
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise ValueError(f"{file}: its tensors {'overlap' if begin < end else 'leave a gap'} at byte {begin}")
        end = stop
    if end != size:
        raise ValueError(f"{file} is cut: its tensors do not fill the file")


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _ask_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as stream:
            list(stream.keys())
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {str(error)[:200]}") from error
