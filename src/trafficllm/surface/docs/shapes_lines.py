"""The closed shape of a line of every stream: verdicts, flows, Suricata's EVE events."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trafficllm.core.results import Captured, Result

Share = float
Closed = Result


class Part(Closed):
    """A part of a flow that a verdict rests on."""

    frame: int
    field: str
    weight: float


class Packet(Closed):
    """One of a flow's first packets: direction, payload bytes, seconds since the one before."""

    dir: int
    size: int
    iat: float


class Verdict(Closed):
    """A line of `analyze -f jsonl`. Times in seconds; probabilities sum to 1."""

    uid: str
    ts: float
    duration: float
    community_id: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str
    packets: int
    task: Captured
    label: Captured
    confidence: Share
    probabilities: dict[str, Share]
    unknown_score: float
    evidence: list[Part]
    file: Captured
    frames: list[int]
    adapter: Captured
    version: str


class Flow(Closed):
    """A line of `capture flows -f jsonl`, in Zeek's words. Times in seconds, sizes in bytes."""

    ts: float
    uid: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str
    ip_proto: int
    duration: float | None
    orig_bytes: int | None
    resp_bytes: int | None
    conn_state: str
    history: str
    orig_pkts: int
    orig_ip_bytes: int
    resp_pkts: int
    resp_ip_bytes: int
    community_id: str
    end_reason: str
    tunnel: str
    splt: list[Packet]


class EveAlert(Closed):
    """Suricata's `alert` object."""

    action: Literal["allowed"]
    gid: int
    signature_id: int
    rev: int
    signature: Captured
    category: str
    severity: int


class EveFlow(Closed):
    """Suricata's `flow` object."""

    pkts_toserver: int
    pkts_toclient: int
    bytes_toserver: int
    bytes_toclient: int
    start: str
    end: str
    state: str
    reason: str


class EveVerdict(Closed):
    """What is ours in an EVE event."""

    task: Captured
    label: Captured
    confidence: Share
    probabilities: dict[str, Share]
    unknown_score: float
    evidence: list[Part] = Field(default_factory=list)
    frames: list[int] = Field(default_factory=list)
    adapter: Captured
    version: str


class Eve(Closed):
    """A line of `-f eve`."""

    timestamp: str
    flow_id: int
    event_type: Literal["alert", "flow", "trafficllm"]
    src_ip: str
    src_port: int
    dest_ip: str
    dest_port: int
    proto: str
    community_id: str
    pcap_filename: Captured | None = None
    pcap_cnt: int | None = None
    alert: EveAlert | None = None
    flow: EveFlow | None = None
    trafficllm: EveVerdict | None = None
