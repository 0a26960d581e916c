"""Contents of a compiled flow: the plan's bytes, filled to size, with TLS, HTTP and DNS structure made to agree.

A plan knows the first bytes of each direction and every size; what those bytes announce (a record of 517
bytes, three answers) must hold for the bytes that follow, or every analyser calls the capture malformed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from trafficllm.capture import wellformed_dns, wellformed_guise, wellformed_http, wellformed_tls
from trafficllm.core.types import RESP, Action

_CARRIERS = {"send", "close"}


def tcp_contents(actions: Sequence[Action], rng: random.Random, repairs: Counter[str]) -> list[bytes]:
    """Payload of every action of a legal TCP flow (empty for those that carry none), each of the action's size."""
    contents = [b""] * len(actions)
    streams: tuple[list[int], list[int]] = ([], [])
    for index, action in enumerate(actions):
        if action.op == "reopen":
            _fill_streams(actions, streams, contents, rng, repairs)
            streams = ([], [])
        elif action.op in _CARRIERS and action.size:
            streams[action.dir].append(index)
    _fill_streams(actions, streams, contents, rng, repairs)
    return contents


def _fill_streams(
    actions: Sequence[Action], streams: tuple[list[int], list[int]], contents: list[bytes], rng: random.Random, repairs: Counter[str]
) -> None:
    for indexes in streams:
        if not indexes:
            continue
        known = _known(actions, indexes)
        stream = bytearray()
        edges = []
        for k in indexes:
            shown = actions[k].payload[: max(known - len(stream), 0)]
            repairs["payload.detached"] += shown != actions[k].payload
            stream += _filled(replace(actions[k], payload=shown), rng, lead=not stream)
            edges.append(len(stream))
        before = bytes(stream)
        repairs["payload.executable"] += wellformed_guise.disarm(stream, rng)
        _repair_stream(stream, known, edges, rng)
        repairs["payload.lengths"] += stream[:known] != before[:known]
        start = 0
        for k, edge in zip(indexes, edges, strict=True):
            contents[k] = bytes(stream[start:edge])
            start = edge


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


def _disguise_parts(stream: bytearray, starts: Sequence[int]) -> None:
    """Look at every place where a segment, or an HTTP body, begins: parsers are chosen there."""
    body = stream.find(b"\r\n\r\n") + 4
    for at in (*starts, body) if body > 3 else starts:
        part = stream[at : at + 256]
        if wellformed_guise.disguise(part, wellformed_guise.STREAM):
            stream[at : at + 256] = part


def udp_contents(actions: Sequence[Action], port: int, rng: random.Random, repairs: Counter[str]) -> list[bytes]:
    """Payload of every datagram, each of the action's size; on DNS ports a message wherever one has that size."""
    contents = []
    for action in actions:
        content = None
        if port in wellformed_dns.PORTS or wellformed_dns.looks_like(action.payload):
            content = wellformed_dns.message(action.payload, action.size, _is_response(action), rng)
        if content is None:
            content = _datagram(action, rng, repairs)
        repairs["payload.lengths"] += content[: len(action.payload)] != action.payload
        contents.append(content)
    return contents


def _datagram(action: Action, rng: random.Random, repairs: Counter[str]) -> bytes:
    data = bytearray(_filled(action, rng))
    repairs["payload.executable"] += wellformed_guise.disarm(data, rng)
    if not wellformed_guise.stun(data, len(action.payload)):
        wellformed_guise.disguise(data, wellformed_guise.DATAGRAM)
    if not wellformed_guise.quic(data):
        data[0] &= 0x7F
    return bytes(data)


def _is_response(action: Action) -> bool:
    return bool(action.payload[2] & 0x80) if len(action.payload) > 2 else action.dir == RESP


def _filled(action: Action, rng: random.Random, *, lead: bool = True) -> bytes:
    """The action's payload filled to its size.

    Filler that leads a stream or datagram starts with 16 bytes in 0x58-0x7F: protocols that analysers guess by content
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
    if lead and len(action.payload) < 4:
        raw = bytes(0x58 + value % 0x28 for value in raw[:16]) + raw[16:]
    return action.payload + raw
