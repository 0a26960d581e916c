"""The literature's number beside the honest one: single packets, raw and split at random, against masked and split by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from trafficllm.core.types import F64, I64, Record
from trafficllm.evaluate.features import identifiers
from trafficllm.evaluate.leaks import AuditRows
from trafficllm.evaluate.metrics import indices
from trafficllm.records.canonical import filled

MOST = 10_000
_TREES = 40
Judge: TypeAlias = Callable[[Sequence[int], Sequence[str], str, str], dict[str, Any]]
"""Rows of flows (one a packet), predicted labels, split and masks in words -> quality object."""


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
    """Packets of all flows: masked, or raw with addresses, ports, time and the marks of the capture beside each packet."""
    X, flow = _packet_rows(rows.raw if raw else rows.masked)
    if raw and len(X):
        marks = [np.nan_to_num(column, nan=-1.0) for column in rows.marks.values()]
        known = np.column_stack([identifiers(rows.raw, rows.meta), *marks])
        X = np.hstack([X, known[flow]])
    return Packets(X, indices(labels, rows.y)[flow], flow)


def _answers(data: Packets, train: I64, test: I64, *, seed: int, threads: int) -> I64:
    from sklearn.ensemble import RandomForestClassifier

    if not len(train) or not len(test):
        return np.zeros(0, dtype=np.int64)
    forest = RandomForestClassifier(n_estimators=_TREES, n_jobs=threads, random_state=seed)
    forest.fit(data.X[train], data.y[train])
    return np.asarray(forest.predict(data.X[test]), dtype=np.int64)


def side_by_side(
    rows: AuditRows, labels: Sequence[str], judge: Judge, *, split: str, profile: str, judged: str = "test", seed: int = 0,
    threads: int = 1,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Quality objects of a random forest on single packets, four ways: what the split gives away, and what the masks do.

    `leaky` (raw, at random) is the literature's way, `honest` (masked, by group) ours; `raw_by_group` and `masked_at_random`
    part the two causes. At most 10,000 packets on either side, drawn by the seed.
    """
    out: dict[str, dict[str, Any]] = {}
    ways = {True: ("leaky", "raw_by_group"), False: ("masked_at_random", "honest")}
    for raw, names in ways.items():
        data = packets_of(rows, labels, raw=raw)
        mask = "raw" if raw else profile
        for name, random in zip(names, (True, False), strict=True):
            train, test = _sides(data, rows, judged, random, np.random.default_rng(seed))
            answer = [labels[k] for k in _answers(data, train, test, seed=seed, threads=threads)]
            how = "packet at random" if random else split
            out[name] = judge(data.flow[test[: len(answer)]].tolist(), answer, how, mask)
    return out


def _sides(data: Packets, rows: AuditRows, judged: str, random: bool, rng: np.random.Generator) -> tuple[I64, I64]:
    """Packets to learn from and to answer."""
    if random:
        order = rng.permutation(len(data.y))[: 2 * MOST]
        cut = int(0.7 * len(order))
        return order[:cut][:MOST], order[cut:][:MOST]
    part = np.array(rows.part)[data.flow] if len(data.flow) else np.array([], dtype=str)
    train, test = (rng.permutation(np.flatnonzero(part == side))[:MOST] for side in ("train", judged))
    return train, test
