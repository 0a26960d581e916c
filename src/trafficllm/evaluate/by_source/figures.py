"""Figures over sources: every one is a mean in which a source counts once, so that resampling sources is a product of matrices.

For benign source b and malicious source m, at threshold t:

    fpr_b(t) = share of b's flows with score > t,   recall_m(t) likewise,   auroc = mean over m, b of AUROC(m, b)
    recall at rate r = mean_m recall_m(t_r),   t_r = smallest benign score with mean_b fpr_b(t) <= r
    precision at prevalence q = q recall / (q recall + (1 - q) fpr)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trafficllm.core import metrics
from trafficllm.core.types import F64, I64
from trafficllm.evaluate import bootstrap
from trafficllm.evaluate.by_source.folds import Judged, OpenRows
from trafficllm.evaluate.by_source.results import Gain, MeanScore, OpenworldScores, OperatingSummary, RocPoint, SourceScore, WorstScore

PREVALENCE = 0.01
GRID = (0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0)
"""False-positive rates of the curve's points."""
MANY = 100
"""Benign flows from which a source's rate is worth naming as the worst."""
_TOLERANCE = 1e-9
BENIGN, MALICIOUS = "benign", "malicious"


@dataclass(frozen=True)
class Side:
    """The judged flows of one side: `score`, `verdict` and number of the source [n]; names of its sources; hosts and captures [n]."""

    score: F64
    verdict: I64
    source: I64
    names: tuple[str, ...]
    hosts: tuple[str, ...]
    captures: tuple[str, ...]

    @classmethod
    def of(cls, rows: OpenRows, judged: Judged, positive: int) -> Side:
        """The side of a study's judged rows."""
        mine = np.flatnonzero(rows.positive[judged.rows] == positive)
        places = judged.rows[mine]
        own = [rows.sources[k] for k in places]
        names = tuple(sorted(set(own)))
        number = {name: k for k, name in enumerate(names)}
        return cls(
            judged.score[mine],
            judged.verdict[mine],
            np.array([number[name] for name in own], dtype=np.int64),
            names,
            tuple(f"{rows.sources[k]}\n{rows.hosts[k]}" for k in places),
            tuple(f"{rows.sources[k]}\n{rows.captures[k]}" for k in places),
        )

    def mean_of(self, values: F64) -> F64:
        """Mean of a column over the flows of each source, float64 [sources]."""
        return np.asarray(np.bincount(self.source, weights=values, minlength=len(self.names)) / np.maximum(self.sizes, 1))

    @cached_property
    def sizes(self) -> I64:
        """Flows of each source."""
        return np.bincount(self.source, minlength=len(self.names)).astype(np.int64)

    def by_group(self, groups: Sequence[str], pool: Callable[[F64, I64, int], F64]) -> tuple[F64, I64]:
        """A figure of each source that is a mean over its hosts or captures, and how many of them it has."""
        codes = bootstrap.group_codes(groups)
        count = int(codes.max()) + 1 if len(codes) else 0
        owner = np.zeros(count, dtype=np.int64)
        owner[codes] = self.source
        many = np.bincount(owner, minlength=len(self.names)).astype(np.int64)
        values = pool((self.verdict == 1).astype(np.float64), codes, count)
        return np.bincount(owner, weights=values, minlength=len(self.names)) / np.maximum(many, 1), many

    @cached_property
    def host_rate(self) -> tuple[F64, I64]:
        """Share of each source's hosts with a positive flow, and its hosts."""
        return self.by_group(self.hosts, lambda hit, code, count: (np.bincount(code, weights=hit, minlength=count) > 0).astype(np.float64))

    @cached_property
    def capture_rate(self) -> tuple[F64, I64]:
        """Mean over each source's captures of the share of positive flows, and its captures."""

        def share(hit: F64, code: I64, count: int) -> F64:
            return np.asarray(np.bincount(code, weights=hit, minlength=count) / np.bincount(code, minlength=count))

        return self.by_group(self.captures, share)

    def above(self, thresholds: F64) -> F64:
        """Share of each source's flows above each threshold, float64 [thresholds, sources]."""
        out = np.zeros((len(thresholds), len(self.names)))
        for s in range(len(self.names)):
            own = np.sort(self.score[self.source == s])
            out[:, s] = 1.0 - np.searchsorted(own, thresholds, side="right") / max(len(own), 1)
        return out


@dataclass(frozen=True)
class Tables:
    """What all figures of one seed are made from: both sides, and shares of flows above every benign score."""

    benign: Side
    malicious: Side

    @classmethod
    def of(cls, rows: OpenRows, judged: Judged) -> Tables:
        """From the judged rows of a study."""
        return cls(Side.of(rows, judged, 0), Side.of(rows, judged, 1))

    @cached_property
    def thresholds(self) -> F64:
        """Every distinct benign score, ascending."""
        return np.unique(self.benign.score)

    @cached_property
    def fpr(self) -> F64:
        """float64 [thresholds, benign sources]."""
        return self.benign.above(self.thresholds)

    @cached_property
    def recall(self) -> F64:
        """float64 [thresholds, malicious sources]."""
        return self.malicious.above(self.thresholds)

    @cached_property
    def pairs(self) -> F64:
        """AUROC of each malicious source against each benign one, float64 [malicious, benign]."""
        sides = [[side.score[side.source == s] for s in range(len(side.names))] for side in (self.malicious, self.benign)]
        return np.array([[metrics.auroc(m, b) for b in sides[1]] for m in sides[0]]).reshape(len(sides[0]), len(sides[1]))

    def recall_at(self, rate: float, benign: F64, malicious: F64) -> F64:
        """Recall where the mean false-positive rate is at most `rate`, float64 [draws]; weights [draws, sources] of either side."""
        mean = self.fpr @ _shares(benign).T
        place = np.argmax(mean <= rate + _TOLERANCE, axis=0)
        return np.asarray((_shares(malicious) * self.recall[place]).sum(axis=1))

    def figures(self, benign: F64, malicious: F64) -> dict[str, F64]:
        """Every figure of `MeanScore` that is a mean over sources, float64 [draws]; NaN where a draw has none of a side."""
        b, m = _shares(benign), _shares(malicious)
        hit_b, hit_m = (side.mean_of((side.verdict == 1).astype(np.float64)) for side in (self.benign, self.malicious))
        fpr, recall = b @ hit_b, m @ hit_m
        sizes_b = benign * self.benign.sizes
        both = {
            "fpr_flow": fpr,
            "fpr_host": b @ self.benign.host_rate[0],
            "fpr_capture": b @ self.benign.capture_rate[0],
            "recall": recall,
            "recall_host": m @ self.malicious.host_rate[0],
            "auroc": np.einsum("dm,mb,db->d", m, self.pairs, b),
            "unknown_benign": b @ self.benign.mean_of((self.benign.verdict == -1).astype(np.float64)),
            "unknown_malicious": m @ self.malicious.mean_of((self.malicious.verdict == -1).astype(np.float64)),
            "precision_at_1pct": precision(recall, fpr),
        }
        for name, rate in (("001", 0.001), ("01", 0.01)):
            both[f"recall_at_fpr_{name}"] = self.recall_at(rate, benign, malicious)
            both[f"recall_at_fpr_{name}_flows"] = self.recall_at(rate, sizes_b, malicious)
        inside = {name: np.clip(value, 0.0, 1.0) for name, value in both.items()}  # sums of shares may pass 1 by a rounding
        return {name: np.where(_usable(name, benign, malicious), value, np.nan) for name, value in inside.items()}

    def pooled(self) -> dict[str, float | None]:
        """Figures in which flows count, not sources."""
        b, m = self.benign, self.malicious
        return {
            "fpr_flow_pooled": float((b.verdict == 1).mean()) if len(b.verdict) else None,
            "recall_pooled": float((m.verdict == 1).mean()) if len(m.verdict) else None,
            "auroc_pooled": metrics.auroc(m.score, b.score) if len(b.verdict) and len(m.verdict) else None,
        }


def precision(recall: F64, fpr: F64, prevalence: float = PREVALENCE) -> F64:
    """Share of true ones among positive flows at a prevalence; NaN where nothing is positive.

    >>> round(float(precision(np.array([0.5]), np.array([0.01]))[0]), 3)
    0.336
    """
    hit, wrong = prevalence * recall, (1.0 - prevalence) * fpr
    total = hit + wrong
    return np.asarray(np.divide(hit, total, out=np.full_like(total, np.nan), where=total > 0))


def _shares(weights: F64) -> F64:
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights, dtype=np.float64), where=total > 0))


_OF_BENIGN = frozenset({"fpr_flow", "fpr_host", "fpr_capture", "unknown_benign"})
_OF_MALICIOUS = frozenset({"recall", "recall_host", "unknown_malicious"})


def _usable(name: str, benign: F64, malicious: F64) -> npt.NDArray[np.bool_]:
    """Draws that have the sides a figure needs."""
    has_b, has_m = benign.sum(axis=1) > 0, malicious.sum(axis=1) > 0
    return np.asarray(has_b if name in _OF_BENIGN else has_m if name in _OF_MALICIOUS else has_b & has_m)


@dataclass(frozen=True)
class Draws:
    """How often each source is drawn: weights [draws, sources] of each side, the same for every learner."""

    benign: F64
    malicious: F64

    @classmethod
    def whole(cls, tables: Tables) -> Draws:
        """Every source once."""
        return cls(np.ones((1, len(tables.benign.names))), np.ones((1, len(tables.malicious.names))))

    @classmethod
    def resampled(cls, tables: Tables, n_boot: int, seed: int) -> Draws:
        """Sources drawn with replacement; one with both sides brings both."""
        names = sorted({*tables.benign.names, *tables.malicious.names})
        drawn = np.concatenate(list(bootstrap.draws(len(names), n_boot, seed)))
        place = {name: k for k, name in enumerate(names)}
        return cls(*(drawn[:, [place[name] for name in side.names]] for side in (tables.benign, tables.malicious)))


def _average(runs: Sequence[Tables], draws: Draws) -> dict[str, F64]:
    """Figures averaged over seeds, [draws] each."""
    each = [run.figures(draws.benign, draws.malicious) for run in runs]
    return {name: np.mean([run[name] for run in each], axis=0) for name in each[0]}


def _interval(values: F64) -> list[float]:
    usable = values[~np.isnan(values)]
    if len(usable) < 2:
        return [0.0, 1.0]
    low, high = np.percentile(usable, [2.5, 97.5])
    return [float(low), float(high)]


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean([value for value in values if value is not None]))


def mean_score(runs: Sequence[Tables]) -> MeanScore:
    """Means over sources, averaged over seeds."""
    figures = {name: _number(value[0]) for name, value in _average(runs, Draws.whole(runs[0])).items()}
    pooled = [run.pooled() for run in runs]
    flows = {name: _mean_or_none([p[name] for p in pooled]) for name in pooled[0]}
    return MeanScore.model_validate({**figures, **flows})


def scores(runs: Sequence[Tables], judged: Sequence[Judged], *, n_boot: int = 1000, seed: int = 0) -> OpenworldScores:
    """All figures of one learner; `runs` and `judged` are of one seed each, on the same rows. ValueError where nothing was judged."""
    if not runs or not (len(runs[0].benign.names) or len(runs[0].malicious.names)):
        raise ValueError("no source could be judged")
    sources = [*_rows(runs, BENIGN), *_rows(runs, MALICIOUS)]
    few = len({row.source for row in sources}) < 2
    spread = {} if few else _average(runs, Draws.resampled(runs[0], n_boot, seed))
    return OpenworldScores(
        sources=sources,
        worst=worst_score(sources),
        mean=mean_score(runs),
        ci95={name: _interval(value) for name, value in spread.items()},
        per_seed=[mean_score([run]) for run in runs],
        curve=curve(runs),
        operating=operating(judged),
        skipped={name: why for run in judged for name, why in run.skipped.items()},
    )


def _rows(runs: Sequence[Tables], side: str) -> list[SourceScore]:
    """A row for each source of a side, averaged over seeds."""
    sides = [run.benign if side == BENIGN else run.malicious for run in runs]
    first = sides[0]
    mean = {
        "flow": np.mean([s.mean_of((s.verdict == 1).astype(np.float64)) for s in sides], axis=0),
        "host": np.mean([s.host_rate[0] for s in sides], axis=0),
        "capture": np.mean([s.capture_rate[0] for s in sides], axis=0),
        "unknown": np.mean([s.mean_of((s.verdict == -1).astype(np.float64)) for s in sides], axis=0),
    }
    pairs = np.mean([run.pairs for run in runs], axis=0)
    against = pairs.mean(axis=0 if side == BENIGN else 1) if pairs.size else None
    out = []
    for k, name in enumerate(first.names):
        rates = [float(mean[what][k]) for what in ("flow", "host", "capture")]
        benign = side == BENIGN
        out.append(
            SourceScore(
                source=name,
                side=side,
                captures=int(first.capture_rate[1][k]),
                flows=int(first.sizes[k]),
                hosts=int(first.host_rate[1][k]),
                fpr_flow=rates[0] if benign else None,
                fpr_host=rates[1] if benign else None,
                fpr_capture=rates[2] if benign else None,
                recall=None if benign else rates[0],
                recall_host=None if benign else rates[1],
                auroc=None if against is None else float(against[k]),
                unknown=float(mean["unknown"][k]),
            )
        )
    return out


def worst_score(sources: Sequence[SourceScore]) -> WorstScore:
    """The highest false-positive rates, the lowest recall and AUROC, with the source of each; the first by name among equals."""

    def extreme(name: str, rows: Sequence[SourceScore], *, highest: bool) -> tuple[float | None, str]:
        values = [(getattr(row, name), row.source) for row in rows if getattr(row, name) is not None]
        if not values:
            return None, ""
        best = (max if highest else min)(value for value, _ in values)
        return best, next(source for value, source in values if value == best)

    many = [row for row in sources if row.flows >= MANY]
    wanted: Mapping[str, tuple[str, Sequence[SourceScore], bool]] = {
        "fpr_flow": ("fpr_flow", sources, True),
        "fpr_flow_100": ("fpr_flow", many, True),
        "fpr_host": ("fpr_host", sources, True),
        "recall": ("recall", sources, False),
        "auroc": ("auroc", sources, False),
    }
    fields: dict[str, float | str | None] = {}
    for key, (name, rows, highest) in wanted.items():
        fields[key], fields[f"{key}_source"] = extreme(name, rows, highest=highest)
    return WorstScore.model_validate(fields)


def curve(runs: Sequence[Tables]) -> list[RocPoint]:
    """Recall at each rate of GRID, sources alike, averaged over seeds; none where a side is missing."""
    if not all(len(run.benign.names) and len(run.malicious.names) for run in runs):
        return []
    out = []
    for rate in GRID:
        values = [float(run.recall_at(rate, d.benign, d.malicious)[0]) if rate < 1 else 1.0 for run in runs for d in (Draws.whole(run),)]
        out.append(RocPoint(fpr=rate, recall=float(np.mean(values))))
    return out


def operating(judged: Sequence[Judged]) -> OperatingSummary | None:
    """The operating points of all folds and seeds in one; None where there is none."""
    points = [point for run in judged for point in run.points]
    if not points:
        return None
    fewest = min(points, key=lambda point: point.sources)
    return OperatingSummary(
        wanted=fewest.wanted,
        rate=float(np.mean([point.rate for point in points])),
        worst=float(np.max([point.worst for point in points])),
        unknown=float(np.mean([point.unknown for point in points])),
        threshold=float(np.mean([point.threshold for point in points])),
        sources=fewest.sources,
        expected=fewest.expected,
        bound=fewest.bound,
        confidence=fewest.confidence,
        guarantee=fewest.guarantee,
    )


COMPARED = ("auroc", "recall", "recall_at_fpr_01", "recall_at_fpr_001", "fpr_flow")


def gains(ours: Sequence[Tables], others: Mapping[str, Sequence[Tables]], *, n_boot: int = 1000, seed: int = 0) -> list[Gain]:
    """Ours less the best of the others in each of COMPARED, with intervals of pairs over sources; the best one by its own mean."""
    out = []
    draws = Draws.resampled(ours[0], n_boot, seed)
    spread = {name: _average(runs, draws) for name, runs in {"": ours, **others}.items()}
    mean = {name: _average(runs, Draws.whole(runs[0])) for name, runs in {"": ours, **others}.items()}
    for figure in COMPARED:
        usable = [name for name in others if not np.isnan(mean[name][figure][0])]
        if not usable or np.isnan(mean[""][figure][0]):
            continue
        sign = -1.0 if figure == "fpr_flow" else 1.0
        best = max(usable, key=lambda name: sign * mean[name][figure][0])
        out.append(
            Gain(
                against=best,
                figure=figure,
                difference=float(mean[""][figure][0] - mean[best][figure][0]),
                ci95=_interval(spread[""][figure] - spread[best][figure]),
            )
        )
    return out
