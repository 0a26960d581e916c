"""Columns of an HTTP request for trees and for a linear model: its characters, its parameter names, its byte n-grams."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trafficllm.core.types import F64, Record

GRAMS, WORDS = 512, 256
WIDE = 1 << 16
"""Buckets of the linear model's n-grams, which are sparse."""
_SPECIAL = b"'\"<>;()%+,/*\\|`!@#$^{}[]:=&?~-_. \n"
_WORD = re.compile(rb"[/?&\s]+")

NAMES = (
    *(f"char[{bytes([c])!r}]" for c in _SPECIAL),
    *(f"chars.{name}" for name in ("all", "digit", "upper", "lower", "high", "control", "longest_value", "values")),
    *(f"word[{k}]" for k in range(WORDS)),
    *(f"text[{k}]" for k in range(GRAMS)),
)


def columns(shown: Record) -> F64:
    """float64 [len(NAMES)] of one request as the codec carries it: characters counted, the longest parameter value, path parts
    and parameter names hashed (a name that no form has is an attack's mark), byte 3-grams hashed."""
    raw = raw_of(shown)
    data = np.frombuffer(raw, dtype=np.uint8)
    counts = np.bincount(data, minlength=256)
    pairs = [word.partition(b"=") for word in _WORD.split(raw) if word]
    values = [len(value) for _, equals, value in pairs if equals]
    kinds = [len(data), *(int(counts[a:b].sum()) for a, b in ((48, 58), (65, 91), (97, 123), (128, 256), (0, 10)))]
    words = np.zeros(WORDS)
    for name, equals, _ in pairs:
        words[zlib.crc32(name[:48] + equals) % WORDS] += 1
    return np.concatenate([counts[list(_SPECIAL)], kinds, [max(values, default=0), len(values)], words, _grams(data)])


def raw_of(shown: Record) -> bytes:
    """The bytes of a request; hidden ones are zeros, as the codec gives them back."""
    return shown.text.encode("utf-8", "surrogateescape")


def _grams(data: np.ndarray[Any, np.dtype[np.uint8]]) -> F64:
    """Counts of byte 3-grams (Knuth's multiplicative hash)."""
    if len(data) < 3:
        return np.zeros(GRAMS)
    wide = data.astype(np.uint64)
    code = (wide[:-2] << np.uint64(16)) | (wide[1:-1] << np.uint64(8)) | wide[2:]
    place = (code * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(23)
    return np.bincount(place.astype(np.int64), minlength=GRAMS).astype(np.float64)


def sparse_grams(shown: Sequence[Record]) -> Any:
    """Counts of character 2- to 4-grams, scipy sparse [n, 65536]: the linear model's input."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(analyzer="char", ngram_range=(2, 4), n_features=WIDE, lowercase=False, alternate_sign=False, norm=None)
    return hashed.transform([raw_of(record).decode("latin-1") for record in shown])
