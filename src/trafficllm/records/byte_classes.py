"""Bytes shown as classes: what a record writes where it may say what kind of byte stands there, not which.

>>> classes(b"Hello, Bob 42!")
b'Aaaaa. Aaa 00.'
"""

from __future__ import annotations

import re

LETTER, CAPITAL, DIGIT, SIGN, CONTROL, HIGH = b"aA0.\x01\x80"


def _class_of(byte: int) -> int:
    if byte in b"\0\n\r\xff":
        return byte
    if byte in b"\t ":
        return 0x20
    if byte < 0x20 or byte == 0x7F:
        return CONTROL
    if byte >= 0x80:
        return HIGH
    char = chr(byte)
    return DIGIT if char.isdigit() else SIGN if not char.isalpha() else CAPITAL if char.isupper() else LETTER


_CLASSES = bytes(map(_class_of, range(256)))
_LETTERS = bytes(_class_of(byte) if chr(byte).isalnum() or byte >= 0x80 else byte for byte in range(256))


def classes(data: bytes) -> bytes:
    """Each byte as the one that stands for its class, length and all: letters, digits, signs, white space, control and high bytes;
    NUL, ends of lines and 0xFF stand for themselves."""
    return data.translate(_CLASSES)


CODE = frozenset(
    b"select union insert update delete drop alter create truncate from where and or not null like order by group having "
    b"limit into values table exec execute declare cast convert char nchar varchar concat sleep waitfor delay benchmark "
    b"script alert javascript vbscript onerror onload onclick onmouseover src href iframe img svg document cookie window eval "
    b"function var style expression http https ftp file php asp aspx jsp html htm exe dll cmd bat sh bin etc passwd shadow "
    b"cat ls dir echo wget curl ping boot ini system windows winnt include require all as xp cmdshell master sysobjects "
    b"information schema tables columns version set old bak inc conf log true false equiv meta body location string "
    b"fromcharcode unescape prompt confirm input type object embed applet base xml entity doctype cdata env proc self root "
    b"web inf config htaccess cgi pl py jar war class java runtime process".split()
)
"""Words of query languages, scripts and paths that attacks are told by; no word of a person is."""
_PIECE = re.compile(rb"([^&]*)(&|\Z)")
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,40}=(?!=*\Z)")
_TOKEN = re.compile(rb"%[0-9A-Fa-f]{2}|[A-Za-z]+|[0-9\x80-\xff]+")


def values(data: bytes) -> bytes:
    """A query string or form: names of parameters and signs as they are, values as classes but for words of CODE.

    >>> values(b"user=alice&q=1%27+or+2%3D2")
    b'user=aaaaa&q=0%27+or+0%3D0'
    """
    return b"".join(_value(match[1]) + match[2] for match in _PIECE.finditer(data))


def _value(piece: bytes) -> bytes:
    name = _NAME.match(piece)
    at = name.end() if name else 0
    return piece[:at] + _TOKEN.sub(_token, piece[at:])


def _token(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token[:1] == b"%":
        byte = int(token[1:], 16)
        return token if byte < 0x80 and not chr(byte).isalnum() else b"%aa"
    return token if token.lower() in CODE else token.translate(_LETTERS)
