"""The page of `evaluate openworld`: what to expect on a network that nobody learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.lifecycle.reports import plots
from trafficllm.lifecycle.reports.study_pages import Section, page

if TYPE_CHECKING:
    from trafficllm.evaluate.by_source.results import OpenworldScores
    from trafficllm.lifecycle.studies.results import EvaluateOpenworld

FIGURES = {
    "fpr_flow": "benign flows called positive",
    "fpr_host": "benign hosts called positive",
    "recall": "recall",
    "auroc": "AUROC",
    "recall_at_fpr_01": "recall at 1 % false positives",
    "recall_at_fpr_001": "recall at .1 %",
    "precision_at_1pct": "precision at 1 % prevalence",
    "unknown_benign": "benign flows unknown",
}
"""Columns of the table over learners."""
NAMES = {"lightgbm": "LightGBM", "random_forest": "random forest", "identifier_probe": "identifier probe"}


def share(value: float | None) -> str:
    """Percent, with one digit below ten.

    >>> share(0.0123), share(0.5), share(None)
    ('1.2 %', '50 %', '-')
    """
    return "-" if value is None else f"{100 * value:.{1 if value < 0.1 else 0}f} %"


def area(value: float | None) -> str:
    """An AUROC, two digits.

    >>> area(0.876), area(1.0), area(None)
    ('.88', '1.00', '-')
    """
    return "-" if value is None else f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.00"


def _cell(scores: OpenworldScores, name: str) -> str:
    value, pair = getattr(scores.mean, name), scores.ci95.get(name)
    shown = area if name == "auroc" else share
    return shown(value) if pair is None or value is None else f"{shown(value)} ({shown(pair[0])} to {shown(pair[1])})"


def learners(result: EvaluateOpenworld) -> list[tuple[str, OpenworldScores]]:
    """Our row and the baselines', with the names a reader knows."""
    return [(f"LLM ({result.learner})", result), *((NAMES.get(name, name), row) for name, row in result.baselines.items())]


def openworld_page(result: EvaluateOpenworld, path: Path) -> Path:
    """Write the page: learners side by side, every source, the curve, what the operating point promises."""
    mean, worst, point = result.mean, result.worst, result.operating
    tiles = [
        ("of benign flows called positive, mean over sources never learnt from", share(mean.fpr_flow)),
        ("of benign hosts", share(mean.fpr_host)),
        (f"of benign flows of the worst source of 100 flows or more ({worst.fpr_flow_100_source or '-'})", share(worst.fpr_flow_100)),
        ("recall on malicious sources never learnt from", share(mean.recall)),
        ("recall at 1 % false positives", share(mean.recall_at_fpr_01)),
        ("AUROC", area(mean.auroc)),
    ]
    about = (
        f"{result.question} Every one of {len({row.source for row in result.sources})} sources was left out in turn"
        f"{f' ({result.folds} groups)' if result.folds else ''}: models, calibration and thresholds come from the others. "
        f"Masks {result.profile}, {result.background.flows} background flows of {len(result.background.sources)} sources, "
        f"seeds {', '.join(map(str, result.seeds))}; flows the base has seen: {result.seen_by_base}."
    )
    rows = [[name, *(_cell(scores, figure) for figure in FIGURES)] for name, scores in learners(result)]
    note = "Intervals resample sources. Every learner saw the same masked records, background, weights, calibration and folds. "
    note += "The identifier probe sees what masks hide: where it is as good as the others, sources can be told by their marks."
    curve = {name: [(p.fpr, p.recall) for p in scores.curve] for name, scores in learners(result) if scores.curve}
    sections = [
        Section("Learners", "", ["", *FIGURES.values()], rows, note),
        Section(
            "Recall for every false-positive rate",
            plots.curves(curve, x="false-positive rate, mean over benign sources", y="recall, mean over sources"),
        ),
        Section("Sources", "", _HEAD, _sources(result), "A host is a client address within a capture; positive with one positive flow."),
        Section("The threshold", "", (), (), point.guarantee if point else "No threshold could be chosen."),
    ]
    if result.gain:
        sections.insert(1, Section("Ours less the best baseline", "", ["figure", "against", "difference", "95 %"], _gains(result)))
    if result.skipped or result.dropped:
        left = [*(("source", name, why) for name, why in result.skipped.items()), *(("flows", k, n) for k, n in result.dropped.items())]
        sections.append(Section("Left out", "", ["what", "which", "why or how many"], left))
    return page(path, title=f"{result.task}: open world", about=about, leaky=result.leaky, tiles=tiles, sections=sections)


_HEAD = ("source", "side", "captures", "flows", "hosts", "flows called positive", "hosts called positive", "unknown", "AUROC")


def _sources(result: EvaluateOpenworld) -> list[Sequence[object]]:
    """A row a source, benign ones first, the most false positives and the least recall on top."""
    benign = sorted((row for row in result.sources if row.side == "benign"), key=lambda row: -(row.fpr_flow or 0.0))
    malicious = sorted((row for row in result.sources if row.side != "benign"), key=lambda row: row.recall or 0.0)
    return [
        [
            row.source,
            row.side,
            row.captures,
            row.flows,
            row.hosts,
            share(row.fpr_flow if row.fpr_flow is not None else row.recall),
            share(row.fpr_host if row.fpr_host is not None else row.recall_host),
            share(row.unknown),
            area(row.auroc),
        ]
        for row in (*benign, *malicious)
    ]


def _gains(result: EvaluateOpenworld) -> list[Sequence[object]]:
    return [
        [FIGURES[row.figure], NAMES.get(row.against, row.against), f"{row.difference:+.3f}", f"{row.ci95[0]:+.3f} to {row.ci95[1]:+.3f}"]
        for row in result.gain
    ]
