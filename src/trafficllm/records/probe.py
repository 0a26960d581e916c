"""The artefact probe: which single field of a masked record answers the question on its own.

A field that alone names the umbrella answer (benign or malicious, VPN or not) is the capture set-up speaking, unless the
task declares it causal. Measured on USTC: TTL 1.00, padding 1.00, window .96 (reference figures, one field alone).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.types import ORIG, RESP, Record
from trafficllm.records import units as u
from trafficllm.records.canonical import runs
from trafficllm.records.masks import FACT

THRESHOLD = 0.90
SYN = 0x02


@dataclass(frozen=True, slots=True)
class FieldScore:
    """Macro-F1 on validation of a model that sees one field; `umbrella` is None without an umbrella question."""

    label: float
    umbrella: float | None


def _first(values: Sequence[int]) -> Hashable:
    return values[0] if values else None


def _edge(direction: int) -> Callable[[Record], Hashable]:
    def window(record: Record) -> Hashable:
        pairs = zip(record.dirs, record.windows, strict=False)
        return next((w for d, w in pairs if d == direction), None)

    return window


def _has_syn(record: Record) -> Hashable:
    known = [f for f in record.flags if f >= 0]
    return any(f & SYN for f in known) if known else None


def _head(record: Record) -> Hashable:
    data = record.payload[ORIG] or record.payload[RESP]
    side = ORIG if record.payload[ORIG] else RESP
    covered = runs(record.hidden, side, len(data))
    return None if covered and covered[0][0] < 2 else data[:2]


def _iat(position: int) -> Callable[[Record], Hashable]:
    def gap(record: Record) -> Hashable:
        value = record.iats[position] if len(record.iats) > position else -1
        return u.iat_bucket(value) if value >= 0 else None

    return gap


PROBES: dict[str, Callable[[Record], Hashable]] = {
    "proto": lambda r: r.proto,
    "ip_version": lambda r: r.ip_version,
    "ports": lambda r: r.ports[1] if r.ports else None,
    "orig_port_class": lambda r: f"{r.port_class:-<2}"[0],
    "resp_port_class": lambda r: f"{r.port_class:-<2}"[1],
    "ttl": lambda r: _first(r.ttls),
    "window_orig": _edge(ORIG),
    "window_resp": _edge(RESP),
    "handshake": _has_syn,
    "flags_first": lambda r: _first(r.flags),
    "size_first": lambda r: _first(r.sizes),
    "size_last": lambda r: r.sizes[-1] if r.sizes else None,
    "iat_first": _iat(1),
    "iat_second": _iat(2),
    "iat_third": _iat(3),
    "packet_count": lambda r: len(r.dirs),
    "service": lambda r: r.facts.service,
    "payload_head": _head,
}
"""One value of a masked record each; names are those of masks.toml, window being probed each way."""
FIELD_OF = {"window_orig": "window", "window_resp": "window"}
"""What is masked when a probe strikes, where the names differ."""


def artefact_probe(
    records: Sequence[Record],
    labels: Sequence[str],
    umbrella: Callable[[str], str | None],
    train_idx: Sequence[int],
    val_idx: Sequence[int],
) -> dict[str, FieldScore]:
    """Every field's score, best first: fitted on `train_idx`, scored on `val_idx`, never on test; see `_fourths`.

    A value seen in training answers with its commonest label there, another with the commonest of all.
    """
    if not len(train_idx) or not len(val_idx):
        return {}
    answers = [umbrella(label) for label in labels]
    if {answers[i] for i in val_idx} != {answers[i] for i in train_idx}:
        train_idx, val_idx = _fourths(train_idx, val_idx)
    whole = all(answers[i] is not None for i in (*train_idx, *val_idx)) and len({answers[i] for i in train_idx}) > 1
    scores = {}
    for name, value_of in _probes(records, train_idx).items():
        values = {i: value_of(records[i]) for i in (*train_idx, *val_idx)}
        if len(set(values.values())) < 2:
            continue
        by_label = _score(values, labels, train_idx, val_idx)
        by_umbrella = _score(values, [str(a) for a in answers], train_idx, val_idx) if whole else None
        scores[name] = FieldScore(by_label, by_umbrella)
    return dict(sorted(scores.items(), key=lambda kv: (-(kv[1].umbrella or 0.0), -kv[1].label, kv[0])))


def artefacts(scores: Mapping[str, FieldScore], causal: Mapping[str, str], *, classes: int) -> dict[str, float]:
    """Mask fields whose probe reaches the threshold on the umbrella question and which are not causal.

    Without an umbrella question a two-class label is one itself.
    """
    found: dict[str, float] = {}
    for name, score in scores.items():
        field = FIELD_OF.get(name, name)
        value = score.umbrella if score.umbrella is not None else score.label if classes == 2 else 0.0
        if value >= THRESHOLD and field not in causal:
            found[field] = max(round(value, 4), found.get(field, 0.0))
    return found


def _fourths(train: Sequence[int], val: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where validation lacks an answer its F1 says nothing: every fourth row of both parts is then asked instead."""
    both = sorted((*train, *val))
    return [i for k, i in enumerate(both) if k % 4], both[::4]


def _probes(records: Sequence[Record], train_idx: Sequence[int]) -> dict[str, Callable[[Record], Hashable]]:
    seen = {name for i in train_idx for name in records[i].facts.fields if name in u.FACTS}
    return PROBES | {FACT + name: _fact(name) for name in sorted(seen)}


def _fact(name: str) -> Callable[[Record], Hashable]:
    return lambda record: record.facts.fields.get(name)


def _score(values: Mapping[int, Hashable], labels: Sequence[str], train: Sequence[int], val: Sequence[int]) -> float:
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for i in train:
        counts[values[i]][labels[i]] += 1
        overall[labels[i]] += 1
    fallback = _commonest(overall)
    answer = {value: _commonest(counter) for value, counter in counts.items()}
    return macro_f1([labels[i] for i in val], [answer.get(values[i], fallback) for i in val])


def _commonest(counter: Counter[str]) -> str:
    return min(counter, key=lambda label: (-counter[label], label))


def macro_f1(truth: Sequence[str], guess: Sequence[str]) -> float:
    """Macro-F1 over the labels that occur in `truth`, 0 where nothing is right."""
    names = sorted(set(truth) | set(guess))
    index = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, ([index[t] for t in truth], [index[g] for g in guess]), 1)
    right = np.diag(matrix)
    total = matrix.sum(axis=0) + matrix.sum(axis=1)
    present = matrix.sum(axis=1) > 0
    f1 = np.divide(2 * right, total, out=np.zeros(len(names)), where=total > 0)
    return float(f1[present].mean()) if present.any() else 0.0
