"""`evaluate robust`: what an adapter and LightGBM lose when the same flows look as they would elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.studies.evaluation_set import EvalOptions, EvaluationSet, predict, predict_records
from trafficllm.lifecycle.studies.results import EvaluateRobust, Forged, Goal, RandomPayload
from trafficllm.lifecycle.studies.run import OURS, find_adapter, open_scorer, table

if TYPE_CHECKING:
    from trafficllm.evaluate.results import Shifted
    from trafficllm.evaluate.shift.robust import Variant
    from trafficllm.lifecycle.workspace import Workspace

BASELINE = "lightgbm"
GOAL = 0.5
"""The adapter's mean loss should be at most this share of LightGBM's."""


def robust(
    workspace: Workspace,
    data: Path,
    *,
    adapter: Path | None = None,
    captures: Path | None = None,
    options: EvalOptions | None = None,
    html: Path | None = None,
    progress: ProgressSink,
) -> EvaluateRobust:
    """Quality unperturbed, and under shifts beside LightGBM's; mean losses, forge and payload tests (contract: `evaluate robust`).

    `captures` is the folder the data set was built from: with it shifts act on packets, which the real reader then reads.
    """
    from trafficllm.evaluate.shift import robust as shifts
    from trafficllm.records.dataset.dataset import load

    options = options or EvalOptions()
    evaluation_set = EvaluationSet.of([load(data)], options)
    dataset = evaluation_set.sets[0]
    facts = find_adapter(workspace, dataset, adapter)
    scorer = open_scorer(workspace, dataset, facts, seed=options.seed)
    labels = tuple(sorted({*evaluation_set.labels, *facts.labels}))
    progress.update("scoring", 0, None)
    plain = predict(scorer, dataset, evaluation_set.rows[0], labels)
    seen = evaluation_set.seen(workspace.served)
    quality = evaluation_set.quality(
        [plain.predicted], labels=labels, seen=seen, seeds=[facts.seed or 0], probabilities=plain.probabilities
    )
    progress.update("baselines", 0, None)
    outcomes = evaluation_set.baselines(options, names=(BASELINE,))
    scorers = {OURS: partial(predict_records, scorer), BASELINE: partial(predict_records, outcomes[BASELINE].fitted)}
    bench = shifts.Bench(evaluation_set.raw(), evaluation_set.truth, labels, dataset.mask)
    study = shifts.ShiftStudy(bench, evaluation_set.groups, scorers)
    shifted = shifts.under_shifts(study, _variants(evaluation_set, captures, options.seed, progress))
    rows = {row.name: row for row in shifted.perturbations}
    result = EvaluateRobust.of(
        quality,
        task=dataset.task.id,
        title=dataset.task.title,
        part=evaluation_set.part,
        adapter=facts.name,
        version=facts.version,
        baselines=table(evaluation_set, outcomes, seen, options.seed),
        perturbations=shifted.perturbations,
        mean_loss=shifted.mean_loss,
        goal=_goal(shifted),
        forge=_forged(rows["forge"].delta[OURS]),
        payload=RandomPayload(delta=rows["random_payload"].delta[OURS], all_delta=rows["random_all_payload"].delta[OURS]),
        on_wire=captures is not None,
    )
    if html is not None:
        from trafficllm.lifecycle.reports.study_pages import robust_page

        robust_page(result, html)
    return result


def _variants(evaluation_set: EvaluationSet, captures: Path | None, seed: int, progress: ProgressSink) -> Sequence[Variant]:
    from trafficllm.evaluate.shift import robust as shifts
    from trafficllm.evaluate.shift.wire import flows_of

    progress.update("packets", 0, None)
    flows = flows_of(captures, evaluation_set.sets[0].meta(evaluation_set.rows[0])) if captures else None
    out = []
    for number, variant in enumerate(shifts.variants(evaluation_set.raw(), flows, seed=seed)):
        progress.update("shifts", number, None)
        out.append(variant)
    return out


def _goal(shifted: Shifted) -> Goal:
    ours, theirs = shifted.mean_loss[OURS], shifted.mean_loss[BASELINE]
    return Goal(share=GOAL, ratio=ours / theirs if theirs > 0 else None, met=ours <= GOAL * max(theirs, 0.0))


def _forged(delta: float) -> Forged:
    from trafficllm.evaluate.shift.robust import FORGE_LIMIT

    return Forged(delta=delta, limit=FORGE_LIMIT, relies_on_identifiers=abs(delta) > FORGE_LIMIT)
