"""What a task has learnt, by kind of flow: flows of other kinds are answered "not covered", whatever a model's scores say.

The kinds are what a data set's build tells as housekeeping (`codec.flows.housekeeping`), and the rest by protocol. One rule decides both
when flows are dropped and when they are answered: a kind that was left out of training is not answered.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Facts, Record
from trafficllm.records.codec.canonical import TCP
from trafficllm.records.codec.flows import CHORES, housekeeping

if TYPE_CHECKING:
    from trafficllm.core.types import FlowMeta
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background

LEAST_FLOWS = 5
"""Training flows of a kind, a side, from which that side counts as learnt."""
LEAST_SOURCES = 2
"""Sources from which a kind that only harmless traffic was learnt of is answered: fewer could all lack the same thing."""
CHORE_KINDS = frozenset(CHORES) - {""}
"""Kinds that a data set's build leaves out where its task does not keep housekeeping."""
_EVERYWHERE = CHORE_KINDS | {"wsd", "discovery", "broadcast"}
"""Kinds that every network has, whatever runs there."""
_ICMP, _ICMP6, _UDP = 1, 58, 17
_DISCOVERY = {3702: "wsd", 3289: "discovery", 8612: "discovery", 8610: "discovery", 5351: "discovery", 6771: "discovery"}
"""UDP ports, beside those of housekeeping, by which devices look for each other: WS-Discovery, printers (ENPC, BJNP), NAT-PMP, LSD."""


def kind_of(record: Record, resp_h: str = "") -> str:
    """The kind of a raw flow: a chore (dns, mdns, ssdp...), wsd, discovery, icmp, icmp6, broadcast, quic, tcp, udp or ip; "" for a record
    that is no flow.

    `resp_h`, the responder's address, tells broadcast and multicast that no port names. Ports must not be masked.
    """
    if record.kind not in ("flow", "packet"):
        return ""
    return housekeeping(record) or _transport(record) or ("broadcast" if record.proto == _UDP and is_group(resp_h) else _plain(record))


def _transport(record: Record) -> str:
    if record.proto in (_ICMP, _ICMP6):
        return "icmp" if record.proto == _ICMP else "icmp6"
    if record.proto == _UDP and record.ports is not None:
        return _DISCOVERY.get(record.ports[1]) or _DISCOVERY.get(record.ports[0], "")
    return ""


def _plain(record: Record) -> str:
    if record.proto == TCP:
        return "tcp"
    return ("quic" if record.facts.service in ("quic", "gquic") else "udp") if record.proto == _UDP else "ip"


@lru_cache(maxsize=1 << 14)
def is_group(address: str) -> bool:
    """Whether an address is multicast, 255.255.255.255, or ends in .255 as the broadcast address of most networks does.

    >>> is_group("224.0.0.251"), is_group("192.168.1.255"), is_group("192.168.1.7"), is_group("ff02::fb")
    (True, True, False, True)
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_multicast or (parsed.version == 4 and parsed.packed[3] == 255)


@dataclass(frozen=True, slots=True)
class Learnt:
    """Training flows of one kind: of the umbrella's positive side and of its negative side, and the sources of each."""

    positives: int = 0
    negatives: int = 0
    negative_sources: int = 0
    positive_sources: int = 0

    def as_dict(self) -> dict[str, int]:
        """As a manifest has it."""
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "negative_sources": self.negative_sources,
            "positive_sources": self.positive_sources,
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """The kinds that a task has learnt, and those that its data set left out.

    `learnt` None: nobody counted (an adapter of an earlier version), so all but what was left out counts as covered. `sides` False: the
    task has no umbrella question, so a kind is covered where any label was learnt with it. `own` are kinds that the positive side is by
    definition, as a DNS tunnel is name service.
    """

    learnt: Mapping[str, Learnt] | None = None
    dropped: frozenset[str] = frozenset()
    sides: bool = True
    own: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, rows: Iterable[tuple[str, bool | None, str]], *, dropped: Iterable[str] = (), sides: bool = True, own: Iterable[str] = ()
    ) -> Coverage:
        """Count training flows: of each its kind, whether it is of the positive side (None: of neither), and its source."""
        counts: Counter[tuple[str, bool]] = Counter()
        sources: dict[tuple[str, bool], set[str]] = {}
        for kind, positive, source in rows:
            if positive is None and sides:
                continue
            counts[kind, bool(positive)] += 1
            sources.setdefault((kind, bool(positive)), set()).add(source)
        kinds = sorted({kind for kind, _ in counts})
        learnt = {
            kind: Learnt(counts[kind, True], counts[kind, False], len(sources.get((kind, False), ())), len(sources.get((kind, True), ())))
            for kind in kinds
        }
        return cls(learnt, frozenset(dropped), sides, frozenset(own))

    @classmethod
    def of_data(cls, dataset: Dataset, background: Background | None = None, *, task: Task | None = None) -> Coverage:
        """What a data set's training part and a background have learnt; `task` stands in for the data set's own.

        Sources are those of the captures. Housekeeping flows are left out where the task drops them, also of the background: that no label
        has them is then the build's doing, not a fact about traffic.
        """
        own = task or dataset.task
        keeps = own.housekeeping or "housekeeping" in dataset.manifest.get("kept_fields", ())
        return cls.counted(_training(dataset), own, keeps_chores=keeps, background=background)

    @classmethod
    def counted(
        cls, rows: Iterable[tuple[str, str, str]], task: Task, *, keeps_chores: bool, background: Background | None = None
    ) -> Coverage:
        """Training flows, of each its kind, label and source, counted for a task, with those of a background."""
        sides = bool(task.positive)
        counted = [(kind, task.is_positive(label) if sides else False, source) for kind, label, source in rows]
        if background is not None:
            counted += background_rows(background)
        return cls.of(counted, dropped=() if keeps_chores else CHORE_KINDS, sides=sides, own=task.own_kinds)

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Coverage:
        """The coverage that an adapter's manifest states as `coverage`; of an older one, what its data set left out.

        ArtifactError where what is stated is no coverage.
        """
        stated = manifest.get("coverage")
        if stated:
            try:
                learnt = None if stated["learnt"] is None else {str(kind): _learnt(row) for kind, row in stated["learnt"].items()}
                own = frozenset(map(str, stated.get("own", ())))
                return cls(learnt, frozenset(map(str, stated["dropped"])), bool(stated["sides"]), own)
            except (AttributeError, KeyError, TypeError) as error:
                hint = "restore it from a backup, or register the task again"
                raise ArtifactError("artifact.damaged", "its coverage is none", input=str(manifest.get("task", "")), hint=hint) from error
        task = manifest.get("task_definition") or {}
        keeps = task.get("housekeeping", True) or "housekeeping" in manifest.get("kept_fields", ())
        return cls(None, frozenset() if keeps else CHORE_KINDS)

    def as_dict(self) -> dict[str, Any]:
        """A manifest's `coverage`."""
        learnt = None if self.learnt is None else {kind: row.as_dict() for kind, row in self.learnt.items()}
        return {"learnt": learnt, "dropped": sorted(self.dropped), "sides": self.sides, "own": sorted(self.own)}

    def covers_kind(self, kind: str) -> bool:
        """Whether flows of a kind are answered: learnt from both sides, or from the negative side alone in two sources or more.

        A kind with positives alone is not covered: every such flow would be called malicious, as USTC's name service was.

        >>> Coverage.of([("dns", True, "ustc")] * 9).covers_kind("dns")
        False
        """
        if kind in self.dropped:
            return False
        if self.learnt is None or not kind:
            return True
        row = self.learnt.get(kind, Learnt())
        if not self.sides:
            return row.negatives > 0
        if row.negatives < LEAST_FLOWS:
            return False
        return row.positives >= LEAST_FLOWS or row.negative_sources >= LEAST_SOURCES

    def may_be_positive(self, kind: str) -> bool:
        """Whether a flow of a kind may get the umbrella's positive answer: chores (name service, discovery, broadcast) only where positives
        of them were learnt from LEAST_SOURCES sources, or are what the task is about by definition. Every network has them and masks leave
        little of one, so what a single laboratory's malware looked up tells that laboratory: all 1,026 flows of USTC to port 53 are malware

        >>> one = Coverage.of([("dns", True, "ustc"), ("dns", False, "zeek"), ("tcp", True, "ustc"), ("tcp", False, "zeek")])
        >>> one.may_be_positive("dns"), one.may_be_positive("tcp")
        (False, True)
        """
        if not self.sides or self.learnt is None or kind not in _EVERYWHERE:
            return True
        return self.learnt.get(kind, Learnt()).positive_sources >= (1 if kind in self.own else LEAST_SOURCES)

    def covers(self, record: Record, meta: FlowMeta | None = None) -> bool:
        """Whether a raw flow is of a kind that is answered; `meta` has the responder's address, which tells broadcast."""
        return self.covers_kind(kind_of(record, meta.resp_h if meta else ""))

    def merged(self, other: Coverage) -> Coverage:
        """Both together, as after an update: flows add up, of sources the larger number counts; left out is what either left out."""
        if self.learnt is None or other.learnt is None:
            return Coverage(None, self.dropped | other.dropped, self.sides, self.own | other.own)
        learnt = {}
        for kind in sorted({*self.learnt, *other.learnt}):
            a, b = self.learnt.get(kind, Learnt()), other.learnt.get(kind, Learnt())
            negative, positive = max(a.negative_sources, b.negative_sources), max(a.positive_sources, b.positive_sources)
            learnt[kind] = Learnt(a.positives + b.positives, a.negatives + b.negatives, negative, positive)
        return Coverage(learnt, self.dropped | other.dropped, self.sides, self.own | other.own)


def _learnt(row: Mapping[str, int]) -> Learnt:
    """A row of a manifest's `coverage`. TypeError where its values are no whole numbers."""
    if not all(type(value) is int for value in row.values()):
        raise TypeError("counts are whole numbers")
    return Learnt(**row)


def background_rows(background: Background) -> list[tuple[str, bool | None, str]]:
    """The flows of a background as `Coverage.of` counts them: all of the negative side."""
    rows = zip(background.raw, background.meta, background.sources, strict=True)
    return [(kind_of(record, meta.resp_h), False, source) for record, meta, source in rows]


def _training(dataset: Dataset) -> Iterable[tuple[str, str, str]]:
    """Kind, label and source of each training flow of a data set."""
    sources = dataset.sources
    names = ("kind", "proto", "ports", "icmp", "service", "resp_h", "label", "part", "capture")
    columns = (dataset.table[name].to_pylist() for name in names)
    for kind, proto, ports, icmp, service, resp_h, label, part, capture in zip(*columns, strict=True):
        if part == "train":
            ends: tuple[int, int] | None = (ports[0], ports[1]) if ports else None
            record = Record(kind=kind, proto=proto, ports=ends, icmp=icmp, facts=Facts(service))
            yield kind_of(record, resp_h), label, sources.get(capture, "")
