"""The header of a GGUF file, judged before anything of it is used: every count, length and offset is bounded by the file itself.

Format (ggml's docs/gguf.md, versions 2 and 3, little endian): magic, version, counts, metadata, table of tensors, then their data from the
next multiple of the alignment on.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError

MOST_KEYS = 4096
MOST_TENSORS = 65_536
MOST_VALUES = 1 << 23
"""Entries of all arrays together: a vocabulary of 262,144 pieces has its pieces, scores, kinds and merges, 1.3 million."""
LONGEST_TEXT = 1 << 20
"""Bytes of one string: chat templates have a few thousand."""
MOST_ELEMENTS = 1 << 34
"""Weights of one tensor."""
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Tensor type -> (weights, bytes) of a block."""
_MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header: `values` are the metadata (of an array its length), `tensors` shapes [rows, columns] by name."""

    values: dict[str, Any]
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """ggml's name of the architecture ("llama")."""
        return str(self.values["general.architecture"])

    def own(self, key: str) -> Any:
        """A value of the architecture's own keys, `own("rope.freq_base")`; None where the file has none."""
        return self.values.get(f"{self.architecture}.{key}")

    @property
    def tokens(self) -> int:
        """Entries of the vocabulary; 0 where the file brings no tokenizer."""
        return int(self.values.get("tokenizer.ggml.tokens") or 0)


class _Cursor:
    """Reads forward over the mapped file; ValueError at its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.left = data, 0, MOST_VALUES

    def take(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise ValueError("it ends within its header")
        value = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value[0] if len(value) == 1 else value

    def text(self) -> str:
        length = self.take("<Q")
        if length > min(LONGEST_TEXT, len(self.data) - self.at):
            raise ValueError(f"a string of {length} bytes")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of kind {kind}")
        inner, count = self.take("<IQ")
        self.left -= count
        if self.left < 0 or inner not in {*_SCALARS, _TEXT}:
            raise ValueError(f"an array of {count} values of kind {inner}")
        if inner == _TEXT:
            for _ in range(count):
                self.text()
            return count
        self.at += count * struct.calcsize(_SCALARS[inner])
        if self.at > len(self.data):
            raise ValueError("it ends within its header")
        return count


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file whose tensors all lie in it.

    Raises InputError where there is no such file, ArtifactError where it is none, is cut, or says what no model needs.
    """
    if not path.is_file():
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path")
    try:
        with path.open("rb") as stream:
            if stream.read(4) != _MAGIC:
                raise ValueError("it does not begin with GGUF")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data))
    except (ValueError, OSError) as error:
        raise ArtifactError(
            "artifact.gguf", f"is no whole GGUF file: {error}", input=str(path), hint="it may be cut: fetch it again"
        ) from error


def _parse(cursor: _Cursor) -> GgufHeader:
    cursor.at = 4
    version, tensors, keys = cursor.take("<IQQ")
    if version not in {2, 3} or not 0 < tensors <= MOST_TENSORS or keys > MOST_KEYS:
        raise ValueError(f"version {version}, {tensors} tensors, {keys} keys")
    values: dict[str, Any] = {}
    for _ in range(keys):
        name = cursor.text()
        if name in values:
            raise ValueError(f"{name[:80]!r} is named twice")
        values[name] = cursor.value(cursor.take("<I"))
    if not isinstance(values.get("general.architecture"), str):
        raise ValueError("it names no architecture")  # noqa: TRY004 - the file is at fault, not a caller
    return GgufHeader(values, _tensors(cursor, tensors, values.get("general.alignment", 32)))


def _tensors(cursor: _Cursor, count: int, alignment: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name; ValueError where a tensor is named twice, of an unknown type, or not wholly in the file."""
    if type(alignment) is not int or not 0 < alignment <= 4096 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}")
    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    for _ in range(count):
        name, dimensions = cursor.text(), cursor.take("<I")
        if name in shapes or not 0 < dimensions <= 4:
            raise ValueError(f"tensor {name[:80]!r} twice, or with {dimensions} dimensions")
        shape = tuple(cursor.take("<Q") for _ in range(dimensions))
        kind, offset = cursor.take("<IQ")
        if kind not in BLOCKS:
            raise ValueError(f"tensor {name[:80]!r} is of type {kind}")
        weights, size = BLOCKS[kind]
        elements = math.prod(shape)
        if not 0 < elements <= MOST_ELEMENTS or shape[0] % weights or offset % alignment:
            raise ValueError(f"tensor {name[:80]!r} has shape {shape} at {offset}")
        end = max(end, offset + elements // weights * size)
        shapes[name] = tuple(reversed(shape))
    start = -(-cursor.at // alignment) * alignment
    if start + end > len(cursor.data):
        raise ValueError(f"its tensors end at byte {start + end:,}, the file at {len(cursor.data):,}")
    return shapes
