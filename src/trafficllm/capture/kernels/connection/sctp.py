"""SCTP (RFC 9260): what a packet's chunks do, and the state of an association in the words that Zeek has for TCP.

INIT is its SYN, INIT ACK its SYN-ACK, SHUTDOWN its FIN, ABORT its RST. An association belongs to its ports and addresses; further
addresses of a host with several make flows of their own.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.kernels.connection.stream import once
from trafficllm.capture.kernels.layout import (
    ATTEMPT_DELAY,
    CLOSE_DELAY,
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    L_ACK,
    L_DATA,
    L_FIN,
    L_RST,
    L_SYN,
    L_SYN_ACK,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)
from trafficllm.capture.link.words import be16, be32
from trafficllm.core.types import U8

INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, DATA, SHUTDOWN, ABORT, OTHER = (i64(1 << _bit) for _bit in range(8))
_BITS = np.full(256, OTHER, dtype=np.int64)  # by chunk type
_BITS[[1, 2, 10, 11, 6]] = INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, ABORT
_BITS[[0, 64]] = DATA  # DATA, I-DATA (RFC 8260)
_BITS[[7, 8, 14]] = SHUTDOWN  # SHUTDOWN, its ACK, its COMPLETE
_MAX_CHUNKS = 32  # looked at in one packet
H_SYN, H_FIN, H_RST, H_ACK, H_DATA = (i64(1 << _bit) for _bit in range(5))

_CRC = np.zeros(256, dtype=np.int64)  # CRC32c (RFC 9260 appendix A), reflected
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _CRC[_byte] = _value


@inner
def chunk_bits(buf: U8, pos: Word, end: Word) -> Word:
    """(what the chunks in [pos, end) do, initiate tag of an INIT or INIT ACK or 0)."""
    bits, tag = i64(0), i64(0)
    for _ in range(_MAX_CHUNKS):
        if end - pos < 4:
            break
        bit, size = i64(_BITS[buf[pos]]), be16(buf, pos + 2)
        bits |= bit
        if bit <= INIT_ACK and end - pos >= 8:
            tag = be32(buf, pos + 4)
        if size < 4:
            break
        pos += (size + 3) & ~3
    return bits, tag


@inner
def crc32c(buf: U8, pos: Word, end: Word) -> Word:
    """Whether the checksum of the whole SCTP packet [pos, end) is right; it is stored with its low byte first."""
    value = i64(0xFFFFFFFF)
    for place in range(pos, end):
        byte = i64(buf[place]) if place < pos + 8 or place >= pos + 12 else i64(0)
        value = value >> 8 ^ _CRC[(value ^ byte) & 255]
    value ^= 0xFFFFFFFF
    said = i64(buf[pos + 8]) | i64(buf[pos + 9]) << 8 | i64(buf[pos + 10]) << 16 | i64(buf[pos + 11]) << 24
    return value == said


@inner
def sctp_reused(one: Any, two: Any, row: Any) -> Word:
    """An INIT of the side `one` that starts another association on the same ports (RFC 9260 5.2)."""
    if not i64(row["chunks"]) & INIT:
        return False
    if one["closed"] or two["closed"]:
        return True
    return one["state"] != INACTIVE and i64(one["start_seq"]) != i64(row["ack"])


@inner
def _letters(flow: Any, history: Any, bits: Word, originator: bool) -> None:
    if bits & INIT:
        once(flow, history, H_SYN, L_SYN, originator)
    if bits & INIT_ACK:
        once(flow, history, H_SYN, L_SYN_ACK, originator)
    if bits & DATA:
        once(flow, history, H_DATA, L_DATA, originator)
    elif bits & (COOKIE_ECHO | COOKIE_ACK | OTHER):
        once(flow, history, H_ACK, L_ACK, originator)
    if bits & SHUTDOWN:
        once(flow, history, H_FIN, L_FIN, originator)
    if bits & ABORT:
        once(flow, history, H_RST, L_RST, originator)


@inner
def _opening(flow: Any, end: Any, peer: Any, row: Any, bits: Word, t: Word) -> None:
    """States of an association that is being set up, or whose start was not seen."""
    if bits & (INIT | INIT_ACK):
        end["start_seq"] = row["ack"]
    if bits & INIT:
        if peer["state"] == SYN_SENT or peer["state"] == SYN_ACK_SENT:  # both at once, or captured in the wrong order
            end["state"], peer["state"] = ESTABLISHED, ESTABLISHED
        elif end["state"] == INACTIVE:
            end["state"] = SYN_SENT
            flow["attempt_at"] = t + ATTEMPT_DELAY
    elif bits & INIT_ACK:
        if end["state"] == INACTIVE:
            end["state"] = SYN_ACK_SENT
        if peer["state"] == SYN_SENT:
            end["state"], peer["state"] = ESTABLISHED, ESTABLISHED
        elif peer["state"] == INACTIVE:
            flow["attempt_at"] = t + ATTEMPT_DELAY
    elif bits & (COOKIE_ECHO | COOKIE_ACK):
        end["state"] = ESTABLISHED
        if peer["state"] == SYN_SENT or peer["state"] == SYN_ACK_SENT:
            peer["state"] = ESTABLISHED
    elif end["state"] == INACTIVE:
        end["state"] = ESTABLISHED if peer["state"] == ESTABLISHED else PARTIAL


@inner
def sctp_packet(flow: Any, history: Any, ends: Any, slot: Word, d: Word, row: Any, t: Word) -> None:
    """One SCTP packet from side `d`: states, history, and when the association goes away."""
    end, peer = ends[2 * slot + d], ends[2 * slot + 1 - d]
    bits = i64(row["chunks"])
    _letters(flow, history, bits, d == flow["flip"])
    if not (end["closed"] and peer["closed"]):
        flow["last"] = t
    if end["state"] < CLOSED:
        _opening(flow, end, peer, row, bits, t)
        if bits & SHUTDOWN:
            end["previous"], end["state"], end["closed"] = end["state"], CLOSED, 1
    if bits & ABORT and end["state"] != RESET and not (end["closed"] and peer["closed"]):
        end["previous"], end["state"], end["closed"] = end["state"], RESET, 1
    if flow["delete_at"] == 0 and (end["state"] == RESET or (end["closed"] and (peer["closed"] or peer["state"] == INACTIVE))):
        flow["delete_at"] = flow["last"] + CLOSE_DELAY
