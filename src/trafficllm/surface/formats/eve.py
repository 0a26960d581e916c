"""Suricata EVE events from flows and verdicts: `flow` for a flow, `trafficllm` for a verdict, `alert` where `lifecycle.analyze.alerts`
lets a verdict be one.

Keys follow Suricata's eve.json schema; what is ours lies under `trafficllm`. Since version 2 of the schema an alert has a generator of its
own and is not given by default.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from trafficllm.core.files import hash64
from trafficllm.core.results import Captured, Counts, closed
from trafficllm.core.types import UNKNOWN
from trafficllm.infer.evidence import EvidenceRow

if TYPE_CHECKING:  # a detector's module loads torch, which `capture flows` can do without
    from trafficllm.capture.flows.rows import Connection
    from trafficllm.capture.foreign.signatures import Signature
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.lifecycle.analyze.hosts import HostRow

GID = 21580
"""The generator id of our alerts, "TL" as a number: Suricata's own rules have 1, so that no count of signatures mixes with verdicts."""
_LOCAL_SIDS = 1_000_000
"""Signature ids 1,000,000 to 1,999,999 are kept for local rules (Suricata user guide, "Meta keywords: sid")."""
EventType: TypeAlias = Literal["alert", "flow", "trafficllm"]
Schema: TypeAlias = Literal["trafficllm.eve/2"]
SCHEMA: Schema = "trafficllm.eve/2"


@closed
class EveSignature(TypedDict):
    """A signature that fired on the same flow."""

    gid: int
    signature_id: int
    severity: int
    signature: Captured


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
    """What is ours in an EVE event: the row of `analyze -f jsonl`, and from version 2 on what the number rests on. `probability` is that of
    the label, else of the umbrella's answer, null where the verdict is unknown; `masks` the profile and the fields hidden beyond it."""

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
    schema: Schema
    probability: float | None
    calibrated: bool
    unknown: bool
    model: Captured
    model_sha256: str
    masks: list[str]
    corroborated_by: list[EveSignature]


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
    schema: Schema
    calibrated: bool
    unknown: bool
    model: Captured
    model_sha256: str
    masks: list[str]
    corroborated_by: list[EveSignature]


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


def verdict_event(row: VerdictRow, alerts: Alerts) -> EveEvent:
    """A verdict row as an EVE event: `trafficllm`, or an `alert` where `alerts` gives it a severity.

    `pcap_filename` and `pcap_cnt` name the file and the first frame, as Suricata does where it reads a file.
    """
    from trafficllm.lifecycle.analyze.alerts import probability

    severity, facts = alerts.severity(row), alerts.facts(row["task"])
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
        "schema": SCHEMA,
        "probability": probability(row),
        "calibrated": facts.calibrated,
        "unknown": row["label"] == UNKNOWN,
        "model": facts.model,
        "model_sha256": facts.model_sha256,
        "masks": list(facts.masks),
        "corroborated_by": _fired(alerts.corroborating(row)),
    }
    return event


def host_event(row: HostRow, alerts: Alerts) -> EveHostEvent:
    """A host row as an EVE event: `trafficllm`, or an `alert` where `alerts` gives it a severity."""
    severity, facts = alerts.host_severity(row), alerts.facts(row["task"])
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
            "schema": SCHEMA,
            "calibrated": facts.calibrated,
            "unknown": row["umbrella"] == UNKNOWN,
            "model": facts.model,
            "model_sha256": facts.model_sha256,
            "masks": list(facts.masks),
            "corroborated_by": _fired(alerts.of_host(row)),
        },
    }
    if severity:
        said = f"host {row['umbrella']}"
        event["alert"] = _signed(row["task"], said, said, severity=severity)
    return event


def _fired(signatures: list[Signature]) -> list[EveSignature]:
    return [{"gid": s.gid, "signature_id": s.sid, "severity": s.severity, "signature": s.text} for s in signatures]


def said(row: VerdictRow) -> str:
    """Both steps of a verdict in words: a malicious flow of no known family is said to be malicious."""
    above = row["umbrella"]
    return f"{row['label']} ({above})" if above and above not in (row["label"], UNKNOWN) else str(row["label"])


def _alert(row: VerdictRow, severity: int) -> EveAlert:
    return _signed(row["task"], said(row) if row["label"] == UNKNOWN else row["label"], said(row), severity=severity)


def signature_id(task: str, name: str) -> int:
    """The signature id of what a task says: a label keeps the id it has always had."""
    return _LOCAL_SIDS + hash64(f"{task}/{name}".encode("utf-8", "surrogatepass")) % 1_000_000


def _signed(task: str, name: str, said: str, *, severity: int) -> EveAlert:
    """The alert with what a task said in words, and the signature id of its name."""
    return {
        "action": "allowed",
        "gid": GID,
        "signature_id": signature_id(task, name),
        "rev": 1,
        "signature": f"TrafficLLM {task}: {said}",
        "category": "traffic classification",
        "severity": severity,
    }
