"""IEEE 802.11 frames, bare or behind the headers that capturing cards put before them."""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.link.words import LLC, NO_TYPE, OK, PADDED_WLAN, TRUNCATED, WLAN, Place, be32, le16, le32
from trafficllm.core.types import I64, U8

_PRISM, _RADIOTAP, _AVS = 119, 127, 163
_DATAPAD = 0x20  # radiotap's flag: the header is padded to four bytes
_MAX_PRESENT = 8  # words of radiotap's presence mask


@inner
def _mesh(buf: U8, pos: Word, end: Word, toward: Word) -> Word:
    """Bytes of a mesh control field (IEEE 802.11 9.2.4.7.3) at `pos`, 0 where LLC begins there.

    The bit that says so is only defined between mesh stations; elsewhere it is part of a buffer state.
    """
    if end - pos < 6 or buf[pos] & 0xFC or (buf[pos] & 3) == 3 or toward == 1:
        return 0
    return 6 + 6 * (i64(buf[pos]) & 3)


@inner
def wlan(buf: U8, pos: Word, end: Word, padded: bool, swapped: bool, trail: I64) -> Place:
    """Data frames that are not encrypted; anything else carries no IP. Of an aggregate (A-MSDU) the first packet."""
    if pos + 10 > end:  # the shortest of all, an acknowledgement
        return pos, NO_TYPE, TRUNCATED
    control, flags = i64(buf[pos]), i64(buf[pos + 1])
    if swapped:
        control, flags = flags, control
    if (control >> 2) & 3 == 1:
        return pos, NO_TYPE, OK
    if pos + 24 > end:
        return pos, NO_TYPE, TRUNCATED
    if (control >> 2) & 3 != 2 or control & 0x43 or flags & 0x40:
        return pos, NO_TYPE, OK
    head = 24 + (6 if flags & 3 == 3 else 0)
    service = i64(0)
    if control & 0x80:
        if pos + head + 2 > end:
            return pos, NO_TYPE, TRUNCATED
        service = le16(buf, pos + head)
        head += 2 + (4 if flags & 0x80 else 0)  # HT control
    if padded:
        head = (head + 3) & ~3
    pos += head
    if service & 0x80:
        if pos + 14 > end:
            return pos, NO_TYPE, TRUNCATED
        trail[1], trail[2] = pos, end
        return pos + 14, LLC, OK
    if service & 0x100:
        pos += _mesh(buf, pos, end, flags & 3)
    return pos, LLC, OK


@inner
def _is_padded(buf: U8, pos: Word, end: Word) -> Word:
    """Whether radiotap's flags, behind its presence mask and clock, say so."""
    at, first = pos + 4, le32(buf, pos + 4)
    for _ in range(_MAX_PRESENT):
        if at + 8 > end or not buf[at + 3] & 0x80:
            break
        at += 4
    at += 4
    if not first & 2:
        return False
    if first & 1:
        at = pos + ((at - pos + 7) & ~7) + 8
    return at < end and buf[at] & _DATAPAD != 0


@inner
def radio(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """Radiotap (127), Prism (119) and AVS (163) before an 802.11 frame."""
    if pos + 8 > end:
        return pos, NO_TYPE, TRUNCATED
    skip = le16(buf, pos + 2)
    if link != _RADIOTAP:
        skip = be32(buf, pos + 4)
        if link == _PRISM and be32(buf, pos) < 0x80211000:
            skip = i64(144)
    if skip < 8 or skip > end - pos:
        return pos, NO_TYPE, TRUNCATED
    if link == _RADIOTAP and _is_padded(buf, pos, pos + skip):
        return pos + skip, PADDED_WLAN, OK
    return pos + skip, WLAN, OK
