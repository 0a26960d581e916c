"""The two floors of a class: what real flows differ by within one capture, and between captures.

A generator that learnt from some captures is held against flows of others. Two samples of one capture differ by chance alone; samples of
two captures also by network, time and version. A generated sample can be asked to come near the second figure, hardly below it. Both are
measured with samples of one size, since the divergence of small samples is large by chance.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from trafficllm.core.types import Record
from trafficllm.evaluate.fidelity.fields import FIELDS, jsd, summed
from trafficllm.evaluate.fidelity.results import Floors
from trafficllm.evaluate.fidelity.samplers import sample

ENOUGH, LEAST = 40, 8
"""Flows of a capture that is asked: two samples of twenty; where fewer than two captures have so many, two samples of four."""
DRAWS = 4
"""Samples of each capture or pair."""
PAIRS = 15
"""Pairs of captures at most, drawn."""
_Columns = Mapping[str, Sequence[Counter[object]]]
Captures = Mapping[str, Sequence[Record]]


def floors(held: Captures, learnt: Captures, made: Sequence[Record], *, most: int, seed: int = 0) -> Floors | None:
    """Mean JSD over the fields within captures, between them, and of generated flows against each held-out capture, for samples of at
    most `most` flows; None where no capture has eight flows. `between` is None with fewer than two captures, `generated` with too few
    generated flows or no held-out capture among them.

    `held` and `learnt`: canonical records of one class by capture, all through one observer.
    """
    usable = _usable({**learnt, **held})
    size = min([most, *(len(records) // 2 for records in usable.values())])
    if not usable or size < LEAST // 2:
        return None
    columns = {name: _columns(records) for name, records in usable.items()}
    rng = random.Random(seed)
    pairs = sample(list(combinations(columns, 2)), PAIRS, rng)
    within = [_halves(columns[name], size, rng) for name in columns]
    between = [_apart(columns[one], columns[other], size, rng) for one, other in pairs]
    generated, judged = _columns(made), sorted(set(held) & set(columns))
    against = [_apart(generated, columns[name], size, rng) for name in judged] if len(made) >= size else []
    return Floors(within=statistics.fmean(within), between=_mean(between), generated=_mean(against), captures=len(columns), compared=size)


def _usable(captures: Captures) -> dict[str, Sequence[Record]]:
    rows: dict[str, Sequence[Record]] = {}
    for least in (ENOUGH, LEAST):
        rows = {name: records for name, records in sorted(captures.items()) if len(records) >= least}
        if len(rows) > 1:
            break
    return rows


def _columns(records: Sequence[Record]) -> _Columns:
    return {name: [Counter(extract(record)) for record in records] for name, extract in FIELDS.items()}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _flows(columns: _Columns) -> range:
    return range(len(next(iter(columns.values()))))


def _halves(columns: _Columns, size: int, rng: random.Random) -> float:
    """Two disjoint samples of one capture."""
    mixed = [rng.sample(_flows(columns), 2 * size) for _ in range(DRAWS)]
    return statistics.fmean(_distance(columns, columns, rows[:size], rows[size:]) for rows in mixed)


def _apart(one: _Columns, other: _Columns, size: int, rng: random.Random) -> float:
    """A sample of each of two sets of flows."""
    drawn = [(rng.sample(_flows(one), size), rng.sample(_flows(other), size)) for _ in range(DRAWS)]
    return statistics.fmean(_distance(one, other, *rows) for rows in drawn)


def _distance(one: _Columns, other: _Columns, rows: Sequence[int], others: Sequence[int]) -> float:
    """Mean over the fields that either side shows at all."""
    shown = [name for name in one if any(one[name]) or any(other[name])]
    return statistics.fmean(jsd(summed(one[name], rows), summed(other[name], others)) for name in shown)
