"""Which flow a packet belongs to: hash and comparison of its five-tuple, ICMP types as ports."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner

_ANSWERS = (
    ((8, 0), (13, 14), (15, 16), (17, 18), (10, 9)),  # ICMP (RFC 792, 950, 1256)
    ((128, 129), (133, 134), (135, 136), (130, 131), (139, 140), (144, 145)),  # ICMPv6 (RFC 4443, 4861, 2710)
)
_ICMP_PAIRS = np.full((2, 256), -1, dtype=np.int16)  # the type that answers a type; -1: none does
for _version, _pairs in enumerate(_ANSWERS):
    for _one_type, _other_type in _pairs:
        _ICMP_PAIRS[_version, _one_type], _ICMP_PAIRS[_version, _other_type] = _other_type, _one_type


@inner
def mix(h: Word, word: Word) -> Word:
    """One round of a multiplicative hash; stays below 2^31 so that nothing overflows without compilation either."""
    h = ((h ^ (word & 0x7FFFFFFF)) & 0x7FFFFFFF) * 0x5BD1E995
    return (h ^ (h >> 31)) & 0x7FFFFFFF


@inner
def hash_end(seed: Word, high: Word, low: Word, port: Word) -> Word:
    """Hash of one side of a flow; the sum of both sides is the same in either direction."""
    h = mix(seed, (high >> 32) ^ port << 13)
    if low | (high & 0xFFFFFFFF):
        h = mix(h, high)
        h = mix(h, low >> 32)
        h = mix(h, low)
    return mix(h, h >> 15)


@inner
def icmp_ports(proto: Word, kind: Word) -> Word:
    """(type, counterpart or code, one-way) of an ICMP message: requests and replies make one flow (RFC 792, RFC 4443)."""
    message = kind >> 8
    answer = i64(_ICMP_PAIRS[0 if proto == 1 else 1, message])
    if answer < 0:
        return message, kind & 255, 1
    return message, answer, 0


@inner
def same_flow(flow: Any, row: Any, sport: Word, dport: Word, one_way: Word) -> Word:
    """0 the row was sent by side 0, 1 by side 1, -1 another flow."""
    if flow["proto"] != row["proto"] or flow["ip_version"] != row["ip_version"] or flow["one_way"] != one_way:
        return -1
    if flow["tunnel"] != row["tunnel"]:  # a mirrored copy of a conversation is not the conversation
        return -1
    if flow["a_p"] == sport and flow["b_p"] == dport and flow["a_hi"] == row["src_hi"] and flow["a_lo"] == row["src_lo"]:
        forward = flow["b_hi"] == row["dst_hi"] and flow["b_lo"] == row["dst_lo"]
        if forward:
            return 0
    if one_way:
        return -1
    if flow["b_p"] == sport and flow["a_p"] == dport and flow["b_hi"] == row["src_hi"] and flow["b_lo"] == row["src_lo"]:
        backward = flow["a_hi"] == row["dst_hi"] and flow["a_lo"] == row["dst_lo"]
        if backward:
            return 1
    return -1
