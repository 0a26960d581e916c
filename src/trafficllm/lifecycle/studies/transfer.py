"""`evaluate transfer`: an adapter of one source on another, and how few flows of a new task are enough, beside trees with the same."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import F64, ProgressSink, Silent
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.embed import frozen, side
from trafficllm.lifecycle.studies.evaluation_set import Exam, guesses, learnt_marks
from trafficllm.lifecycle.studies.run import OURS, Chosen, pick, scorer_of, table

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.frozen import Side
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset

RIVAL = "lightgbm"
TREES = ("lightgbm", "random_forest")
POOL = 4000
"""Training rows that shots are drawn from, evenly over labels."""
Learner: TypeAlias = Callable[[list[int], int], F64]
"""Rows of the pool and a draw's seed -> label probabilities of the judged rows."""
_TRIMMED = ("confusion",)


def transfer(
    workspace: Workspace,
    train: Path,
    test: Path,
    *,
    adapter: Path | None = None,
    shots: Sequence[int] = (),
    draws: int = 3,
    max_seconds: float = 0.0,
    part: str = "test",
    most: int = 0,
    seed: int = 0,
    budget_s: float = 60.0,
    html: Path | None = None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """The `evaluate transfer` object: the adapter of TRAIN on TEST as it is (`direct`), and `shots[]`: learning from few of TEST's flows.

    `direct` needs two labels that both know, and is None without them. The quality object is that of `direct`, or of the best of our
    own rows at the most shots. With `max_seconds` an adapter is tuned on each draw, too.
    """
    from trafficllm.evaluate.baselines.shots import SIZES
    from trafficllm.lifecycle.reports import study_pages as shift_pages
    from trafficllm.records.dataset.dataset import load

    source, exam = load(train), Exam.of([load(test)], part, most)
    chosen = _adapter(workspace, source, adapter)
    seen = exam.seen(workspace.base)
    progress.update("direct", 0, None)
    marks = _learnt(source, exam)
    direct = _direct(workspace, source, exam, chosen, seen=seen, seed=seed, budget_s=budget_s)
    rows = _shots(workspace, exam, chosen, tuple(shots) or SIZES, draws, seen=seen, seed=seed, max_seconds=max_seconds, progress=progress)
    first = exam.sets[0]
    head = {k: v for k, v in direct.items() if k != "baselines"} if direct else _best(rows)
    body = {
        **head,
        "leaky": sorted({*head["leaky"], *marks}),
        "task": first.task.id,
        "title": first.task.title,
        "part": exam.part,
        "source": source.task.id,
        "adapter": chosen.name if chosen else "",
        "version": chosen.version if chosen else "",
        "baselines": direct["baselines"] if direct else {},
        "direct": bool(direct),
        "shots": _trimmed(rows),
        "gain_at_20": gain(rows, learnt_from=source.sha256 == first.sha256),
        "same_data": source.sha256 == first.sha256,
    }
    if html is not None:
        shift_pages.transfer_page(body, html)
    return body


def _adapter(workspace: Workspace, source: Dataset, adapter: Path | None) -> Chosen | None:
    """The adapter named, the live one of the source's task, or none."""
    try:
        return pick(workspace, source, adapter)
    except ArtifactError:
        if adapter is not None:
            raise
        return None


def _direct(
    workspace: Workspace, source: Dataset, exam: Exam, chosen: Chosen | None, *, seen: str, seed: int, budget_s: float
) -> dict[str, Any] | None:
    """Both as they learnt on the source, on TEST's rows of labels that the source knows, under the source's masks."""
    from trafficllm.evaluate.baselines import table as baselines
    from trafficllm.evaluate.baselines.learners import Part

    known = set(scoring.labels_of(source)) & set(chosen.labels if chosen else ())
    target, common = exam.sets[0], known & set(exam.truth)
    if chosen is None or len(common) < 2:
        return None
    judged = [k for k, label in enumerate(exam.truth) if label in common]
    narrow = _narrowed(exam, judged)
    records = [source.mask(record) for record in target.raw_records([exam.rows[0][k] for k in judged])]
    scorer = scorer_of(workspace, source, chosen, seed=seed)
    labels = tuple(sorted({*scoring.labels_of(source), *chosen.labels}))
    quality = narrow.quality([guesses(scorer, records)], labels=labels, seen=seen, seeds=[chosen.seed or 0])
    learnt = Exam((source,), "val").parts(0)
    asked = Part(records, narrow.truth, codec=source.codec)
    found = baselines.run(
        learnt[0], learnt[1], asked, labels=labels, seed=seed, threads=scoring.threads(), budget_s=budget_s, names=("majority", RIVAL)
    )
    return {**quality, "mask": source.profile, "baselines": table(narrow, found, seen, seed, labels)}


def _narrowed(exam: Exam, judged: Sequence[int]) -> Exam:
    """The exam with some of its rows."""
    narrow = Exam(exam.sets, exam.part, exam.most)
    narrow.__dict__["rows"] = ([exam.rows[0][k] for k in judged],)
    return narrow


def _shots(
    workspace: Workspace,
    exam: Exam,
    chosen: Chosen | None,
    sizes: Sequence[int],
    draws: int,
    *,
    seen: str,
    seed: int,
    max_seconds: float,
    progress: ProgressSink,
) -> list[dict[str, Any]]:
    """One row a size: quality objects of every way to learn, means over draws."""
    from trafficllm.evaluate.baselines.shots import draw

    if draws < 1 or min(sizes) < 1:
        raise UsageError("usage.shots", "at least one shot and one draw", input="--shots", hint="--shots 5 --draws 3")
    dataset = exam.sets[0]
    rows, y = scoring.rows(dataset, "train", exam.labels)
    kept = evenly_over_labels(y, POOL)
    pool, names = [rows[k] for k in kept], [y[k] for k in kept]
    learners = _learners(workspace, exam, chosen, pool, max_seconds=max_seconds)
    content = dataset.hashes(pool)
    out: list[dict[str, Any]] = []
    for size in sorted(set(sizes)):
        runs: dict[str, list[list[str]]] = {name: [] for name in learners}
        for number in range(draws):
            progress.update(f"{size} shots", number, draws)
            few = draw(names, content, size, seed + number)
            for name, learn in learners.items():
                runs[name].append([exam.labels[k] for k in learn(few, seed + number).argmax(axis=1)])
        seeds = list(range(seed, seed + draws))
        scored = {name: exam.quality(run, labels=exam.labels, seen=seen, seeds=seeds) for name, run in runs.items()}
        out.append({"shots": size, "draws": draws, "fewest": min(names.count(label) for label in set(names)), "rows": scored})
    return out


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best of our own rows at the most shots."""
    ours = {name: row for name, row in rows[-1]["rows"].items() if name not in TREES}
    return dict(max(ours.values(), key=lambda row: float(row["macro_f1"])))


def _trimmed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "rows": {name: {k: v for k, v in found.items() if k not in _TRIMMED} for name, found in row["rows"].items()}}
        for row in rows
    ]


def _learners(workspace: Workspace, exam: Exam, chosen: Chosen | None, pool: list[int], *, max_seconds: float) -> dict[str, Learner]:
    from trafficllm.evaluate.baselines import frozen as probes
    from trafficllm.evaluate.baselines import shots
    from trafficllm.evaluate.baselines.frozen import Side
    from trafficllm.evaluate.baselines.learners import Part

    dataset, labels = exam.sets[0], exam.labels
    base = frozen(workspace, dataset.task, pool="layers", codec=dataset.codec)
    known, asked = side(base, dataset, pool), side(base, dataset, exam.rows[0])

    def probed(name: str, known: Side, asked: Side) -> Learner:
        def learn(few: list[int], _: int) -> F64:
            shown = Side(known.vectors[few], [known.y[k] for k in few])
            return probes.probe(name, labels, shown, None, asked.vectors)[0]

        return learn

    part, judged = Part.of(dataset, pool), Part.of(dataset, exam.rows[0])

    def trees(name: str) -> Learner:
        return lambda few, seed: shots.trees(name, _some(part, few), judged, labels, seed=seed, threads=scoring.threads())

    out: dict[str, Learner] = {name: probed(name, known, asked) for name in probes.PROBES}
    if chosen is not None:
        out |= _by_adapter(workspace, exam, chosen, pool, probed)
    if max_seconds > 0:
        out["tuned"] = _tuner(workspace, exam, pool, max_seconds)
    return out | {name: trees(name) for name in TREES}


def _by_adapter(
    workspace: Workspace, exam: Exam, chosen: Chosen, pool: list[int], probed: Callable[[str, Side, Side], Learner]
) -> dict[str, Learner]:
    """Probes on the states that the source's adapter reads its verdicts from."""
    from trafficllm.infer.engine.pooling import Pooled
    from trafficllm.infer.engine.scorer import LLMScorer

    dataset = exam.sets[0]
    workspace.engine.add_adapter(str(chosen.folder), chosen.folder)
    tuned = Pooled(LLMScorer(workspace.engine, str(chosen.folder), dataset.task, chosen.labels, codec=dataset.codec), "layers")
    known, asked = side(tuned, dataset, pool), side(tuned, dataset, exam.rows[0])
    return {f"{OURS}_{way}": probed(f"frozen_{way}", known, asked) for way in ("knn", "linear")}


def _some(part: Part, rows: Sequence[int]) -> Part:
    return dataclasses.replace(part, records=[part.records[k] for k in rows], y=[part.y[k] for k in rows], raw=(), meta=())


def _tuner(workspace: Workspace, exam: Exam, pool: list[int], max_seconds: float) -> Learner:
    """An adapter tuned from the base on the shots alone, for `max_seconds`, without looks at anything else."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.studies.evaluation_set import in_order
    from trafficllm.model.tuning.augment import augment
    from trafficllm.model.tuning.job import TuneData, tune_task
    from trafficllm.records import prompts

    dataset = exam.sets[0]
    task, names = dataset.task, dataset.labels_of(pool)

    def learn(few: list[int], seed: int) -> F64:
        rows = [pool[k] for k in few]
        data = TuneData(
            prompts=[prompts.traffic_prompt(task, units) for units in dataset.units(rows)],
            answers=[names[k] for k in few],
            labels=exam.labels,
            records=dataset.records(rows),
            augment=augment,
            prompt_of=lambda record: prompts.detection(task, record, dataset.codec),
        )
        options = TuneOptions(max_seconds=max_seconds, epochs=200, looks=0, seed=seed)
        with tempfile.TemporaryDirectory(prefix="trafficllm-shots-") as place:
            tune_task(workspace.base, data, Path(place) / "adapter", options, Silent())
            engine = Engine(workspace.base)
            engine.add_adapter("shots", Path(place) / "adapter")
            scorer = LLMScorer(engine, "shots", task, exam.labels, codec=dataset.codec)
            return in_order(scoring.score_rows(scorer, dataset, exam.rows[0]), exam.labels)

    return learn


def gain(rows: Sequence[Mapping[str, Any]], shots: int = 20, *, learnt_from: bool = False) -> float | None:
    """Macro-F1 of the best of our rows above LightGBM's at so many shots; None where that size was not asked for.

    `learnt_from`: the adapter learnt from this very data set, so the rows on its states are no few-shot rows.
    """
    for row in rows:
        if row["shots"] == shots:
            out = (*TREES, *(n for n in row["rows"] if learnt_from and n.startswith(OURS)))
            ours = max(float(r["macro_f1"]) for n, r in row["rows"].items() if n not in out)
            return ours - float(row["rows"][RIVAL]["macro_f1"])
    return None


def _learnt(source: Dataset, exam: Exam) -> list[str]:
    """A mark where contents that are judged were learnt from on the source's side; validation that is judged has a mark of its own."""
    itself = source.sha256 == exam.sets[0].sha256 and exam.part == "val"
    known = set(source.hashes([*source.indices("train"), *([] if itself else source.indices("val"))]))
    return learnt_marks(known, exam.content, "TRAIN")
