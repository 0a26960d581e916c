"""Packets to flows: hash table, activity queues, timeouts, per-packet columns. One call takes a whole batch.

All arrays live in a `Table`; everything is bounded, and when something runs out the kernel returns so that Python can
grow it, hand finished flows out, or evict. The same source runs with NUMBA_DISABLE_JIT=1.
"""

# ruff: noqa: PLR0917, PLR1714, SIM109 - kernels take arrays by position, and a tuple to search in costs numba half a second
from __future__ import annotations

from typing import Any, NamedTuple

from trafficllm.capture.kernels.beyond import count_finished, keep_datagram, keep_stream
from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.capture.kernels.connection.sctp import COOKIE_ACK, INIT_ACK, sctp_packet, sctp_reused
from trafficllm.capture.kernels.connection.stream import clear_ends, count_bad_sum, letter, once
from trafficllm.capture.kernels.connection.tcp import H_SYN, tcp_packet
from trafficllm.capture.kernels.key import hash_end, icmp_ports, mix, same_flow
from trafficllm.capture.kernels.layout import (
    C_CHUNKS_DONE,
    C_CLOCK,
    C_DONE,
    C_EVICTED,
    C_FREE,
    C_FREE_BUFFERS,
    C_FREE_CHUNKS,
    C_FREE_PACKETS,
    C_HELD,
    C_LIVE,
    C_NUMBER,
    C_TOP,
    C_TOP_BUFFERS,
    C_TOP_CHUNKS,
    C_TOP_PACKETS,
    CLOSED,
    END_ACTIVE,
    END_EOF,
    END_EVICTED,
    END_FIN,
    END_IDLE,
    END_RST,
    HANDSHAKE_TIMEOUT,
    INACTIVE,
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
from trafficllm.capture.kernels.payload import append_payload, place_payload

(P_TCP_TIMEOUT, P_UDP_TIMEOUT, P_ICMP_TIMEOUT, P_ACTIVE_TIMEOUT, P_MAX_PACKETS, P_MAX_PAYLOAD, P_FLIP, P_SEED, P_SUMS, P_FACTS) = range(10)
_TCP, _UDP, _SCTP, _UDP_LITE = 6, 17, 132, 136
DONE_MARGIN = 256  # room in `done` that a single packet's sweep can never exceed
_SWEEP = 40


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
    chunks: Any
    chunk_next: Any
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
def _is_connection(proto: Word) -> Word:
    """Opened and closed by its own packets."""
    return (proto == _TCP) | (proto == _SCTP)


@inner
def _is_datagram(proto: Word) -> Word:
    return (proto == _UDP) | (proto == _UDP_LITE)


@inner
def _unqueue(flows: Any, queues: Any, slot: Word) -> None:
    flow = flows[slot]
    queue, older, newer = flow["queue"], flow["older"], flow["newer"]
    if older >= 0:
        flows[older]["newer"] = newer
    else:
        queues[queue, 0] = newer
    if newer >= 0:
        flows[newer]["older"] = older
    else:
        queues[queue, 1] = older


@inner
def _enqueue(flows: Any, queues: Any, slot: Word, queue: Word) -> None:
    flow = flows[slot]
    tail = queues[queue, 1]
    flow["queue"] = queue
    flow["older"] = tail
    flow["newer"] = -1
    if tail >= 0:
        flows[tail]["newer"] = slot
    else:
        queues[queue, 0] = slot
    queues[queue, 1] = slot


@inner
def finish(flows: Any, ends: Any, heads: Any, queues: Any, done: Any, control: Any, slot: Word, reason: Word) -> None:
    """Take a flow out of hash and queue and put it on the list of finished ones."""
    flow = flows[slot]
    bucket = flow["bucket"]
    here = heads[bucket]
    if here == slot:
        heads[bucket] = flow["next"]
    else:
        while flows[here]["next"] != slot:
            here = flows[here]["next"]
        flows[here]["next"] = flow["next"]
    _unqueue(flows, queues, slot)
    one, two = ends[2 * slot]["state"], ends[2 * slot + 1]["state"]
    if _is_connection(i64(flow["proto"])):
        if one == RESET or two == RESET:
            reason = END_RST
        elif one == CLOSED and two == CLOSED:
            reason = END_FIN
    flow["end"] = reason
    flow["live"] = 0
    done[control[C_DONE]] = slot
    control[C_DONE] += 1
    control[C_HELD] += flow["stored"]
    count_finished(control, ends[2 * slot])
    count_finished(control, ends[2 * slot + 1])
    control[C_LIVE] -= 1


@inner
def _waiting(flows: Any, ends: Any, slot: Word) -> Word:
    """A lone SYN or SYN-ACK that nothing has answered."""
    flip = i64(flows[slot]["flip"])
    mine, other = ends[2 * slot + flip]["state"], ends[2 * slot + 1 - flip]["state"]
    return (mine == SYN_SENT or mine == SYN_ACK_SENT) and other == INACTIVE


@inner
def _due(flows: Any, ends: Any, params: Any, slot: Word, t: Word) -> Word:
    """Why the flow is over at time t (END_*), or -1."""
    flow = flows[slot]
    if params[P_ACTIVE_TIMEOUT] > 0 and t - flow["start"] >= params[P_ACTIVE_TIMEOUT]:
        return END_ACTIVE
    if _is_connection(i64(flow["proto"])):
        if flow["delete_at"] > 0:
            return END_IDLE if t >= flow["delete_at"] else -1
        if t >= flow["attempt_at"] and _waiting(flows, ends, slot):
            return END_IDLE
        limit = params[P_TCP_TIMEOUT]
        if ends[2 * slot]["state"] <= SYN_ACK_SENT and ends[2 * slot + 1]["state"] <= SYN_ACK_SENT:
            limit = min(limit, HANDSHAKE_TIMEOUT)
    elif _is_datagram(i64(flow["proto"])):
        limit = params[P_UDP_TIMEOUT]
    else:
        limit = params[P_ICMP_TIMEOUT]
    return END_IDLE if t - flow["last"] >= limit else -1


@inner
def _sweep(flows: Any, ends: Any, heads: Any, queues: Any, done: Any, control: Any, params: Any) -> None:
    """Finish what is over at the heads of the queues, a bounded number at a time."""
    now = control[C_CLOCK]
    for queue in range(QUEUES):
        for _ in range(_SWEEP):
            slot = i64(queues[queue, 0])
            if slot < 0:
                break
            reason = _due(flows, ends, params, slot, now)
            if reason < 0:
                break
            finish(flows, ends, heads, queues, done, control, slot, reason)


@inner
def _flipped(params: Any, ports: Any, row: Any, sport: Word, dport: Word) -> Word:
    """Whether the sender is likelier the server: no SYN seen, and its port is a well-known service (Zeek's heuristic)."""
    if not params[P_FLIP] or (row["dst_hi"] >> 32) & 0xFFFFFFFF == 0xFFFFFFFF:
        return 0
    flags = row["flags"]
    if row["proto"] == 6:
        if (flags & 2 and not flags & 16) or not ports[0, sport]:
            return 0
        if ports[0, dport]:
            return 1 if flags & 2 or sport < dport else 0
        return 1
    if row["proto"] == _SCTP:  # who answers is the responder, whatever the ports
        return 1 if i64(row["chunks"]) & (INIT_ACK | COOKIE_ACK) else 0
    if row["proto"] == 17:
        return 1 if ports[1, sport] and not ports[1, dport] else 0
    return 0


@inner
def _new(table: Table, arrivals: Arrivals, index: Word, bucket: Word, sport: Word, dport: Word, one_way: Word) -> Word:
    slot = i64(table.control[C_FREE])
    if slot >= 0:
        table.control[C_FREE] = table.flows[slot]["next"]
    else:
        slot = table.control[C_TOP]
        table.control[C_TOP] = slot + 1
    flow, row = table.flows[slot], arrivals.rows[index]
    t = arrivals.ts[index]
    flow["a_hi"], flow["a_lo"], flow["b_hi"], flow["b_lo"] = row["src_hi"], row["src_lo"], row["dst_hi"], row["dst_lo"]
    flow["a_p"], flow["b_p"], flow["one_way"] = sport, dport, one_way
    flow["proto"], flow["ip_version"], flow["vlan"] = row["proto"], row["ip_version"], row["vlan"]
    flow["link"], flow["source"], flow["tunnel"] = arrivals.link[index], arrivals.source[index], row["tunnel"]
    flow["start"], flow["last"], flow["seen"], flow["first"] = t, t, t, table.control[C_NUMBER]
    flow["attempt_at"], flow["delete_at"] = 0, 0
    flow["packet_head"], flow["packet_tail"], flow["stored"] = -1, -1, 0
    flow["hist_seen"], flow["hist_len"] = 0, 0
    flow["flip"], flow["partial"], flow["first_seen"], flow["deferred"], flow["live"] = 0, 0, 0, 0, 1
    clear_ends(table.ends[2 * slot], table.ends[2 * slot + 1])
    if _flipped(table.params, table.ports, row, sport, dport):
        flow["flip"] = 1
        letter(flow, table.history[slot], L_FLIP, one_way >= 0)
    flow["bucket"] = bucket
    flow["next"] = table.heads[bucket]
    table.heads[bucket] = slot
    proto = i64(row["proto"])
    _enqueue(table.flows, table.queues, slot, Q_TCP if _is_connection(proto) else (Q_UDP if _is_datagram(proto) else Q_ICMP))
    table.control[C_LIVE] += 1
    return slot


@inner
def _reused(flows: Any, ends: Any, slot: Word, side: Word, row: Any) -> Word:
    """A SYN that starts another connection on the same ports."""
    flags = i64(row["flags"])
    if row["proto"] == _SCTP:
        return sctp_reused(ends[2 * slot + side], ends[2 * slot + 1 - side], row)
    if row["proto"] != 6 or not flags & 2:
        return False
    flip = i64(flows[slot]["flip"])
    first, second = ends[2 * slot + flip], ends[2 * slot + 1 - flip]
    if first["closed"] or second["closed"]:
        return not flags & 16 or first["state"] == INACTIVE
    if flags & 16:
        return first["state"] == INACTIVE and row["seq"] != second["start_seq"]
    if row["seq"] == first["start_seq"]:
        return False
    reversed_order = first["state"] == SYN_ACK_SENT and second["state"] == INACTIVE and row["seq"] == second["start_seq"]
    return not reversed_order


@inner
def _store(table: Table, arrivals: Arrivals, index: Word, slot: Word, side: Word) -> None:
    flow, row = table.flows[slot], arrivals.rows[index]
    if flow["stored"] >= table.params[P_MAX_PACKETS]:
        return
    here = i64(table.control[C_FREE_PACKETS])
    if here >= 0:
        table.control[C_FREE_PACKETS] = table.packets[here]["next"]
    else:
        here = table.control[C_TOP_PACKETS]
        table.control[C_TOP_PACKETS] = here + 1
    packet = table.packets[here]
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
def _deliver(table: Table, arrivals: Arrivals, index: Word, slot: Word, side: Word) -> Word:
    """Protocol part of one packet; False when its checksum keeps it from being counted."""
    flow, row, t = table.flows[slot], arrivals.rows[index], arrivals.ts[index]
    end, history = table.ends[2 * slot + side], table.history[slot]
    originator = side == flow["flip"]
    proto, bad = i64(row["proto"]), table.params[P_SUMS] and row["l4_sum"] == 2
    source, limit = arrivals.offset[index] + i64(row["payload"]), table.params[P_MAX_PAYLOAD]
    most = table.params[P_FACTS]
    if proto == 6:
        if bad:
            count_bad_sum(flow, history, end, originator)
            return False
        data = tcp_packet(flow, history, table.ends, table.islands, slot, side, row, t)
        if data > 0:
            size = i64(row["payload_cap"])
            place_payload(table.buffers, table.buffer_next, table.control, limit, arrivals.buf, source, size, end, data - 1)
            if end["wanted"] >= 0 and most > 0:
                keep_stream(
                    table.chunks, table.chunk_next, table.control, table.buffers, limit, most, arrivals.buf, source, size, end, data - 1
                )
        return True
    if bad:
        if _is_datagram(proto) or proto == _SCTP:
            count_bad_sum(flow, history, end, originator)
        return False
    if proto == _SCTP:
        sctp_packet(flow, history, table.ends, slot, side, row, t)
    else:
        flow["last"] = t
    if _is_datagram(proto) or (proto == 1) | (proto == 58) | (proto == _SCTP):
        end["sent"] = max(i64(end["sent"]), 0) + i64(row["payload_len"])
        if _is_datagram(proto):
            once(flow, history, H_SYN, L_DATA, originator)
            if most > 0 and proto == _UDP and not end["closed_hello"]:
                size, peer = i64(row["payload_cap"]), table.ends[2 * slot + 1 - side]
                keep_datagram(table.chunks, table.chunk_next, table.control, most, arrivals.buf, source, size, end, peer)
    append_payload(table.buffers, table.buffer_next, table.control, limit, arrivals.buf, source, i64(row["payload_cap"]), end)
    return True


@inner
def _requeue(table: Table, slot: Word) -> None:
    flow = table.flows[slot]
    queue = i64(flow["queue"])
    want = queue
    if _is_connection(i64(flow["proto"])):
        want = Q_CLOSED if flow["delete_at"] > 0 else (Q_ATTEMPT if _waiting(table.flows, table.ends, slot) else Q_TCP)
    if want == queue and (queue >= Q_CLOSED or flow["newer"] < 0):
        return  # these leave at a time fixed before, or the flow is the newest already
    _unqueue(table.flows, table.queues, slot)
    _enqueue(table.flows, table.queues, slot, want)


@inner
def _one(table: Table, arrivals: Arrivals, index: Word) -> None:
    row, t = arrivals.rows[index], arrivals.ts[index]
    proto = i64(row["proto"])
    sport, dport, one_way = i64(row["sport"]), i64(row["dport"]), 0
    if (proto == 1 and row["ip_version"] == 4) or (proto == 58 and row["ip_version"] == 6):
        sport, dport, one_way = icmp_ports(proto, i64(row["icmp"]))
    seed = table.params[P_SEED]
    h = hash_end(seed, row["src_hi"], row["src_lo"], sport) + hash_end(seed, row["dst_hi"], row["dst_lo"], dport)
    bucket = mix(h & 0x7FFFFFFF, proto) & (table.heads.shape[0] - 1)
    slot, side = i64(table.heads[bucket]), -1
    while slot >= 0:
        side = same_flow(table.flows[slot], row, sport, dport, one_way)
        if side >= 0:
            break
        slot = i64(table.flows[slot]["next"])
    if slot >= 0:
        reason = _due(table.flows, table.ends, table.params, slot, t)
        if reason < 0 and _reused(table.flows, table.ends, slot, side, row):
            reason = END_IDLE
        if reason >= 0:
            finish(table.flows, table.ends, table.heads, table.queues, table.done, table.control, slot, reason)
            slot = -1
    if slot < 0:
        slot = _new(table, arrivals, index, bucket, sport, dport, one_way)
        side = 0
    if _deliver(table, arrivals, index, slot, side):
        end = table.ends[2 * slot + side]
        end["packets"] += 1
        end["ip_bytes"] += i64(row["ip_len"])
    _store(table, arrivals, index, slot, side)
    table.flows[slot]["seen"] = t
    _requeue(table, slot)


@entry
def assign(table: Table, arrivals: Arrivals, start: Word, stop: Word) -> Word:
    """Feed rows [start, stop) to the table; returns the first row not taken (something ran out), or `stop`."""
    control = table.control
    room, chunks = table.done.shape[0] - DONE_MARGIN, table.chunks.shape[0]
    for index in range(start, stop):
        row = arrivals.rows[index]
        if row["usable"] != 1 or (table.params[P_SUMS] and row["ip_sum"] == 2):
            control[C_NUMBER] += 1
            continue
        if control[C_DONE] >= room or (control[C_FREE] < 0 and control[C_TOP] >= table.flows.shape[0]):
            return index
        if control[C_FREE_PACKETS] < 0 and control[C_TOP_PACKETS] >= table.packets.shape[0]:
            return index
        if control[C_FREE_BUFFERS] < 0 and control[C_TOP_BUFFERS] >= table.buffers.shape[0]:
            return index
        if control[C_FREE_CHUNKS] < 0 and control[C_TOP_CHUNKS] >= chunks > 0 and control[C_CHUNKS_DONE] > chunks // 4:
            return index
        control[C_CLOCK] = max(control[C_CLOCK], arrivals.ts[index])
        if index & 15 == 0:
            _sweep(table.flows, table.ends, table.heads, table.queues, table.done, table.control, table.params)
        _one(table, arrivals, index)
        control[C_NUMBER] += 1
    return stop


@entry
def evict(table: Table, count: Word, reason: Word) -> None:
    """Finish up to `count` live flows, the longest silent of each queue first; only END_EVICTED is counted."""
    for step in range(QUEUES):
        queue = Q_CLOSED - step if step <= Q_CLOSED else Q_ATTEMPT
        while count > 0 and table.queues[queue, 0] >= 0 and table.control[C_DONE] < table.done.shape[0]:
            slot = i64(table.queues[queue, 0])
            ended = queue == Q_CLOSED
            why = END_IDLE if ended and reason == END_EVICTED else reason
            finish(table.flows, table.ends, table.heads, table.queues, table.done, table.control, slot, why)
            if reason == END_EVICTED and not ended:
                table.control[C_EVICTED] += 1
            count -= 1
    if reason == END_EOF:
        table.control[C_CLOCK] = 0


@entry
def expire(table: Table, now: Word) -> None:
    """Finish what is over at `now` although no packet has come since; call it again while it finishes any."""
    control = table.control
    control[C_CLOCK] = max(control[C_CLOCK], now)
    if control[C_DONE] < table.done.shape[0] - DONE_MARGIN:
        _sweep(table.flows, table.ends, table.heads, table.queues, table.done, control, table.params)
