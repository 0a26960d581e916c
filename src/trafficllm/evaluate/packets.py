"""The literature's number beside the honest one: single packets, split at random and raw, against split by flow and masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.types import F64, I64, Record
from trafficllm.evaluate import probes
from trafficllm.evaluate.features import identifiers
from trafficllm.evaluate.leaks import AuditRows
from trafficllm.evaluate.metrics import indices
from trafficllm.records.canonical import filled

MOST = 20_000
_TREES = 60


@dataclass(frozen=True, slots=True)
class Packets:
    """One row a packet: `X` float64 [n, columns], `y` label index, `flow` row of its flow."""

    X: F64
    y: I64
    flow: I64


def _packet_rows(records: Sequence[Record]) -> tuple[F64, I64]:
    """Direction, size, gap, flags, window and TTL of each packet, and the flow it belongs to."""
    rows: list[tuple[int, ...]] = []
    flow: list[int] = []
    for i, record in enumerate(records):
        n = len(record.dirs)
        columns = [
            filled(c, n)
            for c in (record.dirs, record.sizes, record.iats, record.flags, record.windows, record.ttls)
        ]
        rows += zip(*columns, strict=True)
        flow += [i] * n
    return np.array(rows, dtype=np.float64).reshape(len(rows), 6), np.array(flow, dtype=np.int64)


def packets_of(rows: AuditRows, labels: Sequence[str], *, raw: bool) -> Packets:
    """Packets of all flows: masked, or raw with addresses, ports and time beside each packet."""
    X, flow = _packet_rows(rows.raw if raw else rows.masked)
    if raw and len(X):
        X = np.hstack([X, identifiers(rows.raw, rows.meta)[flow]])
    return Packets(X, indices(labels, rows.y)[flow], flow)


def _score(data: Packets, train: I64, test: I64, classes: int, *, seed: int, threads: int) -> float:
    from sklearn.ensemble import RandomForestClassifier

    if not len(train) or not len(test):
        return 0.0
    forest = RandomForestClassifier(n_estimators=_TREES, n_jobs=threads, random_state=seed)
    forest.fit(data.X[train], data.y[train])
    return probes.macro(data.y[test], forest.predict(data.X[test]).astype(np.int64), classes)


def leaky_and_honest(
    rows: AuditRows, labels: Sequence[str], *, judged: str = "test", seed: int = 0, threads: int = 1
) -> tuple[float, float]:
    """Macro-F1 of a random forest on single packets: (split at random, raw), (split by flow, masked).

    At most 20,000 packets on either side, drawn by the seed.
    """
    rng = np.random.default_rng(seed)
    raw, masked = packets_of(rows, labels, raw=True), packets_of(rows, labels, raw=False)
    order = rng.permutation(len(raw.y))[:MOST]
    cut = int(0.7 * len(order))
    leaky = _score(raw, order[:cut], order[cut:], len(labels), seed=seed, threads=threads)
    part = np.array(rows.part)[masked.flow] if len(masked.flow) else np.array([], dtype=str)
    train = rng.permutation(np.flatnonzero(part == "train"))[:MOST]
    test = rng.permutation(np.flatnonzero(part == judged))[:MOST]
    return leaky, _score(masked, train, test, len(labels), seed=seed, threads=threads)
