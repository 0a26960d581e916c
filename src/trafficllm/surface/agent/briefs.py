"""Rows of verdicts, hosts and packets as tools answer them: times in ISO 8601, captured text marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trafficllm.surface.agent import marks
from trafficllm.surface.agent.results import (
    Compared,
    EvidenceItem,
    FlowBrief,
    FlowExplanation,
    HeaderField,
    HostBrief,
    LikelyLabel,
    NearFlow,
)

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.known import ComparedFlow
    from trafficllm.lifecycle.analyze.verdict_table import Explained

_PORTED = frozenset({"tcp", "udp"})
FACTS = 20
"""Header fields of a flow that an answer holds at most."""
LABELS = 20
"""Labels that are counted by name in an answer; the rest together."""


def flow(row: VerdictRow) -> FlowBrief:
    """A flow and its verdict in short."""
    return FlowBrief(
        flow=row["uid"],
        start=marks.instant(row["ts"]) or "",
        seconds=round(row["duration"], 6),
        orig_h=row["orig_h"],
        orig_p=row["orig_p"],
        resp_h=row["resp_h"],
        resp_p=row["resp_p"],
        proto=row["proto"],
        packets=row["packets"],
        task=marks.name(row["task"]),
        label=marks.name(row["label"]),
        confidence=round(row["confidence"], 4),
        umbrella=marks.name(row["umbrella"]) if row["umbrella"] else None,
        umbrella_probability=None if row["umbrella_probability"] is None else round(row["umbrella_probability"], 4),
    )


def host(row: HostRow) -> HostBrief:
    """A host in short."""
    return HostBrief(
        host=row["host"],
        task=marks.name(row["task"]),
        umbrella=marks.name(row["umbrella"]),
        umbrella_probability=None if row["umbrella_probability"] is None else round(row["umbrella_probability"], 4),
        flows=row["flows"],
        labels=counts(row["labels"], most=5),
        first=marks.instant(row["first"]) or "",
        last=marks.instant(row["last"]) or "",
    )


def counts(by_name: Mapping[str, int], most: int = LABELS) -> dict[str, int]:
    """Counts under marked names: the `most` largest by name, the rest as one."""
    rows = sorted(by_name.items(), key=lambda item: (-item[1], item[0]))
    out = {marks.name(name): count for name, count in rows[:most]}
    rest = rows[most:]
    return out | ({f"{len(rest)} others": sum(count for _, count in rest)} if rest else {})


def explanation(capture: str, why: Explained, others: Sequence[VerdictRow], *, laboratory_only: bool) -> FlowExplanation:
    """Why a flow has its verdict; `others` is the same flow by other tasks."""
    from trafficllm.lifecycle.analyze.sentences import WORDS

    row = why.row
    likeliest = sorted(row["probabilities"].items(), key=lambda item: (-item[1], item[0]))[:3]
    evidence = [
        EvidenceItem(part=WORDS.get(item["field"], marks.name(item["field"])), frame=item["frame"], weight=round(item["weight"], 4))
        for item in row["evidence"]
    ]
    return FlowExplanation(
        capture=capture,
        verdict=flow(row),
        other_tasks=[flow(other) for other in others],
        likeliest=[LikelyLabel(label=marks.name(label), probability=round(p, 4)) for label, p in likeliest],
        labels_90=[marks.name(label) for label in row["labels_90"]],
        unknown_score=round(row["unknown_score"], 4),
        evidence=evidence,
        service=marks.name(why.service) if why.service else "",
        header_fields=[HeaderField(field=field, value=marks.value(value)) for field, value in why.facts[:FACTS]],
        frames=row["frames"],
        community_id=row["community_id"],
        wireshark_filter=wireshark_filter(row),
        adapter=marks.name(row["adapter"]),
        version=row["version"],
        laboratory_only=laboratory_only,
    )


def wireshark_filter(row: VerdictRow) -> str:
    """A display filter that shows the flow's packets.

    >>> wireshark_filter({"proto": "udp", "orig_h": "192.0.2.1", "orig_p": 53000, "resp_h": "192.0.2.53", "resp_p": 53})
    'ip.addr==192.0.2.1 && ip.addr==192.0.2.53 && udp.port==53000 && udp.port==53'
    """
    kind = "ipv6" if ":" in row["orig_h"] else "ip"
    parts = [f"{kind}.addr=={row['orig_h']}", f"{kind}.addr=={row['resp_h']}"]
    proto = row["proto"]
    if proto in _PORTED:
        parts += [f"{proto}.port=={row['orig_p']}", f"{proto}.port=={row['resp_p']}"]
    elif proto in {"icmp", "icmp6"}:
        parts.append("icmpv6" if proto == "icmp6" else "icmp")
    return " && ".join(parts)


def compared(row: ComparedFlow) -> Compared:
    """A flow and its nearest known flows."""
    near = [NearFlow(label=marks.name(n.label), similarity=n.similarity, flow=n.uid, file=marks.name(n.file)) for n in row.nearest]
    return Compared(flow=row.uid, orig_h=row.orig_h, resp_h=row.resp_h, resp_p=row.resp_p, nearest=near)
