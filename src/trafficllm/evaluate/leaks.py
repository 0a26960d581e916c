"""The ten kinds of leak a labelled data set can have, each found by one function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trafficllm.core.types import F64, ORIG, RESP, FlowMeta, Record
from trafficllm.evaluate import probes
from trafficllm.evaluate.metrics import indices
from trafficllm.records.canonical import DEFAULT, CodecOptions

KINDS = (
    "same_flow", "same_session", "duplicate", "address", "time", "sequence", "ttl", "link_type", "padding", "truncation",
)  # fmt: skip
UMBRELLA_LIMIT = 0.90
EXCESS_LIMIT = 0.5
"""A mark is a finding from macro-F1 .90 on an umbrella question, or half-way from guessing to 1 on the label."""

_NEVER_SHOWN = frozenset({"address", "time", "sequence", "link_type", "padding"})
_PAYLOAD_KEPT = 512


@dataclass(frozen=True, slots=True)
class AuditRows:
    """A data set as the audit sees it, one entry a flow.

    `part` is "train", "val" or "test"; `raw` unmasked and `masked` records; `content` hashes of what the masks leave;
    `marks` as `evaluate.marks.marks_of` gives them, may be empty; `umbrella` answers a label's umbrella question or None.
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

    def rows(self, *parts: str) -> list[int]:
        """Row numbers of these parts."""
        return [i for i, part in enumerate(self.part) if part in parts]


@dataclass(frozen=True, slots=True)
class Finding:
    """A leak: `kind` of `KINDS`, the `field` it lies in, `score` (share of test rows, or macro-F1 of that field alone)."""

    kind: str
    field: str
    score: float
    question: str
    hidden: bool

    def as_dict(self) -> dict[str, object]:
        """Plain form; `hidden`: the masks in use keep it from a model."""
        return {
            "kind": self.kind,
            "field": self.field,
            "score": round(self.score, 4),
            "question": self.question,
            "hidden": self.hidden,
        }


def flow_key(meta: FlowMeta) -> Hashable:
    """The same for all packets of one 5-tuple of one capture, whoever sent first."""
    ends = sorted([(meta.orig_h, meta.orig_p), (meta.resp_h, meta.resp_p)])
    return (meta.origin, meta.proto, *ends)


def session_key(meta: FlowMeta) -> Hashable:
    """The same for all flows between two hosts of one capture."""
    return (meta.origin, *sorted([meta.orig_h, meta.resp_h]))


def shared(rows: AuditRows, keys: Sequence[Hashable], judged: str) -> float:
    """Share of judged rows whose key is also that of a training row."""
    known = {keys[i] for i in rows.rows("train")}
    mine = rows.rows(judged)
    return sum(keys[i] in known for i in mine) / len(mine) if mine else 0.0


def _overlaps(rows: AuditRows, judged: str) -> list[Finding]:
    keys: dict[str, Sequence[Hashable]] = {
        "same_flow": [flow_key(m) for m in rows.meta],
        "same_session": [session_key(m) for m in rows.meta],
        "duplicate": list(rows.content),
    }
    names = {"same_flow": "5-tuple", "same_session": "host pair", "duplicate": "masked content"}
    found = [
        Finding(kind, names[kind], shared(rows, key, judged), "split", False) for kind, key in keys.items()
    ]
    return [finding for finding in found if finding.score > 0]


def _first(values: Sequence[int], dirs: Sequence[int], direction: int) -> int:
    return next((v for v, d in zip(values, dirs, strict=False) if d == direction), -2)


def _short(record: Record) -> bool:
    """Payload bytes are missing that the headers announced: a snap length, or a cut source."""
    announced = [0, 0]
    for d, size in zip(record.dirs, record.sizes, strict=False):
        announced[d] += max(size, 0)
    return any(len(record.payload[d]) < min(announced[d], _PAYLOAD_KEPT) // 2 for d in (ORIG, RESP))


def mark_columns(rows: AuditRows) -> dict[str, dict[str, Sequence[Hashable]]]:
    """Per kind of mark, the fields that could tell: one value a flow, None where it is not known."""
    columns: dict[str, dict[str, Sequence[Hashable]]] = {
        "address": {
            "orig_h": [m.orig_h or None for m in rows.meta],
            "resp_h": [m.resp_h or None for m in rows.meta],
            "orig_h/24": [m.orig_h.rpartition(".")[0] or None for m in rows.meta],
        },
        "time": {"ts": [float(m.ts) for m in rows.meta]},
        "ttl": {
            end: [_first(r.ttls, r.dirs, d) for r in rows.raw]
            for end, d in (("ttl.orig", ORIG), ("ttl.resp", RESP))
        },
        "link_type": {"link": [m.link for m in rows.meta]},
        "sequence": {},
        "padding": {},
        "truncation": {"payload": [_short(r) for r in rows.raw]},
    }
    for name, values in rows.marks.items():
        known: list[Hashable] = [None if np.isnan(v) else float(v) for v in values]
        if any(v is not None for v in known):
            columns[name][name] = known
    return columns


def _codes(values: Sequence[Hashable]) -> F64:
    """Numbers for a column: themselves, or the rank of each distinct text; -1 for None."""
    if all(isinstance(v, int | float) for v in values if v is not None):
        return np.array([-1.0 if v is None else float(v) for v in values])  # type: ignore[arg-type]
    rank = {v: i for i, v in enumerate(sorted({str(v) for v in values if v is not None}))}
    return np.array([-1.0 if v is None else float(rank[str(v)]) for v in values])


def _majority(column: F64, y: np.ndarray, train: list[int], judged: list[int], classes: int) -> float:
    """Macro-F1 of the commonest class of each exact value; an unknown value answers with the commonest of all."""
    table = np.unique(column[train])
    place = np.searchsorted(table, column[train])
    counts = np.bincount(place * classes + y[train], minlength=len(table) * classes).reshape(-1, classes)
    at = np.minimum(np.searchsorted(table, column[judged]), len(table) - 1)
    answer = np.where(table[at] == column[judged], counts[at].argmax(axis=1), counts.sum(axis=0).argmax())
    return probes.macro(y[judged], answer, classes)


def field_score(values: Sequence[Hashable], y: Sequence[str], train: list[int], judged: list[int]) -> float:
    """Macro-F1 on `judged` rows of a model that sees this field alone: by exact value or by bins, whichever is better."""
    labels = sorted({y[i] for i in train})
    truth, column = indices(labels, y), _codes(values)
    if len(labels) < 2 or not judged or len(np.unique(column[train])) < 2:
        return 0.0
    X = column[:, None]
    binned = probes.fit_field(X[train], truth[train], 0, len(labels)).predict(X[judged])
    return max(
        _majority(column, truth, train, judged, len(labels)), probes.macro(truth[judged], binned, len(labels))
    )


def guess_score(y: Sequence[str], train: list[int], judged: list[int]) -> float:
    """Macro-F1 of always answering the commonest training label."""
    labels = sorted({y[i] for i in train})
    truth = indices(labels, y)
    if not train or not judged:
        return 0.0
    common = int(np.bincount(truth[train]).argmax())
    return probes.macro(truth[judged], np.full(len(judged), common), len(labels))


def _questions(rows: AuditRows) -> dict[str, Sequence[str]]:
    answers = [rows.umbrella(label) for label in rows.y]
    whole = None not in answers and len(set(answers)) > 1 and set(answers) != set(rows.y)
    return {"label": rows.y, **({"umbrella": [str(a) for a in answers]} if whole else {})}


def _mark_finding(
    kind: str, fields: Mapping[str, Sequence[Hashable]], rows: AuditRows, judged: list[int]
) -> Finding | None:
    train = rows.rows("train")
    best: tuple[float, Finding] | None = None
    for question, y in _questions(rows).items():
        guess = guess_score(y, train, judged)
        for name, values in fields.items():
            score = field_score(values, y, train, judged)
            excess = (score - guess) / (1 - guess) if guess < 1 else 0.0
            serious = score >= UMBRELLA_LIMIT if question == "umbrella" else excess >= EXCESS_LIMIT
            if serious and (best is None or excess > best[0]):
                hidden = kind in _NEVER_SHOWN or kind in rows.masked_fields
                best = (excess, Finding(kind, name, score, question, hidden))
    return best[1] if best else None


def find(rows: AuditRows, *, judged: str = "test") -> tuple[list[Finding], list[str]]:
    """All findings, and the kinds that could not be checked because the captures are not at hand."""
    columns = mark_columns(rows)
    mine = rows.rows(judged)
    marks = [_mark_finding(kind, fields, rows, mine) for kind, fields in columns.items()]
    found = [*_overlaps(rows, judged), *(finding for finding in marks if finding)]
    unchecked = [kind for kind, fields in columns.items() if not fields]
    return sorted(found, key=lambda f: KINDS.index(f.kind)), unchecked
