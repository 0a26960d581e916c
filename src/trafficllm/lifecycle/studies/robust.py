"""`evaluate robust`: what an adapter and LightGBM lose when the same flows look as they would elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.studies.evaluation_set import Exam, answer, guesses
from trafficllm.lifecycle.studies.run import OURS, pick, scorer_of, table

if TYPE_CHECKING:
    from trafficllm.evaluate.shift.robust import Variant
    from trafficllm.lifecycle.workspace import Workspace

RIVAL = "lightgbm"
GOAL = 0.5
"""The adapter's mean loss should be at most this share of LightGBM's."""


def robust(
    workspace: Workspace,
    data: Path,
    *,
    adapter: Path | None = None,
    captures: Path | None = None,
    part: str = "test",
    most: int = 0,
    seed: int = 0,
    budget_s: float = 60.0,
    html: Path | None = None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """The `evaluate robust` object: quality unperturbed, `perturbations[]` of adapter and LightGBM, mean losses, forge and payload tests.

    `captures` is the folder the data set was built from: with it shifts act on packets, which the real reader then reads.
    """
    from trafficllm.evaluate.shift import robust as shifts
    from trafficllm.records.dataset.dataset import load

    exam = Exam.of([load(data)], part, most)
    dataset = exam.sets[0]
    chosen = pick(workspace, dataset, adapter)
    scorer = scorer_of(workspace, dataset, chosen, seed=seed)
    labels = tuple(sorted({*exam.labels, *chosen.labels}))
    progress.update("scoring", 0, None)
    first = answer(scorer, dataset, exam.rows[0], labels)
    seen = exam.seen(workspace.base)
    quality = exam.quality([first.guess], labels=labels, seen=seen, seeds=[chosen.seed or 0], probabilities=first.probabilities)
    progress.update("baselines", 0, None)
    found = exam.baselines(seed=seed, budget_s=budget_s, names=(RIVAL,))
    answers = {OURS: partial(guesses, scorer), RIVAL: partial(guesses, found[RIVAL]["fitted"])}
    sitting = shifts.Sitting(shifts.Bench(exam.raw(), exam.truth, labels, dataset.mask), exam.groups, answers)
    moved = shifts.under_shifts(sitting, _shifts(exam, captures, seed, progress))
    body = {
        **quality,
        "task": dataset.task.id,
        "title": dataset.task.title,
        "part": exam.part,
        "adapter": chosen.name,
        "version": chosen.version,
        "baselines": table(exam, found, seen, seed),
        **moved,
        **_judged(moved, captures is not None),
    }
    if html is not None:
        from trafficllm.lifecycle.reports.study_pages import robust_page

        robust_page(body, html)
    return body


def _shifts(exam: Exam, captures: Path | None, seed: int, progress: ProgressSink) -> Sequence[Variant]:
    from trafficllm.evaluate.shift import robust as shifts
    from trafficllm.evaluate.shift.wire import flows_of

    progress.update("packets", 0, None)
    flows = flows_of(captures, exam.sets[0].meta(exam.rows[0])) if captures else None
    out = []
    for number, variant in enumerate(shifts.variants(exam.raw(), flows, seed=seed)):
        progress.update("shifts", number, None)
        out.append(variant)
    return out


def _judged(moved: Mapping[str, Any], on_wire: bool) -> dict[str, Any]:
    """The goal, the forge test and the payload test, from the table."""
    from trafficllm.evaluate.shift.robust import FORGE_LIMIT

    rows = {row["name"]: row for row in moved["perturbations"]}
    mine, theirs = (moved["mean_loss"][name] for name in (OURS, RIVAL))
    delta = rows["forge"]["delta"][OURS]
    return {
        "goal": {"share": GOAL, "ratio": mine / theirs if theirs > 0 else None, "met": mine <= GOAL * max(theirs, 0.0)},
        "forge": {"delta": delta, "limit": FORGE_LIMIT, "relies_on_identifiers": abs(delta) > FORGE_LIMIT},
        "payload": {"delta": rows["random_payload"]["delta"][OURS], "all_delta": rows["random_all_payload"]["delta"][OURS]},
        "on_wire": on_wire,
    }
