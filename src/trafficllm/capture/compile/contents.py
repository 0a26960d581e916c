"""Contents of a compiled flow: the plan's bytes, filled to size, with TLS, HTTP and DNS structure made to agree.

A plan knows the first bytes of each direction and every size; what those bytes announce (a record of 517
bytes, three answers) must hold for the bytes that follow, or every analyser calls the capture malformed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from trafficllm.capture.compile import dns as wellformed_dns
from trafficllm.capture.compile import http as wellformed_http
from trafficllm.capture.compile import lookalikes as wellformed_guise
from trafficllm.capture.compile import tls as wellformed_tls
from trafficllm.core.types import RESP, Action

_CARRIERS = {"send", "close"}


def tcp_contents(actions: Sequence[Action], rng: random.Random, repairs: Counter[str], *, mss: int = 1460) -> list[bytes]:
    """Payload of every action of a legal TCP flow (empty for those that carry none), each of the action's size.

    `mss` bytes are the largest segment: parsers may look afresh where one begins.
    """
    contents = [b""] * len(actions)
    streams: tuple[list[int], list[int]] = ([], [])
    for index, action in enumerate(actions):
        if action.op == "reopen":
            _fill_streams(_made(actions, streams, rng, repairs), contents, mss, repairs)
            streams = ([], [])
        elif action.op in _CARRIERS and action.size:
            streams[action.dir].append(index)
    _fill_streams(_made(actions, streams, rng, repairs), contents, mss, repairs)
    return contents


def _made(actions: Sequence[Action], streams: tuple[list[int], list[int]], rng: random.Random, repairs: Counter[str]) -> list[_Stream]:
    return [_Stream(actions, indexes, rng, repairs) for indexes in streams if indexes]


def _fill_streams(made: list[_Stream], contents: list[bytes], mss: int, repairs: Counter[str]) -> None:
    """Contents of one connection: each direction's repaired stream is fitted to the other's protocol."""
    for stream in made:
        if any(other.protocol == "tls" for other in made):
            stream.fit_tls()
        if any(other.protocol == "http" for other in made):
            stream.fit_http()
        stream.fit_segments(mss)
        repairs["payload.lengths"] += stream.data[: stream.known] != stream.shown
        for k, start, end in zip(stream.indexes, (0, *stream.edges), stream.edges, strict=False):
            contents[k] = bytes(stream.data[start:end])


class _Stream:
    """One direction of a connection: its bytes, the ends of its sends, how much of it the plan spells out."""

    def __init__(self, actions: Sequence[Action], indexes: Sequence[int], rng: random.Random, repairs: Counter[str]) -> None:
        self.indexes, self.known = indexes, _known(actions, indexes)
        self.data, self.edges = bytearray(), list[int]()
        for k in indexes:
            part = actions[k].payload[: max(self.known - len(self.data), 0)]
            repairs["payload.detached"] += part != actions[k].payload
            self.data += _filled(replace(actions[k], payload=part), rng)
            self.edges.append(len(self.data))
        self.shown = bytes(self.data[: self.known])
        repairs["payload.executable"] += wellformed_guise.disarm(self.data, rng)
        _repair_stream(self.data, self.known, self.edges, rng)
        http, tls = wellformed_http.looks_like(self.data), wellformed_tls.looks_like(self.data)
        self.protocol = "http" if http else "tls" if tls else ""

    def fit_tls(self) -> None:
        """Beside a TLS stream, bytes that begin with a record type but are none must not."""
        if self.protocol != "tls" and 20 <= self.data[0] <= 24:
            self.data[0] |= 0x40

    def fit_http(self) -> None:
        """Beside an HTTP stream, a line end in what is neither HTTP nor TLS would be read as a broken head."""
        if not self.protocol:
            self.data[:] = self.data.replace(b"\r", b"\x0c").replace(b"\n", b"\x0b")

    def fit_segments(self, mss: int) -> None:
        """No later segment of a stream without a protocol may begin like one."""
        if not self.protocol:
            for start, end in zip((0, *self.edges), self.edges, strict=False):
                _disguise_parts(self.data, range(start, end, mss))


def _known(actions: Sequence[Action], indexes: Sequence[int]) -> int:
    """Length of the stream's beginning that the plan spells out without a gap; bytes shown after it have no place."""
    known = 0
    for k in indexes:
        known += len(actions[k].payload)
        if len(actions[k].payload) < actions[k].size:
            break
    return known


def _repair_stream(stream: bytearray, known: int, edges: list[int], rng: random.Random) -> None:
    """Repair the stream from its beginning, or its TLS part from where one begins (STARTTLS, CONNECT)."""
    begin = next((at for at in (0, *edges) if at < known and wellformed_tls.looks_like(stream[at:known])), len(stream))
    head, shown = stream[:begin], min(begin, known)
    if wellformed_http.looks_like(head[:shown]):
        wellformed_http.repair(head, shown, [edge for edge in edges if edge <= begin])
    _disguise_parts(head, [edge for edge in (0, *edges) if edge < shown])
    stream[:begin] = head
    if begin < len(stream):
        tail = stream[begin:]
        wellformed_tls.repair(tail, known - begin, [edge - begin for edge in edges if edge > begin], rng)
        stream[begin:] = tail


def _disguise_parts(stream: bytearray, starts: Iterable[int]) -> None:
    """Look at every place where a segment, or an HTTP body, begins: parsers are chosen there."""
    body = stream.find(b"\r\n\r\n") + 4
    for at in (*starts, body) if body > 3 else starts:
        part = stream[at : at + 256]
        if wellformed_guise.disguise(part, wellformed_guise.STREAM):
            stream[at : at + 256] = part


def udp_contents(actions: Sequence[Action], port: int, rng: random.Random, repairs: Counter[str]) -> list[bytes]:
    """Payload of every datagram, each of the action's size; on DNS ports a message wherever one has that size."""
    contents: list[bytearray] = []
    guessed: list[bytearray] = []
    for action in actions:
        content = None
        if port in wellformed_dns.PORTS or wellformed_dns.looks_like(action.payload):
            content = wellformed_dns.message(action.payload, action.size, _is_response(action), rng)
        data = _datagram(action, rng, repairs) if content is None else bytearray(content)
        contents.append(data)
        if content is None:
            guessed.append(data)
    wellformed_guise.quic_flow(guessed)
    for action, data in zip(actions, contents, strict=True):
        repairs["payload.lengths"] += data[: len(action.payload)] != action.payload
    return [bytes(data) for data in contents]


def _datagram(action: Action, rng: random.Random, repairs: Counter[str]) -> bytearray:
    data = bytearray(_filled(action, rng))
    repairs["payload.executable"] += wellformed_guise.disarm(data, rng)
    if not wellformed_guise.stun(data, len(action.payload)):
        wellformed_guise.disguise(data, wellformed_guise.DATAGRAM)
    return data


def _is_response(action: Action) -> bool:
    return bool(action.payload[2] & 0x80) if len(action.payload) > 2 else action.dir == RESP


def _filled(action: Action, rng: random.Random) -> bytes:
    """The action's payload filled to its size.

    Filler that leads a send or datagram starts with 16 bytes in 0x58-0x7F: protocols that analysers guess by content
    (RTCP, QUIC, STUN, CLTP: 1.2 of a thousand random datagrams) have other bytes there.
    """
    need = action.size - len(action.payload)
    if need <= 0:
        return action.payload[: action.size]
    if action.fill == "zero":
        return action.payload + bytes(need)
    raw = rng.randbytes(need)
    if action.fill == "text":
        return action.payload + wellformed_http.filler(raw)
    if len(action.payload) < 4:
        raw = bytes(0x58 + value % 0x28 for value in raw[:16]) + raw[16:]
    return action.payload + raw
