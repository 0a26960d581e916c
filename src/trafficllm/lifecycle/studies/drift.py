"""`evaluate drift`: is live traffic still what an adapter was trained on? Which fields moved, since when, is an update due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import InputError
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import F64, FlowMeta, ProgressSink, Record, Scores
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.evaluation_set import EvalOptions, EvaluationSet, Predictions, learnt_marks, predict
from trafficllm.lifecycle.studies.results import EvaluateDrift, ScoredBeside
from trafficllm.lifecycle.studies.run import find_adapter, open_scorer, table

if TYPE_CHECKING:
    from trafficllm.capture.files.cut import Cut
    from trafficllm.evaluate.baselines.table import Outcome
    from trafficllm.evaluate.results import Drift, Quality
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

MOST = 2000
"""Rows of either side that are compared, evenly thinned: PSI's chance level at 2,000 is .017."""
BASELINES = ("majority", "lightgbm", "random_forest")
"""Baselines beside the adapter."""


@dataclass(frozen=True, slots=True)
class Live:
    """Live flows: raw `records`, `meta`, `labels` where folders name them ("" otherwise); `cut` they were read through."""

    records: list[Record]
    meta: list[FlowMeta]
    labels: list[str]
    cut: Cut


def drift(
    workspace: Workspace,
    data: Path,
    live: Sequence[Path],
    *,
    adapter: Path | None = None,
    captures: Path | None = None,
    learnt: Sequence[Path] = (),
    options: EvalOptions | None = None,
    html: Path | None = None,
    progress: ProgressSink,
) -> EvaluateDrift:
    """The adapter's quality where it was trained, what live traffic has become, and the adapter's quality on live flows with labels;
    baselines of the same training flows on either side (contract: `evaluate drift`).

    `live`: captures, a folder of labelled ones, or a data set. `captures` is the folder `data` was built from: live captures are then
    read through the same cut, so that a longer record is not taken for drift. `learnt`: labelled captures that an update has taught the
    adapter since, in folders; the baselines learn them too. Live contents that were learnt from are marked as leaky. InputError where there
    is no live flow, or none with a label in `learnt`.
    """
    from trafficllm.capture.files.cut import Cut, measured
    from trafficllm.records.dataset.dataset import load

    options = options or EvalOptions(most=MOST)
    dataset = load(data)
    evaluation_set = EvaluationSet.of([dataset], options)
    facts = find_adapter(workspace, dataset, adapter)
    scorer = open_scorer(workspace, dataset, facts, seed=options.seed)
    progress.update("scoring", 0, None)
    here = predict(scorer, dataset, evaluation_set.rows[0], facts.labels)
    labels, seen = tuple(sorted({*evaluation_set.labels, *facts.labels})), evaluation_set.seen(workspace.served)
    quality = evaluation_set.quality([here.predicted], labels=labels, seen=seen, seeds=[facts.seed or 0])
    progress.update("reading", 0, None)
    cut = measured([captures]) if captures else Cut()
    flows = _live(workspace, dataset, live, cut, options.most)
    masked = [dataset.mask(record) for record in flows.records]
    progress.update("scoring", 1, None)
    scores = scoring.score_records(scorer, masked)
    train = every_nth(dataset.indices("train"), options.most)
    moved = _moved(dataset, train, masked, flows, here=here, scores=scores, scorer=scorer, seed=options.seed)
    progress.update("baselines", 0, None)
    more = _taught(evaluation_set, _live(workspace, dataset, learnt, cut, 0), learnt[0]) if learnt else ([], [])
    outcomes = _baselines(evaluation_set, masked, *more, options=options)
    n = len(evaluation_set.truth)
    judged = LiveFlows(flows, masked, more[0], scorer.labels, dataset, workspace)
    result = EvaluateDrift.of(
        quality,
        baselines=table(evaluation_set, _of_rows(outcomes, range(n)), seen, options.seed, labels),
        task=dataset.task.id,
        title=dataset.task.title,
        part=evaluation_set.part,
        adapter=facts.name,
        version=facts.version,
        drift=moved,
        cut={"snap": flows.cut.snap, "flow": flows.cut.flow},
        flows={"trained_on": len(train), "live": len(masked)},
        live=judged.quality(scores, _of_rows(outcomes, range(n, n + len(masked)))),
    )
    if html is not None:
        from trafficllm.lifecycle.reports.study_pages import drift_page

        drift_page(result, html)
    return result


def _moved(
    dataset: Dataset,
    train: Sequence[int],
    masked: Sequence[Record],
    flows: Live,
    *,
    here: Predictions,
    scores: Scores,
    scorer: LLMScorer,
    seed: int,
) -> Drift:
    """Training flows against live ones: fields that moved, confidence and unknown share before and now."""
    from trafficllm.evaluate.shift.drift import drift as compare_flows
    from trafficllm.infer import calibration as cal

    unknown = (scorer.unknown(scores) > cal.threshold(scorer.calibration)).tolist()
    return compare_flows(
        dataset.records(train),
        masked,
        [m.ts for m in flows.meta],
        scores=(here.scores, scores),
        unknown=(here.unknown, unknown),
        codec=dataset.codec,
        seed=seed,
    )


def _live(workspace: Workspace, dataset: Dataset, live: Sequence[Path], cut: Cut, most: int) -> Live:
    """Live flows as the data set would have seen them: the same cut, chores left out where the task leaves them out."""
    from trafficllm.capture.files.cut import Cut
    from trafficllm.records.dataset.dataset import load

    if len(live) == 1 and is_data_set(live[0]):
        other = load(live[0])
        rows = every_nth(sorted(row for name in ("train", "val", "test") for row in other.indices(name)), most)
        return Live(other.raw_records(rows), other.meta(rows), other.labels_of(rows), Cut())
    flows = list(_read(workspace, dataset, live, cut))
    if not flows:
        hint = "name captures with flows of the kinds that the task looks at"
        raise InputError("input.no_flows", "no live flow to compare", input=str(live[0]), hint=hint)
    flows.sort(key=lambda row: row[1].ts)
    thinned = every_nth(flows, most)
    return Live([r for r, _, _ in thinned], [m for _, m, _ in thinned], [label for _, _, label in thinned], cut)


def _read(workspace: Workspace, dataset: Dataset, live: Sequence[Path], cut: Cut) -> Iterator[tuple[Record, FlowMeta, str]]:
    from trafficllm.capture.files.cut import cut_flows
    from trafficllm.capture.files.read import expand
    from trafficllm.records.codec.flows import housekeeping, records_of
    from trafficllm.records.dataset.reserved import Reserved

    chores = dataset.task.housekeeping or "housekeeping" in dataset.manifest["kept_fields"]
    for place in live:
        reserved = Reserved.find(place) if place.is_dir() else None
        for path in expand([place]):
            inside = path.relative_to(place).parts if place.is_dir() else ()
            label = inside[0] if len(inside) > 1 else ""
            if reserved is not None and label and reserved.share(f"{label}/{path.name}") > 0:
                continue
            for batch in cut_flows(path, cut, options=dataset.shape.flows(workspace.config.capture.table_size)):
                for record, meta in records_of(batch):
                    if record.dirs and (chores or not housekeeping(record)):
                        yield record, meta, label


def _taught(evaluation_set: EvaluationSet, more: Live, place: Path) -> tuple[list[Record], list[str]]:
    """Masked records and labels of the flows that can be learnt from; InputError where there is none."""
    rows = [k for k, label in enumerate(more.labels) if label in evaluation_set.labels]
    if not rows:
        hint = f"one folder a label: {', '.join(evaluation_set.labels[:5])}"
        raise InputError("input.labels", "no flow to learn from has a label of the task", input=str(place), hint=hint)
    return [evaluation_set.sets[0].mask(more.records[k]) for k in rows], [more.labels[k] for k in rows]


def _baselines(
    evaluation_set: EvaluationSet, live: Sequence[Record], more: Sequence[Record], labels: Sequence[str], *, options: EvalOptions
) -> dict[str, Outcome]:
    """Baselines of the adapter's training flows, and of `more` ones with `labels`: predictions for the evaluation set, then for the live
    flows."""
    from trafficllm.evaluate.baselines import table as baseline_table
    from trafficllm.evaluate.baselines.learners import Part

    train, val, here = evaluation_set.learning(0)
    return baseline_table.run(
        Part([*train.records, *more], [*train.y, *labels], codec=train.codec),
        val,
        Part([*here.records, *live], [*here.y, *[""] * len(live)], codec=here.codec),
        labels=evaluation_set.labels,
        seed=options.seed,
        threads=scoring.threads(),
        budget_s=options.budget_s,
        names=BASELINES,
    )


def _of_rows(outcomes: Mapping[str, Outcome], rows: Sequence[int]) -> dict[str, Outcome]:
    """The same baselines with their predictions for some rows."""
    return {
        name: replace(outcome, predicted=[outcome.predicted[k] for k in rows], probabilities=outcome.probabilities[list(rows)])
        for name, outcome in outcomes.items()
    }


@dataclass(frozen=True, slots=True)
class LiveFlows:
    """Live flows whose labels are known: `masked` are all live records, `more` those that an update has learnt, `labels` the adapter's."""

    flows: Live
    masked: Sequence[Record]
    more: Sequence[Record]
    labels: tuple[str, ...]
    dataset: Dataset
    workspace: Workspace

    def quality(self, scores: Scores, outcomes: Mapping[str, Outcome]) -> ScoredBeside | None:
        """The adapter's quality object with those of `baselines`; None where no live flow has a label that the adapter knows."""
        from trafficllm.evaluate.baselines import table as baseline_table

        rows = [k for k, label in enumerate(self.flows.labels) if label in self.labels]
        if not rows:
            return None
        score = self._scorer(rows)
        learnt = tuple(scoring.labels_of(self.dataset))
        baselines = baseline_table.table(_of_rows(outcomes, rows), lambda _, p: score(p, learnt))
        return ScoredBeside.of(score(scores.probabilities[rows], self.labels), baselines=baselines)

    def _scorer(self, rows: Sequence[int]) -> Callable[[F64, tuple[str, ...]], Quality]:
        from trafficllm.evaluate.quality import quality, seen_by_base
        from trafficllm.model.base.extend import load_seen

        flows, dataset = self.flows, self.dataset
        content = self._content([self.masked[k] for k in rows])
        learnt = {*dataset.hashes([*dataset.indices("train"), *dataset.indices("val")]), *self._content(self.more)}
        leaky = learnt_marks(learnt, content, "D or by an update")
        seen = seen_by_base(content, set(load_seen(self.workspace.served.path).tolist()))
        groups = [flows.meta[k].capture or flows.meta[k].origin for k in rows]

        def score(probabilities: F64, labels: tuple[str, ...]) -> Quality:
            return quality(
                labels,
                [flows.labels[k] for k in rows],
                [labels[k] for k in probabilities.argmax(axis=1)],
                groups,
                unique_hashes=content,
                split="live captures",
                mask=dataset.profile,
                leaky=leaky,
                seen_by_base=seen,
                seeds=[0],
                probabilities=probabilities,
            )

        return score

    def _content(self, records: Sequence[Record]) -> list[int]:
        from trafficllm.core.files import hash64
        from trafficllm.records.codec.codec import encode

        return [hash64(encode(record, self.dataset.codec).encode()) for record in records]
