"""QUIC before the IETF's (gQUIC Q035 to Q046): the server name of a client's hello that goes in clear text.

After Google's "QUIC Crypto" and "QUIC Wire Layout Specification" (2016): a CHLO message is a list of tags with the ends of their values.
"""

from __future__ import annotations

from trafficllm.capture.facts.tls import Fields

_VERSION_FLAG, _CONNECTION_FLAG, _LONG = 0x01, 0x08, 0x80
_HEADERS = 80
"""Bytes within which the message begins: public header, packet number, hash and the header of its stream frame."""
_MAX_TAGS = 64


def gquic_version(data: bytes) -> int:
    """Version of a public header with a connection ID, as the number its four letters make; 0 if it is none."""
    if len(data) < 14 or data[0] & (_LONG | _VERSION_FLAG | _CONNECTION_FLAG) != _VERSION_FLAG | _CONNECTION_FLAG:
        return 0
    return int.from_bytes(data[9:13], "big") if data[9:11] == b"Q0" and data[11:13].isdigit() else 0


def gquic_fields(datagram: bytes) -> Fields:
    """Fields of the CHLO that a datagram in clear text holds, none where there is no such message."""
    at = datagram.find(b"CHLO", 0, _HEADERS)
    return chlo_fields(datagram[at:]) if at >= 0 else {}


def chlo_fields(message: bytes) -> Fields:
    """The server name of a CHLO message."""
    count = int.from_bytes(message[4:6], "little")
    if count > _MAX_TAGS:
        return {}
    values, start = 8 + 8 * count, 0
    for at in range(8, min(values, len(message) - 7), 8):
        end = int.from_bytes(message[at + 4 : at + 8], "little")
        if message[at : at + 4] == b"SNI\x00":
            name = message[values + start : values + end]
            return (
                {"tls.handshake.extensions_server_name": name.decode("ascii", "backslashreplace")} if len(name) == end - start > 0 else {}
            )
        start = end
    return {}
