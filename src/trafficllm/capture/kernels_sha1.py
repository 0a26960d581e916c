"""SHA-1 of many short messages (FIPS 180-4), for Community IDs: not for anything that must be secure."""

from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels import Word, entry, i64, inner
from trafficllm.core.types import I64, U8

_MASK = i64(0xFFFFFFFF)


@inner
def _rotate(value: Word, bits: Word) -> Word:
    return (value << bits | value >> (32 - bits)) & _MASK


@inner
def _round(step: Word, b: Word, c: Word, d: Word) -> Word:
    if step < 20:
        return ((b & c) | (~b & d)) + 0x5A827999
    if step < 40:
        return (b ^ c ^ d) + 0x6ED9EBA1
    if step < 60:
        return ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
    return (b ^ c ^ d) + 0xCA62C1D6


@entry
def sha1_rows(blocks: U8, words: I64, out: U8) -> None:
    """Digest of each row of `blocks` [n, 64], one padded block a message; `words` is scratch [80], `out` [n, 20]."""
    for row in range(blocks.shape[0]):
        for k in range(16):
            block = blocks[row]
            words[k] = i64(block[4 * k]) << 24 | i64(block[4 * k + 1]) << 16 | i64(block[4 * k + 2]) << 8 | i64(block[4 * k + 3])
        for k in range(16, 80):
            words[k] = _rotate(words[k - 3] ^ words[k - 8] ^ words[k - 14] ^ words[k - 16], i64(1))
        a, b, c, d, e = i64(0x67452301), i64(0xEFCDAB89), i64(0x98BADCFE), i64(0x10325476), i64(0xC3D2E1F0)
        for k in range(80):
            mixed = (_rotate(a, i64(5)) + _round(k, b, c, d) + e + words[k]) & _MASK
            a, b, c, d, e = mixed, a, _rotate(b, i64(30)), c, d
        words[0], words[1], words[2] = a + 0x67452301, b + 0xEFCDAB89, c + 0x98BADCFE
        words[3], words[4] = d + 0x10325476, e + 0xC3D2E1F0
        for k in range(20):
            out[row, k] = np.uint8(words[k >> 2] >> (24 - 8 * (k & 3)) & 255)
