"""Suricata EVE events from flows and verdicts: `flow` for every flow, `alert` for the notable ones.

Keys follow Suricata's eve.json schema; what is ours lies under `trafficllm`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from trafficllm.capture.flows.rows import Connection
from trafficllm.core.files import hash64
from trafficllm.core.results import Captured, Counts, closed
from trafficllm.core.types import UNKNOWN
from trafficllm.infer.detector import VerdictRow
from trafficllm.infer.evidence import EvidenceRow
from trafficllm.lifecycle.analyze.hosts import HostRow

_LOCAL_SIDS = 1_000_000
"""Signature ids 1,000,000 to 1,999,999 are kept for local rules (Suricata user guide, "Meta keywords: sid")."""
EventType: TypeAlias = Literal["alert", "flow", "trafficllm"]


@closed
class EveAlert(TypedDict):
    """Suricata's `alert` object."""

    action: Literal["allowed"]
    gid: int
    signature_id: int
    rev: int
    signature: Captured
    category: str
    severity: int


@closed
class EveFlow(TypedDict):
    """Suricata's `flow` object."""

    pkts_toserver: int
    pkts_toclient: int
    bytes_toserver: int
    bytes_toclient: int
    start: str
    end: str
    state: str
    reason: str


@closed
class EveVerdict(TypedDict):
    """What is ours in an EVE event."""

    task: Captured
    label: Captured
    confidence: float
    probabilities: dict[str, float]
    unknown_score: float
    evidence: list[EvidenceRow]
    frames: list[int]
    adapter: Captured
    version: str
    umbrella: str | None
    umbrella_probability: float | None
    malicious: float | None
    labels_90: list[str]
    source: str


@closed
class EveEvent(TypedDict):
    """A line of `-f eve`."""

    timestamp: str
    flow_id: int
    event_type: EventType
    src_ip: str
    src_port: int
    dest_ip: str
    dest_port: int
    proto: str
    community_id: str
    pcap_filename: NotRequired[Captured]
    pcap_cnt: NotRequired[int | None]
    alert: NotRequired[EveAlert]
    flow: NotRequired[EveFlow]
    label: NotRequired[Captured | None]
    trafficllm: NotRequired[EveVerdict]


@closed
class EveHost(TypedDict):
    """What is ours in an EVE event of a host."""

    task: Captured
    umbrella: str
    umbrella_probability: float | None
    malicious: float | None
    score: float | None
    flows: int
    labels: Counts
    first: str
    last: str
    frames: list[int]


@closed
class EveHostEvent(TypedDict):
    """A line of `analyze --hosts -f eve`; a host has no peer, port or protocol, so `src_ip` alone says who."""

    timestamp: str
    event_type: EventType
    src_ip: str
    pcap_filename: Captured
    pcap_cnt: int | None
    alert: NotRequired[EveAlert]
    trafficllm: EveHost


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z")


def _event(row: Connection | VerdictRow, event_type: EventType) -> EveEvent:
    return {
        "timestamp": _timestamp(row["ts"]),
        "flow_id": hash64(row["uid"].encode("utf-8", "surrogatepass")) >> 11,  # 53 bits: exact in JavaScript and jq
        "event_type": event_type,
        "src_ip": row["orig_h"],
        "src_port": row["orig_p"],
        "dest_ip": row["resp_h"],
        "dest_port": row["resp_p"],
        "proto": row["proto"].upper(),
        "community_id": row["community_id"],
    }


def flow_event(row: Connection) -> EveEvent:
    """A flow row as an EVE `flow` event."""
    flow: EveFlow = {
        "pkts_toserver": row["orig_pkts"],
        "pkts_toclient": row["resp_pkts"],
        "bytes_toserver": row["orig_ip_bytes"],
        "bytes_toclient": row["resp_ip_bytes"],
        "start": _timestamp(row["ts"]),
        "end": _timestamp(row["ts"] + (row["duration"] or 0.0)),
        "state": row["conn_state"],
        "reason": row["end_reason"],
    }
    event: EveEvent = {**_event(row, "flow"), "flow": flow}
    if "label" in row:
        event["label"] = row["label"]
    return event


def verdict_event(row: VerdictRow, severity: int) -> EveEvent:
    """A verdict row as an EVE event: an `alert` of Suricata's severity 1 (high) to 3, or with 0 a plain `trafficllm` event.

    `pcap_filename` and `pcap_cnt` name the file and the first frame, as Suricata does where it reads a file.
    """
    event = _event(row, "alert" if severity else "trafficllm")
    event["pcap_filename"], event["pcap_cnt"] = row["file"], next(iter(row["frames"]), None)
    if severity:
        event["alert"] = _alert(row, severity)
    event["trafficllm"] = {
        "task": row["task"],
        "label": row["label"],
        "confidence": row["confidence"],
        "probabilities": row["probabilities"],
        "unknown_score": row["unknown_score"],
        "evidence": row["evidence"],
        "frames": row["frames"],
        "adapter": row["adapter"],
        "version": row["version"],
        "umbrella": row["umbrella"],
        "umbrella_probability": row["umbrella_probability"],
        "malicious": row["malicious"],
        "labels_90": row["labels_90"],
        "source": row["source"],
    }
    return event


def host_event(row: HostRow, severity: int) -> EveHostEvent:
    """A host row as an EVE event: an `alert` of Suricata's severity 1 (high) to 3, or with 0 a plain `trafficllm` event."""
    event: EveHostEvent = {
        "timestamp": _timestamp(row["first"]),
        "event_type": "alert" if severity else "trafficllm",
        "src_ip": row["host"],
        "pcap_filename": row["file"],
        "pcap_cnt": next(iter(row["frames"]), None),
        "trafficllm": {
            "task": row["task"],
            "umbrella": row["umbrella"],
            "umbrella_probability": row["umbrella_probability"],
            "malicious": row["malicious"],
            "score": row["score"],
            "flows": row["flows"],
            "labels": row["labels"],
            "first": _timestamp(row["first"]),
            "last": _timestamp(row["last"]),
            "frames": row["frames"],
        },
    }
    if severity:
        said = f"host {row['umbrella']}"
        event["alert"] = _signed(row["task"], said, said, category="traffic classification", severity=severity)
    return event


def _said(row: VerdictRow) -> str:
    """Both steps of a verdict in words: a malicious flow of no known family is said to be malicious."""
    above = row["umbrella"]
    return f"{row['label']} ({above})" if above and above not in (row["label"], UNKNOWN) else str(row["label"])


def _alert(row: VerdictRow, severity: int) -> EveAlert:
    unclear = row["label"] == UNKNOWN and row["umbrella"] in (None, UNKNOWN)
    name = _said(row) if row["label"] == UNKNOWN else row["label"]
    return _signed(row["task"], name, _said(row), category="unknown traffic" if unclear else "traffic classification", severity=severity)


def _signed(task: str, name: str, said: str, *, category: str, severity: int) -> EveAlert:
    """The alert with what a task said in words, and the signature id of its name: a label keeps the id it has always had."""
    return {
        "action": "allowed",
        "gid": 1,
        "signature_id": _LOCAL_SIDS + hash64(f"{task}/{name}".encode("utf-8", "surrogatepass")) % 1_000_000,
        "rev": 1,
        "signature": f"TrafficLLM {task}: {said}",
        "category": category,
        "severity": severity,
    }
