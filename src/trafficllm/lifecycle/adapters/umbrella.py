"""The first step of an adapter's verdicts, fitted beside it: is a flow of the umbrella's positive side, or is it what other sources have?

States of the tuned model for training rows and for background flows, a linear readout over labels and background, cross-fitted with
groups of sources left out: each background flow is scored by a readout that has not learnt its source. From these scores come the
operating points and the probability. Tuning itself never sees the background, so its states have learnt nothing of any source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import F64, ProgressSink, Record
from trafficllm.lifecycle.calibration import crossfit
from trafficllm.lifecycle.studies import scoring
from trafficllm.records.coverage import kind_of
from trafficllm.registry import members

if TYPE_CHECKING:
    import torch

    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.adapter.readout import Readout
    from trafficllm.records.catalog import Task
    from trafficllm.records.coverage import Coverage
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background

LEARNT = 2400
"""Training rows at most that the umbrella readout learns from, evenly over labels: 12 s of one core for the embedded base."""
HELD_OUT = 600
"""Validation rows that the probability is fitted on."""
STRENGTH = 0.01
"""C of the regression. On frozen states, harmless sources left out, known families of left-out captures found at 1 % false positives:
.884 at .001, .902 at .01; two classes instead of all labels .825. With the operating point chosen on the package's background: known
families .765, .858, .909 at .001, .01, .1, harmless flows of other sources yet called malicious 0, 1.0, 1.2 %."""
STEPS = 120
"""L-BFGS steps of each fit."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Umbrella readouts, one a member, and what a calibration states as `umbrella`."""

    readouts: tuple[Readout, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the readouts learn from: each member's pooled features [n, features], classes by number, sides, and strata that weigh alike.

    `sides` says of each class of the readouts whether it is of the umbrella's positive side. The first `own` rows are the task's and
    positive flows of other sources, the others background.
    """

    sides: list[bool]
    features: tuple[torch.Tensor, ...]
    classes: np.ndarray[Any, np.dtype[np.int64]]
    positive: list[bool]
    strata: list[str]
    own: int


def add(scorer: LLMScorer, dataset: Dataset, background: Background | None, training: Training, coverage: Coverage) -> None:
    """Fit the first step for the adapter in the working folder, which the scorer has resident, write its readouts there, one a member,
    and make them resident; what was fitted is the calibration's `umbrella`. Nothing where the task asks no such question, or nothing can
    be fitted."""
    from trafficllm.model.adapter.readout import UMBRELLA

    places = members.folders(training.workdir)
    options: dict[str, Any] = {"rate": training.false_positives, "progress": training.progress}
    fitted = fit(scorer, dataset, background, coverage, **options) if background else None
    if fitted is None:
        for place in places:
            (place / UMBRELLA).unlink(missing_ok=True)
        return
    for place, readout in zip(places, fitted.readouts, strict=True):
        readout.save(place, UMBRELLA)
    scorer.engine.add_adapter(scorer.adapter, training.workdir)
    scorer.calibration["umbrella"] = fitted.facts


def fit(
    scorer: LLMScorer, dataset: Dataset, background: Background, coverage: Coverage, *, rate: float, progress: ProgressSink
) -> Fitted | None:
    """The umbrella readouts and their operating points; None where the task has no umbrella, no label of its positive side, no background,
    or the adapter no readout whose states could be read. Operating points are chosen on flows that `coverage` lets be positive."""
    from trafficllm.core.umbrella import Umbrella
    from trafficllm.evaluate import umbrella as fitting

    task, own = scorer.task, scorer.engine.readout(scorer.adapter, scorer.labels)
    background = _like(dataset, background, coverage)
    sides = _sides(task, scorer.labels, others=bool(background.positive))
    if own is None or not len(background) or not any(sides):
        return None
    progress.update("umbrella", 0, None)
    kinds = [kind_of(raw, meta.resp_h) for raw, meta in zip(background.raw, background.meta, strict=True)]
    rows = _rows(scorer, dataset, background, kinds, own, sides=sides)
    odds = _left_out(rows, list(background.sources), scorer, own)
    able = [k for k, kind in enumerate(kinds) if coverage.may_be_positive(kind) and coverage.covers_kind(kind)]
    if not able:
        return None
    meta = [background.meta[k] for k in able]
    sources = [background.sources[k] for k in able]
    left = fitting.LeftOut(odds[able], sources, [each.capture for each in meta], [each.orig_h for each in meta])
    readouts = crossfit.stored(_readouts(rows, range(len(rows.positive)), scorer, own))
    val, y = scoring.rows(dataset, "val", scorer.labels)
    some = evenly_over_labels(y, HELD_OUT) if y else []
    held_out = _odds(readouts, _features(scorer, dataset.records([val[k] for k in some]), own), sides) if some else np.zeros(0)
    side = [bool(task.is_positive(y[k])) for k in some]
    facts: dict[str, Any] = {
        "positive": task.positive,
        "negative": task.negative,
        "classes": list(readouts[0].labels),
        "members": sides,
        **fitting.calibrated(left, held_out, side),
        **fitting.chosen(left, rate=rate).as_dict(),
    }
    if point := fitting.alert_point(left, held_out, side, least=facts["flow"]["threshold"]):
        step = Umbrella.of({"umbrella": facts})
        assert step is not None
        facts["alert"] = {**point, "probability": float(step.probability(np.array([point["threshold"]]))[0])}
    return Fitted(readouts, facts)


def odds_of(scorer: LLMScorer, fitted: Fitted, records: list[Record]) -> F64:
    """Log-odds [n] that a fitted first step gives masked records."""
    return _odds(fitted.readouts, _features(scorer, records, fitted.readouts[0]), fitted.facts["members"])


def _like(dataset: Dataset, background: Background, coverage: Coverage) -> Background:
    """The background for data of flows; none for requests or cell sequences, which no background flow is."""
    from trafficllm.records.sources.background import NO_BACKGROUND

    return learnable(background, coverage) if dataset.kind == "flow" else NO_BACKGROUND


def learnable(background: Background, coverage: Coverage) -> Background:
    """The background with those flows of its positive side that may be positive at all: a name that an infected host looks up is a name
    looked up."""
    if background.positive is None:
        return background
    kinds = (kind_of(raw, meta.resp_h) for raw, meta in zip(background.positive.raw, background.positive.meta, strict=True))
    able = [k for k, kind in enumerate(kinds) if coverage.may_be_positive(kind)]
    return replace(background, positive=background.positive.rows(able) if able else None)


def judged(scorer: LLMScorer, scores: Scores, y: Sequence[str], able: Sequence[bool]) -> dict[str, Any] | None:
    """How the first step does on test rows of the labels `y`, beside what left-out sources gave; None without one. `able` says which rows
    may be positive: others are unknown where they would be.

    The task's own negatives are of its own laboratory: `left_out`, chosen on other sources, says what to expect elsewhere.
    """
    from trafficllm.core.metrics import auroc
    from trafficllm.core.umbrella import Umbrella

    step = Umbrella.of(scorer.calibration)
    if step is None or scores.umbrella is None:
        return None
    odds = step.odds(scores.umbrella)
    side = np.array([bool(scorer.task.is_positive(label)) for label in y], dtype=bool)
    facts = scorer.calibration["umbrella"]
    given = [step.flow(value) for value in odds.tolist()]
    answers = [None if answer and not may else answer for answer, may in zip(given, able, strict=True)]

    def share(rows: np.ndarray[Any, np.dtype[np.bool_]], answer: bool | None) -> float | None:
        return round(float(np.mean([answers[k] is answer for k in np.flatnonzero(rows)])), 4) if rows.any() else None

    return {
        "positive": step.positive,
        "negative": step.negative,
        "recall": share(side, True),
        "missed": share(side, False),
        "false_positive_rate": share(~side, True),
        "unknown_share": share(np.ones(len(side), dtype=bool), None),
        "auroc": round(auroc(odds[side], odds[~side]), 4) if side.any() and not side.all() else None,
        "n_positive": int(side.sum()),
        "n_negative": int((~side).sum()),
        "left_out": {"asked": facts["asked"], "flow": facts["flow"], "host": facts["host"], "captures_flagged": facts["captures_flagged"]},
    }


def may_be_positive(dataset: Dataset, rows: Sequence[int], coverage: Coverage) -> list[bool]:
    """Which rows of a data set may get the positive answer; all of one that keeps no raw records (an update's), which knows no kinds."""
    from trafficllm.lifecycle.adapters.replay import Replayed

    if isinstance(dataset, Replayed):
        return [True] * len(rows)
    kinds = (kind_of(raw, meta.resp_h) for raw, meta in zip(dataset.raw_records(rows), dataset.meta(rows), strict=True))
    return [coverage.may_be_positive(kind) for kind in kinds]


def _sides(task: Task, labels: tuple[str, ...], *, others: bool) -> list[bool]:
    """Which classes of the readout, the labels, the background and, where there are `others`, positive flows of other sources, are of the
    umbrella's positive side."""
    return [*(bool(task.is_positive(label)) for label in labels), False, *([True] if others else [])]


def _rows(scorer: LLMScorer, dataset: Dataset, background: Background, kinds: Sequence[str], own: Readout, *, sides: list[bool]) -> _Rows:
    """Features of training rows and background; `kinds` are those of the background's flows, `sides` those of the readouts' classes."""
    from trafficllm.model.adapter.readout import OTHERS
    from trafficllm.records.sources.background import NO_BACKGROUND

    train, y = scoring.rows(dataset, "train", scorer.labels)
    some = evenly_over_labels(y, LEARNT)
    answers = [y[k] for k in some]
    others = background.positive or NO_BACKGROUND
    records = [*dataset.records([train[k] for k in some]), *(dataset.mask(record) for record in (*others.raw, *background.raw))]
    places = {label: k for k, label in enumerate(scorer.labels)}
    positive = [bool(scorer.task.is_positive(label)) for label in answers]
    strata = [label if side else "(task)" for label, side in zip(answers, positive, strict=True)]
    return _Rows(
        sides,
        tuple(_features(scorer, records, own)),
        np.array([places[label] for label in answers] + [len(places) + 1] * len(others) + [len(places)] * len(background), dtype=np.int64),
        positive + [True] * len(others) + [False] * len(background),
        [
            *strata,
            *(OTHERS for _ in range(len(others))),
            *(f"{source} {kind}" for source, kind in zip(background.sources, kinds, strict=True)),
        ],
        len(some) + len(others),
    )


def _features(scorer: LLMScorer, records: list[Record], own: Readout) -> list[torch.Tensor]:
    """Pooled states float32 [n, features] of masked records, as each member's readout reads them."""
    import torch

    from trafficllm.model.adapter.readout import features_of

    ids, features = scorer.ids(records), []
    for member in scorer.engine.members(scorer.adapter):
        if not ids:
            features.append(torch.zeros(0, own.matrix.shape[0]))
            continue
        with scorer.engine.using(member) as model:
            features.append(features_of(model, ids, own.layers, own.first, batch_tokens=scorer.engine.batch_tokens))
    return features


def _readouts(rows: _Rows, some: Any, scorer: LLMScorer, own: Readout) -> tuple[Readout, ...]:
    """Each member's readout over labels and background, learnt from some of the rows."""
    import torch

    from trafficllm.evaluate.umbrella import row_weights
    from trafficllm.model.adapter.readout import BACKGROUND, OTHERS, Readout, logistic

    picked = list(some)
    weights = torch.from_numpy(row_weights([rows.positive[k] for k in picked], [rows.strata[k] for k in picked])).float()
    labels = (*scorer.labels, BACKGROUND, OTHERS)[: len(rows.sides)]
    y = torch.from_numpy(rows.classes[picked])
    fits = (logistic(features[picked], y, torch.ones(len(labels)), STRENGTH, steps=STEPS, rows=weights) for features in rows.features)
    return tuple(Readout(labels, own.layers, own.first, 0.0, matrix, bias) for matrix, bias in fits)


def _left_out(rows: _Rows, sources: list[str], scorer: LLMScorer, own: Readout) -> F64:
    """Log-odds [background flows] of each flow by a readout that has not learnt its source; from one source alone by one that has learnt
    no background at all."""
    from trafficllm.evaluate.umbrella import source_groups

    groups, odds = source_groups(sources), np.zeros(len(sources))
    for group in np.unique(groups):
        held = np.flatnonzero(groups == group)
        learnt = [*range(rows.own), *(rows.own + np.flatnonzero(groups != group)).tolist()]
        odds[held] = _odds(_readouts(rows, learnt, scorer, own), [features[rows.own + held] for features in rows.features], rows.sides)
    return odds


def _odds(readouts: Sequence[Readout], features: Sequence[torch.Tensor], sides: list[bool]) -> F64:
    """Log-odds [n] of each member's pooled features, from the mean of the members' logits."""
    from trafficllm.core.umbrella import log_odds

    logits = [readout.logits(own).double().numpy() for readout, own in zip(readouts, features, strict=True)]
    return log_odds(np.mean(logits, axis=0), np.asarray(sides))
