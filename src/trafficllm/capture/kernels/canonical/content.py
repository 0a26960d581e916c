"""Flows that no parser can recognise: neither side begins as any protocol does, so only the sizes say what their facts are.

This errs one way: whatever a parser might recognise is left to it. tests/unit/test_capture_keys.py compares the first bytes with all
patterns.
"""

from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.core.types import U8

_TCP, _UDP = 1, 2
FIRST_BYTES = np.zeros(256, dtype=np.uint8)
"""Bit 0: a protocol over TCP may begin with this byte, bit 1: one over UDP."""
FIRST_BYTES[[0, 3, 4, 5, 0x10, 0x13, 0x30, 0xFF, *b"*+2<apisgck", *range(0x14, 0x18), *range(0x41, 0x5B)]] |= _TCP
FIRST_BYTES[[*range(5), *range(0x14, 0x1A), 0x38, *range(0x41, 0x5B), *range(0x6A, 0x70), 0x7E, *range(0xC0, 0x100)]] |= _UDP
FIRST_BYTES[[byte for byte in range(256) if byte & 0x89 == 0x09]] |= _UDP  # gQUIC's public header with version and connection ID
_XMPP_WITHIN = 256


@inner
def _is_letter(byte: Word) -> Word:
    return (65 <= byte <= 90) | (97 <= byte <= 122) | (byte == 0x2D)


@inner
def _zero_begins_tcp(data: U8, at: Word, end: Word) -> Word:
    """Behind a zero: PostgreSQL and Kerberos have their fifth byte, OpenVPN its third."""
    if end - at < 5:
        return True
    fifth = i64(data[at + 4])
    if data[at + 1] == 0 and ((fifth == 0) | (fifth == 4) | (0x6A <= fifth <= 0x6F) | (fifth == 0x7E)):
        return True
    return data[at + 1] >= 0x0E and (data[at + 2] == 0x38 or data[at + 2] == 0x50)


@inner
def _small_begins_udp(data: U8, at: Word, end: Word) -> Word:
    """Behind 0 to 4: three zeros of WireGuard, TFTP's request."""
    if end - at < 4:
        return True
    zeros = data[at + 1] == 0 and data[at + 2] == 0 and data[at + 3] == 0
    return zeros or (data[at] == 0 and 1 <= data[at + 1] <= 2)


@inner
def _may_begin(data: U8, at: Word, end: Word, transport: Word) -> Word:
    if at >= end or FIRST_BYTES[data[at]] & transport == 0:
        return False
    first = i64(data[at])
    if transport == _TCP and first == 0:
        return _zero_begins_tcp(data, at, end)
    if transport == _UDP and first <= 4:
        return _small_begins_udp(data, at, end)
    if _is_letter(first) and first != 0x50 and not (transport == _UDP and first >= 97):  # words of text; OpenVPN begins with a P too
        return at + 1 >= end or _is_letter(i64(data[at + 1]))
    return True


@inner
def _pair_within(data: U8, at: Word, end: Word, one: Word, two: Word) -> Word:
    """Whether byte `one` with `two` behind it stands in [at, end)."""
    pairs = 0
    for k in range(at, end - 1):
        pairs += (data[k] == one) & (data[k + 1] == two)
    return pairs > 0


@inner
def _has_magic(data: U8, at: Word, end: Word) -> Word:
    """Whether what some patterns ask for behind any first byte may be there: SMB's name, zeros of MySQL's greeting, STUN's cookie."""
    if end - at < 5:
        return False
    if data[at + 2] == 0 and data[at + 3] == 0 and data[at + 4] == 0x0A:
        return True
    if end - at < 8:
        return False
    smb = data[at + 5] == 0x53 and data[at + 6] == 0x4D and data[at + 7] == 0x42
    stun = data[at + 4] == 0x21 and data[at + 5] == 0x12 and data[at + 6] == 0xA4 and data[at + 7] == 0x42
    return smb or stun


@inner
def is_content(data: U8, at: Word, middle: Word, end: Word, proto: Word) -> Word:
    """Whether no parser can recognise a flow on ports that none asks for: originator's bytes [at, middle), responder's [middle, end)."""
    transport = _TCP if proto == 6 else _UDP
    if _may_begin(data, at, middle, transport) or _may_begin(data, middle, end, transport):
        return False
    if _has_magic(data, at, middle) or _has_magic(data, middle, end):
        return False
    if proto == 17:
        return True
    if _pair_within(data, at, min(middle, at + _XMPP_WITHIN), i64(0x3C), i64(0x73)):
        return False
    if _pair_within(data, middle, min(end, middle + _XMPP_WITHIN), i64(0x3C), i64(0x73)):
        return False
    return not _pair_within(data, at, middle, i64(0x16), i64(3))
