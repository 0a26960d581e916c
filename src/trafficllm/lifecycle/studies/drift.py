"""`evaluate drift`: is live traffic still what an adapter was trained on? Which fields moved, since when, is an update due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import F64, FlowMeta, ProgressSink, Record, Scores
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.evaluation_set import Exam, answer, learnt_marks
from trafficllm.lifecycle.studies.run import pick, scorer_of, table

if TYPE_CHECKING:
    from trafficllm.capture.files.cut import Cut
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

MOST = 2000
"""Rows of either side that are compared, evenly thinned: PSI's chance level at 2,000 is .017."""
RIVALS = ("majority", "lightgbm", "random_forest")
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
    part: str = "test",
    most: int = MOST,
    seed: int = 0,
    budget_s: float = 60.0,
    html: Path | None = None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """The `evaluate drift` object: the adapter's quality where it was trained, `drift`, and its quality on live flows with labels, beside
    baselines of the same training flows on either side.

    `live`: captures, a folder of labelled ones, or a data set. `captures` is the folder `data` was built from: live captures are then
    read through the same cut, so that a longer record is not taken for drift. `learnt`: labelled captures that an update has taught the
    adapter since, in folders; the baselines learn them too. Live contents that were learnt from are marked as leaky. InputError where there
    is no live flow, or none with a label in `learnt`.
    """
    from trafficllm.capture.files.cut import Cut, measured
    from trafficllm.evaluate.shift.drift import drift as compared
    from trafficllm.infer import calibration as cal
    from trafficllm.lifecycle.reports import study_pages as shift_pages
    from trafficllm.records.dataset.dataset import load

    dataset = load(data)
    exam = Exam.of([dataset], part, most)
    chosen = pick(workspace, dataset, adapter)
    scorer = scorer_of(workspace, dataset, chosen, seed=seed)
    progress.update("scoring", 0, None)
    known = answer(scorer, dataset, exam.rows[0], chosen.labels)
    labels, seen = tuple(sorted({*exam.labels, *chosen.labels})), exam.seen(workspace.base)
    quality = exam.quality([known.guess], labels=labels, seen=seen, seeds=[chosen.seed or 0])
    progress.update("reading", 0, None)
    cut = measured([captures]) if captures else Cut()
    flows = _live(workspace, dataset, live, cut, most)
    masked = [dataset.mask(record) for record in flows.records]
    progress.update("scoring", 1, None)
    scores = scoring.score_records(scorer, masked)
    train = every_nth(dataset.indices("train"), most)
    line = cal.threshold(scorer.calibration)
    found = compared(
        dataset.records(train),
        masked,
        [m.ts for m in flows.meta],
        scores=(known.scores, scores),
        unknown=(known.strange.tolist(), (scorer.unknown(scores) > line).tolist()),
        codec=dataset.codec,
        seed=seed,
    )
    progress.update("baselines", 0, None)
    more = _taught(exam, _live(workspace, dataset, learnt, cut, 0), learnt[0]) if learnt else ([], [])
    rivals = _rivals(exam, masked, *more, seed=seed, budget_s=budget_s)
    n = len(exam.truth)
    here, there = _picked(rivals, range(n)), _picked(rivals, range(n, n + len(masked)))
    judged = Judged(flows, masked, more[0], scorer.labels, dataset, workspace)
    body = {
        **quality,
        "baselines": table(exam, here, seen, seed, labels),
        "task": dataset.task.id,
        "title": dataset.task.title,
        "part": exam.part,
        "adapter": chosen.name,
        "version": chosen.version,
        "drift": found,
        "cut": {"snap": flows.cut.snap, "flow": flows.cut.flow},
        "flows": {"trained_on": len(train), "live": len(masked)},
        "live": judged.table(scores, there),
    }
    if html is not None:
        shift_pages.drift_page(body, html)
    return body


def _live(workspace: Workspace, dataset: Dataset, live: Sequence[Path], cut: Cut, most: int) -> Live:
    """Live flows as the data set would have seen them: the same cut, chores left out where the task leaves them out."""
    from trafficllm.capture.files.cut import Cut
    from trafficllm.records.dataset.dataset import load

    if len(live) == 1 and is_data_set(live[0]):
        other = load(live[0])
        rows = every_nth(sorted(row for name in ("train", "val", "test") for row in other.indices(name)), most)
        return Live(other.raw_records(rows), other.meta(rows), other.labels_of(rows), Cut())
    found = list(_read(workspace, dataset, live, cut))
    if not found:
        hint = "name captures with flows of the kinds that the task looks at"
        raise InputError("input.no_flows", "no live flow to compare", input=str(live[0]), hint=hint)
    found.sort(key=lambda row: row[1].ts)
    kept = [found[k] for k in every_nth(list(range(len(found))), most)]
    return Live([r for r, _, _ in kept], [m for _, m, _ in kept], [label for _, _, label in kept], cut)


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


def _taught(exam: Exam, more: Live, place: Path) -> tuple[list[Record], list[str]]:
    """Masked records and labels of the flows that can be learnt from; InputError where there is none."""
    rows = [k for k, label in enumerate(more.labels) if label in exam.labels]
    if not rows:
        hint = f"one folder a label: {', '.join(exam.labels[:5])}"
        raise InputError("input.labels", "no flow to learn from has a label of the task", input=str(place), hint=hint)
    return [exam.sets[0].mask(more.records[k]) for k in rows], [more.labels[k] for k in rows]


def _rivals(
    exam: Exam, live: Sequence[Record], more: Sequence[Record], labels: Sequence[str], *, seed: int, budget_s: float
) -> dict[str, dict[str, Any]]:
    """Baselines of the adapter's training flows, and of `more` ones with `labels`: answers to the exam's rows, then to the live ones."""
    from trafficllm.evaluate.baselines import table as baselines
    from trafficllm.evaluate.baselines.learners import Part

    train, val, here = exam.learning(0)
    taught = Part([*train.records, *more], [*train.y, *labels], codec=train.codec)
    asked = Part([*here.records, *live], [*here.y, *[""] * len(live)], codec=here.codec)
    return baselines.run(taught, val, asked, labels=exam.labels, seed=seed, threads=scoring.threads(), budget_s=budget_s, names=RIVALS)


def _picked(found: Mapping[str, Mapping[str, Any]], rows: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The same baselines with their answers to some rows."""
    return {name: {**row, "y_pred": [row["y_pred"][k] for k in rows], "proba": row["proba"][list(rows)]} for name, row in found.items()}


@dataclass(frozen=True, slots=True)
class Judged:
    """Live flows whose labels are known: `masked` are all live records, `more` those that an update has learnt, `labels` the adapter's."""

    flows: Live
    masked: Sequence[Record]
    more: Sequence[Record]
    labels: tuple[str, ...]
    dataset: Dataset
    workspace: Workspace

    def table(self, scores: Scores, rivals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """The adapter's quality object with those of `baselines`; None where no live flow has a label that the adapter knows."""
        from trafficllm.evaluate.baselines import table as baselines

        rows = [k for k, label in enumerate(self.flows.labels) if label in self.labels]
        if not rows:
            return None
        score = self._scorer(rows)
        mine = score(scores.probabilities[rows], self.labels)
        known = tuple(scoring.labels_of(self.dataset))
        return {**mine, "baselines": baselines.table(_picked(rivals, rows), lambda _, p: score(p, known))}

    def _scorer(self, rows: Sequence[int]) -> Callable[[F64, tuple[str, ...]], dict[str, Any]]:
        from trafficllm.evaluate.quality import quality, seen_by_base
        from trafficllm.model.base.extend import load_seen

        flows, dataset = self.flows, self.dataset
        content = self._content([self.masked[k] for k in rows])
        known = {*dataset.hashes([*dataset.indices("train"), *dataset.indices("val")]), *self._content(self.more)}
        leaky = learnt_marks(known, content, "D or by an update")
        seen = seen_by_base(content, set(load_seen(self.workspace.base.path).tolist()))
        groups = [flows.meta[k].capture or flows.meta[k].origin for k in rows]

        def score(probabilities: F64, labels: tuple[str, ...]) -> dict[str, Any]:
            guess = [labels[k] for k in probabilities.argmax(axis=1)]
            return quality(
                labels,
                [flows.labels[k] for k in rows],
                guess,
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
