"""Numbers out of a frame's bytes, and what the walk through its headers leaves behind.

Every kernel in this room returns instead of raising and reads only inside `[pos, end)`. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from typing import Any

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.core.types import I64, U8

OK, TRUNCATED, UNKNOWN, DEPTH = 0, 1, 2, 3
NO_TYPE = 0
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ETHERNET = 0x6558  # Transparent Ethernet Bridging (RFC 1701): a whole frame
LINK = 0x10000
"""What follows is a frame of a link type: LINK + its LINKTYPE_ number. Kinds up to 0xFFFF are EtherTypes."""
BY_VERSION, PADDED_WLAN, SWAPPED_WLAN = 0x20000, 0x20001, 0x20002
"""What follows is told by the version in an IP header; is 802.11 padded to four bytes; or with its first two bytes swapped."""
PPP, LLC, WLAN = LINK + 9, LINK + 100, LINK + 105

Place = tuple[Any, Any, Any]
"""position of the next header, its kind, error code."""

MET_ETHERNET, MET_TAG, MET_SERVICE_TAG, MET_ARP, MET_IPV4, MET_IPV6, MET_TRANSPORT, MET_PIECE = range(1, 9)
TRAIL_ENTRY, TRAIL_START, _MOST = 4, 3, 40
TRAIL = TRAIL_START + TRAIL_ENTRY * _MOST
"""int64 slots of a trail: how many entries; the first packet of an 802.11 aggregate (position, its frame's end; 0: there is none);
(what was met, position, two numbers) of each entry, further ones are left out. A trail of TRAIL_START slots takes no entries."""


@inner
def note(trail: I64, what: Word, pos: Word, one: Word, two: Word) -> None:
    """Put a header that was met on the trail."""
    if trail.shape[0] == TRAIL_START:
        return
    count = trail[0]
    if count < _MOST:
        at = TRAIL_START + TRAIL_ENTRY * count
        trail[at], trail[at + 1], trail[at + 2], trail[at + 3] = what, pos, one, two
        trail[0] = count + 1


@inner
def forget(trail: I64, what: Word) -> None:
    """Take the last header off the trail if it was a `what`."""
    count = trail[0]
    if count > 0 and trail[TRAIL_START + TRAIL_ENTRY * (count - 1)] == what:
        trail[0] = count - 1


@inner
def be16(buf: U8, pos: Word) -> Word:
    """Big-endian 16 bits."""
    return i64(buf[pos]) << 8 | i64(buf[pos + 1])


@inner
def be32(buf: U8, pos: Word) -> Word:
    """Big-endian 32 bits."""
    return be16(buf, pos) << 16 | be16(buf, pos + 2)


@inner
def le16(buf: U8, pos: Word) -> Word:
    """Little-endian 16 bits."""
    return i64(buf[pos]) | i64(buf[pos + 1]) << 8


@inner
def le32(buf: U8, pos: Word) -> Word:
    """Little-endian 32 bits."""
    return le16(buf, pos) | le16(buf, pos + 2) << 16
