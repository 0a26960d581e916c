"""Community IDs of many flows: SHA-1 (FIPS 180-4) and base64 of one block each, not for anything that must be secure."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.core.types import I64, U8

_MASK = i64(0xFFFFFFFF)
_BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8)


@inner
def _rotate(value: Word, bits: Word) -> Word:
    return (value << bits | value >> (32 - bits)) & _MASK


@inner
def _digest(block: U8, words: I64) -> None:
    """SHA-1 of one padded block [64] into `words` [0:5]; the rest of its 80 places is scratch."""
    for k in range(16):
        words[k] = i64(block[4 * k]) << 24 | i64(block[4 * k + 1]) << 16 | i64(block[4 * k + 2]) << 8 | i64(block[4 * k + 3])
    for k in range(16, 80):
        words[k] = _rotate(words[k - 3] ^ words[k - 8] ^ words[k - 14] ^ words[k - 16], i64(1))
    a, b, c, d, e = i64(0x67452301), i64(0xEFCDAB89), i64(0x98BADCFE), i64(0x10325476), i64(0xC3D2E1F0)
    for k in range(80):
        if k < 20:
            mixed = ((b & c) | (~b & d)) + 0x5A827999
        elif k < 40:
            mixed = (b ^ c ^ d) + 0x6ED9EBA1
        elif k < 60:
            mixed = ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
        else:
            mixed = (b ^ c ^ d) + 0xCA62C1D6
        mixed = (_rotate(a, i64(5)) + mixed + e + words[k]) & _MASK
        a, b, c, d, e = mixed, a, _rotate(b, i64(30)), c, d
    words[0], words[1], words[2] = (a + 0x67452301) & _MASK, (b + 0xEFCDAB89) & _MASK, (c + 0x98BADCFE) & _MASK
    words[3], words[4] = (d + 0x10325476) & _MASK, (e + 0xC3D2E1F0) & _MASK


@inner
def _address(block: U8, at: Word, high: Word, low: Word, size: Word) -> None:
    for k in range(size):
        block[at + k] = np.uint8((high >> (56 - 8 * k) if k < 8 else low >> (120 - 8 * k)) & 255)


@inner
def _later(block: U8, size: Word, one_p: Word, two_p: Word) -> Word:
    """Whether the first side, address and port, is greater than the second."""
    for k in range(2, 2 + size):
        if block[k] != block[k + size]:
            return block[k] > block[k + size]
    return one_p > two_p


@inner
def _fill(block: U8, row: Any) -> None:
    """The padded message: seed 0, addresses, protocol, ports, the smaller side first."""
    for k in range(64):
        block[k] = 0
    size = 4 if row["ip_version"] == 4 else 16
    proto, one_p, two_p = i64(row["proto"]), i64(row["orig_p"]), i64(row["resp_p"])
    with_ports = (proto == 6) | (proto == 17) | (proto == 132) | (proto == (1 if size == 4 else 58))
    if not with_ports:
        one_p, two_p = i64(0), i64(0)
    _address(block, 2, row["orig_hi"], row["orig_lo"], size)
    _address(block, 2 + size, row["resp_hi"], row["resp_lo"], size)
    if not row["one_way"] and _later(block, size, one_p, two_p):
        _address(block, 2, row["resp_hi"], row["resp_lo"], size)
        _address(block, 2 + size, row["orig_hi"], row["orig_lo"], size)
        one_p, two_p = two_p, one_p
    at = 2 + 2 * size
    block[at] = np.uint8(proto)
    at += 2
    if with_ports:
        block[at], block[at + 1] = np.uint8(one_p >> 8), np.uint8(one_p & 255)
        block[at + 2], block[at + 3] = np.uint8(two_p >> 8), np.uint8(two_p & 255)
        at += 4
    block[at] = 0x80
    block[62], block[63] = np.uint8(at * 8 >> 8), np.uint8(at * 8 & 255)


@entry
def name_flows(rows: Any, block: U8, words: I64, out: U8) -> None:
    """Community IDs of SUMMARY rows into `out` [n, 30]: "1:" and base64 (RFC 4648); `block` [64] and `words` [80] are scratch."""
    for i in range(rows.shape[0]):
        _fill(block, rows[i])
        _digest(block, words)
        out[i, 0], out[i, 1], out[i, 29] = 49, 58, 61
        for k in range(27):
            bit = 6 * k
            here = words[bit >> 5] << 32 | (words[(bit >> 5) + 1] if bit < 128 else 0)
            out[i, 2 + k] = _BASE64[here >> (58 - (bit & 31)) & 63]
