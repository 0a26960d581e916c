"""The ten kinds of leak a labelled data set can have, each found by one function.

Overlaps (same flow, same session, duplicate) are looked for across the split's groups, whichever parts those fell into;
marks (addresses, time, TTL ...) by asking one field alone, cross-validated over those groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, ORIG, RESP, FlowMeta, Record
from trafficllm.evaluate.audit.results import AuditFinding
from trafficllm.evaluate.baselines import probes
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.dataset.marks import KIND_OF

KINDS = ("same_flow", "same_session", "duplicate", "address", "time", "sequence", "ttl", "link_type", "padding", "truncation")
UMBRELLA_LIMIT = 0.90
EXCESS_LIMIT = 0.5
"""A mark is a finding from macro-F1 .90 on an umbrella question, or half-way from guessing to 1 on the label."""
CHANCE_LIMIT = 3.3
"""... and if its Matthews correlation is this many deviations above chance: in 11 rows, all right."""
HOUR = 3_600_000_000_000
"""Equal 5-tuples or host pairs of two groups are one flow or session when they begin within an hour, in ns."""

_NEVER_SHOWN = frozenset({"address", "time", "sequence", "link_type", "padding"})
_PAYLOAD_KEPT = 512
_DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class AuditRows:
    """A data set as the audit sees it, one entry a flow.

    `part` is "train", "val" or "test"; `raw` unmasked and `masked` records; `content` hashes of what the masks leave;
    `marks` as `records.marks.marks_of` gives them, may be empty; `umbrella` answers a label's umbrella question or None;
    `copies` flows were left out when the data set was built, because they equal one of another part.
    """

    y: Sequence[str]
    part: Sequence[str]
    raw: Sequence[Record]
    masked: Sequence[Record]
    meta: Sequence[FlowMeta]
    groups: Sequence[str]
    content: Sequence[int]
    umbrella: Callable[[str], str | None]
    marks: Mapping[str, F64] = field(default_factory=dict)
    masked_fields: frozenset[str] = frozenset()
    codec: CodecOptions = DEFAULT
    copies: int = 0

    def rows(self, *parts: str) -> list[int]:
        """Row numbers of these parts."""
        return [i for i, part in enumerate(self.part) if part in parts]


@dataclass(frozen=True, slots=True)
class Finding:
    """A leak: `kind` of `KINDS`, the `field` it lies in, `score` (share of flows, or macro-F1 of that field alone)."""

    kind: str
    field: str
    score: float
    question: str
    hidden: bool

    def row(self) -> AuditFinding:
        """As a report names it; `hidden`: this data set's split or masks keep it from a model."""
        return AuditFinding(kind=self.kind, field=self.field, score=round(self.score, 4), question=self.question, hidden=self.hidden)


def flow_key(meta: FlowMeta) -> Hashable:
    """The same for all packets of one 5-tuple, whoever sent first; None where addresses or ports do not tell one flow."""
    if not meta.orig_h or meta.orig_p == meta.resp_p or max(meta.orig_p, meta.resp_p) < 1024:
        return None
    return (meta.proto, *sorted([(meta.orig_h, meta.orig_p), (meta.resp_h, meta.resp_p)]))


def session_key(meta: FlowMeta) -> Hashable:
    """The same for all flows between two hosts; None where there are none."""
    return tuple(sorted([meta.orig_h, meta.resp_h])) if meta.orig_h else None


def elsewhere(keys: Sequence[Hashable], groups: Sequence[str], times: Sequence[int], within: int | None) -> list[list[int]]:
    """For each row the rows of other groups with its key, beginning at most `within` ns before or after (None: whenever).

    At most 16 on either side, or one of each of 64 groups: enough to say that there are some, and which label they have.
    """
    members: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key is not None:
            members[key].append((times[i] if within is not None else 0, i))
    out: list[list[int]] = [[] for _ in keys]
    for rows in members.values():
        if len({groups[i] for _, i in rows}) > 1:
            rows.sort()
            one_each = list({groups[i]: i for _, i in reversed(rows)}.values())[:64]
            for at, (_, i) in enumerate(rows):
                near = _near(rows, at, within) if within is not None else one_each
                out[i] = [j for j in near if groups[j] != groups[i]]
    return out


def _near(rows: list[tuple[int, int]], at: int, within: int) -> list[int]:
    low = bisect_left(rows, (rows[at][0] - within, -1))
    high = bisect_left(rows, (rows[at][0] + within + 1, -1))
    return [j for _, j in rows[max(low, at - 16) : min(high, at + 17)]]


def _overlap(kind: str, what: str, twins: Sequence[Sequence[int]], rows: AuditRows, judged: str) -> Finding | None:
    """A finding where rows have twins in other groups: kept apart by this split unless training has a judged row's twin."""
    shared = [i for i, others in enumerate(twins) if others]
    if not shared:
        return None
    crossing = any(rows.part[j] == "train" for i in shared if rows.part[i] == judged for j in twins[i])
    return Finding(kind, what, len(shared) / len(rows.y), "split", not crossing)


def _telling(twins: Sequence[Sequence[int]], y: Sequence[str], *, agree: float = 0.0, chance: float = 1.0) -> list[Sequence[int]]:
    """The twins, if their label is the row's own often enough; else none: two hosts that do everything tell nothing.

    `agree`: share of rows that have their twins' commonest label; `chance`: the most likely that may be by accident.
    """
    shared = [i for i, others in enumerate(twins) if others]
    right = sum(Counter(y[j] for j in twins[i]).most_common(1)[0][0] == y[i] for i in shared)
    common = max(Counter(y).values(), default=0) / max(len(y), 1)
    sure = right >= agree * len(shared) and probes.by_accident(right, len(shared), common) <= chance
    return [others if sure else [] for others in twins]


def _overlaps(rows: AuditRows, judged: str) -> list[Finding]:
    times = [m.ts for m in rows.meta]
    tuples = [flow_key(m) for m in rows.meta]
    flows = elsewhere(tuples, rows.groups, times, HOUR)
    pairs = elsewhere([session_key(m) for m in rows.meta], rows.groups, times, HOUR)
    sessions = [[j for j in others if tuples[i] is None or tuples[j] != tuples[i]] for i, others in enumerate(pairs)]
    copies = elsewhere(list(rows.content), rows.groups, times, None)
    findings = [
        _overlap("same_flow", "5-tuple", _telling(flows, rows.y, agree=0.75), rows, judged),
        _overlap("same_session", "host pair", _telling(sessions, rows.y, chance=0.01), rows, judged),
        _duplicate(copies, rows, judged),
    ]
    return [finding for finding in findings if finding]


def _duplicate(copies: Sequence[Sequence[int]], rows: AuditRows, judged: str) -> Finding | None:
    """Copies in other groups, and those that the build left out for being copies of another part."""
    overlap = _overlap("duplicate", "masked content", copies, rows, judged)
    if not rows.copies:
        return overlap
    here = sum(bool(others) for others in copies)
    score = (here + rows.copies) / (rows.copies + len(rows.y))
    return Finding("duplicate", "masked content", score, "split", overlap is None or overlap.hidden)


def _first(values: Sequence[int], dirs: Sequence[int], direction: int) -> int | None:
    return next((v for v, d in zip(values, dirs, strict=False) if d == direction), None)


def _short(record: Record) -> bool:
    """Payload bytes are missing that the headers announced: a snap length, or a cut source."""
    announced = [0, 0]
    for d, size in zip(record.dirs, record.sizes, strict=False):
        announced[d] += max(size, 0)
    return any(len(record.payload[d]) < min(announced[d], _PAYLOAD_KEPT) // 2 for d in (ORIG, RESP))


def _net(address: str) -> str | None:
    """The /24 of an IPv4 address, the first four words of an IPv6 one."""
    return address.rpartition(".")[0] or ":".join(address.split(":")[:4]) or None


def mark_columns(rows: AuditRows) -> dict[str, dict[str, Sequence[Hashable]]]:
    """Per kind of mark, the fields that could tell: one value a flow, None where it is not known."""
    times = [float(m.ts) if m.ts else None for m in rows.meta]
    columns: dict[str, dict[str, Sequence[Hashable]]] = {
        "address": {
            "orig_h": [m.orig_h or None for m in rows.meta],
            "resp_h": [m.resp_h or None for m in rows.meta],
            "orig_h/24": [_net(m.orig_h) for m in rows.meta],
            "resp_h/24": [_net(m.resp_h) for m in rows.meta],
        },
        "time": {"ts": times, "time of day": [None if t is None else t % _DAY for t in times]},
        "ttl": {end: [_first(r.ttls, r.dirs, d) for r in rows.raw] for end, d in (("ttl.orig", ORIG), ("ttl.resp", RESP))},
        "link_type": {"link": [m.link for m in rows.meta]},
        "sequence": {},
        "padding": {},
        "truncation": {"payload": [_short(r) for r in rows.raw]},
    }
    for name, values in rows.marks.items():
        cells: list[Hashable] = [None if np.isnan(v) else float(v) for v in values]
        if any(v is not None for v in cells):
            columns[KIND_OF[name]][name] = cells
    return columns


def codes(values: Sequence[Hashable]) -> F64:
    """Numbers for a column: themselves, or the rank of each distinct text; NaN for None."""
    if all(isinstance(v, int | float) for v in values if v is not None):
        return np.array([np.nan if v is None else float(v) for v in values])  # type: ignore[arg-type]
    rank = {v: i for i, v in enumerate(sorted({str(v) for v in values if v is not None}))}
    return np.array([np.nan if v is None else float(rank[str(v)]) for v in values])


def questions(rows: AuditRows) -> dict[str, Sequence[str]]:
    """The label, and the umbrella question where every label has an answer to it and there are two or more."""
    answers = [rows.umbrella(label) for label in rows.y]
    whole = None not in answers and len(set(answers)) > 1 and set(answers) != set(rows.y)
    return {"label": rows.y, **({"umbrella": [str(a) for a in answers]} if whole else {})}


def _mark_finding(kind: str, fields: Mapping[str, Sequence[Hashable]], to_ask: Sequence[probes.Question], hidden: bool) -> Finding | None:
    best: tuple[float, Finding] | None = None
    for question in to_ask:
        for name, values in fields.items():
            score, sure, chance = question.ask(codes(values))
            excess = (score - chance) / (1 - chance)
            serious = score >= UMBRELLA_LIMIT if question.name == "umbrella" else excess >= EXCESS_LIMIT
            if serious and sure >= CHANCE_LIMIT and (best is None or excess > best[0]):
                best = (excess, Finding(kind, name, score, question.name, hidden))
    return best[1] if best else None


def find(rows: AuditRows, *, judged: str = "test") -> tuple[list[Finding], list[str]]:
    """All findings, and the kinds that could not be checked because the captures are not at hand."""
    columns = mark_columns(rows)
    to_ask = [probes.Question.of(name, y, rows.groups) for name, y in questions(rows).items()]
    marks = [_mark_finding(kind, fields, to_ask, kind in _NEVER_SHOWN or kind in rows.masked_fields) for kind, fields in columns.items()]
    findings = [*_overlaps(rows, judged), *(finding for finding in marks if finding)]
    unchecked = [kind for kind, fields in columns.items() if not fields]
    return sorted(findings, key=lambda f: KINDS.index(f.kind)), unchecked
