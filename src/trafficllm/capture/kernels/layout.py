"""Memory layout of the flow table: what the kernels keep for each flow, each endpoint and each stored packet."""

from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels.compiling import i64

HISTORY = 40
"""Bytes of history kept for a flow; Zeek's strings grow only with distinct SYN, FIN and RST numbers, 20 is rare."""

FLOW = np.dtype(
    [
        ("a_hi", "<i8"),  # side 0: sender of the first packet
        ("a_lo", "<i8"),
        ("b_hi", "<i8"),
        ("b_lo", "<i8"),
        ("start", "<i8"),  # ns
        ("last", "<i8"),  # ns, Zeek's last activity: stops when both sides have closed
        ("seen", "<i8"),  # ns of the last packet
        ("first", "<i8"),  # running number of the first packet: the order of the output
        ("attempt_at", "<i8"),  # a lone SYN is given up at this time
        ("delete_at", "<i8"),  # a closed connection leaves at this time, 0: not closed
        ("next", "<i4"),  # chain in the hash bucket
        ("older", "<i4"),  # queue of activity, the oldest at its head
        ("newer", "<i4"),
        ("packet_head", "<i4"),
        ("packet_tail", "<i4"),
        ("bucket", "<i4"),
        ("source", "<u4"),
        ("vlan", "<i4"),
        ("hist_seen", "<u4"),
        ("a_p", "<u2"),
        ("b_p", "<u2"),
        ("link", "<u2"),
        ("stored", "<u2"),  # packets kept
        ("tunnel", "<u2"),
        ("hist_len", "u1"),
        ("ip_version", "u1"),
        ("proto", "u1"),
        ("one_way", "u1"),
        ("flip", "u1"),  # 1: side 1 is the originator
        ("queue", "u1"),
        ("active", "u1"),  # TCP: no final event yet
        ("partial", "u1"),
        ("first_seen", "u1"),  # TCP: bit per side
        ("deferred", "u1"),  # a close waits for data still missing
        ("expired", "u1"),
        ("end", "u1"),  # END_*
        ("live", "u1"),
    ],
    align=True,
)

ENDPOINT = np.dtype(
    [
        ("packets", "<i8"),
        ("ip_bytes", "<i8"),
        ("sent", "<i8"),  # UDP and ICMP payload bytes, -1: nothing sent
        ("last_rel", "<i8"),  # highest sequence number, counted from `start_seq`, not wrapping
        ("ack_rel", "<i8"),  # highest acknowledged
        ("fin_rel", "<i8"),
        ("hist_syn", "<i8"),
        ("hist_fin", "<i8"),
        ("hist_rst", "<i8"),
        ("next_rel", "<i8"),  # everything below has been delivered or given up
        ("prefix", "<i4"),  # bytes of the payload prefix that are contiguous
        ("buffer", "<i4"),  # its row in the payload pool, -1: none yet
        ("start_seq", "<u4"),
        ("rexmit", "<u4"),
        ("rexmit_at", "<u4"),
        ("gaps", "<u4"),
        ("gaps_at", "<u4"),
        ("zero_windows", "<u4"),
        ("zero_windows_at", "<u4"),
        ("chunk", "<i4"),  # first chunk beyond the prefix, -1: none
        ("wanted", "<i4"),  # TCP: stream bytes that facts want, 0: not yet known, -1: the prefix; UDP: bytes kept in chunks
        ("bad_sums", "<u4"),
        ("bad_sums_at", "<u4"),
        ("fins", "<u2"),
        ("state", "u1"),
        ("previous", "u1"),
        ("closed", "u1"),
        ("rsts", "u1"),
        ("islands", "u1"),  # stretches received beyond a hole
        ("eof", "u1"),
        ("scattered", "u1"),  # the prefix has bytes beyond a hole
        ("chunks", "u1"),  # length of the chain that begins with `chunk`
        ("closed_hello", "u1"),  # UDP: no more datagrams are kept beyond the prefix
    ],
    align=True,
)

CHUNK = 512
"""Bytes of a chunk beyond the payload prefix; behind them lies one bit a byte."""

ISLANDS = 4
"""Stretches beyond a hole that are remembered for an endpoint; more of them melt into the last."""

STORED = np.dtype(
    [
        ("ts", "<i8"),
        ("frame", "<i8"),
        ("ip_len", "<u4"),
        ("payload", "<u4"),
        ("frame_len", "<u4"),
        ("next", "<i4"),
        ("window", "<u2"),
        ("type", "<u2"),
        ("flags", "u1"),
        ("ttl", "u1"),
        ("side", "u1"),
    ],
    align=True,
)

SUMMARY = np.dtype(
    [
        ("ts", "<i8"),
        ("duration", "<i8"),
        ("orig_hi", "<i8"),
        ("orig_lo", "<i8"),
        ("resp_hi", "<i8"),
        ("resp_lo", "<i8"),
        ("orig_pkts", "<i8"),
        ("resp_pkts", "<i8"),
        ("orig_bytes", "<i8"),  # payload
        ("resp_bytes", "<i8"),
        ("orig_ip", "<i8"),
        ("resp_ip", "<i8"),
        ("orig_prefix", "<i4"),
        ("resp_prefix", "<i4"),
        ("orig_beyond", "<i4"),
        ("resp_beyond", "<i4"),
        ("vlan", "<i4"),
        ("source", "<u4"),
        ("stored", "<i4"),
        ("orig_p", "<u2"),
        ("resp_p", "<u2"),
        ("link", "<u2"),
        ("tunnel", "<u2"),
        ("ip_version", "u1"),
        ("proto", "u1"),
        ("one_way", "u1"),
        ("state", "u1"),
        ("end", "u1"),
    ],
    align=True,
)
"""A finished flow as it leaves the table, the originator first."""

CONTROL = 16
"""int64 slots shared between Python and the kernels."""
_SLOTS = range(12)
C_FREE_CHUNKS, C_TOP_CHUNKS, C_CHUNKS_DONE, C_HELLOS_LOST = range(12, 16)
(C_FREE, C_FREE_PACKETS, C_FREE_BUFFERS, C_TOP, C_TOP_PACKETS, C_TOP_BUFFERS, C_DONE, C_NUMBER, C_CLOCK, C_LIVE, C_EVICTED, C_HELD) = _SLOTS
# FREE: head of the list of rows given back, -1 none; TOP: rows from here on were never used, so their memory is not even there
# yet; HELD: packets stored for finished flows; CHUNKS_DONE: chunks of finished flows; HELLOS_LOST: hellos that found no chunk left

END_EOF, END_IDLE, END_ACTIVE, END_EVICTED, END_FIN, END_RST = range(6)
END_NAMES = ("eof", "idle", "active", "evicted", "fin", "rst")

Q_TCP, Q_UDP, Q_ICMP, Q_CLOSED, Q_ATTEMPT = range(5)
QUEUES = 5

# TCP endpoint states, in the words of Zeek's conn_state. np.int64, because numba compiles a function again for every literal
# argument: 26 compilations fewer.
INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, CLOSED, RESET = (i64(_state) for _state in range(7))
_LETTERS = "SHADFRCGTWIQ^"
(L_SYN, L_SYN_ACK, L_ACK, L_DATA, L_FIN, L_RST, L_BAD_SUM, L_GAP, L_REXMIT, L_ZERO_WINDOW, L_FIN_RST, L_MULTI, L_FLIP) = (
    i64(ord(_letter)) for _letter in _LETTERS
)

SECOND = 1_000_000_000
ATTEMPT_DELAY = 5 * SECOND  # Zeek tcp_attempt_delay
CLOSE_DELAY = 5 * SECOND  # Zeek tcp_close_delay
HANDSHAKE_TIMEOUT = 60 * SECOND  # Zeek starts TCP with the UDP timeout until the handshake is over
