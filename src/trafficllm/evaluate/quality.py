"""The quality object: one shape wherever a score stands, and the refusal of a score without its context."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from trafficllm.core import metrics
from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import F64
from trafficllm.evaluate import bootstrap
from trafficllm.evaluate.results import ClassScore, Confusion, Quality, UniqueScore

MIN_UNIQUE = 10
"""A class with fewer unique test contents than this, or without a group of its own in the test part, is not measurable.

An honest split keeps its other groups for training, so one in the test part means two or more in the data set.
"""

REQUIRED = ("macro_f1", "accuracy", "ci95", "per_class", "n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds")


def seen_by_base(hashes: Sequence[int], seen: Collection[int]) -> str:
    """`n/m`: how many of the m test contents the base was trained on."""
    return f"{sum(value in seen for value in hashes)}/{len(hashes)}"


def not_measurable(labels: Sequence[str], y_true: Sequence[str], groups: Sequence[object], hashes: Sequence[object]) -> dict[str, str]:
    """Labels whose test part is too thin to score, with the reason."""
    owners: dict[str, set[object]] = {label: set() for label in labels}
    contents: dict[str, set[object]] = {label: set() for label in labels}
    for label, group, content in zip(y_true, groups, hashes, strict=True):
        owners[label].add(group)
        contents[label].add(content)
    return {
        label: f"{len(owners[label])} test groups, {len(contents[label])} unique contents"
        for label in labels
        if not owners[label] or len(contents[label]) < MIN_UNIQUE
    }


def one_group(y_true: Sequence[str], groups: Sequence[object]) -> list[str]:
    """Labels whose test rows are all of one group: their score may be that of one capture, and no interval shows it."""
    owners: dict[str, set[object]] = {}
    for label, group in zip(y_true, groups, strict=True):
        owners.setdefault(label, set()).add(group)
    return sorted(label for label, own in owners.items() if len(own) == 1)


def first_of_each(y_true: Sequence[str], hashes: Sequence[object]) -> list[int]:
    """Rows that are the first of their (label, content)."""
    seen: set[tuple[str, object]] = set()
    rows = []
    for i, key in enumerate(zip(y_true, hashes, strict=True)):
        if key not in seen:
            seen.add(key)
            rows.append(i)
    return rows


def _macro(labels: Sequence[str], scored: Sequence[str], y_true: Sequence[str], y_pred: Sequence[str]) -> float:
    table = metrics.per_class(labels, metrics.confusion(labels, y_true, y_pred))
    present = [table[label]["f1"] for label in scored if table[label]["support"]]
    return float(np.mean(present)) if present else 0.0


def _mean_table(labels: Sequence[str], tables: Sequence[dict[str, dict[str, float]]], thin: Mapping[str, str]) -> dict[str, ClassScore]:
    keys = ("precision", "recall", "f1", "support")
    mean = {label: {key: float(np.mean([t[label][key] for t in tables])) for key in keys} for label in labels}
    return {label: ClassScore(**(row | {"support": int(row["support"])}), measurable=label not in thin) for label, row in mean.items()}


def _unique_scores(
    labels: Sequence[str], scored: Sequence[str], y_true: Sequence[str], runs: Sequence[Sequence[str]], rows: Sequence[int]
) -> UniqueScore:
    truth = [y_true[i] for i in rows]
    picked = [[run[i] for i in rows] for run in runs]
    return UniqueScore(
        macro_f1=float(np.mean([_macro(labels, scored, truth, run) for run in picked])),
        accuracy=float(np.mean([metrics.accuracy(truth, run) for run in picked])),
    )


def _flags(leaky: Sequence[str], seen: str | int) -> list[str]:
    count = int(str(seen).split("/", maxsplit=1)[0] or 0)
    return sorted({*leaky, *(["seen_by_base"] if count else [])})


def quality_of_seeds(
    labels: Sequence[str],
    y_true: Sequence[str],
    runs: Sequence[Sequence[str]],
    groups: Sequence[object],
    *,
    unique_hashes: Sequence[object],
    split: str,
    mask: str,
    leaky: Sequence[str],
    seen_by_base: str | int,
    seeds: Sequence[int],
    n_boot: int = 1000,
    probabilities: F64 | None = None,
) -> Quality:
    """The quality object of several runs (one a seed) on the same test rows; figures are means over runs.

    `macro_f1` is over all labels with test rows (`scored_labels`): thin ones are listed in `not_measurable`, never dropped from
    the headline; `macro_f1_measurable` leaves them out (None where none is measurable). `ci95` resamples groups.
    `probabilities` [n, labels] adds ECE and Brier.
    """
    if not runs or len(seeds) != len(runs):
        raise ValueError(f"{len(runs)} runs but {len(seeds)} seeds")
    thin = not_measurable(labels, y_true, groups, unique_hashes)
    present = set(y_true)
    scored = [label for label in labels if label in present]
    measurable = [label for label in scored if label not in thin]
    counts = [metrics.confusion(labels, y_true, run) for run in runs]
    scores = [_macro(labels, scored, y_true, run) for run in runs]
    rows = first_of_each(y_true, unique_hashes)
    tables = [bootstrap.count_groups(scored, y_true, run, groups) for run in runs]
    calibration: dict[str, float] = {}
    if probabilities is not None:
        truth = metrics.indices(labels, y_true)
        calibration = {"ece": metrics.ece(probabilities, truth), "brier": metrics.brier(probabilities, truth)}
    return Quality(
        macro_f1=float(np.mean(scores)),
        macro_f1_measurable=float(np.mean([_macro(labels, measurable, y_true, run) for run in runs])) if measurable else None,
        accuracy=float(np.mean([metrics.accuracy(y_true, run) for run in runs])),
        ci95=list(bootstrap.interval(tables, n_boot=n_boot, seed=0)),
        per_class=_mean_table(labels, [metrics.per_class(labels, c) for c in counts], thin),
        confusion=Confusion(labels=[*labels, "(other)"], matrix=np.sum(counts, axis=0).tolist()),
        n_test=len(y_true),
        n_test_unique=len(rows),
        unique=_unique_scores(labels, scored, y_true, runs, rows),
        groups=len(set(groups)),
        scored_labels=scored,
        not_measurable=thin,
        one_group=one_group(y_true, groups),
        split=split,
        mask=mask,
        leaky=_flags(leaky, seen_by_base),
        seen_by_base=seen_by_base,
        seeds=list(seeds),
        per_seed=scores,
        **calibration,
    )


def quality(labels: Sequence[str], y_true: Sequence[str], y_pred: Sequence[str], groups: Sequence[object], **context: Any) -> Quality:
    """`quality_of_seeds` of one run; `context` are its keyword arguments, and as strictly checked."""
    return quality_of_seeds(labels, y_true, [y_pred], groups, **context)


def problems(report: Mapping[str, Any]) -> list[str]:
    """Why a report may not be shown, empty when it may: a quality object, `baselines` in or beside it."""
    scores = report.get("quality", report)
    if not isinstance(scores, Mapping):
        return ["no quality object"]
    found = [f"no {key}" for key in REQUIRED if scores.get(key) is None or scores.get(key) == ""]
    ci95 = scores.get("ci95")
    if isinstance(ci95, Sequence) and not (len(ci95) == 2 and 0.0 <= ci95[0] <= ci95[1] <= 1.0):
        found.append(f"ci95 {list(ci95)} is no interval")
    baselines = report.get("baselines", scores.get("baselines"))
    if not isinstance(baselines, Mapping) or not baselines:
        return [*found, "no baselines"]
    return found + [f"baseline {name} has no macro_f1" for name, row in sorted(baselines.items()) if not _has_score(row)]


def _has_score(row: object) -> bool:
    return isinstance(row, Mapping) and "macro_f1" in row


def validate(report: Mapping[str, Any]) -> None:
    """Refuse a report that lacks split, mask, baselines, interval...: ArtifactError with all reasons."""
    reasons = problems(report)
    if reasons:
        raise ArtifactError(
            "artifact.report",
            "the report leaves out what an honest score needs: " + "; ".join(reasons),
            input="report",
            hint="score with `trafficllm evaluate run`, which fills in all of them",
        )
