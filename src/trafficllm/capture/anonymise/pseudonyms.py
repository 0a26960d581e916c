"""Addresses under other names: Crypto-PAn for IP (Xu, Fan, Ammar, Moon, ICNP 2002), a keyed cipher for MAC.

Two addresses that share their first k bits share them afterwards too. The same key gives the same names in every capture.
"""

from __future__ import annotations

from functools import lru_cache

KEY = 32
"""Bytes of a key: 16 for AES-128, 16 that become the padding."""
_CACHE = 1 << 17
_NOWHERE = bytes(16)
_NO_HOST4 = frozenset({0, 127, *range(224, 256)})
_NO_HOST6 = frozenset({0x00, 0xFE, 0xFF})


class CryptoPan:
    """The prefix-preserving map of its paper, bit by bit as the authors' program has it.

    `key` 32 bytes. ValueError for another length.

    >>> CryptoPan(bytes(range(32)))(bytes([192, 0, 2, 1])).hex()
    '025a5d11'
    """

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        if len(key) != KEY:
            raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
        cipher = Cipher(algorithms.AES(key[:16]), modes.ECB())  # noqa: S305 - Crypto-PAn uses AES as a random function of one block
        self.block = cipher.encryptor().update
        self._pad = self.block(key[16:])

    def __call__(self, address: bytes) -> bytes:
        """The name of an address of 4 or 16 bytes."""
        size, bits = len(address), 8 * len(address)
        value, pad = int.from_bytes(address, "big"), int.from_bytes(self._pad[:size], "big")
        rest = self._pad[size:]
        asked = bytearray()
        for k in range(bits):  # the first k bits of the address, then the padding's
            low = (1 << (bits - k)) - 1
            asked += (value & ~low | pad & low).to_bytes(size, "big") + rest
        flips = 0
        for byte in self.block(bytes(asked))[::16]:
            flips = flips << 1 | byte >> 7
        return (value ^ flips).to_bytes(size, "big")


class Pseudonyms:
    """Names for the hosts of a capture.

    What names no host keeps its meaning: broadcast, multicast, loopback, the unspecified address, a link-local prefix. A host
    whose name would fall among these is named once more (cycle walking), so that unicast stays unicast.
    """

    def __init__(self, key: bytes) -> None:
        self._pan = CryptoPan(key)
        self.ip = lru_cache(_CACHE)(self._ip)
        self.mac = lru_cache(_CACHE)(self._mac)

    def _ip(self, address: bytes) -> bytes:
        """The name of an IPv4 or IPv6 address."""
        if len(address) == 16:
            return self._ip6(address)
        if address[0] in _NO_HOST4:
            return address
        return self._walked(address, _NO_HOST4)

    def _ip6(self, address: bytes) -> bytes:
        if address[:15] == _NOWHERE[:15] and address[15] <= 1:  # :: and ::1
            return address
        if address[0] == 0xFF:
            return _group(address)
        if address[:12] == _NOWHERE[:10] + b"\xff\xff":  # RFC 4291 2.5.5.2: an IPv4 address inside
            return address[:12] + self.ip(address[12:])
        if address[0] == 0xFE and address[1] & 0xC0 == 0x80:  # link-local: the interface identifier is often the MAC
            return b"\xfe\x80" + bytes(6) + self._pan(address)[8:]
        return self._walked(address, _NO_HOST6)

    def _walked(self, address: bytes, forbidden: frozenset[int]) -> bytes:
        name = self._pan(address)
        while name[0] in forbidden:
            name = self._pan(name)
        return name

    def _mac(self, address: bytes) -> bytes:
        """The name of a MAC: locally administered, unicast; groups stay, but for the address bits inside 33:33:ff."""
        if address[0] & 1 or not any(address):
            return address[:3] + bytes(3) if address[:3] == b"\x33\x33\xff" else address
        name = bytearray(self._pan.block(b"MAC names:" + address)[:6])
        name[0] = name[0] & 0xFC | 0x02
        return bytes(name)


def _group(address: bytes) -> bytes:
    """A multicast group without what it may carry: a unicast prefix (RFC 3306), or the end of an address (RFC 4291 2.7.1)."""
    if address[:13] == b"\xff\x02" + bytes(9) + b"\x01\xff":
        return address[:13] + bytes(3)
    return address[:2] + bytes(10) + address[12:]
