"""The literature's number beside the honest one: single packets, raw and split at random, against masked and split by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trafficllm.core.metrics import indices
from trafficllm.core.types import F64, I64, Record
from trafficllm.evaluate.audit.leaks import AuditRows
from trafficllm.evaluate.audit.results import AuditScore
from trafficllm.evaluate.baselines.features import identifiers

MOST = 10_000
_TREES = 40
Judge: TypeAlias = Callable[[Sequence[int], Sequence[str], str, str], AuditScore]
"""Rows of flows (one a packet), predicted labels, split and masks in words -> quality object."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some packets of a data set, one entry each: row of its `flow` and `place` within it, int64 [n]."""

    flow: I64
    place: I64

    def __getitem__(self, which: slice) -> Drawn:
        return Drawn(self.flow[which], self.place[which])


def drawn(counts: I64, flows: I64, most: int, rng: np.random.Generator) -> Drawn:
    """At most `most` packets of `flows` in random order; `counts` packets has each row. Takes 8 bytes a packet, no more."""
    ends = np.cumsum(counts[flows])
    order = rng.permutation(int(ends[-1]) if len(ends) else 0)[:most]
    at = np.searchsorted(ends, order, side="right")
    return Drawn(flows[at], order - (ends[at] - counts[flows[at]]))


def _packet_columns(records: Sequence[Record], packets: Drawn) -> F64:
    """Direction, size, gap, flags, window and TTL of each packet, float64 [n, 6]; -1 where there is none."""
    out = np.full((len(packets.flow), 6), -1.0)
    for row, i, k in zip(out, packets.flow.tolist(), packets.place.tolist(), strict=True):
        record = records[i]
        for c, values in enumerate((record.dirs, record.sizes, record.iats, record.flags, record.windows, record.ttls)):
            if k < len(values):
                row[c] = values[k]
    return out


def packet_rows(rows: AuditRows, packets: Drawn, *, raw: bool) -> F64:
    """Columns of drawn packets: masked, or raw with addresses, ports, time and the marks of the capture beside each packet."""
    X = _packet_columns(rows.raw if raw else rows.masked, packets)
    if not raw or not len(X):
        return X
    flows, at = np.unique(packets.flow, return_inverse=True)
    marks = [np.nan_to_num(column[flows], nan=-1.0) for column in rows.marks.values()]
    columns = identifiers([rows.raw[i] for i in flows], [rows.meta[i] for i in flows])
    return np.hstack([X, np.column_stack([columns, *marks])[at]])


def _answers(X: F64, y: I64, X_test: F64, *, seed: int, threads: int) -> I64:
    from sklearn.ensemble import RandomForestClassifier

    if not len(X) or not len(X_test):
        return np.zeros(0, dtype=np.int64)
    forest = RandomForestClassifier(n_estimators=_TREES, n_jobs=threads, random_state=seed)
    return np.asarray(forest.fit(X, y).predict(X_test), dtype=np.int64)


def side_by_side(
    rows: AuditRows, labels: Sequence[str], judge: Judge, *, split: str, profile: str, judged: str = "test", seed: int = 0, threads: int = 1
) -> dict[str, AuditScore]:
    """Quality objects of a random forest on single packets, four ways: what the split gives away, and what the masks do.

    `leaky` (raw, at random) is the literature's way, `honest` (masked, by group) ours; `raw_by_group` and `masked_at_random`
    part the two causes. At most 10,000 packets on either side, drawn by the seed; only those become rows, so that a data set
    of millions of cells takes no more memory than a small one.
    """
    out: dict[str, AuditScore] = {}
    y = indices(labels, rows.y)
    ways = {True: ("leaky", "raw_by_group"), False: ("masked_at_random", "honest")}
    for raw, names in ways.items():
        count = [len(record.dirs) for record in (rows.raw if raw else rows.masked)]
        counts = np.array(count, dtype=np.int64)
        for name, random in zip(names, (True, False), strict=True):
            train, test = _sides(counts, rows, judged, random, np.random.default_rng(seed))
            X, X_test = (packet_rows(rows, side, raw=raw) for side in (train, test))
            answer = [labels[k] for k in _answers(X, y[train.flow], X_test, seed=seed, threads=threads)]
            how = "packet at random" if random else split
            out[name] = judge(test.flow[: len(answer)].tolist(), answer, how, "raw" if raw else profile)
    return out


def _sides(counts: I64, rows: AuditRows, judged: str, random: bool, rng: np.random.Generator) -> tuple[Drawn, Drawn]:
    """Packets to learn from and to answer."""
    if random:
        order = drawn(counts, np.arange(len(counts)), 2 * MOST, rng)
        cut = int(0.7 * len(order.flow))
        return order[:cut][:MOST], order[cut:][:MOST]
    train, test = (drawn(counts, np.array(rows.rows(side), dtype=np.int64), MOST, rng) for side in ("train", judged))
    return train, test
