"""Alerts as STIX 2.1: a bundle of sightings, each with its confidence, the adapter and the base that said so, and the traffic observed.

A sighting is of one label by one adapter on one host of a capture, with the number of its flows. Identifiers and times come from the
content alone, so that the same capture gives the same bytes (OASIS STIX 2.1, sections 2.9, 3.2, 4.7, 4.14, 5.2, 6.12).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from trafficllm.core.errors import ResourceError
from trafficllm.core.escape import visible
from trafficllm.core.times import iso_time
from trafficllm.core.types import UNKNOWN
from trafficllm.infer.detector import VerdictRow
from trafficllm.lifecycle.analyze.alerts import Alerts, probability
from trafficllm.surface.formats.eve import said
from trafficllm.surface.formats.writers import MOST_GROUPS
from trafficllm.surface.terminal.output import json_line, note

if TYPE_CHECKING:
    from trafficllm.capture.foreign.signatures import Signature

FLOWS = 10
"""Flows that a sighting shows; `count` has them all."""
_MADE = "2026-11-30T00:00:00Z"
"""When the objects that stand for an adapter or a label were first written: their identifiers are the same in every bundle."""


@dataclass(slots=True)
class _Group:
    """The flows of one sighting: how many, when (ns), the sum of their probabilities, and the first FLOWS of them."""

    row: VerdictRow
    flows: int = 0
    known: int = 0
    total: float = 0.0
    first: int = 1 << 62
    last: int = -(1 << 62)
    shown: list[VerdictRow] = field(default_factory=list)
    fired: set[Signature] = field(default_factory=set)

    def add(self, row: VerdictRow, fired: Iterable[Signature]) -> None:
        begin, chance = _ns(row["ts"]), probability(row)
        self.flows += 1
        self.known += chance is not None
        self.total += chance or 0.0
        self.first, self.last = min(self.first, begin), max(self.last, begin + _ns(row["duration"]))
        if len(self.shown) < FLOWS:
            self.shown.append(row)
        self.fired.update(fired)


class Sightings:
    """A STIX bundle of the verdicts that are alerts, written at the end; memory is bounded by MOST_GROUPS sightings.

    Raises ResourceError where the library `stix2` is missing.
    """

    def __init__(self, stream: BinaryIO, alerts: Alerts) -> None:
        _library()
        self._stream, self._alerts = stream, alerts
        self._groups: dict[tuple[str, ...], _Group] = {}
        self.beyond = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the alerts of a batch."""
        for each in rows:
            row: VerdictRow = each  # type: ignore[assignment]
            if not self._alerts.severity(row):
                continue
            key = (row["file"], row["orig_h"], row["task"], row["adapter"], row["version"], row["label"], row["umbrella"] or "")
            if key not in self._groups:
                if len(self._groups) >= MOST_GROUPS:
                    self.beyond += 1
                    continue
                self._groups[key] = _Group(row)
            self._groups[key].add(row, self._alerts.corroborating(row))

    def close(self) -> None:
        """Write the bundle; the stream belongs to the caller."""
        if self.beyond:
            note(f"{self.beyond:,} alerts are of further hosts than can be kept apart: they are in no sighting")
        objects: dict[str, Any] = {}
        for group in self._groups.values():
            for made in _objects(group, self._alerts):
                objects.setdefault(made.id, made)
        bundle: dict[str, Any] = {"type": "bundle", "id": f"bundle--{_uuid('bundle', *sorted(objects))}"}
        if objects:
            bundle |= {"objects": [_plain(made) for made in objects.values()]}
        self._stream.write((json_line(bundle) + "\n").encode())
        self._stream.flush()


def _library() -> Any:
    try:
        import stix2.v21
    except ImportError as error:
        hint = "`pip install 'trafficllm[stix]'`"
        raise ResourceError("resource.extra", "stix2 is not installed", input="--format stix", hint=hint) from error
    return stix2.v21


def _plain(made: Any) -> Any:
    import json

    return json.loads(made.serialize())


def _uuid(*parts: str) -> uuid.UUID:
    """A UUID of version 4, which STIX asks for (2.9), whose bits are of the content instead of random."""
    return uuid.UUID(bytes=hashlib.sha256("\0".join(("trafficllm", *parts)).encode("utf-8", "surrogatepass")).digest()[:16], version=4)


def _ns(seconds: float) -> int:
    """Nanoseconds of whole microseconds: a float of seconds since 1970 holds no more."""
    return round(seconds * 1e6) * 1000


def _objects(group: _Group, alerts: Alerts) -> list[Any]:
    """Identity of the adapter, what was seen, the traffic, the observation and the sighting."""
    v21, row = _library(), group.row
    by = _identity(row, alerts)
    subject = _subject(row)
    traffic = [made for each in group.shown for made in _traffic(each)]
    names = dict.fromkeys(each["community_id"] for each in group.shown)
    begin, end = iso_time(group.first, digits=6), iso_time(group.last, digits=6)
    name = _uuid(by.id, subject.id, row["file"], row["orig_h"], begin, end, str(group.flows))
    times = {"created": end, "modified": end, "created_by_ref": by.id}
    observed = v21.ObservedData(
        id=f"observed-data--{name}",
        first_observed=begin,
        last_observed=end,
        number_observed=group.flows,
        object_refs=list(dict.fromkeys(made.id for made in traffic)),
        external_references=[{"source_name": "community-id", "external_id": each} for each in names],
        **times,
    )
    sure = {"confidence": round(100 * group.total / group.known)} if group.known else {}
    sighting = v21.Sighting(
        id=f"sighting--{name}",
        sighting_of_ref=subject.id,
        observed_data_refs=[observed.id],
        where_sighted_refs=[by.id],
        first_seen=begin,
        last_seen=end,
        count=group.flows,
        description=_description(group, alerts),
        external_references=[_model(row, alerts), *_signatures(group)],
        **times,
        **sure,
    )
    return [by, subject, *traffic, observed, sighting]


def _identity(row: VerdictRow, alerts: Alerts) -> Any:
    facts = alerts.facts(row["task"])
    return _library().Identity(
        id=f"identity--{_uuid('identity', row['adapter'], row['version'], facts.model_sha256)}",
        name=f"TrafficLLM {visible(row['adapter'])} {visible(row['version'])}",
        identity_class="system",
        created=_MADE,
        modified=_MADE,
    )


def _subject(row: VerdictRow) -> Any:
    """The malware family that a label names; an attack pattern where a label names none (attack, malicious)."""
    v21, label, above = _library(), row["label"], row["umbrella"]
    times = {"created": _MADE, "modified": _MADE}
    if above in {None, "attack", label}:
        name = visible(f"{row['task']}: {label}")
        return v21.AttackPattern(id=f"attack-pattern--{_uuid('attack', row['task'], label)}", name=name, **times)
    name = visible(said(row) if label == UNKNOWN else label)
    return v21.Malware(id=f"malware--{_uuid('malware', row['task'], label)}", name=name, is_family=label != UNKNOWN, **times)


def _traffic(row: VerdictRow) -> list[Any]:
    """Both addresses and the flow between them."""
    v21 = _library()
    ends = [_address(v21, row[name]) for name in ("orig_h", "resp_h")]
    begin = _ns(row["ts"])
    flow = v21.NetworkTraffic(
        protocols=["ipv6" if ":" in row["orig_h"] else "ipv4", visible(row["proto"])],
        src_ref=ends[0].id,
        dst_ref=ends[1].id,
        src_port=row["orig_p"],
        dst_port=row["resp_p"],
        start=iso_time(begin, digits=6),
        end=iso_time(begin + _ns(row["duration"]), digits=6),
        is_active=False,
    )
    return [*ends, flow]


def _address(v21: Any, host: str) -> Any:
    return v21.IPv6Address(value=host) if ":" in host else v21.IPv4Address(value=host)


def _model(row: VerdictRow, alerts: Alerts) -> dict[str, str]:
    facts = alerts.facts(row["task"])
    words = (
        f"base {visible(facts.model) or 'unnamed'}, sha256 {facts.model_sha256 or 'unknown'}, masks {', '.join(facts.masks) or 'unknown'}"
    )
    external = f"{visible(row['adapter'])}/{visible(row['version'])}"
    return {"source_name": "trafficllm", "external_id": external, "description": words}


def _signatures(group: _Group) -> list[dict[str, str]]:
    return [
        {"source_name": "suricata", "external_id": f"{each.gid}:{each.sid}", "description": visible(each.text) or "no text"}
        for each in sorted(group.fired)
    ]


def _description(group: _Group, alerts: Alerts) -> str:
    fitted = "calibrated" if alerts.facts(group.row["task"]).calibrated else "not calibrated"
    backing = "corroborated by a signature" if group.fired else "not corroborated by any signature"
    flows = f"{group.flows:,} flow{'s' * (group.flows != 1)} of {visible(group.row['file'])}"
    return f"A model's probability ({fitted}; confidence is its mean over {flows}), {backing}."
