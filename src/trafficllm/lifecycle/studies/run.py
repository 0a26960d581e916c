"""`evaluate run`: adapters on a data set's test part, beside the baselines on the same masked records, with what it all cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import read_json
from trafficllm.core.types import F64, ProgressSink
from trafficllm.lifecycle.studies import results
from trafficllm.lifecycle.studies.evaluation_set import EvalOptions, EvaluationSet, Predictions, RowScores, predict
from trafficllm.lifecycle.studies.scoring import score_rows
from trafficllm.records.record_shape import KEY, RecordShape, wanted_of

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.table import Outcome
    from trafficllm.evaluate.results import Baseline, Quality
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

OURS = "adapter"
CHEAP = ("majority",)
"""What stands in the table where the baselines were left out: no score stands alone."""


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """The adapter to score: where it lies, what it answers, how it is calibrated, what its training cost."""

    name: str
    folder: Path
    labels: tuple[str, ...]
    calibration: Mapping[str, Any]
    version: str
    seed: int | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)


def find_adapter(workspace: Workspace, data: Dataset, adapter: Path | None) -> AdapterFacts:
    """The adapter folder, or the task's live version, checked against the data set: all reasons at once."""
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.registry import fit

    remedy = "leave the setting out of the configuration: what is scored are the data set's own records"
    data.shape.require(wanted_of(workspace.config), whose=f"data set {data.path}", remedy=remedy)
    if adapter is None:
        live = workspace.registry.live(data.task.id)
        fit.check(live.manifest, workspace.served.manifest, codec_hash(), profile=data.profile)
        _same_records(data, live.manifest, f"adapter {live.task} {live.version}")
        return _facts(data.task.id, live.path, live.manifest, live.version)
    for name in ("manifest.json", "tune.json"):
        if (adapter / name).is_file():
            manifest = read_json(adapter / name)
            if KEY in manifest:
                _same_records(data, manifest, f"adapter {adapter}")
            return _facts(str(adapter), adapter, manifest, manifest.get("version", ""))
    hint = "name a folder made by `tune task`, or a version's folder"
    raise ArtifactError("artifact.adapter", "no adapter that says its labels", input=str(adapter), hint=hint)


def _same_records(data: Dataset, manifest: Mapping[str, Any], whose: str) -> None:
    """UsageError, with both values, where the data set's records were made otherwise than those the adapter learnt."""
    shape = data.shape.as_dict()
    wanted = {f"{section}.{name}": value for section, values in shape.items() for name, value in values.items()}
    remedy = "build the data set with the adapter's settings, or register the adapter again on this data set"
    RecordShape.of(manifest).require(wanted, whose=whose, remedy=remedy)


def _facts(name: str, folder: Path, manifest: Mapping[str, Any], version: str) -> AdapterFacts:
    seed = manifest.get("seed", manifest.get("options", {}).get("seed"))
    tuning = manifest.get("tuning") or manifest.get("report") or {}
    return AdapterFacts(name, folder, tuple(manifest["labels"]), manifest.get("calibration", {}), version, seed, tuning)


@dataclass(frozen=True, slots=True)
class Run:
    """One adapter's predictions for all rows of the evaluation set; `scorer` and `last` are of the last data set."""

    adapter: AdapterFacts
    predicted: list[str]
    probabilities: F64
    unknown: list[bool]
    seconds: float
    scorer: LLMScorer
    last: Predictions


def open_scorer(workspace: Workspace, dataset: Dataset, adapter: AdapterFacts, *, seed: int = 0) -> LLMScorer:
    """The adapter in the engine, calibrated: as it says, or on the data set's validation part where it says nothing."""
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.studies import scoring

    engine = workspace.engine
    name = str(adapter.folder)
    engine.add_adapter(name, adapter.folder)
    scorer = LLMScorer(engine, name, dataset.task, adapter.labels, adapter.calibration, codec=dataset.codec)
    if not adapter.calibration and scoring.rows(dataset, "val", adapter.labels)[0]:
        scorer.calibration = scoring.calibrate(scorer, dataset, seed=seed)
    return scorer


def _run(
    workspace: Workspace, evaluation_set: EvaluationSet, adapters: Sequence[AdapterFacts], labels: Sequence[str], score: RowScores
) -> Run:
    """The predictions of one adapter, or of one for each fold."""
    import numpy as np

    folds = []
    for dataset, rows, adapter in zip(evaluation_set.sets, evaluation_set.rows, adapters, strict=True):
        scorer = open_scorer(workspace, dataset, adapter)
        folds.append(predict(scorer, dataset, rows, labels, score))
    return Run(
        adapters[0],
        [label for fold in folds for label in fold.predicted],
        np.concatenate([fold.probabilities for fold in folds]),
        [flag for fold in folds for flag in fold.unknown],
        sum(fold.seconds for fold in folds),
        scorer,
        folds[-1],
    )


def evaluate(
    workspace: Workspace,
    data: Sequence[Path],
    *,
    adapters: Sequence[Path] = (),
    baselines: bool = True,
    embedding: bool = False,
    options: EvalOptions | None = None,
    html: Path | None = None,
    progress: ProgressSink,
    score: RowScores = score_rows,
) -> results.EvaluateRun:
    """The quality object of one or several adapters with their baselines (contract: `evaluate run`).

    One data set: each of `adapters` is a run, a seed. Several data sets are folds of one, with an adapter each, in their order.
    `score` says who scores the judged rows: this process, or a cluster.
    """
    import numpy as np

    from trafficllm.records.dataset.dataset import load

    options = options or EvalOptions()
    if options.checkpoint is not None:
        from trafficllm.evaluate.baselines import in_context

        in_context.check(options.checkpoint)  # refused before the work
    evaluation_set = EvaluationSet.of([load(folder) for folder in data], options)
    adapters_of_runs = _adapters_of_runs(workspace, evaluation_set, adapters)
    labels = tuple(sorted({*evaluation_set.labels, *(label for run in adapters_of_runs for each in run for label in each.labels)}))
    runs = []
    for k, adapters_of_run in enumerate(adapters_of_runs):
        progress.update("scoring", k, len(adapters_of_runs))
        runs.append(_run(workspace, evaluation_set, adapters_of_run, labels, score))
    seen = evaluation_set.seen(workspace.served)
    mean: F64 = np.mean([run.probabilities for run in runs], axis=0)
    seeds = [k if run.adapter.seed is None else int(run.adapter.seed) for k, run in enumerate(runs)]
    quality = evaluation_set.quality([run.predicted for run in runs], labels=labels, seen=seen, seeds=seeds, probabilities=mean)
    progress.update("baselines", 0, None)
    outcomes = evaluation_set.baselines(options, names=() if baselines else CHEAP)
    rows = {OURS: (labels, mean), **{name: (evaluation_set.labels, outcome.probabilities) for name, outcome in outcomes.items()}}
    frozen = _frozen(workspace, evaluation_set, seen=seen, seed=options.seed, progress=progress) if embedding else None
    result = results.EvaluateRun.of(
        quality,
        **_about(evaluation_set, runs, workspace),
        cost=cost(evaluation_set, runs),
        baselines=table(evaluation_set, outcomes, seen, options.seed),
        curves=curves(rows, evaluation_set.truth),
        cascade=_cascade(workspace, evaluation_set, runs[0], outcomes, seed=options.seed) if baselines else None,
        unknown=_unknown(evaluation_set, runs[0]),
        labels_90=_sets(evaluation_set, runs[0]),
        embedding=frozen,
    )
    if html is not None:
        from trafficllm.lifecycle.reports.run_page import write_page

        write_page(result, html)
    return result


def _frozen(workspace: Workspace, evaluation_set: EvaluationSet, *, seen: str, seed: int, progress: ProgressSink) -> results.Frozen:
    from trafficllm.lifecycle.studies import embed

    progress.update("embedding", 0, None)
    return embed.beside(workspace, evaluation_set, seen=seen, seed=seed)


def _adapters_of_runs(workspace: Workspace, evaluation_set: EvaluationSet, adapters: Sequence[Path]) -> list[list[AdapterFacts]]:
    """Runs, each with an adapter for every data set."""
    sets = evaluation_set.sets
    if len(sets) == 1:
        return [[find_adapter(workspace, sets[0], folder)] for folder in (*adapters, *([] if adapters else [None]))]
    if len(adapters) != len(sets):
        hint = "several data sets are folds: name an adapter for each, in their order"
        raise UsageError("usage.folds", f"{len(sets)} data sets but {len(adapters)} adapters", input="--adapter", hint=hint)
    return [[find_adapter(workspace, dataset, folder) for dataset, folder in zip(sets, adapters, strict=True)]]


def _about(evaluation_set: EvaluationSet, runs: Sequence[Run], workspace: Workspace) -> dict[str, Any]:
    from trafficllm.evaluate.results import Answers

    first = evaluation_set.sets[0]
    adapters = [run.adapter for run in runs]
    return {
        "task": first.task.id,
        "title": first.task.title,
        "part": evaluation_set.part,
        "adapter": adapters[0].name,
        "version": adapters[0].version,
        "adapters": [results.EvaluatedAdapter(name=a.name, version=a.version, seed=a.seed) for a in adapters],
        "dataset_sha256": [dataset.sha256 for dataset in evaluation_set.sets],
        "base_sha256": str(workspace.served.manifest.get("base_sha256", "")),
        "masked_fields": list(first.masked_fields),
        "artefact_masked": [row["field"] for row in first.manifest["artefact_masked"]],
        "answers": Answers(
            rows=evaluation_set.names, groups=evaluation_set.groups, truth=evaluation_set.truth, runs=[run.predicted for run in runs]
        ),
    }


def cost(evaluation_set: EvaluationSet, runs: Sequence[Run]) -> dict[str, float]:
    """What the adapters cost, means over runs: training, scoring, memory (bytes; the most this process or training ever held)."""
    from trafficllm.model.tuning.job import peak_bytes

    flows = len(evaluation_set.truth)
    seconds = sum(run.seconds for run in runs) / len(runs)
    tuning = [run.adapter.tuning for run in runs if run.adapter.tuning]
    unknown = sum(sum(run.unknown) for run in runs) / max(len(runs) * flows, 1)
    out = {"flows_per_second": round(flows / seconds, 1), "seconds": round(seconds, 2), "unknown_share": unknown}
    if tuning:
        out["train_seconds"] = round(sum(float(row["seconds"]) for row in tuning) / len(tuning), 1)
        out["train_steps"] = sum(int(row["steps"]) for row in tuning) / len(tuning)
        out["train_peak_bytes"] = max(int(row["peak_bytes"]) for row in tuning)
    return {**out, "peak_bytes": peak_bytes()}


def table(
    evaluation_set: EvaluationSet, outcomes: Mapping[str, Outcome], seen: str, seed: int, labels: Sequence[str] = ()
) -> dict[str, Baseline]:
    """The baselines' rows: quality, choice and cost, under the split, masks and marks of the evaluation set."""
    from trafficllm.evaluate.baselines import table as baseline_table

    def score(predicted: Sequence[str], probabilities: F64) -> Quality:
        names = labels or evaluation_set.labels
        return evaluation_set.quality([predicted], labels=names, seen=seen, seeds=[seed], probabilities=probabilities)

    return baseline_table.table(outcomes, score)


def curves(rows: Mapping[str, tuple[Sequence[str], F64]], truth: Sequence[str]) -> dict[str, results.Curves]:
    """Reliability and risk-coverage points of each row of the table."""
    from trafficllm.core import metrics

    out = {}
    for name, (labels, p) in rows.items():
        right = (p.argmax(axis=1) == metrics.indices(labels, truth)).astype(float)
        top = p.max(axis=1)
        out[name] = results.Curves(reliability=metrics.reliability(top, right), risk_coverage=metrics.risk_coverage(top, right, 51))
    return out


def _cascade(
    workspace: Workspace, evaluation_set: EvaluationSet, run: Run, outcomes: Mapping[str, Outcome], *, seed: int
) -> results.CascadeScore | None:
    """The first adapter behind the trees, where the whole test part of one data set is judged and both name the same labels."""
    from trafficllm.lifecycle.studies import cascade, scoring

    dataset = evaluation_set.sets[0]
    same = run.last.scores.labels == scoring.labels_of(dataset)
    if len(evaluation_set.sets) > 1 or evaluation_set.part != "test" or evaluation_set.most or not same:
        return None
    rate = round(len(evaluation_set.truth) / run.seconds, 1)
    return cascade.row(dataset, workspace.served, outcomes[cascade.FIRST], run.last.scores, rate, seed=seed)


def _sets(evaluation_set: EvaluationSet, run: Run) -> results.LabelSets | None:
    """How often the likely labels hold the truth, by the first adapter on one data set; None where it promises nothing."""
    import numpy as np

    from trafficllm.infer import calibration as cal

    if len(evaluation_set.sets) > 1 or run.scorer.calibration.get("set_90") is None or not evaluation_set.truth:
        return None
    sets = cal.likely(run.scorer.calibration, run.last.scores)
    held = np.array([label in named for label, named in zip(evaluation_set.truth, sets, strict=True)], dtype=float)
    _, capture = np.unique(evaluation_set.groups, return_inverse=True)
    return results.LabelSets(
        coverage=float(held.mean()),
        coverage_of_captures=float((np.bincount(capture, held) / np.bincount(capture)).mean()),
        mean_size=float(np.mean([len(named) for named in sets])),
        n=len(sets),
    )


def _unknown(evaluation_set: EvaluationSet, run: Run) -> results.UnknownClasses | None:
    """How well the first adapter tells test flows of labels it never learnt; None where there are none."""
    from trafficllm.core import metrics
    from trafficllm.infer import calibration as cal
    from trafficllm.lifecycle.studies import scoring

    dataset, scorer = evaluation_set.sets[-1], run.scorer
    outside = sorted(set(dataset.labels) - set(scorer.labels))
    rows, y = scoring.rows(dataset, evaluation_set.part, outside) if outside else ([], [])
    if not rows:
        return None
    foreign = cal.unknown_score(scorer.calibration, scoring.score_rows(scorer, dataset, rows))
    learnt = cal.unknown_score(scorer.calibration, run.last.scores)
    return results.UnknownClasses(
        labels=sorted(set(y)),
        n=len(rows),
        auroc=metrics.auroc(foreign, learnt),
        fpr_at_tpr95=metrics.fpr_at_tpr(foreign, learnt, 0.95),
        tpr_at_fpr05=metrics.tpr_at_fpr(foreign, learnt, 0.05),
        called_unknown=float((foreign > cal.threshold(scorer.calibration)).mean()),
    )
