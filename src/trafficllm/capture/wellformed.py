"""Contents of a compiled flow: the plan's bytes, filled to size, with TLS, HTTP and DNS structure made to agree.

A plan knows the first bytes of each direction and every size; what those bytes announce (a record of 517
bytes, three answers) must hold for the bytes that follow, or every analyser calls the capture malformed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from trafficllm.capture import wellformed_dns, wellformed_http, wellformed_tls
from trafficllm.core.types import RESP, Action

DNS_PORTS = frozenset({53, 5353, 5355})
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
        parts = [_filled(actions[k], rng) for k in indexes]
        stream = bytearray(b"".join(parts))
        edges, total = [], 0
        for part in parts:
            total += len(part)
            edges.append(total)
        before = bytes(stream)
        known = _known(actions, indexes)
        _repair_stream(stream, known, edges, rng)
        repairs["payload.lengths"] += stream[:known] != before[:known]
        start = 0
        for k, edge in zip(indexes, edges, strict=True):
            contents[k] = bytes(stream[start:edge])
            start = edge


def _known(actions: Sequence[Action], indexes: Sequence[int]) -> int:
    """Length of the stream's beginning that the plan spells out without a gap."""
    known = 0
    for k in indexes:
        known += len(actions[k].payload)
        if len(actions[k].payload) < actions[k].size:
            break
    return known


def _repair_stream(stream: bytearray, known: int, edges: Sequence[int], rng: random.Random) -> None:
    if wellformed_tls.looks_like(stream[:known]):
        wellformed_tls.repair(stream, known, edges, rng)
    elif wellformed_http.looks_like(stream[:known]):
        wellformed_http.repair(stream, known, next(edge for edge in edges if edge >= known))


def udp_contents(actions: Sequence[Action], port: int, rng: random.Random, repairs: Counter[str]) -> list[bytes]:
    """Payload of every datagram, each of the action's size; on DNS ports a message wherever one has that size."""
    contents = []
    for action in actions:
        content = None
        if port in DNS_PORTS:
            content = wellformed_dns.message(action.payload, action.size, _is_response(action), rng)
            repairs["payload.lengths"] += content is not None and content[: len(action.payload)] != action.payload
        contents.append(_filled(action, rng) if content is None else content)
    return contents


def _is_response(action: Action) -> bool:
    return bool(action.payload[2] & 0x80) if len(action.payload) > 2 else action.dir == RESP


def _filled(action: Action, rng: random.Random) -> bytes:
    need = action.size - len(action.payload)
    if need <= 0:
        return action.payload[: action.size]
    if action.fill == "zero":
        return action.payload + bytes(need)
    raw = rng.randbytes(need)
    return action.payload + (wellformed_http.filler(raw) if action.fill == "text" else raw)
