"""`evaluate transfer`: an adapter of one source on another, and how few flows of a new task are enough, beside trees with the same."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import F64, ProgressSink, Silent
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.embed import frozen, side
from trafficllm.lifecycle.studies.evaluation_set import EvalOptions, EvaluationSet, learnt_marks, predict_records
from trafficllm.lifecycle.studies.results import EvaluateTransfer, ScoredBeside, Shots, ShotScore
from trafficllm.lifecycle.studies.run import OURS, AdapterFacts, find_adapter, open_scorer, table

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.frozen import Side
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.results import Quality
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

BASELINE = "lightgbm"
TREES = ("lightgbm", "random_forest")
NOT_OURS = (*TREES, "tabicl")
POOL = 4000
"""Training rows that shots are drawn from, evenly over labels."""
Learner: TypeAlias = Callable[[list[int], int], F64]
"""Rows of the pool and a draw's seed -> label probabilities of the judged rows."""


@dataclass(frozen=True, slots=True)
class FewShot:
    """Learning from few flows: `shots` flows a class, `draws` of each size; with `max_seconds` an adapter is tuned on each draw too, with
    `checkpoint`, weights of TabICL, that answers too."""

    shots: Sequence[int] = ()
    draws: int = 3
    max_seconds: float = 0.0
    checkpoint: Path | None = None


def transfer(
    workspace: Workspace,
    train: Path,
    test: Path,
    *,
    adapter: Path | None = None,
    few: FewShot | None = None,
    options: EvalOptions | None = None,
    html: Path | None = None,
    progress: ProgressSink,
) -> EvaluateTransfer:
    """The adapter of TRAIN on TEST as it is (`direct`), and learning from few of TEST's flows (contract: `evaluate transfer`).

    `direct` needs two labels that both know, and is False without them. The quality object is that of `direct`, or of the best of our
    own rows at the most shots.
    """
    from trafficllm.records.dataset.dataset import load

    few, options = few or FewShot(), options or EvalOptions()
    if few.checkpoint is not None:
        from trafficllm.evaluate.baselines import in_context

        in_context.check(few.checkpoint)  # refused before the work
    source, evaluation_set = load(train), EvaluationSet.of([load(test)], options)
    facts = _adapter(workspace, source, adapter)
    seen = evaluation_set.seen(workspace.served)
    progress.update("direct", 0, None)
    marks = _learnt(source, evaluation_set)
    direct = _direct(workspace, source, evaluation_set, facts, seen=seen, options=options)
    sizes = _shots(workspace, evaluation_set, facts, few, seen=seen, seed=options.seed, progress=progress)
    target = evaluation_set.sets[0]
    head = direct or _best(sizes)
    same = source.sha256 == target.sha256
    result = EvaluateTransfer.of(
        head,
        leaky=sorted({*head.leaky, *marks}),
        task=target.task.id,
        title=target.task.title,
        part=evaluation_set.part,
        source=source.task.id,
        adapter=facts.name if facts else "",
        version=facts.version if facts else "",
        baselines=direct.baselines if direct else {},
        direct=direct is not None,
        shots=[size.result() for size in sizes],
        gain_at_20=gain(sizes, learnt_from=same),
        same_data=same,
    )
    if html is not None:
        from trafficllm.lifecycle.reports.study_pages import transfer_page

        transfer_page(result, html)
    return result


def _adapter(workspace: Workspace, source: Dataset, adapter: Path | None) -> AdapterFacts | None:
    """The adapter named, the live one of the source's task, or none."""
    try:
        return find_adapter(workspace, source, adapter)
    except ArtifactError:
        if adapter is not None:
            raise
        return None


def _direct(
    workspace: Workspace, source: Dataset, evaluation_set: EvaluationSet, facts: AdapterFacts | None, *, seen: str, options: EvalOptions
) -> ScoredBeside | None:
    """Both as they learnt on the source, on TEST's rows of labels that the source knows, under the source's masks."""
    from trafficllm.evaluate.baselines import table as baseline_table
    from trafficllm.evaluate.baselines.learners import Part

    learnt = set(scoring.labels_of(source)) & set(facts.labels if facts else ())
    target, common = evaluation_set.sets[0], learnt & set(evaluation_set.truth)
    if facts is None or len(common) < 2:
        return None
    judged = [k for k, label in enumerate(evaluation_set.truth) if label in common]
    narrow = _narrowed(evaluation_set, judged)
    records = [source.mask(record) for record in target.raw_records([evaluation_set.rows[0][k] for k in judged])]
    scorer = open_scorer(workspace, source, facts, seed=options.seed)
    labels = tuple(sorted({*scoring.labels_of(source), *facts.labels}))
    quality = narrow.quality([predict_records(scorer, records)], labels=labels, seen=seen, seeds=[facts.seed or 0])
    train, val, _ = EvaluationSet((source,), "val").parts(0)
    outcomes = baseline_table.run(
        train,
        val,
        Part(records, narrow.truth, codec=source.codec),
        labels=labels,
        seed=options.seed,
        threads=scoring.threads(),
        budget_s=options.budget_s,
        names=("majority", BASELINE),
    )
    return ScoredBeside.of(quality, mask=source.profile, baselines=table(narrow, outcomes, seen, options.seed, labels))


def _narrowed(evaluation_set: EvaluationSet, judged: Sequence[int]) -> EvaluationSet:
    """The evaluation set with some of its rows."""
    narrow = EvaluationSet(evaluation_set.sets, evaluation_set.part, evaluation_set.most)
    narrow.__dict__["rows"] = ([evaluation_set.rows[0][k] for k in judged],)
    return narrow


@dataclass(frozen=True, slots=True)
class Size:
    """Every way to learn from `shots` flows a class: quality objects over draws; `fewest` training flows that a class has."""

    shots: int
    draws: int
    fewest: int
    rows: dict[str, Quality]

    def result(self) -> Shots:
        """As the answer names it, without confusion matrices."""
        rows = {name: ShotScore.of(row) for name, row in self.rows.items()}
        return Shots(shots=self.shots, draws=self.draws, fewest=self.fewest, rows=rows)


def _shots(
    workspace: Workspace,
    evaluation_set: EvaluationSet,
    facts: AdapterFacts | None,
    few: FewShot,
    *,
    seen: str,
    seed: int,
    progress: ProgressSink,
) -> list[Size]:
    """One row a size: quality objects of every way to learn, means over draws."""
    from trafficllm.evaluate.baselines.shots import SIZES, draw

    sizes, draws = few.shots or SIZES, few.draws
    if draws < 1 or min(sizes) < 1:
        raise UsageError("usage.shots", "at least one shot and one draw", input="--shots", hint="--shots 5 --draws 3")
    dataset, labels = evaluation_set.sets[0], evaluation_set.labels
    rows, y = scoring.rows(dataset, "train", labels)
    thinned = evenly_over_labels(y, POOL)
    pool, names = [rows[k] for k in thinned], [y[k] for k in thinned]
    learners = _learners(workspace, evaluation_set, facts, pool, few)
    content = dataset.hashes(pool)
    out: list[Size] = []
    for size in sorted(set(sizes)):
        runs: dict[str, list[list[str]]] = {name: [] for name in learners}
        for number in range(draws):
            progress.update(f"{size} shots", number, draws)
            drawn = draw(names, content, size, seed + number)
            for name, learn in learners.items():
                runs[name].append([labels[k] for k in learn(drawn, seed + number).argmax(axis=1)])
        seeds = list(range(seed, seed + draws))
        scored = {name: evaluation_set.quality(run, labels=labels, seen=seen, seeds=seeds) for name, run in runs.items()}
        out.append(Size(size, draws, min(names.count(label) for label in set(names)), scored))
    return out


def _best(sizes: Sequence[Size]) -> Quality:
    """The best of our own rows at the most shots."""
    ours = (row for name, row in sizes[-1].rows.items() if name not in NOT_OURS)
    return max(ours, key=lambda row: row.macro_f1)


def _learners(
    workspace: Workspace, evaluation_set: EvaluationSet, facts: AdapterFacts | None, pool: list[int], few: FewShot
) -> dict[str, Learner]:
    from trafficllm.evaluate.baselines import frozen as probes
    from trafficllm.evaluate.baselines import shots
    from trafficllm.evaluate.baselines.frozen import Side
    from trafficllm.evaluate.baselines.learners import Part

    dataset, labels = evaluation_set.sets[0], evaluation_set.labels
    base = frozen(workspace, dataset.task, pool="layers", codec=dataset.codec)
    learnt, judged = side(base, dataset, pool), side(base, dataset, evaluation_set.rows[0])

    def probed(name: str, learnt: Side, judged: Side) -> Learner:
        def learn(drawn: list[int], _: int) -> F64:
            shown = Side(learnt.vectors[drawn], [learnt.y[k] for k in drawn])
            return probes.probe(name, labels, shown, None, judged.vectors)[0]

        return learn

    part, target = Part.of(dataset, pool), Part.of(dataset, evaluation_set.rows[0])

    def trees(name: str) -> Learner:
        return lambda drawn, seed: shots.trees(name, _some(part, drawn), target, labels, seed=seed, threads=scoring.threads())

    def in_context(checkpoint: Path) -> Learner:
        return lambda drawn, seed: shots.in_context(checkpoint, _some(part, drawn), target, labels, seed=seed, threads=scoring.threads())

    out: dict[str, Learner] = {name: probed(name, learnt, judged) for name in probes.PROBES}
    if facts is not None:
        out |= _by_adapter(workspace, evaluation_set, facts, pool, probed)
    if few.max_seconds > 0:
        out["tuned"] = _tuner(workspace, evaluation_set, pool, few.max_seconds)
    if few.checkpoint is not None:
        out["tabicl"] = in_context(few.checkpoint)
    return out | {name: trees(name) for name in TREES}


def _by_adapter(
    workspace: Workspace, evaluation_set: EvaluationSet, facts: AdapterFacts, pool: list[int], probed: Callable[[str, Side, Side], Learner]
) -> dict[str, Learner]:
    """Probes on the states that the source's adapter reads its verdicts from."""
    from trafficllm.infer.engine.pooling import Pooled
    from trafficllm.infer.engine.scorer import LLMScorer

    dataset = evaluation_set.sets[0]
    workspace.engine.add_adapter(str(facts.folder), facts.folder)
    tuned = Pooled(LLMScorer(workspace.engine, str(facts.folder), dataset.task, facts.labels, codec=dataset.codec), "layers")
    learnt, judged = side(tuned, dataset, pool), side(tuned, dataset, evaluation_set.rows[0])
    return {f"{OURS}_{way}": probed(f"frozen_{way}", learnt, judged) for way in ("knn", "linear")}


def _some(part: Part, rows: Sequence[int]) -> Part:
    return dataclasses.replace(part, records=[part.records[k] for k in rows], y=[part.y[k] for k in rows], raw=(), meta=())


def _tuner(workspace: Workspace, evaluation_set: EvaluationSet, pool: list[int], max_seconds: float) -> Learner:
    """An adapter tuned from the base on the shots alone, for `max_seconds`, without evaluation steps."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.studies.evaluation_set import in_order
    from trafficllm.model.tuning.augment import augment
    from trafficllm.model.tuning.job import TuneData, tune_task
    from trafficllm.records import prompts

    dataset = evaluation_set.sets[0]
    task, names = dataset.task, dataset.labels_of(pool)

    def learn(few: list[int], seed: int) -> F64:
        rows = [pool[k] for k in few]
        data = TuneData(
            prompts=[prompts.traffic_prompt(task, units) for units in dataset.units(rows)],
            answers=[names[k] for k in few],
            labels=evaluation_set.labels,
            records=dataset.records(rows),
            augment=augment,
            prompt_of=lambda record: prompts.detection(task, record, dataset.codec),
        )
        options = TuneOptions(max_seconds=max_seconds, epochs=200, looks=0, seed=seed)
        with tempfile.TemporaryDirectory(prefix="trafficllm-shots-") as place:
            tune_task(workspace.base, data, Path(place) / "adapter", options, Silent())
            engine = Engine(workspace.base)
            engine.add_adapter("shots", Path(place) / "adapter")
            scorer = LLMScorer(engine, "shots", task, evaluation_set.labels, codec=dataset.codec)
            return in_order(scoring.score_rows(scorer, dataset, evaluation_set.rows[0]), evaluation_set.labels)

    return learn


def gain(sizes: Sequence[Size], shots: int = 20, *, learnt_from: bool = False) -> float | None:
    """Macro-F1 of the best of our rows above LightGBM's at so many shots; None where that size was not asked for.

    `learnt_from`: the adapter learnt from this very data set, so the rows on its states are no few-shot rows.
    """
    for size in sizes:
        if size.shots == shots:
            out = (*NOT_OURS, *(n for n in size.rows if learnt_from and n.startswith(OURS)))
            return max(row.macro_f1 for n, row in size.rows.items() if n not in out) - size.rows[BASELINE].macro_f1
    return None


def _learnt(source: Dataset, evaluation_set: EvaluationSet) -> list[str]:
    """A mark where contents that are judged were learnt from on the source's side; validation that is judged has a mark of its own."""
    itself = source.sha256 == evaluation_set.sets[0].sha256 and evaluation_set.part == "val"
    learnt = set(source.hashes([*source.indices("train"), *([] if itself else source.indices("val"))]))
    return learnt_marks(learnt, evaluation_set.content, "TRAIN")
