"""One frame of every link type and tunnel that is read: the same UDP packet inside each."""

from __future__ import annotations

import struct

from capture_samples import A, B, ethernet, ipv4, ipv6, udp

X, Y = bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
DATA = b"sixteen bytes of"
IP = ipv4(17, udp(40000, 9999, DATA))
IP6 = ipv6(17, udp(40000, 9999, DATA))
FRAME = ethernet(IP)
SNAP = b"\xaa\xaa\x03\0\0\0\x08\0"


def typed(kind: int, body: bytes) -> bytes:
    """An Ethernet frame of an EtherType."""
    return FRAME[:12] + struct.pack("!H", kind) + body


def gre(kind: int, body: bytes, flags: int = 0) -> bytes:
    """GRE over IPv4 on Ethernet."""
    return ethernet(ipv4(47, struct.pack("!HH", flags, kind) + body, X, Y))


def over(port: int, body: bytes, *, sport: int = 50000) -> bytes:
    """UDP over IPv4 on Ethernet."""
    return ethernet(ipv4(17, udp(sport, port, body), X, Y))


def wlan(body: bytes, *, control: int = 0x88, flags: int = 1, service: bytes = b"\0\0") -> bytes:
    """An 802.11 data frame: service data unless `control` says else."""
    return bytes((control, flags)) + bytes(2) + bytes(range(18)) + bytes(2) + (service if control & 0x80 else b"") + body


def subframe(body: bytes, *, last: bool = False) -> bytes:
    """One packet of an A-MSDU."""
    one = bytes(12) + struct.pack("!H", len(body)) + body
    return one if last else one + bytes(-len(one) % 4)


def field(kind: int, body: bytes, order: str) -> bytes:
    """A field of the netfilter log."""
    return struct.pack(order + "HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def nflog(order: str) -> bytes:
    return b"\x02\0\0\1" + field(1, b"\x08\0\1\0", order) + field(10, b"prefix\0", order) + field(9, IP, order)


def erf(kind: int, body: bytes, extensions: bytes = b"") -> bytes:
    kind |= 0x80 if extensions else 0
    return struct.pack("<Q", 1 << 32) + struct.pack("!BBHHH", kind, 4, 16 + len(extensions + body), 0, len(body)) + extensions + body


PKTAP = struct.pack("<III24sII", 108, 1, 1, b"en0", 1, 2) + bytes(64)
PFLOG = b"\x3d\x02\0\0em0" + bytes(57)
MGC = b"MGC"
NSH = b"\x00\x02\x02\x01" + b"\0\0\1\xff"

LINKS: dict[str, tuple[int, bytes]] = {
    "Ethernet": (1, FRAME),
    "VLAN and QinQ": (1, typed(0x88A8, b"\0\7\x81\0\0\x08\x08\0" + IP)),
    "MPLS": (1, typed(0x8847, bytes.fromhex("0001004000020140") + IP)),
    "MPLS pseudowire": (1, typed(0x8847, bytes.fromhex("00010140") + bytes(4) + FRAME)),
    "PPPoE": (1, typed(0x8864, struct.pack("!BBHH", 0x11, 0, 1, 2 + len(IP)) + b"\0\x21" + IP)),
    "VN-Tag": (1, typed(0x8926, bytes(4) + b"\x08\0" + IP)),
    "Cisco CMD": (1, typed(0x8909, b"\1\1\0\1\0\x64\x08\0" + IP)),
    "Cisco TTag": (1, typed(0x8905, bytes(6) + b"\x08\0" + IP)),
    "FabricPath": (1, typed(0x8903, b"\0\1" + FRAME)),
    "NSH": (1, typed(0x894F, NSH + IP)),
    "NSH and Ethernet": (1, typed(0x894F, NSH[:3] + b"\3" + NSH[4:] + FRAME)),
    "802.1ah": (1, typed(0x88E7, bytes(4) + FRAME)),
    "HSR": (1, typed(0x892F, struct.pack("!HH", 0x0000 | 6 + len(IP), 1) + b"\x08\0" + IP)),
    "PRP": (1, FRAME + struct.pack("!HHH", 1, 0xA000 | len(IP) + 6, 0x88FB)),
    "802.1CB": (1, typed(0xF1C1, bytes(4) + b"\x08\0" + IP)),
    "802.1BR": (1, typed(0x893F, bytes(6) + b"\x08\0" + IP)),
    "MACsec clear text": (1, typed(0x88E5, b"\x20\0\0\0\0\1" + bytes(8) + b"\x08\0" + IP + bytes(16))),
    "MACsec clear text without a channel": (1, typed(0x88E5, b"\0\0\0\0\0\1" + b"\x08\0" + IP + bytes(16))),
    "LLC and SNAP": (1, typed(len(SNAP + IP), SNAP + IP)),
    "PKTAP": (258, PKTAP + FRAME),
    "PKTAP and raw IP": (258, PKTAP[:8] + struct.pack("<I", 12) + PKTAP[12:] + IP),
    "NFLOG, little-endian": (239, nflog("<")),
    "NFLOG, big-endian": (239, nflog(">")),
    "PFLOG": (117, PFLOG + IP),
    "ENC": (109, struct.pack("<III", 2, 0x100, 1) + IP),
    "PPP": (9, b"\xff\x03\0\x21" + IP),
    "PPP with direction": (204, b"\0\xff\x03\0\x21" + IP),
    "PPP of pppd": (166, b"\0\xff\x03\0\x21" + IP),
    "PPP bridging": (9, b"\0\x31\0\1" + FRAME),
    "Cisco HDLC": (104, b"\x0f\0\x08\0" + IP),
    "Cisco HDLC with direction": (205, b"\0\x0f\0\x08\0" + IP),
    "Frame Relay": (107, b"\x18\x41\x03\xcc" + IP),
    "Frame Relay, SNAP": (107, b"\x18\x41\x03\0\x80\0\0\0\x08\0" + IP),
    "Frame Relay with direction": (206, b"\0\x18\x41\x03\xcc" + IP),
    "PPI and Ethernet": (192, struct.pack("<BBHI", 0, 0, 8, 1) + FRAME),
    "PPI and 802.11": (192, struct.pack("<BBHI", 0, 0, 8, 105) + wlan(SNAP + IP)),
    "Juniper Ethernet": (178, MGC + b"\x81" + struct.pack("!H", 6) + b"\1\1\1\2\1\2" + FRAME),
    "Juniper Ethernet without extensions": (178, MGC + b"\1" + FRAME),
    "Juniper without a link layer": (178, MGC + b"\3" + struct.pack("<I", 2) + IP),
    "Juniper PPP": (179, MGC + b"\1" + b"\xff\x03\0\x21" + IP),
    "Juniper Frame Relay": (180, MGC + b"\1" + b"\x18\x41\x03\xcc" + IP),
    "Juniper HDLC": (181, MGC + b"\1" + b"\x0f\0\x08\0" + IP),
    "ERF Ethernet": (197, erf(2, bytes(2) + FRAME)),
    "ERF Ethernet with an extension": (197, erf(2, bytes(2) + FRAME, bytes(8))),
    "ERF IPv4": (197, erf(22, IP)),
    "ERF HDLC": (197, erf(1, b"\x0f\0\x08\0" + IP)),
    "Linux cooked": (113, bytes(14) + b"\x08\0" + IP),
    "Linux cooked v2": (276, b"\x08\0" + bytes(18) + IP),
    "null": (0, b"\2\0\0\0" + IP),
    "loop": (108, b"\0\0\0\2" + IP),
    "raw": (101, IP),
    "FDDI": (10, b"\x57" + bytes(12) + SNAP + IP),
    "Token Ring": (6, b"\x10\x40" + bytes(range(12)) + SNAP + IP),
    "IP over Fibre Channel": (122, bytes(16) + SNAP + IP),
    "IP over InfiniBand": (242, bytes(40) + b"\x08\0\0\0" + IP),
    "netANALYZER": (240, bytes(4) + FRAME),
    "Broadcom tag before Ethernet": (282, bytes(4) + FRAME),
    "802.11": (105, wlan(SNAP + IP)),
    "802.11 without service": (105, wlan(SNAP + IP, control=8)),
    "802.11, four addresses": (105, wlan(bytes(0) + SNAP + IP, control=8, flags=1)),
    "802.11 A-MSDU": (105, wlan(subframe(SNAP + IP, last=True), service=b"\x80\0")),
    "802.11 mesh": (105, b"\x88\3" + bytes(28) + b"\0\1" + b"\0\x1f\0\0\0\1" + SNAP + IP),
    "802.11 mesh proxy": (105, b"\x88\3" + bytes(28) + b"\0\1" + b"\2\x1f\0\0\0\1" + bytes(12) + SNAP + IP),
    "Radiotap": (127, b"\0\0\x08\0\0\0\0\0" + wlan(SNAP + IP)),
    "Radiotap, padded": (127, b"\0\0\x09\0\2\0\0\0\x20" + wlan(b"\0\0" + SNAP + IP)),
    "Radiotap, padded, with a clock": (127, b"\0\0\x11\0\3\0\0\0" + bytes(8) + b"\x20" + wlan(b"\0\0" + SNAP + IP)),
}
"""Name -> (LINKTYPE_ number, frame); nothing of it is a tunnel."""

TUNNELS: dict[str, tuple[str, bytes]] = {
    "IP in IP": ("ipip", ethernet(ipv4(4, IP, X, Y))),
    "IP in IPv6": ("ipip", ethernet(ipv6(4, IP), 0x86DD)),
    "GRE": ("gre", gre(0x0800, IP)),
    "GRE and NSH": ("gre", gre(0x894F, NSH + IP)),
    "GRE and Frame Relay": ("gre", gre(0x6559, b"\x18\x41\x03\xcc" + IP)),
    "GRE of Aruba": ("gre", gre(0x8200, wlan(SNAP + IP))),
    "EoIP": ("gre", gre(0x6400, struct.pack("!H", len(FRAME)) + struct.pack("<H", 7) + FRAME, 0x2001)),
    "WCCP": ("gre", gre(0x883E, IP)),
    "WCCP version 2": ("gre", gre(0x883E, bytes(4) + IP)),
    "GRE and Cisco CMD": ("gre", gre(0x8909, b"\x08\0\1\1\0\1\0\x64" + IP)),
    "GRE over UDP": ("gre", over(4754, b"\0\0\x08\0" + IP)),
    "ERSPAN": ("erspan", gre(0x88BE, bytes(4) + b"\x10" + bytes(7) + FRAME, 0x1000)),
    "PPTP": ("pptp", gre(0x880B, struct.pack("!HHI", 4 + len(IP), 7, 1) + b"\xff\x03\0\x21" + IP, 0x3001)),
    "VXLAN": ("vxlan", over(4789, b"\x08" + bytes(7) + FRAME)),
    "VXLAN on 8472": ("vxlan", over(8472, b"\x08" + bytes(7) + FRAME)),
    "VXLAN-GPE and IPv4": ("vxlan", over(4790, b"\x0c\0\0\1\0\0\1\0" + IP)),
    "VXLAN-GPE and Ethernet": ("vxlan", over(4790, b"\x0c\0\0\3\0\0\1\0" + FRAME)),
    "VXLAN-GPE and NSH": ("vxlan", over(4790, b"\x0c\0\0\4\0\0\1\0" + NSH + IP)),
    "Geneve": ("geneve", over(6081, b"\1\0\x65\x58" + bytes(8) + FRAME)),
    "GTP-U": ("gtp", over(2152, struct.pack("!BBHI", 0x30, 0xFF, len(IP), 1) + IP)),
    "GTP version 0": ("gtp", over(3386, struct.pack("!BBHHHI", 0x1E, 0xFF, len(IP), 1, 1, 0xFFFFFFFF) + bytes(8) + IP)),
    "Teredo": ("teredo", over(3544, ipv6(17, udp(40000, 9999, DATA), b"\x20\1\0\0" + bytes(12), B * 4))),
    "L2TPv2": ("l2tp", over(1701, struct.pack("!HHH", 0x0002, 1, 2) + b"\xff\x03\0\x21" + IP)),
    "L2TPv2 with everything": (
        "l2tp",
        over(1701, struct.pack("!HHHHHHH", 0x4A02, 20 + len(IP), 1, 2, 0, 0, 2) + bytes(2) + b"\xff\x03\0\x21" + IP),
    ),
    "L2TPv2 from the server": ("l2tp", over(50000, struct.pack("!HHH", 0x0002, 1, 2) + b"\xff\x03\0\x21" + IP, sport=1701)),
    "LISP": ("lisp", over(4341, b"\xc0" + bytes(7) + IP)),
    "CAPWAP and 802.3": ("capwap", over(5247, b"\0\x10\2\0" + bytes(4) + FRAME)),
    "CAPWAP and 802.11": ("capwap", over(5247, b"\0\x10\3\0" + bytes(4) + wlan(SNAP + IP))),
    "CAPWAP and swapped 802.11": ("capwap", over(5247, b"\0\x10\3\0" + bytes(4) + b"\1\x88" + wlan(SNAP + IP)[2:])),
    "TZSP": ("tzsp", over(37008, b"\1\0\0\1\x0a\1\5\0\1" + FRAME)),
    "TZSP and 802.11": ("tzsp", over(37008, b"\1\0\0\x12\1" + wlan(SNAP + IP))),
    "EtherIP": ("etherip", ethernet(ipv4(97, b"\x30\0" + FRAME, X, Y))),
    "MPLS in UDP": ("mpls", over(6635, bytes.fromhex("00010140") + IP)),
    "MPLS in IP": ("mpls", ethernet(ipv4(137, bytes.fromhex("00010140") + IP, X, Y))),
    "AYIYA": ("ayiya", over(5072, b"\x44\x52\x11\x29" + bytes(4) + bytes(36) + IP6)),
    "authentication header in tunnel mode": ("ipip", ethernet(ipv4(51, b"\4\4\0\0" + struct.pack("!II", 1, 1) + bytes(12) + IP, X, Y))),
}
"""Name -> (what `tunnel` says, Ethernet frame)."""

NOT_TUNNELS: dict[str, bytes] = {
    "GRE and CDP": gre(0x2000, b"\2\xb4\0\0" + bytes(20)),
    "GRE and a number that is no EtherType": gre(0x0064, SNAP + IP),
    "GRE keep-alive": gre(0, b""),
    "GTP'": over(3386, b"\x0f\1\0\4\0\1" + IP),
    "L2TP control": over(1701, struct.pack("!HHHHHH", 0xC802, 12, 1, 0, 0, 0) + IP),
    "CAPWAP keep-alive": over(5247, b"\0\x10\2\x08" + bytes(4) + FRAME),
    "CAPWAP over DTLS": over(5247, b"\1" + bytes(7) + FRAME),
    "VXLAN without its flag": over(4789, bytes(8) + FRAME),
    "VXLAN-GPE with an unknown protocol": over(4790, b"\x0c\0\0\x09\0\0\1\0" + IP),
    "TZSP keep-alive": over(37008, b"\1\4\0\0\1" + FRAME),
    "EtherIP of another version": ethernet(ipv4(97, b"\x20\0" + FRAME, X, Y)),
}
"""Frames whose flow stays that of the outer header."""

NO_IP: dict[str, tuple[int, bytes]] = {
    "MACsec": (1, typed(0x88E5, b"\x2c\0\0\0\0\1" + bytes(8) + b"\x08\0" + IP)),
    "802.11 acknowledgement": (105, b"\xd4\0\0\0" + bytes(6)),
    "802.11 request to send": (105, b"\xb4\0\0\0" + bytes(12)),
    "802.11 beacon": (105, b"\x80\0" + bytes(22) + SNAP + IP),
    "802.11 encrypted": (105, wlan(SNAP + IP, flags=0x41)),
    "802.11 without data": (105, wlan(b"", control=0xC8)),
    "PPP, LCP": (9, b"\xff\x03\xc0\x21\1\1\0\4"),
}
"""Whole frames that carry no IP: nothing about them is malformed."""

TWO = IP, ipv4(17, udp(40001, 9999, DATA), A, B)
AGGREGATE = wlan(
    subframe(SNAP + TWO[0]) + subframe(SNAP + TWO[1]) + subframe(b"\xaa\xaa\x03\0\0\0\x08\x06" + bytes(28), last=True), service=b"\x80\0"
)
"""An A-MSDU of two packets and an ARP request."""
