"""A key for each flow: equal keys, equal facts. Ports that no parser asks for and bytes that none reads are left out of it.

The key is a header of `HEAD` bytes (which form, transport, ports, sizes) and the payload beginnings. Keys of a batch are compared here, so
that Python sees each of them once.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels.canonical.content import is_content
from trafficllm.capture.kernels.canonical.dns import blank_dns, is_dns
from trafficllm.capture.kernels.canonical.tls import blank, blank_tls, is_tls
from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.capture.kernels.key import mix
from trafficllm.capture.kernels.payload import copy_bytes
from trafficllm.core.types import I64, U8

HEAD = 24
"""Bytes of a key before its contents; the rest of the last eight bytes is zero."""
_AS_IS, _TLS, _DNS, _CONTENT = 0, 1, 2, 3
_ONE, _TWO, _THREE, _FOUR, _EIGHT = (np.uint64(_size) for _size in (1, 2, 3, 4, 8))
_PROBES = 8
"""Places of the table that are looked at: what is not found there counts as new, so crafted collisions cost nothing."""


@inner
def _number(keys: U8, at: Word, value: Word, size: Word) -> None:
    for k in range(size):
        keys[at + k] = np.uint8((value >> 8 * k) & 255)


@inner
def _word(keys: U8, at: Word) -> Word:
    """Four bytes at an unsigned place: LLVM makes one load of them."""
    return i64(keys[at]) | i64(keys[at + _ONE]) << 8 | i64(keys[at + _TWO]) << 16 | i64(keys[at + _THREE]) << 24


@inner
def _hash(keys: U8, at: Word, end: Word, seed: Word) -> Word:
    """Eight bytes a step, in two lanes; `end - at` is a multiple of eight."""
    one, two = seed, seed
    for k in range(np.uint64(at), np.uint64(end), _EIGHT):
        low, high = _word(keys, k), _word(keys, k + _FOUR)
        one, two = mix(one, low ^ low >> 16), mix(two, high ^ high >> 16)
    return one << 31 | two


@inner
def _same(keys: U8, one: Word, two: Word, size: Word) -> Word:
    """`size` is a multiple of eight."""
    here, there = np.uint64(one), np.uint64(two)
    for k in range(np.uint64(0), np.uint64(size), _EIGHT):
        low = _word(keys, here + k) ^ _word(keys, there + k)
        if low | (_word(keys, here + k + _FOUR) ^ _word(keys, there + k + _FOUR)):
            return False
    return True


@inner
def _fill(keys: U8, zeroed: U8, at: Word, numbers: I64, edges: I64, payload: U8, beyond: U8) -> Word:
    """The key of one flow at `at`, and its end: `numbers` transport and ports, `edges` of its prefixes and of what lies beyond them."""
    proto, tcp = numbers[0], numbers[0] == 6
    orig, resp, more, rest = edges[1] - edges[0], edges[2] - edges[1], edges[4] - edges[3], edges[5] - edges[4]
    body = at + HEAD
    answer = body + orig + (more if tcp else 0)
    copy_bytes(keys, body, payload, edges[0], orig)
    copy_bytes(keys, answer, payload, edges[1], resp)
    if tcp:
        copy_bytes(keys, body + orig, beyond, edges[3], more)
        copy_bytes(keys, answer + resp, beyond, edges[4], rest)
    else:
        copy_bytes(keys, answer + resp, beyond, edges[3], more + rest)
    end = body + orig + resp + more + rest
    form = _AS_IS
    if tcp:
        if is_tls(keys, body, answer) or is_tls(keys, answer, end):
            form = _TLS
            blank_tls(keys, body, answer)
            blank_tls(keys, answer, end)
    elif proto == 17 and numbers[3] and more + rest == 0 and (is_dns(keys, body, answer) or is_dns(keys, answer, end)):
        form = _DNS
        blank(zeroed, body, end)
        blank_dns(keys, zeroed, body, answer, payload, edges[0])
        blank_dns(keys, zeroed, answer, end, payload, edges[1])
    if form == _AS_IS and numbers[1] == 0 and numbers[2] == 0 and (tcp or (proto == 17 and more + rest == 0)):
        form = _CONTENT if is_content(keys, body, answer, end, proto) else _AS_IS
    keys[at], keys[at + 1] = np.uint8(form), np.uint8(proto)
    _number(keys, at + 2, numbers[1], 2)
    _number(keys, at + 4, numbers[2], 2)
    _number(keys, at + 8, orig, 4)
    _number(keys, at + 12, resp, 4)
    _number(keys, at + 16, more, 4)
    _number(keys, at + 20, rest, 4)
    keys[at + 6], keys[at + 7] = np.uint8(0), np.uint8(0)
    if form == _CONTENT:
        return body
    stop = body + ((end - body + 7) >> 3 << 3)
    blank(keys, end, stop)
    return stop


@entry
def write_keys(numbers: I64, edges: I64, payload: U8, beyond: U8, places: I64, keys: U8, zeroed: U8, slots: I64, seed: Word) -> None:
    """Keys of flows, and for each the first flow with the same one.

    `numbers` [n, 4]: transport, ports (0: one that no parser asks for), whether one of them is DNS's. `edges` [n, 6]: of the prefixes in
    `payload`, of the rest in `beyond`. `places` [n, 4]: where each key begins in `keys`, a multiple of eight, then what is found: where it
    ends, the first flow that has it, its hash. `zeroed` is as long as `keys`, `slots` a power of two, all -1.
    """
    mask = slots.shape[0] - 1
    for i in range(places.shape[0]):
        at = places[i, 0]
        end = _fill(keys, zeroed, at, numbers[i], edges[i], payload, beyond)
        mixed = _hash(keys, at, end, seed)
        places[i, 1], places[i, 2], places[i, 3] = end, i, mixed
        slot = (mixed ^ (mixed >> 32)) & mask
        for _ in range(_PROBES):
            other = slots[slot]
            if other < 0:
                slots[slot] = i
                break
            begin = places[other, 0]
            if places[other, 3] == mixed and places[other, 1] - begin == end - at and _same(keys, begin, at, end - at):
                places[i, 2] = other
                break
            slot = (slot + 1) & mask
