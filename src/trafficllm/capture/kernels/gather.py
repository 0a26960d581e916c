"""Finished flows out of the table: sizes and states, packet columns, payload prefixes, and their memory back to the free lists."""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

from trafficllm.capture.kernels.beyond import beyond_size, copy_beyond, release
from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.capture.kernels.flow import P_MAX_PAYLOAD
from trafficllm.capture.kernels.layout import (
    C_FREE,
    C_FREE_BUFFERS,
    C_FREE_PACKETS,
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)
from trafficllm.capture.kernels.payload import copy_bytes
from trafficllm.core.types import I64, U8

S0, S1, SF, REJ, S2, S3, RSTO, RSTR, RSTOS0, RSTRH, SH, SHR, OTH = range(13)


@inner
def _lone_reset(history: U8, length: Word) -> Word:
    """History says: a SYN, nothing established, then a RST of the originator."""
    k = 1 if length > 0 and history[0] == 94 else 0
    if k >= length or history[k] != 83:
        return False
    for i in range(k + 1, length):
        code = history[i]
        if code == 82:
            return True
        if (code == 72) | (code == 65) | (code == 70) | (code == 71) | (code == 73) | (code == 81):
            return False
    return False


@inner
def tcp_size(end: Any, peer: Any) -> Word:
    """Payload bytes by sequence numbers, without the octets of SYN and FIN; never negative."""
    highest = max(i64(end["last_rel"]), i64(end["ack_rel"]))
    if end["previous"] == SYN_SENT and end["state"] == RESET and peer["state"] == INACTIVE and end["ack_rel"] != 0:
        return i64(0)
    if highest != 0:
        highest -= 1
    if end["fins"] > 0 and highest != 0:
        highest -= 1
    return max(highest, i64(0))


@inner
def tcp_conn_state(one: Word, two: Word, empty: bool, history: U8, length: Word) -> Word:
    """conn_state from the originator's state `one` and the responder's `two`; `empty`: neither sent a byte."""
    one_silent = (one == INACTIVE) | (one == PARTIAL)
    two_silent = (two == INACTIVE) | (two == PARTIAL)
    if two == RESET:
        if (one == SYN_SENT) | (one == SYN_ACK_SENT) or (one == RESET and empty):
            return REJ
        return RSTRH if one_silent else RSTR
    if one == RESET:
        if not two_silent:
            return RSTO
        return RSTOS0 if _lone_reset(history, length) else OTH
    if one == CLOSED:
        return SF if two == CLOSED else (SH if two_silent else S2)
    if two == CLOSED:
        return SHR if one_silent else S3
    if one == SYN_SENT and two == INACTIVE:
        return S0
    return S1 if one == ESTABLISHED and two == ESTABLISHED else OTH


@inner
def _sides(flow: Any, one: Any, two: Any, row: Any) -> None:
    """Addresses, ports and counters, the originator's first."""
    if flow["flip"]:
        row["orig_hi"], row["orig_lo"], row["orig_p"] = flow["b_hi"], flow["b_lo"], flow["b_p"]
        row["resp_hi"], row["resp_lo"], row["resp_p"] = flow["a_hi"], flow["a_lo"], flow["a_p"]
    else:
        row["orig_hi"], row["orig_lo"], row["orig_p"] = flow["a_hi"], flow["a_lo"], flow["a_p"]
        row["resp_hi"], row["resp_lo"], row["resp_p"] = flow["b_hi"], flow["b_lo"], flow["b_p"]
    row["orig_pkts"], row["resp_pkts"] = one["packets"], two["packets"]
    row["orig_ip"], row["resp_ip"] = one["ip_bytes"], two["ip_bytes"]
    row["orig_prefix"], row["resp_prefix"] = one["prefix"], two["prefix"]


@entry
def summarize(table: Any, order: I64, rows: Any, history: U8) -> None:
    """Fill `rows` (SUMMARY) and zeroed `history` [n, HISTORY] from the flows in `order`."""
    for i in range(order.shape[0]):
        slot = order[i]
        flow, row, letters = table.flows[slot], rows[i], table.history[slot]
        flip, length = i64(flow["flip"]), i64(flow["hist_len"])
        one, two = table.ends[2 * slot + flip], table.ends[2 * slot + 1 - flip]
        _sides(flow, one, two, row)
        row["ts"], row["duration"] = flow["start"], max(i64(flow["last"]) - i64(flow["start"]), 0)
        row["vlan"], row["source"], row["link"], row["tunnel"] = flow["vlan"], flow["source"], flow["link"], flow["tunnel"]
        row["ip_version"], row["proto"], row["one_way"] = flow["ip_version"], flow["proto"], flow["one_way"]
        row["stored"], row["end"] = flow["stored"], flow["end"]
        limit, tcp = table.params[P_MAX_PAYLOAD], flow["proto"] == 6
        row["orig_beyond"] = beyond_size(table.chunks, table.chunk_next, one, limit, tcp)
        row["resp_beyond"] = beyond_size(table.chunks, table.chunk_next, two, limit, tcp)
        copy_bytes(history[i], 0, letters, 0, length)
        proto = i64(flow["proto"])
        if proto == 6:
            row["orig_bytes"], row["resp_bytes"] = tcp_size(one, two), tcp_size(two, one)
        else:
            row["orig_bytes"], row["resp_bytes"] = max(i64(one["sent"]), 0), max(i64(two["sent"]), 0)
        row["state"] = OTH
        if (proto == 6) | (proto == 132):
            empty = proto == 6 and row["orig_bytes"] == 0 and row["resp_bytes"] == 0
            row["state"] = tcp_conn_state(i64(one["state"]), i64(two["state"]), empty, letters, length)
        elif (proto == 17) | (proto == 136):
            if one["sent"] >= 0:
                row["state"] = SF if two["sent"] >= 0 else S0
            elif two["sent"] >= 0:
                row["state"] = SHR


@entry
def gather(table: Any, order: I64, pkt_ptr: I64, packets: Any, payload_ptr: I64, payload: U8, beyond_ptr: I64, beyond: U8) -> None:
    """Copy stored packets (STORED rows, `side` made the direction), prefixes and what lies beyond them of the flows in `order`,
    then give their slots, packets, buffers and chunks back to the free lists."""
    control = table.control
    for i in range(order.shape[0]):
        slot = order[i]
        flow = table.flows[slot]
        flip = i64(flow["flip"])
        here, at = i64(flow["packet_head"]), pkt_ptr[i]
        while here >= 0:
            packets[at] = table.packets[here]
            packets[at]["side"] = i64(packets[at]["side"]) ^ flip
            packets[at]["ts"] -= flow["start"]
            here = i64(table.packets[here]["next"])
            at += 1
        if flow["packet_head"] >= 0:
            table.packets[i64(flow["packet_tail"])]["next"] = control[C_FREE_PACKETS]
            control[C_FREE_PACKETS] = flow["packet_head"]
        for d in range(2):
            end = table.ends[2 * slot + (d ^ flip)]
            size, number = i64(end["prefix"]), i64(end["buffer"])
            if size > 0:
                copy_bytes(payload, payload_ptr[i, d], table.buffers[number], 0, size)
            copy_beyond(table.chunks, table.chunk_next, end, beyond, beyond_ptr[i, d], beyond_ptr[i, d + 1] - beyond_ptr[i, d])
            release(table.chunk_next, control, end)
            if number >= 0:
                table.buffer_next[number] = control[C_FREE_BUFFERS]
                control[C_FREE_BUFFERS] = number
        flow["next"] = control[C_FREE]
        control[C_FREE] = slot
