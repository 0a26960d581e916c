"""Ports of compiled flows: the plan's where its payload stands up to that port's parsers, else a neutral one.

Analysers choose a parser by port. Filler on a port that belongs to a binary protocol is called malformed, so such
a flow moves to a port of the same class (well-known, registered, ephemeral) that no parser claims, and is counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from trafficllm.capture.compile import dns as wellformed_dns
from trafficllm.capture.compile import http as wellformed_http
from trafficllm.capture.flows.conn import likely_servers

KEPT = {"tcp": frozenset((21, 23, 25, 43, 79, 80, 110, 119, 143, 443, 465, 587, 853, 993, 995, 3128, 8080, 8443)), "udp": frozenset((443,))}
"""Service ports whose parsers take any bytes (lines of text, TLS that `wellformed` tiles): 300 random flows each, 0 malformed."""
_HTTP = frozenset((80, 3128, 8080))
NEUTRAL = {"w": 1012, "r": 8989, "e": 61_000}
"""Responder ports without a parser, by class."""
SPEAKERS = {"tcp": {"w": 81, "r": 8888, "e": 8888}, "udp": dict.fromkeys("wre", 443)}
"""Responder ports for flows the responder is first seen to speak in: no parser claims them, and readers that turn
such flows by well-known ports (Zeek's likely servers) still see who was the server."""
CLIENTS = {"w": (1012, 1013), "r": (37_100, 41_100), "e": (60_002, 65_536)}
"""Originator ports [from, to) without a parser, by class."""
SERVICE_PORTS = {
    "tls": 443,
    "dns": 53,
    "http": 80,
    "ssh": 22,
    "quic": 443,
    "smtp": 25,
    "ftp": 21,
    "imap": 143,
    "pop3": 110,
    "sip": 5060,
    "stun": 3478,
    "smb": 445,
    "ntp": 123,
    "dhcp": 67,
    "snmp": 161,
    "dtls": 443,
}
"""Where a service is expected when only its name is known."""

_TCP = (
    "0 7 13 19-23 25 37 42-43 49 53 70 79-80 88 102 104 110-111 119 123 139 143 161-162 179 199 210 323-324 389 427 443 445 "
    "464-465 473 500 502 512-515 524 547-548 554 564 587 631 636 639 646-647 674 705 802 829 853-854 862 873 925 988 993 "
    "995 1080 1090 1099 1102 1153 1194 1213 1300 1344 1433 1521 1533 1547 1723 1755 1861 1863 1883 1900 1935 1978-1979 1998 "
    "2000-2001 2065 2099 2123 2126 2152 2190 2221 2234 2240 2269 2321-2322 2345 2401 2404 2424 2427 2433 2443 2501-2502 "
    "2571 2575 2600 2710 2727 2812 2855 2869 2944-2945 3002-3003 3006 3014 3016-3019 3050 3128 3132 3205 3245-3252 3268 "
    "3288 3306 3333-3334 3357 3369 3386 3389 3452 3478 3496 3567 3632 3671 3689 3724 3804 3860 3863 3868 3918 4002 4058 "
    "4155 4189 4222-4224 4249-4250 4321 4342 4369 4420 4551 4555-4556 4661-4663 4712 4730 4737 4739 4788 4840 4880 5000 "
    "5010 5060-5061 5066 5084 5094 5190 5222 5253 5353 5432 5445 5500-5501 5534 5555 5671-5672 5683-5684 5701 5721 5868 "
    "5900-5901 5985 5997 6000-6063 6068 6075 6084 6121 6160 6346 6379 6417 6653 6666-6668 6881-6889 7000 7075 7171-7172 "
    "7236 7275-7276 7871 7890 7900 7911 7930 8004 8009-8010 8023 8074 8080 8085 8088 8554 8567 8883 9000 9009 9042 9092 "
    "9168 9300 9418 9600 9955-9956 9999-10000 10288 11207 11210-11211 11371 13400 13819 14001 15740 17500 17755-17756 19006 "
    "19042-19043 19506 19543 19999-20000 20256 21064 22222 24800 27017 29418 30000-30200 34980 44321-44322 44818 48049 "
    "48898 57000 "
)
_UDP = (
    "0 7 13 19 37 49 53 67-69 88 111 123 137-138 161-162 173 177 213 269 319-320 389 427 434 464 473 496 500 502 513-514 "
    "520-521 524-525 539 546-547 573 623 631 646 654 664 698-699 701 750 853-854 910 921 925 1001 1044 1052 1069 1089-1091 "
    "1101 1113 1153 1194 1293 1547 1628-1629 1645-1646 1700-1701 1718-1719 1745 1755 1812-1813 1900 1985 2029 2048 2055 "
    "2067 2099 2123 2152 2157 2190 2221-2222 2231 2246 2268-2269 2313 2345 2424 2427-2428 2727 2887 2944-2945 2948-2949 "
    "2960 3000 3121 3130 3205 3222 3250 3333 3343 3357 3386 3389 3452 3455 3478 3483 3503 3540 3544 3567 3622 3671 "
    "3784-3785 3792 3799 3804 3819 3863 3956 4000 4011 4058 4305-4307 4341-4342 4500 4533-4534 4551 4555-4556 4569 4665 "
    "4672 4713 4729 4739 4754 4784 4789-4791 4991 5000-5001 5031 5050 5060 5072 5094 5246-5247 5264-5265 5350-5351 5353 "
    "5355 5404-5405 5436 5555 5567 5678 5683-5684 5868 6060 6073 6081 6084 6087 6118 6160 6343 6543 6635 6666 6696 6784 "
    "6970 7000-7010 7021 7074-7075 7255 7275 7784 8000 8116 8161 8200 8211 8600 8611-8614 8755 8767 8805 8848 9003 "
    "9200-9203 9214 9600 9875 9877 9899 9901 9955-9956 9996 9999 10253 10500 11211 11273 11898 12000-12004 12220 "
    "12222-12223 13400 13819 13907 13910 17220 17500 17754-17756 18246 19132 19788 19948 19999-20000 20561 22222 23272 "
    "24576-24577 25826 26000 27036 27500 27910 27950-27953 27960-27963 30030 32000 32512 34962 34980 37008 41170 44818 "
    "45564 47000 47808 49999 54328 56000-56001 56500-56501 57000-57001 57032-57033 57500-57501 57532-57533 59000-59001 "
    "59032-59033 59500-59501 59532-59533 60001 "
)
"""Ports that some dissector of Wireshark 4.0 claims (`tshark -G decodes`), as ranges."""


@lru_cache(maxsize=2)
def claimed(transport: str) -> frozenset[int]:
    """Ports of "tcp" or "udp" on which an analyser expects a certain protocol."""
    ports: set[int] = set()
    for part in (_TCP if transport == "tcp" else _UDP).split():
        low, _, high = part.partition("-")
        ports.update(range(int(low), int(high or low) + 1))
    return frozenset(ports)


def port_class(port: int) -> str:
    """'w' below 1024, 'r' below 49152, 'e' above (RFC 6335 section 6)."""
    return "w" if port < 1024 else "r" if port < 49152 else "e"


def client_port(transport: str, port: int, rng: random.Random, repairs: Counter[str]) -> int:
    """The originator's port: the plan's if no parser claims it, else one of its class; -1 asks for an ephemeral one."""
    wanted = 0 < port < 65536
    if wanted and port not in claimed(transport):
        return port
    repairs["port.moved"] += wanted
    low, high = CLIENTS[port_class(port) if wanted else "e"]
    return rng.randrange(low, high)


def service_port(transport: str, port: int, contents: Sequence[bytes], repairs: Counter[str], *, speaks_first: bool = False) -> int:
    """The responder's port: the plan's if unclaimed or kept, or DNS when every datagram is a message.

    `speaks_first`: the first packet is the responder's, so the port must be that of a likely server.
    """
    valid = 0 < port < 65536
    if not valid:
        repairs["port.range"] += 1
    elif _stands(transport, port, contents) and (not speaks_first or likely_servers()[int(transport == "udp"), port]):
        return port
    repairs["port.moved"] += valid
    kind = port_class(port) if valid else "r"
    return SPEAKERS[transport][kind] if speaks_first else NEUTRAL[kind]


def _stands(transport: str, port: int, contents: Sequence[bytes]) -> bool:
    if transport == "tcp" and port in _HTTP:
        return all(_line_of_http(content) for content in contents)
    if transport == "tcp" and port in _SHAPED:
        return all(map(_SHAPED[port], filter(None, contents)))
    if port not in claimed(transport) or port in KEPT[transport]:
        return True
    return transport == "udp" and port in wellformed_dns.PORTS and all(map(wellformed_dns.is_message_size, map(len, contents)))


def _wow(content: bytes) -> bool:
    """A logon challenge of World of Warcraft, or the answer to one: their parser reads lengths out of the middle of them."""
    challenge = content[:2] == b"\0\0" and content[4:8] == b"WoW\0" and len(content) > _WOW_NAME
    if challenge:
        return int.from_bytes(content[2:4], "little") == len(content) - 4 and content[_WOW_NAME] == len(content) - _WOW_NAME - 1
    return len(content) == _WOW_ANSWER and content[:2] == b"\0\0" and content[35:38] == b"\1\7\x20" and not content[-1]


def _lines(content: bytes) -> bool:
    """Text in whole lines, as chat protocols send it."""
    return content.isascii() and content.endswith(b"\n") and all(0x20 <= value < 0x7F or value in b"\r\n" for value in content)


_WOW_NAME, _WOW_ANSWER = 33, 119
"""Where a challenge says how long the account's name is; bytes of an answer."""
_SHAPED = {3724: _wow, 6667: _lines}
"""TCP ports whose parsers take what has a certain shape: all messages of a flow, or it moves."""


def _line_of_http(content: bytes) -> bool:
    """On HTTP ports a segment with a line end that is no message is read as a broken header (1 of 6,575 flows)."""
    return wellformed_http.looks_like(content) or not (b"\r" in content or b"\n" in content)
