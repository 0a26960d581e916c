"""The artefact probe: which single field of a masked record answers the question on its own.

A field that alone names the umbrella answer (benign or malicious, VPN or not) is the capture set-up speaking, unless the
task declares it causal. Measured on USTC: TTL 1.00, padding 1.00, window .96 (reference figures, one field alone).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.types import I64, ORIG, RESP, Facts, Record, Span
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import runs
from trafficllm.records.codec.columns import NO_VALUE
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
    stated = [f for f in record.flags if f >= 0]
    return any(f & SYN for f in stated) if stated else None


def _head(payload: tuple[bytes, bytes], hidden: Sequence[Span]) -> Hashable:
    data = payload[ORIG] or payload[RESP]
    covered = runs(hidden, ORIG if payload[ORIG] else RESP, len(data)) if hidden else None
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
    "payload_head": lambda r: _head(r.payload, r.hidden),
}
"""One value of a masked record each; names are those of masks.toml, window being probed each way."""
FIELD_OF = {"window_orig": "window", "window_resp": "window"}
"""What is masked when a probe strikes, where the names differ."""


Columns = dict[str, list[Hashable]]
"""Probe values by name, one a record; those of facts ("fact:" and the name) may be shorter: absent ones are None."""


def values_of(records: Sequence[Record]) -> Columns:
    """Every probe's value of every record, and of each fact that one of them has."""
    columns: Columns = {name: [value_of(record) for record in records] for name, value_of in PROBES.items()}
    for name in sorted({name for record in records for name in record.facts.fields if name in u.FACTS}):
        columns[FACT + name] = [record.facts.fields.get(name) for record in records]
    return columns


def beginning_values(begun: Sequence[tuple[Facts, tuple[bytes, bytes], Sequence[Span]]]) -> Columns:
    """`values_of` for the probes that hang on payload, of flows as `masks.beginning` leaves them."""
    columns: Columns = {
        "service": [facts.service for facts, _, _ in begun],
        "payload_head": [_head(payload, hidden) for _, payload, hidden in begun],
    }
    for name in sorted({name for facts, _, _ in begun for name in facts.fields if name in u.FACTS}):
        columns[FACT + name] = [facts.fields.get(name) for facts, _, _ in begun]
    return columns


@dataclass(frozen=True, slots=True)
class Coded:
    """A probe's values as numbers: `codes` int32 [n] index `values`."""

    values: list[Hashable]
    codes: npt.NDArray[np.int32]


def coded(values: Sequence[Hashable]) -> Coded:
    """Values of any kind, numbered as they come."""
    number: dict[Hashable, int] = {}
    codes = [number.setdefault(value, len(number)) for value in values]
    return Coded(list(number), np.array(codes, dtype=np.int32))


def coded_numbers(values: I64) -> Coded:
    """Numbers; columns.NO_VALUE becomes None."""
    kinds, codes = np.unique(values, return_inverse=True)
    return Coded([None if kind == NO_VALUE else kind for kind in kinds.tolist()], codes.astype(np.int32))


def merged(pieces: Sequence[tuple[int, Mapping[str, Coded]]]) -> dict[str, npt.NDArray[np.int32]]:
    """Codes of each probe over pieces of (rows, probes), int32 [n]: equal values equal codes, 0 where there is none."""
    out = {}
    total = sum(count for count, _ in pieces)
    for name in sorted({name for _, probes in pieces for name in probes}):
        number: dict[Hashable, int] = {None: 0}
        codes = np.zeros(total, dtype=np.int32)
        at = 0
        for count, probes in pieces:
            if name in probes:
                joint_codes = np.array([number.setdefault(value, len(number)) for value in probes[name].values], dtype=np.int32)
                codes[at : at + count] = joint_codes[probes[name].codes]
            at += count
        out[name] = codes
    return out


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
    codes = {name: coded(column) for name, column in values_of(records).items()}
    return probe_codes(merged([(len(records), codes)]), labels, umbrella, train_idx, val_idx)


def probe_codes(
    columns: Mapping[str, npt.NDArray[np.int32]],
    labels: Sequence[str],
    umbrella: Callable[[str], str | None],
    train_idx: Sequence[int],
    val_idx: Sequence[int],
) -> dict[str, FieldScore]:
    """`artefact_probe` of records known by the codes of their probe values (`merged`)."""
    if not len(val_idx):
        train_idx, val_idx = _fourths(train_idx, [])
    if not len(train_idx) or not len(val_idx):
        return {}
    answer_of = {label: umbrella(label) for label in set(labels)}
    answers = [answer_of[label] for label in labels]
    seen = np.asarray(train_idx, dtype=np.int64)
    facts = {name for name, codes in columns.items() if name.startswith(FACT) and codes[seen].any()}
    if {answers[i] for i in val_idx} != {answers[i] for i in train_idx}:
        train_idx, val_idx = _fourths(train_idx, val_idx)
    whole = all(answers[i] is not None for i in (*train_idx, *val_idx)) and len({answers[i] for i in train_idx}) > 1
    rows = np.array([*train_idx, *val_idx], dtype=np.int64)
    by_label = _codes([labels[i] for i in rows.tolist()])
    by_answer = _codes([str(answers[i]) for i in rows.tolist()])
    scores = {}
    for name, codes in columns.items():
        if name.startswith(FACT) and name not in facts:
            continue
        kinds, values = np.unique(codes[rows], return_inverse=True)
        if len(kinds) < 2:
            continue
        label_score = _score(values, by_label, len(train_idx))
        scores[name] = FieldScore(label_score, _score(values, by_answer, len(train_idx)) if whole else None)
    return dict(sorted(scores.items(), key=lambda kv: (-(kv[1].umbrella or 0.0), -kv[1].label, kv[0])))


def artefacts(scores: Mapping[str, FieldScore], causal: Mapping[str, str], *, classes: int) -> dict[str, float]:
    """Mask fields whose probe reaches the threshold on the umbrella question and which are not causal.

    Without an umbrella question a two-class label is one itself.
    """
    strongest: dict[str, float] = {}
    for name, score in scores.items():
        field = FIELD_OF.get(name, name)
        value = score.umbrella if score.umbrella is not None else score.label if classes == 2 else 0.0
        if value >= THRESHOLD and field not in causal:
            strongest[field] = max(round(value, 4), strongest.get(field, 0.0))
    return strongest


def _fourths(train: Sequence[int], val: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where validation lacks an answer its F1 says nothing: every fourth row of both parts is then asked instead; so too where
    there is none, as in folders that hold train and test alone."""
    both = sorted((*train, *val))
    return [i for k, i in enumerate(both) if k % 4], both[::4]


def _codes(values: Sequence[str]) -> I64:
    """Text as numbers in its order, so that a tie falls to the first name."""
    number = {value: k for k, value in enumerate(sorted(set(values)))}
    return np.fromiter((number[value] for value in values), dtype=np.int64, count=len(values))


def _score(values: I64, answers: I64, fitted: int) -> float:
    """Macro-F1 on the rows from `fitted` on of the commonest answer to each value in the rows before."""
    kinds = int(answers.max()) + 1
    counts = np.bincount(values[:fitted] * kinds + answers[:fitted], minlength=(int(values.max()) + 1) * kinds).reshape(-1, kinds)
    overall = int(counts.sum(axis=0).argmax())
    guess = np.where(counts.any(axis=1), counts.argmax(axis=1), overall)[values[fitted:]]
    return macro_f1_of_indices(answers[fitted:], guess, kinds)
