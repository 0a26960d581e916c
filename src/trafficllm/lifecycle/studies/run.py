"""`evaluate run`: adapters on a data set's test part, beside the baselines on the same masked records, with what it all cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import read_json
from trafficllm.core.types import F64, ProgressSink
from trafficllm.lifecycle.adapters.learn import SEARCH_SECONDS
from trafficllm.lifecycle.studies.evaluation_set import Answers, Exam, answer
from trafficllm.records.record_shape import KEY, RecordShape, wanted_of

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

OURS = "adapter"
CHEAP = ("majority",)
"""What stands in the table where the baselines were left out: no score stands alone."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The adapter to score: where it lies, what it answers, how it is calibrated, what its training cost."""

    name: str
    folder: Path
    labels: tuple[str, ...]
    calibration: Mapping[str, Any]
    version: str
    seed: int | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)


def pick(workspace: Workspace, data: Dataset, adapter: Path | None) -> Chosen:
    """The adapter folder, or the task's live version, checked against the data set: all reasons at once."""
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.registry import fit

    remedy = "leave the setting out of the configuration: what is scored are the data set's own records"
    data.shape.require(wanted_of(workspace.config), whose=f"data set {data.path}", remedy=remedy)
    if adapter is None:
        live = workspace.registry.live(data.task.id)
        fit.check(live.manifest, workspace.base.manifest, codec_hash(), profile=data.profile)
        _same_records(data, live.manifest, f"adapter {live.task} {live.version}")
        return _said(data.task.id, live.path, live.manifest, live.version)
    for name in ("manifest.json", "tune.json"):
        if (adapter / name).is_file():
            facts = read_json(adapter / name)
            if KEY in facts:
                _same_records(data, facts, f"adapter {adapter}")
            return _said(str(adapter), adapter, facts, facts.get("version", ""))
    hint = "name a folder made by `tune task`, or a version's folder"
    raise ArtifactError("artifact.adapter", "no adapter that says its labels", input=str(adapter), hint=hint)


def _same_records(data: Dataset, manifest: Mapping[str, Any], whose: str) -> None:
    """UsageError, with both values, where the data set's records were made otherwise than those the adapter learnt."""
    shape = data.shape.as_dict()
    wanted = {f"{section}.{name}": value for section, values in shape.items() for name, value in values.items()}
    remedy = "build the data set with the adapter's settings, or register the adapter again on this data set"
    RecordShape.of(manifest).require(wanted, whose=whose, remedy=remedy)


def _said(name: str, folder: Path, facts: Mapping[str, Any], version: str) -> Chosen:
    seed = facts.get("seed", facts.get("options", {}).get("seed"))
    tuning = facts.get("tuning") or facts.get("report") or {}
    return Chosen(name, folder, tuple(facts["labels"]), facts.get("calibration", {}), version, seed, tuning)


@dataclass(frozen=True, slots=True)
class Paper:
    """One adapter's answers to all rows of the exam; `scorer` of the last data set."""

    chosen: Chosen
    guess: list[str]
    probabilities: F64
    strange: list[bool]
    seconds: float
    scorer: LLMScorer
    answers: Answers


def scorer_of(workspace: Workspace, dataset: Dataset, chosen: Chosen, *, seed: int = 0) -> LLMScorer:
    """The adapter in the engine, calibrated: as it says, or on the data set's validation part where it says nothing."""
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.studies import scoring

    engine = workspace.engine
    name = str(chosen.folder)
    engine.add_adapter(name, chosen.folder)
    scorer = LLMScorer(engine, name, dataset.task, chosen.labels, chosen.calibration, codec=dataset.codec)
    if not chosen.calibration and scoring.rows(dataset, "val", chosen.labels)[0]:
        scorer.calibration = scoring.calibrate(scorer, dataset, seed=seed)
    return scorer


def _sit(workspace: Workspace, exam: Exam, chosen: Sequence[Chosen], labels: Sequence[str]) -> Paper:
    """The answers of one adapter, or of one for each fold."""
    import numpy as np

    done = []
    for dataset, rows, each in zip(exam.sets, exam.rows, chosen, strict=True):
        scorer = scorer_of(workspace, dataset, each)
        done.append(answer(scorer, dataset, rows, labels))
    return Paper(
        chosen[0],
        [label for a in done for label in a.guess],
        np.concatenate([a.probabilities for a in done]),
        [bool(flag) for a in done for flag in a.strange],
        sum(a.seconds for a in done),
        scorer,
        done[-1],
    )


def evaluate(
    workspace: Workspace,
    data: Sequence[Path],
    *,
    adapters: Sequence[Path] = (),
    baselines: bool = True,
    embedding: bool = False,
    part: str = "test",
    most: int = 0,
    seed: int = 0,
    budget_s: float = SEARCH_SECONDS,
    html: Path | None = None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """The quality object of one or several adapters with their baselines (contract: `evaluate run`).

    One data set: each of `adapters` is a run, a seed. Several data sets are folds of one, with an adapter each, in their order.
    """
    import numpy as np

    from trafficllm.evaluate import quality as judged
    from trafficllm.records.dataset.dataset import load

    exam = Exam.of([load(folder) for folder in data], part, most)
    chosen = _chosen(workspace, exam, adapters)
    labels = tuple(sorted({*exam.labels, *(label for run in chosen for each in run for label in each.labels)}))
    papers = []
    for k, run in enumerate(chosen):
        progress.update("scoring", k, len(chosen))
        papers.append(_sit(workspace, exam, run, labels))
    seen = exam.seen(workspace.base)
    mean: F64 = np.mean([paper.probabilities for paper in papers], axis=0)
    seeds = [k if run[0].seed is None else int(run[0].seed) for k, run in enumerate(chosen)]
    quality = exam.quality([p.guess for p in papers], labels=labels, seen=seen, seeds=seeds, probabilities=mean)
    progress.update("baselines", 0, None)
    found = exam.baselines(seed=seed, budget_s=budget_s, names=() if baselines else CHEAP)
    body = {
        **quality,
        **_about(exam, papers, workspace),
        "cost": cost(exam, papers),
        "baselines": table(exam, found, seen, seed),
        "curves": curves({OURS: (labels, mean), **{n: (exam.labels, row["proba"]) for n, row in found.items()}}, exam.truth),
        "cascade": _cascade(workspace, exam, papers[0], found, seed=seed) if baselines else None,
        "unknown": _unknown(exam, papers[0]),
        "embedding": None,
    }
    if embedding:
        from trafficllm.lifecycle.studies import embed as frozen

        progress.update("embedding", 0, None)
        body["embedding"] = frozen.beside(workspace, exam, seen=seen, seed=seed)
    judged.validate(body)
    if html is not None:
        from trafficllm.lifecycle.reports.run_page import write_page

        write_page(body, html)
    return body


def _chosen(workspace: Workspace, exam: Exam, adapters: Sequence[Path]) -> list[list[Chosen]]:
    """Runs, each with an adapter for every data set."""
    if len(exam.sets) == 1:
        return [[pick(workspace, exam.sets[0], folder)] for folder in (*adapters, *([] if adapters else [None]))]
    if len(adapters) != len(exam.sets):
        hint = "several data sets are folds: name an adapter for each, in their order"
        message = f"{len(exam.sets)} data sets but {len(adapters)} adapters"
        raise UsageError("usage.folds", message, input="--adapter", hint=hint)
    return [[pick(workspace, dataset, folder) for dataset, folder in zip(exam.sets, adapters, strict=True)]]


def _about(exam: Exam, papers: Sequence[Paper], workspace: Workspace) -> dict[str, Any]:
    first = exam.sets[0]
    return {
        "task": first.task.id,
        "title": first.task.title,
        "part": exam.part,
        "adapter": papers[0].chosen.name,
        "version": papers[0].chosen.version,
        "adapters": [{"name": p.chosen.name, "version": p.chosen.version, "seed": p.chosen.seed} for p in papers],
        "dataset_sha256": [dataset.sha256 for dataset in exam.sets],
        "base_sha256": str(workspace.base.manifest.get("base_sha256", "")),
        "masked_fields": list(first.masked_fields),
        "artefact_masked": [row["field"] for row in first.manifest["artefact_masked"]],
        "answers": {"rows": exam.names, "groups": exam.groups, "truth": exam.truth, "runs": [paper.guess for paper in papers]},
    }


def cost(exam: Exam, papers: Sequence[Paper]) -> dict[str, float]:
    """What the adapters cost, means over runs: training, scoring, memory (bytes; the most this process or training ever held)."""
    from trafficllm.model.tuning.job import peak_bytes

    runs = len(papers)
    seconds = sum(paper.seconds for paper in papers) / runs
    tuning = [paper.chosen.tuning for paper in papers if paper.chosen.tuning]
    strange = sum(sum(paper.strange) for paper in papers) / max(runs * len(exam.truth), 1)
    out = {"flows_per_second": round(len(exam.truth) / seconds, 1), "seconds": round(seconds, 2), "unknown_share": strange}
    if tuning:
        out["train_seconds"] = round(sum(float(row["seconds"]) for row in tuning) / len(tuning), 1)
        out["train_steps"] = sum(int(row["steps"]) for row in tuning) / len(tuning)
        out["train_peak_bytes"] = max(int(row["peak_bytes"]) for row in tuning)
    return {**out, "peak_bytes": peak_bytes()}


def table(exam: Exam, found: Mapping[str, Mapping[str, Any]], seen: str, seed: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """The baselines' rows: quality, choice and cost, under the split, masks and marks of the exam."""
    from trafficllm.evaluate.baselines import table as baselines

    def score(guess: Sequence[str], probabilities: Any) -> dict[str, Any]:
        return exam.quality([guess], labels=labels or exam.labels, seen=seen, seeds=[seed], probabilities=probabilities)

    return baselines.table(found, score)


def curves(rows: Mapping[str, tuple[Sequence[str], F64]], truth: Sequence[str]) -> dict[str, Any]:
    """Reliability and risk-coverage points of each row of the table."""
    from trafficllm.core import metrics

    out = {}
    for name, (labels, p) in rows.items():
        right = (p.argmax(axis=1) == metrics.indices(labels, truth)).astype(float)
        top = p.max(axis=1)
        out[name] = {"reliability": metrics.reliability(top, right), "risk_coverage": metrics.risk_coverage(top, right, 51)}
    return out


def _cascade(workspace: Workspace, exam: Exam, paper: Paper, found: Mapping[str, Mapping[str, Any]], *, seed: int) -> dict[str, Any] | None:
    """The first adapter behind the trees, where the whole test part of one data set is judged and both name the same labels."""
    from trafficllm.lifecycle.studies import cascade, scoring

    dataset = exam.sets[0]
    same = paper.answers.scores.labels == scoring.labels_of(dataset)
    if len(exam.sets) > 1 or exam.part != "test" or exam.most or not same:
        return None
    rate = round(len(exam.truth) / paper.seconds, 1)
    return cascade.row(dataset, workspace.base, found[cascade.FIRST], paper.answers.scores, rate, seed=seed)


def _unknown(exam: Exam, paper: Paper) -> dict[str, Any] | None:
    """How well the first adapter tells test flows of labels it never learnt; None where there are none."""
    from trafficllm.core import metrics
    from trafficllm.infer import calibration as cal
    from trafficllm.lifecycle.studies import scoring

    dataset, scorer = exam.sets[-1], paper.scorer
    outside = sorted(set(dataset.labels) - set(scorer.labels))
    rows, y = scoring.rows(dataset, exam.part, outside) if outside else ([], [])
    if not rows:
        return None
    foreign = cal.unknown_score(scorer.calibration, scoring.score_rows(scorer, dataset, rows))
    known = cal.unknown_score(scorer.calibration, paper.answers.scores)
    return {
        "labels": sorted(set(y)),
        "n": len(rows),
        "auroc": metrics.auroc(foreign, known),
        "fpr_at_tpr95": metrics.fpr_at_tpr(foreign, known, 0.95),
        "tpr_at_fpr05": metrics.tpr_at_fpr(foreign, known, 0.05),
        "called_unknown": float((foreign > cal.threshold(scorer.calibration)).mean()),
    }
