"""The codec's alphabet: one plane-16 private-use character a unit, bytes and structure in disjoint ranges.

Byte b is U+100000+b; field units start at U+100100, in the order of the table below. Plane 16 occurs in no
natural text we hold and lies outside every base vocabulary seen, so a record can neither be mistaken for
words nor change how words are split; payload cannot spell structure because the two ranges are disjoint.
"""

from __future__ import annotations

import bisect
import codecs
import math
from functools import cache

from trafficllm.core.files import sha256_bytes
from trafficllm.records.codec.page_load import MOMENTS, PARTS

CODEC_VERSION = 2
BYTE0 = 0x100000
FIELD0 = 0x100100

SIZE_EXACT = 2048
"""Sizes below are exact (two units); above, half-octave buckets named by their lower bound."""
SIZE_BOUNDS = tuple(round(2048 * 2 ** (k / 2)) for k in range(11))
IAT_BOUNDS = (0, *(1_000 << k for k in range(6)), *(round(64_000 * 2 ** (k / 3)) for k in range(78)), 3_600_000_000_000)
"""Lower bounds in ns: [0, 1 us) is "together", octaves to 64 us (below a capture's jitter), then three an
octave to an hour: coarser classes lost VPN services (.70 against .77) to trees on exact columns."""
WINDOW_BOUNDS = (0, *(1 << k for k in range(16)))
TTL_UPPER = (1, 16, 32, 48, 64, 96, 128, 192, 254, 255)
RUN_BOUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
FLAG_NAMES = ("F", "S", "R", "P", "A")
EXTRA_FLAGS = {0x20: "U", 0x40: "E", 0x80: "C"}
KINDS = ("flow", "packet", "http", "cells")
PROTOS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6"}
PORT_CLASSES = {"w": "well-known", "r": "registered", "e": "ephemeral"}
SERVICES = (
    "tls",
    "dns",
    "http",
    "ssh",
    "quic",
    "dtls",
    "smtp",
    "ftp",
    "imap",
    "pop3",
    "sip",
    "stun",
    "smb",
    "rdp",
    "ssdp",
    "irc",
    "bittorrent",
    "mysql",
    "socks",
    "redis",
    "postgresql",
    "xmpp",
    "ldap",
    "kerberos",
    "mqtt",
    "modbus",
    "dnp3",
    "iec104",
    "cotp",
    "amqp",
    "rfb",
    "bgp",
    "openvpn",
    "wireguard",
    "radius",
    "tftp",
    "other",
)

FACTS: dict[str, tuple[str, str]] = {
    "tls.handshake.version": ("u16", "tls version"),
    "tls.handshake.ciphersuite": ("n8", "tls cipher count"),
    "tls.handshake.extension.type": ("n8", "tls extension count"),
    "tls.handshake.extensions_alpn_str": ("str", "tls alpn"),
    "tls.server.version": ("u16", "tls server version"),
    "tls.server.ciphersuite": ("u16", "tls server cipher"),
    "dns.flags.authoritative": ("u8", "dns authoritative"),
    "dns.flags.rcode": ("u8", "dns rcode"),
    "dns.qry.type": ("u16", "dns query type"),
    "dns.qry.name.len": ("u8", "dns name length"),
    "dns.count.labels": ("u8", "dns labels"),
    "dns.count.answers": ("u8", "dns answers"),
    "http.request.method": ("str", "http method"),
    "http.request.uri": ("n8", "http uri length"),
    "http.request.header_count": ("u8", "http headers"),
    "http.response.code": ("u16", "http status"),
    "tls.handshake.extensions.supported_version": ("m16", "tls newest version"),
    "tls.server.supported_version": ("u16", "tls chosen version"),
    "http.response.header_count": ("u8", "http answer headers"),
    "quic.version": ("u32", "quic version"),
    "tls.quic.parameter.type": ("set", "quic parameters"),
    "tls.quic.parameter.length": ("set", "quic parameter lengths"),
}
"""Facts the codec carries, in the order it writes them: tshark-style name -> (value form, English words).

u8 and u16 are numbers in one and two byte units, clipped; n8 is how many values or characters there are; m16 the largest
of several numbers, GREASE (RFC 8701) aside; u32 four byte units; str at most FACT_TEXT byte units; set at most FACT_SET of them, several
numbers clipped to a byte each, in rising order: clients shuffle their transport parameters from one connection to the next."""
FACT_WIDTH = {"u8": 1, "n8": 1, "u16": 2, "m16": 2, "u32": 4}
FACT_TEXT = 8
FACT_SET = 16


def _flag_word(bits: int) -> str:
    return "".join(name for k, name in enumerate(FLAG_NAMES) if bits >> k & 1) or "none"


def _extra_word(bits: int) -> str:
    return "".join(name for bit, name in EXTRA_FLAGS.items() if bits & bit)


EXTRA_COMBOS = tuple(bits for bits in range(0x20, 0x100, 0x20))


def _field_table() -> list[tuple[str, str]]:
    """(name, English meaning) of every field unit, in code point order. Append only: order is the format."""
    rows: list[tuple[str, str]] = [(f"kind:{kind}", f"{kind} record") for kind in KINDS]
    rows += [("end", "end of record"), ("payload:orig", "payload sent by the client")]
    rows += [("payload:resp", "payload sent by the server"), ("mask", "hidden bytes")]
    rows += [("ports", "port numbers"), ("icmp", "icmp type and code"), ("proto", "protocol number")]
    rows += [(f"proto:{name}", name) for name in PROTOS.values()]
    rows += [("ip4", "IPv4"), ("ip6", "IPv6")]
    for end, who in (("orig_p", "client"), ("resp_p", "server")):
        rows += [(f"{end}:{key}", f"{word} {who} port") for key, word in PORT_CLASSES.items()]
    rows += [("dir:orig", "client to server"), ("dir:resp", "server to client")]
    rows += [(f"flags:{_flag_word(bits)}", f"tcp flags {_flag_word(bits)}") for bits in range(32)]
    rows += [(f"flags+{_extra_word(bits)}", f"tcp flags plus {_extra_word(bits)}") for bits in EXTRA_COMBOS]
    rows += [("size:0", "size 0")]
    rows += [(f"size:{k * 32}+", f"size {k * 32} plus") for k in range(64)]
    rows += [(f"size:+{k}", f"plus {k}") for k in range(32)]
    rows += [(f"size>={low}", f"size over {low}") for low in SIZE_BOUNDS]
    rows += [(f"iat:{span(low)}", f"after {span(low)}") for low in IAT_BOUNDS]
    rows += [(f"window:{low}", f"window {low}") for low in WINDOW_BOUNDS]
    rows += [(f"ttl:{high}", f"ttl {high}") for high in TTL_UPPER]
    rows += [(f"run:{low}", f"length {low}") for low in RUN_BOUNDS]
    rows += [(f"service:{name}", f"service {name}") for name in SERVICES]
    rows += [(f"fact:{name}", words) for name, (_, words) in FACTS.items()]
    rows += [("total:orig", "cells sent by the client"), ("total:resp", "cells sent by the server")]
    rows += [(f"cumul:{part}", f"cells sent up to part {part}") for part in range(1, PARTS + 1)]
    rows += [(f"moment:{part}", f"time of part {part}") for part in range(1, MOMENTS + 1)]
    return rows


def span(nanoseconds: int) -> str:
    """A duration for people: 0, 64us, 1.02ms, 3600s."""
    for suffix, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        if nanoseconds >= scale:
            value = nanoseconds / scale
            return f"{value:.3g}{suffix}" if value < 1000 else f"{nanoseconds // scale}{suffix}"
    return f"{nanoseconds}"


_TABLE = tuple(_field_table())
BYTE_UNITS: tuple[str, ...] = tuple(chr(BYTE0 + b) for b in range(256))
FIELD_UNITS: tuple[str, ...] = tuple(chr(FIELD0 + k) for k in range(len(_TABLE)))
UNITS: tuple[str, ...] = BYTE_UNITS + FIELD_UNITS
"""All single units: 256 bytes, then the field units."""

_BY_NAME = {name: FIELD_UNITS[k] for k, (name, _) in enumerate(_TABLE)}
UNIT_NAMES: dict[str, str] = {unit: f"{b:02x}" for b, unit in enumerate(BYTE_UNITS)}
UNIT_NAMES |= {unit: name for name, unit in _BY_NAME.items()}
"""Unit -> short name, for pretty printing ("16", "dir:orig", "size:+5")."""


def unit(name: str) -> str:
    """The unit of a named field value; KeyError for a name that is none.

    >>> UNIT_NAMES[unit("dir:orig")]
    'dir:orig'
    """
    return _BY_NAME[name]


def byte_unit(value: int) -> str:
    """The unit of a byte 0..255."""
    return BYTE_UNITS[value]


def bytes_units(data: bytes) -> str:
    """Units of many bytes, one each.

    >>> bytes_units(b"AB") == byte_unit(65) + byte_unit(66)
    True
    """
    wide = bytearray(b"\0\0\x10\0" * len(data))
    wide[::4] = data
    return codecs.utf_32_le_decode(wide)[0]  # 96 bytes: 0.4 us, against 4 us by table


def is_byte(char: str) -> bool:
    """Whether a unit stands for a byte."""
    return BYTE0 <= ord(char) < BYTE0 + 256


def meaning(char: str) -> str:
    """English words of a unit, from which a base initialises its embedding ("byte 0x41 A")."""
    code = ord(char)
    if is_byte(char):
        value = code - BYTE0
        return f"byte 0x{value:02x}" + (f" {chr(value)}" if 32 < value < 127 else "")
    return _TABLE[code - FIELD0][1]


DIR_UNITS = (unit("dir:orig"), unit("dir:resp"))
FLAG_UNITS = tuple(unit(f"flags:{_flag_word(bits)}") for bits in range(32))
EXTRA_UNITS = {bits: unit(f"flags+{_extra_word(bits)}") for bits in EXTRA_COMBOS}
SIZE_ZERO = unit("size:0")
SIZE_HIGH = tuple(unit(f"size:{k * 32}+") for k in range(64))
SIZE_LOW = tuple(unit(f"size:+{k}") for k in range(32))
SIZE_OVER = tuple(unit(f"size>={low}") for low in SIZE_BOUNDS)
SIZE_UNITS = (SIZE_ZERO, *(SIZE_HIGH[n >> 5] + SIZE_LOW[n & 31] for n in range(1, SIZE_EXACT)))
IAT_UNITS = tuple(unit(f"iat:{span(low)}") for low in IAT_BOUNDS)
WINDOW_UNITS = tuple(unit(f"window:{low}") for low in WINDOW_BOUNDS)
TTL_UNITS = tuple(unit(f"ttl:{high}") for high in TTL_UPPER)
RUN_UNITS = tuple(unit(f"run:{low}") for low in RUN_BOUNDS)
TOTAL_UNITS = (unit("total:orig"), unit("total:resp"))
CUMUL_UNITS = tuple(unit(f"cumul:{part}") for part in range(1, PARTS + 1))
MOMENT_UNITS = tuple(unit(f"moment:{part}") for part in range(1, MOMENTS + 1))


def size_units(size: int) -> str:
    """One or two units of a size in bytes; 0 is one unit, 2048 and more a half-octave bucket."""
    if size < SIZE_EXACT:
        return SIZE_UNITS[size]
    return SIZE_OVER[bisect.bisect_right(SIZE_BOUNDS, size) - 1]


def iat_bucket(nanoseconds: int) -> int:
    """Index into IAT_BOUNDS of an inter-arrival time."""
    return bisect.bisect_right(IAT_BOUNDS, nanoseconds) - 1 if nanoseconds > 0 else 0


@cache
def iat_value(bucket: int) -> int:
    """The time a bucket stands for: the geometric middle, 0 for the first, an hour for the last."""
    if bucket == 0 or bucket == len(IAT_BOUNDS) - 1:
        return IAT_BOUNDS[bucket]
    return round(math.sqrt(IAT_BOUNDS[bucket] * IAT_BOUNDS[bucket + 1]))


def window_bucket(window: int) -> int:
    """Index into WINDOW_BOUNDS: 0 is a closed window, then octaves."""
    return window.bit_length()


def window_value(bucket: int) -> int:
    """The window a bucket stands for: its largest, so that 0, 1 and 65535 stand for themselves."""
    return (1 << bucket) - 1


def ttl_bucket(ttl: int) -> int:
    """Index into TTL_UPPER of a TTL or hop limit."""
    return bisect.bisect_left(TTL_UPPER, ttl)


def run_bucket(length: int) -> int:
    """Index into RUN_BOUNDS of a masked run's length in bytes (at least 1)."""
    return bisect.bisect_right(RUN_BOUNDS, length) - 1


def codec_hash() -> str:
    """SHA-256 over the version and the unit table: equal hashes read each other's records."""
    text = f"{CODEC_VERSION}\n" + "\n".join(f"{ord(char):x} {UNIT_NAMES[char]}" for char in UNITS)
    return sha256_bytes(text.encode())
