"""`evaluate drift`: is live traffic still what an adapter was trained on? Which fields moved, since when, is an update due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.types import FlowMeta, ProgressSink, Record, Scores
from trafficllm.lifecycle import scoring
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.evaluation import pick, scorer_of
from trafficllm.lifecycle.exam import Exam, answer

if TYPE_CHECKING:
    from trafficllm.capture.cut import Cut
    from trafficllm.infer.scorer import LLMScorer
    from trafficllm.lifecycle.application import Application
    from trafficllm.records.dataset import Dataset

MOST = 2000
"""Rows of either side that are compared, evenly thinned: PSI's chance level at 2,000 is .017."""


@dataclass(frozen=True, slots=True)
class Live:
    """Live flows: raw `records`, `meta`, `labels` where folders name them ("" otherwise); `cut` they were read through."""

    records: list[Record]
    meta: list[FlowMeta]
    labels: list[str]
    cut: Cut


def drift(
    application: Application, data: Path, live: Sequence[Path], *, adapter: Path | None = None, captures: Path | None = None,
    part: str = "test", most: int = MOST, seed: int = 0, html: Path | None = None, progress: ProgressSink,
) -> dict[str, Any]:  # fmt: skip
    """The `evaluate drift` object: the adapter's quality where it was trained, `drift`, and its quality on live flows with labels.

    `live`: captures, a folder of labelled ones, or a data set. `captures` is the folder `data` was built from: live captures are then
    read through the same cut, so that a longer record is not taken for drift. InputError where there is no live flow.
    """
    from trafficllm.evaluate.drift import drift as compared
    from trafficllm.infer import calibration as cal
    from trafficllm.lifecycle import shift_pages
    from trafficllm.records.dataset import load

    dataset = load(data)
    exam = Exam.of([dataset], part, most)
    chosen = pick(application, dataset, adapter)
    scorer = scorer_of(application, dataset, chosen, seed=seed)
    progress.update("scoring", 0, None)
    known = answer(scorer, dataset, exam.rows[0], chosen.labels)
    labels = tuple(sorted({*exam.labels, *chosen.labels}))
    quality = exam.quality([known.guess], labels=labels, seen=exam.seen(application.base), seeds=[chosen.seed or 0])
    progress.update("reading", 0, None)
    flows = _live(application, dataset, live, captures, most)
    masked = [dataset.mask(record) for record in flows.records]
    progress.update("scoring", 1, None)
    scores = _scores(scorer, masked)
    train = _thin(dataset.indices("train"), most)
    line = cal.threshold(scorer.calibration)
    found = compared(
        dataset.records(train), masked, [m.ts for m in flows.meta], scores=(known.scores, scores),
        unknown=(known.strange.tolist(), (scorer.unknown(scores) > line).tolist()), codec=dataset.codec, seed=seed,
    )  # fmt: skip
    body = {
        **quality, "task": dataset.task.id, "title": dataset.task.title, "part": exam.part, "adapter": chosen.name,
        "version": chosen.version, "drift": found, "cut": {"snap": flows.cut.snap, "flow": flows.cut.flow},
        "flows": {"trained_on": len(train), "live": len(masked)}, "live": _live_quality(flows, scorer, scores, dataset, application),
    }  # fmt: skip
    if html is not None:
        shift_pages.drift_page(body, html)
    return body


def _thin(rows: list[int], most: int) -> list[int]:
    return rows[:: -(-len(rows) // most) or 1] if most else rows


def _scores(scorer: LLMScorer, records: Sequence[Record]) -> Scores:
    import numpy as np

    parts = [scorer.score(records[at : at + scoring.CHUNK]) for at in range(0, len(records), scoring.CHUNK)]
    hidden = [part.hidden for part in parts if part.hidden is not None]
    return Scores(
        scorer.labels, np.concatenate([p.probabilities for p in parts]), np.concatenate([p.logits for p in parts]),
        np.concatenate(hidden) if hidden else None,
    )  # fmt: skip


def _live(application: Application, dataset: Dataset, live: Sequence[Path], captures: Path | None, most: int) -> Live:
    """Live flows as the data set would have seen them: the same cut, chores left out where the task leaves them out."""
    from trafficllm.capture.cut import Cut, measured
    from trafficllm.records.dataset import load

    if len(live) == 1 and is_data_set(live[0]):
        other = load(live[0])
        rows = _thin(sorted(row for name in ("train", "val", "test") for row in other.indices(name)), most)
        return Live(other.raw_records(rows), other.meta(rows), other.labels_of(rows), Cut())
    cut = measured([captures]) if captures else Cut()
    found = list(_read(application, dataset, live, cut))
    if not found:
        hint = "name captures with flows of the kinds that the task looks at"
        raise InputError("input.no_flows", "no live flow to compare", input=str(live[0]), hint=hint)
    found.sort(key=lambda row: row[1].ts)
    kept = [found[k] for k in _thin(list(range(len(found))), most)]
    return Live([r for r, _, _ in kept], [m for _, m, _ in kept], [label for _, _, label in kept], cut)


def _read(
    application: Application, dataset: Dataset, live: Sequence[Path], cut: Cut
) -> Iterator[tuple[Record, FlowMeta, str]]:
    from trafficllm.capture.cut import cut_flows
    from trafficllm.capture.read import expand
    from trafficllm.lifecycle.captures import flow_options
    from trafficllm.records.build import housekeeping, records_of
    from trafficllm.records.reserved import Reserved

    chores = dataset.task.housekeeping or "housekeeping" in dataset.manifest["kept_fields"]
    for place in live:
        reserved = Reserved.find(place) if place.is_dir() else None
        for path in expand([place]):
            inside = path.relative_to(place).parts if place.is_dir() else ()
            label = inside[0] if len(inside) > 1 else ""
            if reserved is not None and label and reserved.share(f"{label}/{path.name}") > 0:
                continue
            for batch in cut_flows(path, cut, options=flow_options(application.config)):
                for record, meta in records_of(batch):
                    if record.dirs and (chores or not housekeeping(record)):
                        yield record, meta, label


def _live_quality(
    flows: Live, scorer: LLMScorer, scores: Scores, dataset: Dataset, application: Application
) -> dict[str, Any] | None:
    """The quality object on live flows of labels that the adapter knows; None where none is labelled so."""
    from trafficllm.core.files import hash64
    from trafficllm.evaluate.quality import quality as judged
    from trafficllm.evaluate.quality import seen_by_base
    from trafficllm.model.base import load_seen
    from trafficllm.records.codec import encode

    rows = [k for k, label in enumerate(flows.labels) if label in scorer.labels]
    if not rows:
        return None
    guess = [scorer.labels[k] for k in scores.probabilities[rows].argmax(axis=1)]
    content = [hash64(encode(dataset.mask(flows.records[k]), dataset.codec).encode()) for k in rows]
    groups = [flows.meta[k].capture or flows.meta[k].origin for k in rows]
    return judged(
        scorer.labels, [flows.labels[k] for k in rows], guess, groups, unique_hashes=content, split="live captures",
        mask=dataset.profile, leaky=[], seen_by_base=seen_by_base(content, set(load_seen(application.base.path).tolist())), seeds=[0],
        probabilities=scores.probabilities[rows],
    )  # fmt: skip
