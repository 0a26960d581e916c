"""Services told by their first bytes: one table, with Zeek's word for each, and the facts of those bytes.

A row matches the beginning of the originator's bytes ("o"), of the responder's ("r") or of either ("or"), on the ports given or on
any; where `answer` is given, the other side must begin with it. The first row that matches counts. A group `n` of the pattern is a
number, `a` the number in an ASN.1 application tag, `h` the upper five bits of a byte, `t` a text: its value becomes the field
`facts[0]` when the originator sent it, `facts[1]` when the responder did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Fields = dict[str, int | str | tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Service:
    """A row: our word and Zeek's ("" where Zeek has none without a package)."""

    name: str
    zeek: str
    sides: str
    pattern: re.Pattern[bytes]
    ports: frozenset[int] = frozenset()
    facts: tuple[str, str] = ("", "")
    answer: re.Pattern[bytes] | None = None


def _row(
    name: str, zeek: str, sides: str, pattern: bytes, ports: tuple[int, ...] = (), *, facts: tuple[str, str] = ("", ""), answer: bytes = b""
) -> Service:
    compiled = re.compile(answer, re.DOTALL) if answer else None
    return Service(name, zeek, sides, re.compile(pattern, re.DOTALL), frozenset(ports), facts, compiled)


_DER = rb"(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x84....)"
_LDAP = rb"\x30" + _DER + rb"\x02(?:\x01.|\x02..|\x03...|\x04....)(?P<a>[\x60\x61\x63\x64\x65\x77\x78])"  # RFC 4511 4.1.1
_KERBEROS = rb"(?P<a>[\x6a-\x6f\x7e])" + _DER + rb"\x30" + _DER + rb"[\xa0\xa1]\x03\x02\x01\x05"  # RFC 4120 5.4: pvno 5 comes first
_RDP = rb"\x03\x00.{3}\xe0(?:.{5}(?:Cookie:[^\r]{1,99}\r\n)?(?:\x01.\x08\x00(?P<n>.))?)?"  # MS-RDPBCGR 2.2.1.1
_SOCKS5 = rb"(?P<n>\x05)(?:\x01.|\x02..|\x03...|\x04....)(?:[\x01\x05]|\Z)"  # RFC 1928 3
_RADIUS = rb"(?P<n>[\x01\x04\x0c\x28\x2b]).[\x00-\x0f]."  # RFC 2865 3
_MODBUS = rb"..\x00\x00\x00[\x02-\xfe].(?P<n>[\x01-\x2b\x81-\xab])"
# A client's reset: session id, then nothing to acknowledge; with tls-auth an HMAC and a packet number go before, with tls-crypt a number.
_TLS_AUTH = rb".{8}(?:.{16}|.{20}|.{28}|.{32}|.{48}|.{64})\x00\x00\x00\x01.{4}\x00{5}"
_OPENVPN = rb"(?P<h>[\x38\x50])(?:.{8}\x00{5}|" + _TLS_AUTH + rb"|.{8}[\x00\x0f]\x00\x00\x01.{36})"

TCP: tuple[Service, ...] = (
    _row("redis", "redis", "o", rb"\*\d{1,5}\r\n\$\d{1,5}\r\n"),
    _row("ssh", "ssh", "or", rb"SSH-(?P<t>[^\r\n]{0,253})", facts=("ssh.protocol", "ssh.server.protocol")),
    _row("smtp", "smtp", "r", rb"220", (25, 465, 587)),
    _row("smtp", "smtp", "r", rb"220.{0,120}SMTP"),
    _row("ftp", "ftp", "r", rb"220", (21, 2121)),
    _row("ftp", "ftp", "r", rb"220.{0,120}FTP"),
    _row("pop3", "pop3", "r", rb"\+OK"),
    _row("imap", "imap", "r", rb"\* (?:OK|PREAUTH)"),
    _row("irc", "irc", "o", rb"(?:(?:NICK|USER|PASS|CAP) |STARTTLS\r?\n)", tuple(range(6660, 6670))),
    _row("smb", "smb", "or", rb".{4}(?P<n>[\xfe\xff])SMB", facts=("smb.first_byte", "smb.server.first_byte")),
    _row("cotp", "", "o", rb"\x03\x00.{3}\xe0", (102,)),  # ISO transport on its own port: Siemens S7, MMS
    _row("rdp", "rdp", "o", _RDP, facts=("rdp.negReq.requestedProtocols", "")),
    _row("bittorrent", "bittorrent", "or", rb"\x13BitTorrent"),
    _row("socks", "socks", "o", rb"(?P<n>[\x04\x05])", (1080,), facts=("socks.version", "")),
    _row("socks", "socks", "o", _SOCKS5, facts=("socks.version", ""), answer=rb"\x05[\x00-\x03\xff]"),
    _row("socks", "socks", "o", rb"(?P<n>\x04)[\x01\x02].{6}[^\x00]{0,255}\x00", facts=("socks.version", ""), answer=rb"\x00[\x5a-\x5d]"),
    _row("mysql", "mysql", "r", rb".{3}\x00\x0a(?P<t>[^\x00]{0,60})", (3306,), facts=("", "mysql.version")),
    _row("mysql", "mysql", "r", rb"..\x00\x00\x0a(?P<t>\d{1,2}\.\d[^\x00]{0,60})\x00", facts=("", "mysql.version")),
    _row("postgresql", "postgresql", "o", rb"\x00\x00\x00\x08\x04\xd2\x16[\x2e-\x30]"),
    _row("postgresql", "postgresql", "o", rb"\x00\x00..\x00\x03\x00[\x00-\x02](?:user|database|client_encoding|application_name)\x00"),
    _row("xmpp", "xmpp", "or", rb"(?:<\?xml[^>]{0,80}\?>\s*)?<stream:stream"),
    _row("ldap", "ldap_tcp", "o", _LDAP, facts=("ldap.protocolOp", "")),
    _row("kerberos", "krb_tcp", "o", rb"\x00\x00.." + _KERBEROS, facts=("kerberos.msg_type", "")),
    _row("mqtt", "mqtt", "o", rb"\x10(?:[\x80-\xff]{0,3}[\x00-\x7f])\x00(?:\x04MQTT|\x06MQIsdp)(?P<n>[\x03-\x05])", facts=("mqtt.ver", "")),
    _row("modbus", "modbus", "or", _MODBUS, (502,), facts=("modbus.func_code", "modbus.server.func_code")),
    _row("dnp3", "dnp3_tcp", "or", rb"\x05\x64[\x05-\xff]", (20000,)),
    _row("iec104", "", "or", rb"\x68\x04[\x07\x13\x43\x0b\x23\x83]\x00\x00\x00", (2404,)),
    _row("amqp", "", "o", rb"AMQP[\x00-\x03](?P<n>.)", facts=("amqp.version_major", "")),
    _row("rfb", "rfb", "r", rb"RFB (?P<t>\d{3}\.\d{3})\n", facts=("", "vnc.server_proto_ver")),
    _row("bgp", "", "or", rb"\xff{16}\x00[\x13-\xff](?P<n>[\x01-\x05])", facts=("bgp.type", "bgp.server.type")),
    _row("sip", "sip", "o", rb"(?:INVITE|REGISTER|SUBSCRIBE|MESSAGE) sips?:"),
    _row("openvpn", "", "o", rb"\x00[\x0e-\xff]" + _OPENVPN, facts=("openvpn.opcode", "")),
)  # fmt: skip

UDP: tuple[Service, ...] = (
    _row("wireguard", "", "o", rb"(?P<n>\x01)\x00\x00\x00.{144}(?:\Z|[\x01\x03\x04]\x00\x00\x00)", facts=("wg.type", "")),
    _row("openvpn", "", "o", _OPENVPN, facts=("openvpn.opcode", "")),
    _row("kerberos", "krb", "o", _KERBEROS, facts=("kerberos.msg_type", "")),
    _row("ldap", "ldap_udp", "o", _LDAP, (389,), facts=("ldap.protocolOp", "")),
    _row("radius", "radius", "o", _RADIUS, (1645, 1646, 1812, 1813, 3799), facts=("radius.code", "")),
    _row("tftp", "", "o", rb"\x00(?P<n>[\x01\x02])[\x20-\x7e]{1,200}\x00(?i:octet|netascii)\x00", facts=("tftp.opcode", "")),
)  # fmt: skip

BY_OTHER_MEANS = (
    (
        "tls",
        "ssl",
        "a handshake or alert record",
        "version, ciphers, extensions and ALPN of both hellos; server name and JA4 of the client's",
    ),
    ("http", "http", "a request line or a status line; HTTP/2 by its preface", "first request and answer"),
    ("dns", "dns", "ports 53, 5353, 5355 and a header that fits", "first question and answer"),
    ("quic", "quic", "a long header with a version in use, also Google's", "version and the client's hello"),
    ("dtls", "dtls", "a handshake record", "the client's hello"),
    ("stun", "", "the magic cookie of RFC 8489", "message type"),
    ("ssdp", "", "M-SEARCH and NOTIFY", "as HTTP"),
    ("sip", "sip", "a request line or a status line", ""),
    ("dhcp, ntp, netbios, snmp, syslog", "dhcp, ntp, -, snmp, syslog", "UDP port", ""),
)
"""What other modules tell: our word, Zeek's, how, facts."""

NAMED_BY_BYTES = frozenset(row.name for row in (*TCP, *UDP))


def recognised(table: tuple[Service, ...], ports: tuple[int, int], orig: bytes, resp: bytes) -> tuple[str, Fields]:
    """The service of a flow by the first row that matches, and the facts of its first bytes; ("", {}) where none does."""
    for row in table:
        if row.ports and row.ports.isdisjoint(ports):
            continue
        hit = row.pattern.match(orig) if "o" in row.sides else None
        back = row.pattern.match(resp) if "r" in row.sides else None
        if (hit is None and back is None) or (row.answer is not None and not row.answer.match(resp)):
            continue
        fields: Fields = {}
        for name, match in zip(row.facts, (hit, back), strict=True):
            if name and match is not None:
                _value(fields, name, match)
        return row.name, fields
    return "", {}


def _value(fields: Fields, name: str, match: re.Match[bytes]) -> None:
    groups = match.groupdict()
    if groups.get("n"):
        fields[name] = int.from_bytes(groups["n"], "big")
    elif groups.get("a"):
        fields[name] = groups["a"][0] & 0x1F
    elif groups.get("h"):
        fields[name] = groups["h"][0] >> 3
    elif groups.get("t"):
        fields[name] = groups["t"].decode("utf-8", "backslashreplace")
