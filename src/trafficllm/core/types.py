"""Values that flow between the rooms: frozen, columnar where there are many, Protocols at the seams.

Times are integers in nanoseconds since the Unix epoch; sizes are bytes; addresses are 16-byte rows
(IPv4 in the first four bytes, the rest zero).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

U8: TypeAlias = npt.NDArray[np.uint8]
U16: TypeAlias = npt.NDArray[np.uint16]
U32: TypeAlias = npt.NDArray[np.uint32]
I64: TypeAlias = npt.NDArray[np.int64]
F64: TypeAlias = npt.NDArray[np.float64]

UNKNOWN = "unknown"
"""The verdict on a flow that belongs to no class of the task."""
NOT_COVERED = "not covered"
"""The verdict on a flow of a kind that the adapter has not learnt, name service say."""
NONE = "none"
"""The router's answer to a question that asks for no task."""
ORIG, RESP = 0, 1
"""Direction of a packet within its flow: sent by the originator, or by the responder (Zeek's words)."""
ROUTER = "ROUTER"
"""The task id under which the router, stage 1, is registered."""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Captured frames as they lie in a file: one byte buffer and one row a frame.

    `buffer` uint8 [bytes]; `offset` int64 [n] start of each frame in `buffer`; `caplen`/`origlen` uint32 [n];
    `ts` int64 [n] nanoseconds; `link` uint16 [n] LINKTYPE_ numbers; `source` uint32 [n] index into `files`;
    `number` int64 [n], 1-based frame number within its file, as Wireshark shows it.
    """

    buffer: U8
    offset: I64
    caplen: U32
    origlen: U32
    ts: I64
    link: U16
    source: U32
    number: I64
    files: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.offset.shape[0])


@dataclass(frozen=True, slots=True)
class CaptureCounts:
    """What was seen while reading: nothing is dropped silently. Keys of `malformed` are kinds ("ip.truncated").

    `not_read`: frames by link type that is not read, and by each reason that leaves more than 1 % of them without a flow; clients' hellos
    of which only the prefix was kept, as the pool for the rest was full.
    """

    packets: int = 0
    bytes: int = 0
    first: int = 0
    last: int = 0
    link_types: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    malformed: Mapping[str, int] = field(default_factory=dict)
    non_ip: int = 0
    non_flow: int = 0
    flows: int = 0
    evicted: int = 0
    not_read: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Bidirectional flows with the beginning of each: columns a flow, columns a packet, payload prefixes.

    Flow columns [n]: `ts` start and `duration` (int64 ns); `ip_version` uint8 (4, 6; 0 where not IP); `proto` uint8;
    `orig_h`, `resp_h` uint8 [n, 16]; `orig_p`, `resp_p` uint16; `pkts` int64 [n, 2] and `payload_bytes`,
    `ip_bytes` int64 [n, 2] (column 0 originator, 1 responder); `conn_state`, `history`, `end_reason` object
    arrays of str (Zeek's words; end_reason: fin, rst, idle, active, evicted, eof); `link` uint16; `source` uint32;
    `vlan` int32 (-1: none); `tunnel` uint16, what the packets were wrapped in (`capture.packets.tunnel_names`; 0: nothing);
    `community_id` object array of str.

    Packet columns [m], the first `max_packets` of each flow, rows `pkt_ptr[i]:pkt_ptr[i+1]`:
    `p_dir` uint8, `p_ts` int64 ns since flow start, `p_ip_len` uint32 (IP total length), `p_payload` uint32 (transport
    payload bytes by the headers), `p_flags` uint8 (TCP), `p_window` uint16 (raw), `p_ttl` uint8, `p_frame` int64 (frame
    number in its file), `p_frame_len` uint32 (length on the wire), `p_type` uint16 (ICMP type << 8 | code).

    Payload prefixes after reassembly of the beginning: bytes
    `payload[payload_ptr[i, d]:payload_ptr[i, d+1]]` for d = ORIG, RESP (`payload_ptr` int64 [n, 3]).
    `beyond`, by `beyond_ptr` likewise, has what facts need and the prefixes do not hold: in TCP the bytes of a ClientHello that
    follow the prefix, in UDP whole datagrams with a client's hello, each behind its length (2 bytes, big-endian). No record has it.
    """

    ts: I64
    duration: I64
    ip_version: U8
    proto: U8
    orig_h: U8
    resp_h: U8
    orig_p: U16
    resp_p: U16
    pkts: I64
    payload_bytes: I64
    ip_bytes: I64
    conn_state: npt.NDArray[np.object_]
    history: npt.NDArray[np.object_]
    end_reason: npt.NDArray[np.object_]
    community_id: npt.NDArray[np.object_]
    link: U16
    source: U32
    vlan: npt.NDArray[np.int32]
    tunnel: U16
    pkt_ptr: I64
    p_dir: U8
    p_ts: I64
    p_ip_len: U32
    p_payload: U32
    p_flags: U8
    p_window: U16
    p_ttl: U8
    p_frame: I64
    p_frame_len: U32
    p_type: U16
    payload_ptr: I64
    payload: U8
    files: tuple[str, ...]
    beyond_ptr: I64 = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))
    beyond: U8 = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))

    def __len__(self) -> int:
        return int(self.ts.shape[0])


SpanKind = Literal[
    "tls.random",
    "tls.session_id",
    "tls.sni",
    "tls.key_share",
    "tls.ticket",
    "tls.cert_name",
    "dns.name",
    "dns.id",
    "dns.address",
    "http.host",
    "http.cookie",
    "http.uri",
    "http.header_value",
    "encrypted",
    "key_exchange",
    "credential",
    "name",
    "query",
    "content",
]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a payload prefix with a meaning: `dir` ORIG/RESP, `start`/`end` bytes, `kind` what it holds."""

    dir: int
    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bounded TLS, DNS and HTTP/1 parsers found at the start of a flow.

    `service` is "", "tls", "dns", "http", "ssh", "quic"...; `fields` maps tshark-style names ("tls.handshake.version",
    "dns.qry.type") to int, str or tuple of int; `spans` say where identifiers lie, so that masks can hide them in the bytes too.
    """

    service: str = ""
    fields: Mapping[str, int | str | tuple[int, ...]] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()


RecordKind = Literal["flow", "packet", "http", "cells"]


@dataclass(frozen=True, slots=True)
class Record:
    """What the model sees of one flow, packet, HTTP request or cell sequence, before or after masking.

    Packets are parallel tuples, at most the codec's number: `dirs` (ORIG/RESP), `sizes` (transport payload bytes),
    `iats` (ns since the previous packet, 0 for the first), `flags` (TCP), `windows`, `ttls` (-1: masked or absent).
    `ports` is (originator, responder), or None when masked; `port_class` says
    "w" well-known, "r" registered, "e" ephemeral for each end. `payload` are the prefixes (originator, responder);
    `hidden` spans of it are masked: the codec writes them as masked runs, never their bytes.
    `text` holds an HTTP request (kind "http"). `masked` names the fields that were hidden. `load` is what the whole of a cell
    sequence adds up to (records.codec.page_load), where the cells beside it may be its beginning only; empty: the cells tell it.
    """

    kind: RecordKind = "flow"
    ip_version: int = 4
    proto: int = 0
    ports: tuple[int, int] | None = None
    port_class: str = ""
    dirs: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    iats: tuple[int, ...] = ()
    flags: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    ttls: tuple[int, ...] = ()
    icmp: int = -1
    payload: tuple[bytes, bytes] = (b"", b"")
    hidden: tuple[Span, ...] = ()
    facts: Facts = field(default_factory=Facts)
    text: str = ""
    masked: frozenset[str] = frozenset()
    load: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowMeta:
    """Where a record came from: kept beside it, never shown to a model.

    `capture` is the file's path relative to the data folder; `origin` the capture it was cut from (equal origins never cross a
    split); `host` the originator's address; `ts` ns; `frames` the frame numbers of its packets; `seen_hash` 64 bits of the masked content.
    """

    uid: str = ""
    capture: str = ""
    origin: str = ""
    host: str = ""
    ts: int = 0
    duration: int = 0
    community_id: str = ""
    orig_h: str = ""
    orig_p: int = 0
    resp_h: str = ""
    resp_p: int = 0
    proto: int = 0
    packets: int = 0
    frames: tuple[int, ...] = ()
    link: int = 0


SegmentKind = Literal["instruction", "question", "traffic", "text"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a prompt. `instruction` is ours and trusted; `question` (a person's), `text` (captured) and `traffic`
    (a record's unit string) are untrusted and rendered so that they can never become control."""

    kind: SegmentKind
    value: str


Prompt: TypeAlias = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Label probabilities of a batch: `probabilities` float64 [n, labels] (rows sum to 1), `logits` the log-probabilities before
    calibration [n, labels], `hidden` float32 [n, width] last hidden state at the answer position, or None, `pooled` float32 [n, width] the
    mean of the last hidden states over the record, or None, `readout` float32 [n, labels] a readout's logits as they are, or None,
    `umbrella` float32 [n, classes] those of an umbrella readout, or None, `features` float32 [n, features] the pooled states that a readout
    reads, or None."""

    labels: tuple[str, ...]
    probabilities: F64
    logits: F64
    hidden: npt.NDArray[np.float32] | None = None
    pooled: npt.NDArray[np.float32] | None = None
    readout: npt.NDArray[np.float32] | None = None
    umbrella: npt.NDArray[np.float32] | None = None
    features: npt.NDArray[np.float32] | None = None


@runtime_checkable
class Scorer(Protocol):
    """Anything that turns records into label probabilities: the LLM, a random forest, a cascade."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def score(self, records: Sequence[Record]) -> Scores: ...


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns records into vectors float32 [n, width]."""

    def embed(self, records: Sequence[Record]) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class FlowWriter(Protocol):
    """A sink for flows or verdicts, one batch at a time."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


Progress: TypeAlias = "ProgressSink"


class ProgressSink(Protocol):
    """Receives progress of a long job; the surface draws it, tests ignore it."""

    def update(self, stage: str, done: int, total: int | None) -> None: ...


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage of a long job by its name in `ProgressSink.update`, the seconds it is expected to take (None: not known), and a note."""

    stage: str
    seconds: float | None = None
    note: str = ""


@runtime_checkable
class Planner(Protocol):
    """A ProgressSink that also says what comes next, where it is told beforehand."""

    def expect(self, stages: Sequence[StageTime]) -> None:
        """Stages in their order, before the first of them begins; a later call adds to them."""
        ...


def announce(progress: ProgressSink, *names: str) -> None:
    """Tell a sink that wants to know which stages are to come, how long they take being unknown."""
    if isinstance(progress, Planner):
        progress.expect([StageTime(name) for name in names])


class Silent:
    """A ProgressSink that shows nothing."""

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Ignore the report."""


@dataclass(frozen=True, slots=True)
class Action:
    """One semantic step of a generated flow; the compiler owns everything not named here.

    `op`: open, send, ack, retransmit, wait, close, reset, datagram, icmp. `dir` ORIG/RESP; `size` payload bytes;
    `payload` the first bytes of it (the rest is filled by `fill`); `gap` ns before the step; `window`, `ttl` optional (-1: default);
    `flags` extra TCP flags (PSH...); `icmp` type << 8 | code; `fill` "zero", "random" or "text".
    """

    op: str
    dir: int = ORIG
    size: int = 0
    payload: bytes = b""
    gap: int = 0
    window: int = -1
    ttl: int = -1
    flags: int = 0
    icmp: int = -1
    fill: str = "random"


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """A flow to compile: transport `proto` (6, 17, 1, 58), `ip_version`, service port of the responder, and its actions.

    `orig_p` is the originator's port; -1 lets the compiler take an ephemeral one. `whole`: every payload is spelled out and fits the
    service port, so the compiler takes both as they are.
    """

    proto: int
    ip_version: int
    resp_p: int
    actions: tuple[Action, ...]
    label: str = ""
    orig_p: int = -1
    whole: bool = False


FlowStream: TypeAlias = Iterator[FlowBatch]
