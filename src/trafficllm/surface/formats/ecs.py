"""Elastic Common Schema events from flows and verdicts, by one table: ECS field, its type, and the column it is made of.

Field names and types are those of ECS (https://www.elastic.co/docs/reference/ecs); every field used is in version 1.7 and later. What ECS
has no field for lies under `trafficllm`, as it does in EVE. `event.kind` is `alert` only where `lifecycle.analyze.alerts` lets a verdict
be one, and `event.risk_score` is never given: a probability is no risk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from trafficllm import __version__
from trafficllm.surface.formats.eve import EveEvent, EveHostEvent, host_event, verdict_event

if TYPE_CHECKING:  # a detector's module loads torch, which `capture flows` can do without
    from trafficllm.capture.flows.rows import Connection
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.lifecycle.analyze.hosts import HostRow

VERSION = "8.11.0"
Nested: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table: the `name` of an ECS field, its ECS `kind`, and the column `of` a flow or verdict that it is made of ("" for a
    constant or one of its own making), in `words` for the guide."""

    name: str
    kind: str
    of: str
    words: str = ""


def _fields(*rows: str) -> tuple[Field, ...]:
    return tuple(Field(*(part.strip() for part in row.split("|"))) for row in rows)


FIELDS = _fields(
    "@timestamp | date | ts",
    "ecs.version | keyword | | 8.11.0",
    "event.kind | keyword | | alert where the verdict is one, else event",
    "event.category | keyword | | network; of an alert also intrusion_detection",
    "event.type | keyword | | connection; of an alert also info; of a host info",
    "event.module | keyword | | trafficllm",
    "event.dataset | keyword | | trafficllm.flow, trafficllm.verdict, trafficllm.host",
    "event.provider | keyword | adapter",
    "event.id | keyword | uid",
    "event.start | date | ts",
    "event.end | date | ts | ts + duration",
    "event.duration | long | duration | nanoseconds",
    "event.severity | long | | of an alert, 1 (high) to 3",
    "rule.id | keyword | | of an alert, its signature id",
    "rule.name | keyword | | of an alert, its signature",
    "rule.category | keyword | | of an alert, its category",
    "rule.ruleset | keyword | task | of an alert",
    "rule.version | keyword | version | of an alert",
    "source.address | keyword | orig_h",
    "source.ip | ip | orig_h",
    "source.port | long | orig_p",
    "source.packets | long | orig_pkts",
    "source.bytes | long | orig_ip_bytes",
    "destination.address | keyword | resp_h",
    "destination.ip | ip | resp_h",
    "destination.port | long | resp_p",
    "destination.packets | long | resp_pkts",
    "destination.bytes | long | resp_ip_bytes",
    "network.transport | keyword | proto",
    "network.type | keyword | orig_h | ipv4 or ipv6",
    "network.community_id | keyword | community_id",
    "network.packets | long | packets | of a flow, both sides",
    "network.bytes | long | | of a flow, both sides",
    "related.ip | ip | | both addresses",
    "log.file.path | keyword | file",
    "observer.vendor | keyword | | TrafficLLM",
    "observer.product | keyword | | trafficllm",
    "observer.type | keyword | | sensor",
    "observer.version | keyword | | that of the program",
)
"""Every ECS field of `-f ecs`."""


def table() -> str:
    """The fields as a Markdown table."""
    rows = (f"| `{f.name}` | {f.kind} | {f'`{f.of}`' if f.of else ''} | {f.words} |" for f in FIELDS)
    return "\n".join(("| ECS field | type | of column | |", "|---|---|---|---|", *rows)) + "\n"


_MADE = frozenset({"@timestamp", "event.start", "event.end", "event.duration", "network.type", "rule.ruleset", "rule.version"})
_COPIED = {field.name: field.of for field in FIELDS if field.of and field.name not in _MADE}
"""Fields that hold a column as it is."""
_PLACE = {field.name: k for k, field in enumerate(FIELDS)}


def flow_document(row: Connection) -> Nested:
    """A flow row as an ECS document; what has no ECS field is under `trafficllm`."""
    flat = _flat(cast("Mapping[str, Any]", row), "trafficllm.flow")
    flat["network.packets"] = row["orig_pkts"] + row["resp_pkts"]
    flat["network.bytes"] = row["orig_ip_bytes"] + row["resp_ip_bytes"]
    own = {name: row[name] for name in ("conn_state", "end_reason", "tunnel", "orig_bytes", "resp_bytes")}
    if "label" in row:
        own["label"] = row["label"]
    return _nested({**flat, "trafficllm": own})


def verdict_document(row: VerdictRow, alerts: Alerts) -> Nested:
    """A verdict row as an ECS document, `trafficllm` as in EVE."""
    event = verdict_event(row, alerts)
    flat = _flat(cast("Mapping[str, Any]", row), "trafficllm.verdict")
    return _nested(flat | _alert(event, flat, row["task"], row["version"]) | {"trafficllm": event["trafficllm"]})


def host_document(row: HostRow, alerts: Alerts) -> Nested:
    """A host row as an ECS document, `trafficllm` as in EVE; it has a source and no destination."""
    event = host_event(row, alerts)
    as_flow = {"ts": row["first"], "duration": row["last"] - row["first"], "orig_h": row["host"], "file": row["file"]}
    flat = _flat(as_flow, "trafficllm.host") | {"event.type": ["info"]}
    return _nested(flat | _alert(event, flat, row["task"], "") | {"trafficllm": event["trafficllm"]})


def _flat(row: Mapping[str, Any], dataset: str) -> Nested:
    """The fields that need no more than the row, by their dotted names; a column that is absent or unset gives no field."""
    from trafficllm.core.times import iso_time

    begin, length = (round((row.get(name) or 0.0) * 1e6) * 1000 for name in ("ts", "duration"))  # whole microseconds, as the float holds
    flat: Nested = {
        "@timestamp": iso_time(begin, digits=6),
        "ecs.version": VERSION,
        "event.kind": "event",
        "event.category": ["network"],
        "event.type": ["connection"],
        "event.module": "trafficllm",
        "event.dataset": dataset,
        "event.start": iso_time(begin, digits=6),
        "event.end": iso_time(begin + length, digits=6),
        "event.duration": length,
        "network.type": "ipv6" if ":" in row["orig_h"] else "ipv4",
        "related.ip": sorted({row[name] for name in ("orig_h", "resp_h") if name in row}),
        "observer.vendor": "TrafficLLM",
        "observer.product": "trafficllm",
        "observer.type": "sensor",
        "observer.version": __version__,
    }
    return flat | {name: row[column] for name, column in _COPIED.items() if row.get(column) is not None}


def _alert(event: EveEvent | EveHostEvent, flat: Nested, task: str, version: str) -> Nested:
    """What an alert says beyond its event."""
    if "alert" not in event:
        return {}
    alert = event["alert"]
    return {
        "event.kind": "alert",
        "event.category": ["network", "intrusion_detection"],
        "event.type": sorted({*flat["event.type"], "info"}),
        "event.severity": alert["severity"],
        "rule.id": str(alert["signature_id"]),
        "rule.name": alert["signature"],
        "rule.category": alert["category"],
        "rule.ruleset": task,
        **({"rule.version": version} if version else {}),
    }


def _nested(flat: Mapping[str, Any]) -> Nested:
    """Dotted names as objects within objects, in the order of the table."""
    out: Nested = {}
    for name in sorted(flat, key=lambda name: _PLACE.get(name, len(_PLACE))):
        *parents, last = name.split(".")
        inside = out
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = flat[name]
    return out
