"""Community IDs of many flows: SHA-1 (FIPS 180-4) and base64 of one block each, not for anything that must be secure."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.capture.link.words import be32
from trafficllm.core.types import U8, U32

_BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8)
_MASK = i64(0xFFFFFFFF)
_STATE = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
LANES = 64
"""Blocks that are hashed side by side: every step of SHA-1 needs the one before it, so vectors can only go across blocks."""
PLACES = 85
"""Rows of a workspace: 80 words of the message schedule and the five of the state."""


@inner
def _rotate(value: Word, bits: Word) -> Word:
    return (value << bits | value >> (32 - bits)) & _MASK


@inner
def _schedule(words: U32, lanes: Word) -> None:
    """The message schedule: words 16 to 79 of each of the first `lanes` lanes, from the sixteen of its block."""
    for k in range(16, 80):
        for lane in range(lanes):
            word = i64(words[k - 3, lane]) ^ i64(words[k - 8, lane]) ^ i64(words[k - 14, lane]) ^ i64(words[k - 16, lane])
            words[k, lane] = _rotate(word, i64(1))


@inner
def _mixed(kind: Word, b: Word, c: Word, d: Word) -> Word:
    """The function of the round, and its constant."""
    if kind == 0:
        return ((b & c) | (~b & d)) + 0x5A827999
    if kind == 2:
        return ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
    return (b ^ c ^ d) + (0x6ED9EBA1 if kind == 1 else 0xCA62C1D6)


@inner
def _digest(words: U32, lanes: Word) -> None:
    """SHA-1 of a padded block in each of the first `lanes` lanes: from rows [0:16] into rows [80:85] of `words` [PLACES, LANES]."""
    _schedule(words, lanes)
    for lane in range(lanes):
        words[80, lane], words[81, lane], words[82, lane], words[83, lane], words[84, lane] = _STATE
    for k in range(80):
        kind = k // 20
        for lane in range(lanes):
            a, b, c, d = i64(words[80, lane]), i64(words[81, lane]), i64(words[82, lane]), i64(words[83, lane])
            words[80, lane] = (_rotate(a, i64(5)) + _mixed(kind, b, c, d) + i64(words[84, lane]) + i64(words[k, lane])) & _MASK
            words[81, lane], words[82, lane], words[83, lane], words[84, lane] = a, _rotate(b, i64(30)), c, d
    for lane in range(lanes):
        for k in range(5):
            words[80 + k, lane] = (i64(words[80 + k, lane]) + _STATE[k]) & _MASK


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


@inner
def _write(words: U32, lane: Word, out: U8) -> None:
    """ "1:" and base64 (RFC 4648) of a lane's digest into `out` [30]."""
    out[0], out[1], out[29] = 49, 58, 61
    for k in range(27):
        bit = 6 * k
        place = 80 + (bit >> 5)
        here = i64(words[place, lane]) << 32 | (i64(words[place + 1, lane]) if bit < 128 else 0)
        out[2 + k] = _BASE64[here >> (58 - (bit & 31)) & 63]


@entry
def name_flows(rows: Any, block: U8, words: U32, out: U8) -> None:
    """Community IDs of SUMMARY rows into bytes [0:30] of each row of `out`; `block` [64] and `words` [PLACES, LANES] are scratch."""
    count = rows.shape[0]
    for start in range(0, count, LANES):
        size = min(LANES, count - start)
        for lane in range(size):
            _fill(block, rows[start + lane])
            for k in range(16):
                words[k, lane] = be32(block, 4 * k)
        _digest(words, size)
        for lane in range(size):
            _write(words, lane, out[start + lane])
