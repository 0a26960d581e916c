"""Packets to flows: hash table, activity queues, timeouts, per-packet columns. One call takes a whole batch.

All arrays live in a `Table`; everything is bounded, and when something runs out the kernel returns so that Python can
grow it, hand finished flows out, or evict. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from trafficllm.capture.kernels import entry, inner

from trafficllm.capture.flow_table_layout import (
    C_CLOCK,
    C_DONE,
    C_EVICTED,
    C_FREE,
    C_FREE_BUFFERS,
    C_FREE_PACKETS,
    C_LIVE,
    C_NUMBER,
    END_ACTIVE,
    END_EOF,
    END_EVICTED,
    END_FIN,
    END_IDLE,
    END_RST,
    HANDSHAKE_TIMEOUT,
    INACTIVE,
    CLOSED,
    L_DATA,
    L_FLIP,
    Q_ATTEMPT,
    Q_CLOSED,
    Q_ICMP,
    Q_TCP,
    Q_UDP,
    QUEUES,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)
from trafficllm.capture.kernels_payload import append_payload, place_payload
from trafficllm.capture.kernels_tcp import H_SYN, count_bad_sum, letter, once, tcp_packet

(P_TCP_TIMEOUT, P_UDP_TIMEOUT, P_ICMP_TIMEOUT, P_ACTIVE_TIMEOUT, P_MAX_PACKETS, P_MAX_PAYLOAD, P_FLIP, P_SEED, P_SUMS) = range(9)
DONE_MARGIN = 256  # room in `done` that a single packet's sweep can never exceed
_SWEEP = 40
_ICMP_PAIRS = np.full((2, 256), -1, dtype=np.int16)  # the type that answers, row 0 ICMP, row 1 ICMPv6
for _version, _pairs in enumerate((((8, 0), (13, 14), (15, 16), (17, 18), (10, 9)), ((128, 129), (133, 134), (135, 136), (130, 131), (139, 140), (144, 145)))):
    for _one_type, _other_type in _pairs:
        _ICMP_PAIRS[_version, _one_type], _ICMP_PAIRS[_version, _other_type] = _other_type, _one_type


class Table(NamedTuple):
    """The flow table's arrays; `control` and `params` are int64, see C_* and P_*."""

    flows: Any
    ends: Any
    history: Any
    islands: Any
    heads: Any
    queues: Any
    packets: Any
    buffers: Any
    buffer_next: Any
    done: Any
    control: Any
    params: Any
    ports: Any


class Arrivals(NamedTuple):
    """One batch of frames and their decoded rows."""

    buf: Any
    offset: Any
    ts: Any
    origlen: Any
    link: Any
    source: Any
    number: Any
    rows: Any


@inner
def _mix(h: int, word: int) -> Any:
    h = ((h ^ (word & 0x7FFFFFFF)) & 0x7FFFFFFF) * 0x5BD1E995
    return (h ^ (h >> 31)) & 0x7FFFFFFF


@inner
def _hash_end(seed: int, high: int, low: int, port: int) -> Any:
    h = _mix(seed, (high >> 32) ^ port << 13)
    if low | (high & 0xFFFFFFFF):
        h = _mix(h, high)
        h = _mix(h, low >> 32)
        h = _mix(h, low)
    return _mix(h, h >> 15)


@inner
def icmp_ports(proto: int, kind: int) -> Any:
    """(type, counterpart or code, one-way) of an ICMP message: requests and replies make one flow (RFC 792, RFC 4443)."""
    message = kind >> 8
    answer = np.int64(_ICMP_PAIRS[0 if proto == 1 else 1, message])
    if answer < 0:
        return message, kind & 255, 1
    return message, answer, 0


@inner
def _same(flow: Any, row: Any, sport: int, dport: int, one_way: int) -> Any:
    """0 the row was sent by side 0, 1 by side 1, -1 another flow."""
    if flow["proto"] != row["proto"] or flow["ip_version"] != row["ip_version"] or flow["one_way"] != one_way:
        return -1
    if flow["a_p"] == sport and flow["b_p"] == dport and flow["a_hi"] == row["src_hi"] and flow["b_hi"] == row["dst_hi"]:
        if flow["a_lo"] == row["src_lo"] and flow["b_lo"] == row["dst_lo"]:
            return 0
    if one_way:
        return -1
    if flow["b_p"] == sport and flow["a_p"] == dport and flow["b_hi"] == row["src_hi"] and flow["a_hi"] == row["dst_hi"]:
        if flow["b_lo"] == row["src_lo"] and flow["a_lo"] == row["dst_lo"]:
            return 1
    return -1


@inner
def _unqueue(table: Table, slot: int) -> None:
    flow = table.flows[slot]
    queue, older, newer = flow["queue"], flow["older"], flow["newer"]
    if older >= 0:
        table.flows[older]["newer"] = newer
    else:
        table.queues[queue, 0] = newer
    if newer >= 0:
        table.flows[newer]["older"] = older
    else:
        table.queues[queue, 1] = older


@inner
def _enqueue(table: Table, slot: int, queue: int) -> None:
    flow = table.flows[slot]
    tail = table.queues[queue, 1]
    flow["queue"] = queue
    flow["older"] = tail
    flow["newer"] = -1
    if tail >= 0:
        table.flows[tail]["newer"] = slot
    else:
        table.queues[queue, 0] = slot
    table.queues[queue, 1] = slot


@inner
def finish(table: Table, slot: int, reason: int) -> None:
    """Take a flow out of hash and queue and put it on the list of finished ones."""
    flow = table.flows[slot]
    bucket = flow["bucket"]
    here = table.heads[bucket]
    if here == slot:
        table.heads[bucket] = flow["next"]
    else:
        while table.flows[here]["next"] != slot:
            here = table.flows[here]["next"]
        table.flows[here]["next"] = flow["next"]
    _unqueue(table, slot)
    one, two = table.ends[2 * slot]["state"], table.ends[2 * slot + 1]["state"]
    if flow["proto"] == 6:
        if one == RESET or two == RESET:
            reason = END_RST
        elif one == CLOSED and two == CLOSED:
            reason = END_FIN
    flow["end"] = reason
    flow["live"] = 0
    table.done[table.control[C_DONE]] = slot
    table.control[C_DONE] += 1
    table.control[C_LIVE] -= 1


@inner
def _waiting(table: Table, slot: int) -> Any:
    """A lone SYN or SYN-ACK that nothing has answered."""
    flip = np.int64(table.flows[slot]["flip"])
    mine, other = table.ends[2 * slot + flip]["state"], table.ends[2 * slot + 1 - flip]["state"]
    return (mine == SYN_SENT or mine == SYN_ACK_SENT) and other == INACTIVE


@inner
def _due(table: Table, slot: int, t: int) -> Any:
    """Why the flow is over at time t (END_*), or -1."""
    flow = table.flows[slot]
    if table.params[P_ACTIVE_TIMEOUT] > 0 and t - flow["start"] >= table.params[P_ACTIVE_TIMEOUT]:
        return END_ACTIVE
    if flow["proto"] == 6:
        if flow["delete_at"] > 0:
            return END_IDLE if t >= flow["delete_at"] else -1
        if t >= flow["attempt_at"] and _waiting(table, slot):
            return END_IDLE
        limit = table.params[P_TCP_TIMEOUT]
        if table.ends[2 * slot]["state"] <= SYN_ACK_SENT and table.ends[2 * slot + 1]["state"] <= SYN_ACK_SENT:
            limit = min(limit, HANDSHAKE_TIMEOUT)
    elif flow["proto"] == 17:
        limit = table.params[P_UDP_TIMEOUT]
    else:
        limit = table.params[P_ICMP_TIMEOUT]
    return END_IDLE if t - flow["last"] >= limit else -1


@inner
def _sweep(table: Table) -> None:
    """Finish what is over at the heads of the queues, a bounded number at a time."""
    now = table.control[C_CLOCK]
    for queue in range(QUEUES):
        for _ in range(_SWEEP):
            slot = np.int64(table.queues[queue, 0])
            if slot < 0:
                break
            reason = _due(table, slot, now)
            if reason < 0:
                break
            finish(table, slot, reason)


@inner
def _flipped(table: Table, row: Any, sport: int, dport: int) -> Any:
    """Whether the sender is likelier the server: no SYN seen, and its port is a well-known service (Zeek's heuristic)."""
    if not table.params[P_FLIP] or (row["dst_hi"] >> 32) & 0xFFFFFFFF == 0xFFFFFFFF:
        return 0
    flags = row["flags"]
    if row["proto"] == 6:
        if (flags & 2 and not flags & 16) or not table.ports[0, sport]:
            return 0
        if table.ports[0, dport]:
            return 1 if flags & 2 or sport < dport else 0
        return 1
    if row["proto"] == 17:
        return 1 if table.ports[1, sport] and not table.ports[1, dport] else 0
    return 0


@inner
def _new(table: Table, arrivals: Arrivals, index: int, bucket: int, sport: int, dport: int, one_way: int) -> Any:
    slot = np.int64(table.control[C_FREE])
    flow, row = table.flows[slot], arrivals.rows[index]
    table.control[C_FREE] = flow["next"]
    t = arrivals.ts[index]
    flow["a_hi"], flow["a_lo"], flow["b_hi"], flow["b_lo"] = row["src_hi"], row["src_lo"], row["dst_hi"], row["dst_lo"]
    flow["a_p"], flow["b_p"], flow["one_way"] = sport, dport, one_way
    flow["proto"], flow["ip_version"], flow["vlan"] = row["proto"], row["ip_version"], row["vlan"]
    flow["link"], flow["source"] = arrivals.link[index], arrivals.source[index]
    flow["start"], flow["last"], flow["seen"], flow["first"] = t, t, t, table.control[C_NUMBER]
    flow["attempt_at"], flow["delete_at"] = 0, 0
    flow["packet_head"], flow["packet_tail"], flow["stored"] = -1, -1, 0
    flow["hist_seen"], flow["hist_len"] = 0, 0
    flow["flip"], flow["partial"], flow["first_seen"], flow["deferred"], flow["live"] = 0, 0, 0, 0, 1
    for side in range(2):
        end = table.ends[2 * slot + side]
        end["packets"], end["ip_bytes"], end["sent"] = 0, 0, -1
        end["last_rel"], end["ack_rel"], end["fin_rel"], end["next_rel"] = 0, 0, 0, 1
        end["hist_syn"], end["hist_fin"], end["hist_rst"] = 0, 0, 0
        end["prefix"], end["buffer"], end["start_seq"] = 0, -1, 0
        end["rexmit"], end["gaps"], end["zero_windows"], end["bad_sums"] = 0, 0, 0, 0
        end["rexmit_at"], end["gaps_at"], end["zero_windows_at"], end["bad_sums_at"] = 0, 0, 0, 0
        end["fins"], end["state"], end["previous"], end["closed"] = 0, 0, 0, 0
        end["islands"], end["eof"], end["scattered"] = 0, 0, 0
    if _flipped(table, row, sport, dport):
        flow["flip"] = 1
        letter(flow, table.history[slot], L_FLIP, one_way >= 0)
    flow["bucket"] = bucket
    flow["next"] = table.heads[bucket]
    table.heads[bucket] = slot
    _enqueue(table, slot, Q_TCP if row["proto"] == 6 else (Q_UDP if row["proto"] == 17 else Q_ICMP))
    table.control[C_LIVE] += 1
    return slot


@inner
def _reused(table: Table, slot: int, row: Any) -> Any:
    """A SYN that starts another connection on the same ports."""
    flags = np.int64(row["flags"])
    if row["proto"] != 6 or not flags & 2:
        return False
    flip = np.int64(table.flows[slot]["flip"])
    first, second = table.ends[2 * slot + flip], table.ends[2 * slot + 1 - flip]
    if first["closed"] or second["closed"]:
        return not flags & 16 or first["state"] == INACTIVE
    if flags & 16:
        return first["state"] == INACTIVE and row["seq"] != second["start_seq"]
    if row["seq"] == first["start_seq"]:
        return False
    if first["state"] == SYN_ACK_SENT and second["state"] == INACTIVE and row["seq"] == second["start_seq"]:
        return False
    return True


@inner
def _store(table: Table, arrivals: Arrivals, index: int, slot: int, side: int) -> None:
    flow, row = table.flows[slot], arrivals.rows[index]
    if flow["stored"] >= table.params[P_MAX_PACKETS]:
        return
    here = np.int64(table.control[C_FREE_PACKETS])
    packet = table.packets[here]
    table.control[C_FREE_PACKETS] = packet["next"]
    packet["ts"], packet["frame"], packet["frame_len"] = arrivals.ts[index], arrivals.number[index], arrivals.origlen[index]
    packet["ip_len"], packet["payload"], packet["window"] = row["ip_len"], row["payload_len"], row["window"]
    packet["flags"], packet["ttl"], packet["type"] = row["flags"] & 255, row["ttl"], row["icmp"]
    packet["side"] = side
    packet["next"] = -1
    if flow["packet_tail"] >= 0:
        table.packets[flow["packet_tail"]]["next"] = here
    else:
        flow["packet_head"] = here
    flow["packet_tail"] = here
    flow["stored"] = flow["stored"] + 1


@inner
def _deliver(table: Table, arrivals: Arrivals, index: int, slot: int, side: int) -> Any:
    """Protocol part of one packet; False when its checksum keeps it from being counted."""
    flow, row, t = table.flows[slot], arrivals.rows[index], arrivals.ts[index]
    end, history = table.ends[2 * slot + side], table.history[slot]
    originator = side == flow["flip"]
    proto, bad = np.int64(row["proto"]), table.params[P_SUMS] and row["l4_sum"] == 2
    source = arrivals.offset[index] + np.int64(row["payload"])
    if proto == 6:
        if bad:
            count_bad_sum(flow, history, end, originator)
            return False
        data = tcp_packet(flow, history, table.ends, table.islands, slot, side, row, t)
        if data > 0:
            place_payload(table, arrivals.buf, source, np.int64(row["payload_cap"]), end, data - 1)
        return True
    if bad:
        if proto == 17:
            count_bad_sum(flow, history, end, originator)
        return False
    flow["last"] = t
    if (proto == 17) | (proto == 1) | (proto == 58):
        end["sent"] = max(np.int64(end["sent"]), 0) + np.int64(row["payload_len"])
        if proto == 17:
            once(flow, history, H_SYN, L_DATA, originator)
    append_payload(table, arrivals.buf, source, np.int64(row["payload_cap"]), end)
    return True


@inner
def _requeue(table: Table, slot: int) -> None:
    flow = table.flows[slot]
    queue = np.int64(flow["queue"])
    want = queue
    if flow["proto"] == 6:
        want = Q_CLOSED if flow["delete_at"] > 0 else (Q_ATTEMPT if _waiting(table, slot) else Q_TCP)
    if want == queue and queue >= Q_CLOSED:
        return  # these leave at a time fixed before
    _unqueue(table, slot)
    _enqueue(table, slot, want)


@inner
def _one(table: Table, arrivals: Arrivals, index: int) -> None:
    row, t = arrivals.rows[index], arrivals.ts[index]
    proto = np.int64(row["proto"])
    sport, dport, one_way = np.int64(row["sport"]), np.int64(row["dport"]), 0
    if (proto == 1 and row["ip_version"] == 4) or (proto == 58 and row["ip_version"] == 6):
        sport, dport, one_way = icmp_ports(proto, np.int64(row["icmp"]))
    seed = table.params[P_SEED]
    h = _hash_end(seed, row["src_hi"], row["src_lo"], sport) + _hash_end(seed, row["dst_hi"], row["dst_lo"], dport)
    bucket = _mix(h & 0x7FFFFFFF, proto) & (table.heads.shape[0] - 1)
    slot, side = np.int64(table.heads[bucket]), -1
    while slot >= 0:
        side = _same(table.flows[slot], row, sport, dport, one_way)
        if side >= 0:
            break
        slot = np.int64(table.flows[slot]["next"])
    if slot >= 0:
        reason = _due(table, slot, t)
        if reason < 0 and _reused(table, slot, row):
            reason = END_IDLE
        if reason >= 0:
            finish(table, slot, reason)
            slot = -1
    if slot < 0:
        slot = _new(table, arrivals, index, bucket, sport, dport, one_way)
        side = 0
    if _deliver(table, arrivals, index, slot, side):
        end = table.ends[2 * slot + side]
        end["packets"] += 1
        end["ip_bytes"] += np.int64(row["ip_len"])
    _store(table, arrivals, index, slot, side)
    table.flows[slot]["seen"] = t
    _requeue(table, slot)


@entry
def assign(table: Table, arrivals: Arrivals, start: int, stop: int) -> Any:
    """Feed rows [start, stop) to the table; returns the first row not taken (something ran out), or `stop`."""
    control = table.control
    room = table.done.shape[0] - DONE_MARGIN
    for index in range(start, stop):
        row = arrivals.rows[index]
        if row["usable"] != 1 or (table.params[P_SUMS] and row["ip_sum"] == 2):
            control[C_NUMBER] += 1
            continue
        if control[C_FREE] < 0 or control[C_FREE_PACKETS] < 0 or control[C_FREE_BUFFERS] < 0 or control[C_DONE] >= room:
            return index
        if arrivals.ts[index] > control[C_CLOCK]:
            control[C_CLOCK] = arrivals.ts[index]
        if index & 15 == 0:
            _sweep(table)
        _one(table, arrivals, index)
        control[C_NUMBER] += 1
    return stop


@entry
def evict(table: Table, count: int, reason: int) -> None:
    """Finish up to `count` live flows, the longest silent of each queue first; END_EOF ends the capture, else evictions are counted."""
    for step in range(QUEUES):
        queue = Q_CLOSED - step if step <= Q_CLOSED else Q_ATTEMPT
        while count > 0 and table.queues[queue, 0] >= 0 and table.control[C_DONE] < table.done.shape[0]:
            slot = np.int64(table.queues[queue, 0])
            ended = queue == Q_CLOSED
            finish(table, slot, END_IDLE if ended and reason == END_EVICTED else reason)
            if reason == END_EVICTED and not ended:
                table.control[C_EVICTED] += 1
            count -= 1
    if reason == END_EOF:
        table.control[C_CLOCK] = 0
