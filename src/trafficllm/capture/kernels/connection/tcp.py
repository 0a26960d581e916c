"""TCP connections as Zeek sees them: endpoint states, history letters, sizes from sequence numbers.

Semantics after the documentation of conn.log and the behaviour of Zeek 7; numbers are relative to each endpoint's first
sequence number and do not wrap. `d` is the side that sent the packet, side `flow["flip"]` is the originator.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.kernels.connection.stream import acknowledge, deliver, delta32, letter, once, pending, relative, scaled
from trafficllm.capture.kernels.layout import (
    ATTEMPT_DELAY,
    CLOSE_DELAY,
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    L_ACK,
    L_DATA,
    L_FIN,
    L_FIN_RST,
    L_FLIP,
    L_MULTI,
    L_REXMIT,
    L_RST,
    L_SYN,
    L_SYN_ACK,
    L_ZERO_WINDOW,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)

FIN_FLAG, SYN_FLAG, RST_FLAG, ACK_FLAG = 1, 2, 4, 16
_FAR = 1048576  # a SYN or RST further off than 1 MiB does not move the sequence numbers
H_SYN, H_FIN, H_RST, H_ACK, H_DATA, H_MULTI, H_FIN_RST = (i64(1 << _bit) for _bit in range(7))


@inner
def _set_state(end: Any, state: Word) -> None:
    if i64(end["state"]) != state:
        end["previous"] = end["state"]
        end["state"] = state


@inner
def _begin(end: Any, start: Word, last: Word) -> None:
    end["start_seq"] = start & 0xFFFFFFFF
    end["ack_rel"] = 0
    end["last_rel"] = delta32(last & 0xFFFFFFFF, start & 0xFFFFFFFF)


@inner
def _begin_endpoint(end: Any, flags: Word, seq: Word, past: Word) -> None:
    state = i64(end["state"])
    syn = flags & SYN_FLAG
    if state == INACTIVE:
        if syn:
            _begin(end, seq, past)
        else:  # as if a SYN had come before, so that counting stays the same
            _begin(end, seq - 1, seq)
    elif syn and seq != i64(end["start_seq"]) and (state < CLOSED or (state == RESET and end["previous"] == INACTIVE)):
        _begin(end, seq, past)


@inner
def _history(flow: Any, history: Any, end: Any, flags: Word, rel: Word, length: Word, originator: bool) -> None:
    bits = (flags & 1) + (flags >> 1 & 1) + (flags >> 2 & 1)
    if bits > 1:
        if flags & FIN_FLAG and flags & RST_FLAG:
            once(flow, history, H_FIN_RST, L_FIN_RST, originator)
        else:
            once(flow, history, H_MULTI, L_MULTI, originator)
    elif flags & SYN_FLAG:
        code = L_SYN_ACK if flags & ACK_FLAG else L_SYN
        if once(flow, history, H_SYN, code, originator) and rel != end["hist_syn"]:
            letter(flow, history, code, originator)
        end["hist_syn"] = rel
    elif flags & FIN_FLAG:
        if once(flow, history, H_FIN, L_FIN, originator) and rel + length != end["hist_fin"]:
            letter(flow, history, L_FIN, originator)
        end["hist_fin"] = rel + length
    elif flags & RST_FLAG:
        if once(flow, history, H_RST, L_RST, originator) and rel != end["hist_rst"]:
            letter(flow, history, L_RST, originator)
        end["hist_rst"] = rel
    elif length:
        once(flow, history, H_DATA, L_DATA, originator)
    elif flags & ACK_FLAG:
        once(flow, history, H_ACK, L_ACK, originator)


@inner
def close_side(flow: Any, end: Any, peer: Any) -> None:
    """One side is done; when that ends the connection, set when its state goes away."""
    if pending(end):
        flow["deferred"] = 1
        return
    flow["deferred"] = 0
    if end["closed"]:
        return
    end["closed"] = 1
    if end["state"] == RESET or peer["closed"] or peer["state"] == INACTIVE:
        flow["delete_at"] = flow["last"] + CLOSE_DELAY


@inner
def check_eof(flow: Any, end: Any, peer: Any) -> None:
    """Finish a close that waited for missing data."""
    if end["eof"] or pending(end):
        return
    if end["fins"] > 0 or end["state"] == CLOSED or end["state"] == RESET:
        end["eof"] = 1
        if flow["deferred"]:
            close_side(flow, end, peer)


@inner
def _reversed(flow: Any, history: Any) -> None:
    """A SYN behind the SYN-ACK of a flow whose originator was guessed by the ports (`^h`): the history as it would be without the guess."""
    length = i64(flow["hist_len"])
    for place in range(1, length):
        history[place - 1] = history[place] ^ 32
    history[length - 1] = L_FLIP


@inner
def _inactive(flow: Any, history: Any, end: Any, peer: Any, d: Word, seq: Word, flags: Word, length: Word, t: Word) -> Word:
    """First packet of a side. True when the connection may close."""
    originator = d == flow["flip"]
    close = False
    if flags & SYN_FLAG:
        if originator and not flags & ACK_FLAG and peer["state"] == ESTABLISHED and history[0] == L_FLIP and history[1] == L_SYN_ACK + 32:
            flow["partial"] = 0
            _reversed(flow, history)
            _set_state(end, ESTABLISHED)
        elif originator:
            _set_state(end, SYN_ACK_SENT if flags & ACK_FLAG else SYN_SENT)
            flow["attempt_at"] = t + ATTEMPT_DELAY
        else:
            if not flags & ACK_FLAG and peer["state"] == SYN_ACK_SENT and seq == end["start_seq"]:
                flow["partial"] = 0  # SYN and SYN-ACK in the wrong order: the sides change roles
                flow["flip"] = 1 - flow["flip"]
                letter(flow, history, L_FLIP, d >= 0)
                _set_state(peer, ESTABLISHED)
                flow["first_seen"] = flow["first_seen"] | (1 << d)
            if peer["state"] == SYN_SENT:
                _set_state(peer, ESTABLISHED)
            _set_state(end, ESTABLISHED)
    if flags & FIN_FLAG:
        _set_state(end, CLOSED)
        close = True
    if flags & RST_FLAG:
        _set_state(end, RESET)
        close = True
    if end["state"] == INACTIVE:
        originator = d == flow["flip"]
        if not originator and length == 0 and peer["state"] == SYN_SENT:
            pass  # some stacks acknowledge the SYN before they answer it
        elif flags & ACK_FLAG and peer["state"] == ESTABLISHED:
            _set_state(end, ESTABLISHED)
            flow["partial"] = 0
            flow["first_seen"] = flow["first_seen"] | (1 << d)
        else:
            _set_state(end, PARTIAL)
    return close


@inner
def _transition(flow: Any, history: Any, end: Any, peer: Any, d: Word, seq: Word, flags: Word, length: Word, t: Word) -> Word:
    """Move the endpoint's state; True when its side closes now."""
    state = i64(end["state"])
    if state == INACTIVE:
        return _inactive(flow, history, end, peer, d, seq, flags, length, t)
    if state == RESET:
        return False
    if state == CLOSED:
        if flags & RST_FLAG and peer["state"] != CLOSED:
            _set_state(end, RESET)
            return not end["closed"]
        return False
    close = False
    if state >= PARTIAL:
        if flags & SYN_FLAG and not flags & ACK_FLAG and state == PARTIAL and peer["state"] == INACTIVE:
            _set_state(end, SYN_SENT)
        if flags & FIN_FLAG and not flags & RST_FLAG:
            _set_state(end, CLOSED)
            if peer["state"] == RESET and peer["previous"] == CLOSED:
                _set_state(peer, CLOSED)  # FIN, then RST: an ordinary end
            close = True
    elif flags & FIN_FLAG:
        _set_state(end, CLOSED)
        close = True
    if flags & RST_FLAG:
        _set_state(end, RESET)
        close = True
    return close


@inner
def _advance(flow: Any, history: Any, end: Any, flags: Word, past: Word, length: Word, originator: bool) -> None:
    """Move the highest sequence number, or note a retransmission."""
    number = relative(end, past, i64(end["last_rel"]))
    step = number - end["last_rel"]
    if flags & (SYN_FLAG | RST_FLAG) and (step > _FAR or step < -_FAR):
        return
    if flags & FIN_FLAG and end["last_rel"] == 1:
        end["last_rel"] = number
    elif end["state"] == RESET:
        return
    elif step > 0:
        end["last_rel"] = number
    elif length > 0:
        end["rexmit"] = i64(end["rexmit"]) + 1
        end["rexmit_at"], now = scaled(i64(end["rexmit"]), i64(end["rexmit_at"]))
        if now:
            letter(flow, history, L_REXMIT, originator)


@inner
def _take_ack(peer: Any, ack: Word, rst: Word) -> Word:
    """Relative number acknowledged, after starting the peer's counting if it has not spoken."""
    if peer["state"] == INACTIVE:
        _begin(peer, ack - 1, ack - 1)
        return 1
    number = relative(peer, ack, i64(peer["ack_rel"]))
    if number < 0:
        return 0
    step = number - peer["ack_rel"]
    if not rst and step > 0 and not (ack == 0 and step > _FAR):
        peer["ack_rel"] = number
    return number


@inner
def tcp_packet(flow: Any, history: Any, ends: Any, islands: Any, slot: Word, d: Word, row: Any, t: Word) -> Word:
    """One TCP packet from side `d`; returns the relative number of its first data byte (1: stream start), 0: none usable."""
    end, peer = ends[2 * slot + d], ends[2 * slot + 1 - d]
    flags, seq, ack = i64(row["flags"]), i64(row["seq"]), i64(row["ack"])
    length = i64(row["payload_len"])
    originator = d == flow["flip"]
    if originator and not flow["first_seen"] >> d & 1:
        flow["partial"] = 0 if flags & SYN_FLAG and not flags & ACK_FLAG else 1
    elif not originator and not flow["first_seen"] >> d & 1 and not flow["partial"]:
        flow["partial"] = 0 if flags & SYN_FLAG else 1
    past = seq + (flags & 1) + (flags >> 1 & 1) + (0 if flags & RST_FLAG else length)
    _begin_endpoint(end, flags, seq, past)
    rel = relative(end, seq, i64(end["last_rel"]))
    _history(flow, history, end, flags, rel, length, originator)
    if row["window"] == 0 and not flags & RST_FLAG and peer["state"] != CLOSED and end["state"] != RESET:
        end["zero_windows"] = i64(end["zero_windows"]) + 1
        end["zero_windows_at"], now = scaled(i64(end["zero_windows"]), i64(end["zero_windows_at"]))
        if now:
            letter(flow, history, L_ZERO_WINDOW, originator)
    if not end["closed"] or not peer["closed"]:
        flow["last"] = t
    if flags & FIN_FLAG:
        end["fins"] = min(i64(end["fins"]) + 1, 60000)
        end["fin_rel"] = rel + past - seq
    rel_ack = i64(0)
    if flags & ACK_FLAG:
        rel_ack = _take_ack(peer, ack, flags & RST_FLAG)
    _advance(flow, history, end, flags, past & 0xFFFFFFFF, length, originator)
    close = _transition(flow, history, end, peer, d, seq, flags, length, t)
    if flags & ACK_FLAG:
        acknowledge(flow, history, peer, end, islands[2 * slot + 1 - d], rel_ack, 1 - d == flow["flip"])
        check_eof(flow, peer, end)
    flow["first_seen"] = flow["first_seen"] | (1 << d)
    data = rel + 1 if flags & SYN_FLAG else rel
    usable = length > 0 and not flags & RST_FLAG and rel >= 0
    if usable and i64(row["payload_cap"]) >= length:
        acked = max(data, i64(end["ack_rel"]))
        if acked < data + length:
            deliver(end, islands[2 * slot + d], acked, data + length)
    check_eof(flow, end, peer)
    if close:
        close_side(flow, end, peer)
    return data if usable else 0
