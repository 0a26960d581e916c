"""Two reports of `evaluate run` on the same flows: paired bootstrap over groups, so that what both find hard cancels out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core import metrics
from trafficllm.core.errors import InputError
from trafficllm.core.types import F64
from trafficllm.evaluate import bootstrap
from trafficllm.evaluate.results import ComparedClass, ComparedReport, EvaluateCompare, JudgedReport

LEAST = 2


@dataclass(frozen=True, slots=True)
class Matched:
    """Rows that both reports judged: truths, groups, and the answers of each report's runs."""

    truth: list[str]
    groups: list[str]
    a: list[list[str]]
    b: list[list[str]]
    only: tuple[int, int]


def _named(rows: Sequence[str]) -> dict[tuple[str, int], int]:
    """Place of each row by its name; a name that occurs again counts up."""
    seen: Counter[str] = Counter()
    out = {}
    for place, name in enumerate(rows):
        out[name, seen[name]] = place
        seen[name] += 1
    return out


def matched(a: JudgedReport, b: JudgedReport) -> Matched:
    """The rows of both reports, in the first one's order.

    Raises InputError where they share fewer than two rows, or call one flow by two labels.
    """
    one, two = (_named(report.answers.rows) for report in (a, b))
    both = [(place, two[key]) for key, place in one.items() if key in two]
    if len(both) < LEAST:
        hint = "both must be of one data set and part; build from the same captures"
        raise InputError("input.reports", f"the reports share {len(both)} flows", input="A, B", hint=hint)
    truth = [a.answers.truth[i] for i, _ in both]
    unlike = sum(label != b.answers.truth[j] for label, (_, j) in zip(truth, both, strict=True))
    if unlike:
        hint = "build both data sets from the same labelled folders"
        raise InputError("input.reports", f"the reports disagree on the truth of {unlike} flows", input="A, B", hint=hint)
    runs = [[[run[pair[side]] for pair in both] for run in report.answers.runs] for side, report in enumerate((a, b))]
    groups = [a.answers.groups[i] for i, _ in both]
    return Matched(truth, groups, runs[0], runs[1], (len(one) - len(both), len(two) - len(both)))


def compare(a: JudgedReport, b: JudgedReport, *, n_boot: int = 2000, seed: int = 0) -> EvaluateCompare:
    """What B is better or worse than A: macro-F1 on the shared rows, their difference, its 95 % interval and two-sided p, per class.

    With several runs (seeds) in a report its figure is their mean. With fewer than two groups the interval is [-1, 1].
    """
    rows = matched(a, b)
    labels = sorted(set(rows.truth))
    sides = [[bootstrap.count_groups(labels, rows.truth, run, rows.groups) for run in runs] for runs in (rows.a, rows.b)]
    groups = sides[0][0].true.shape[0]
    whole = np.ones((1, groups))
    before, after = (float(_mean(side, whole)[0]) for side in sides)
    if groups < LEAST:
        gains = np.array([-1.0, 1.0])
    else:
        gains = np.concatenate([_mean(sides[1], w) - _mean(sides[0], w) for w in bootstrap.draws(groups, n_boot, seed)])
    low, high = (float(x) for x in np.percentile(gains, [2.5, 97.5]))
    tail = float(min((gains <= 0).mean(), (gains >= 0).mean()))
    return EvaluateCompare(
        a=ComparedReport.of(a),
        b=ComparedReport.of(b),
        n=len(rows.truth),
        only_a=rows.only[0],
        only_b=rows.only[1],
        groups=groups,
        macro_f1={"a": before, "b": after},
        difference=after - before,
        ci95=[low, high],
        p=min(1.0, 2.0 * tail + 1.0 / (len(gains) + 1)),
        verdict=_verdict(low, high),
        agreement=metrics.accuracy(rows.a[0], rows.b[0]),
        per_class=_classes(labels, rows),
    )


def _mean(side: Sequence[bootstrap.GroupCounts], weights: F64) -> F64:
    return np.asarray(np.mean([counts.macro_f1(weights) for counts in side], axis=0))


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "B is better"
    return "A is better" if high < 0 else "no difference that these groups can show"


def _classes(labels: Sequence[str], rows: Matched) -> list[ComparedClass]:
    """F1 of each label in both, means over runs, most changed first."""
    names = sorted({*labels, *(label for runs in (rows.a, rows.b) for run in runs for label in run)})

    def scores(runs: Sequence[Sequence[str]]) -> dict[str, float]:
        tables = [metrics.per_class(names, metrics.confusion(names, rows.truth, run)) for run in runs]
        return {label: float(np.mean([t[label]["f1"] for t in tables])) for label in labels}

    one, two, support = scores(rows.a), scores(rows.b), Counter(rows.truth)
    out = [
        ComparedClass(label=label, support=support[label], a=one[label], b=two[label], difference=two[label] - one[label])
        for label in labels
    ]
    return sorted(out, key=lambda row: (-abs(row.difference), row.label))
