"""`adapter register` for tasks that give verdicts: labelled captures become a trained, calibrated, evaluated, versioned adapter.

Data set -> stage 2 tuning -> validation scores -> calibration -> test scores, once -> baselines on the same input -> registry.
Nothing but the final score sees the test part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trafficllm.core.files import sha256_bytes
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.adapters import replay, umbrella
from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.lifecycle.adapters.results import AdapterRegister, Gate, UmbrellaScore
from trafficllm.lifecycle.calibration import crossfit
from trafficllm.lifecycle.members import tuned
from trafficllm.lifecycle.studies import cascade, scoring
from trafficllm.records.coverage import Coverage
from trafficllm.records.record_shape import KEY, RecordShape
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import Base
    from trafficllm.model.results import TuneReport
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import BuildOptions, Dataset
    from trafficllm.records.sources.background import Background
    from trafficllm.registry.versions import Status, Version

Answer = TypeVar("Answer", bound=AdapterRegister)
SEARCH_SECONDS = 120.0
"""Least search time of each baseline, in estimated seconds; where tuning may take longer, they get as long as tuning.
An estimate, not a clock, bounds it, so that the table does not vary with the machine's load."""
_PACKAGES = ("trafficllm", "torch", "transformers", "peft", "tokenizers")


def register(
    source: str | Path | Dataset,
    training: Training,
    *,
    task: Task,
    build: BuildOptions | None = None,
    augment: bool = True,
    status: Status = "live",
    trained: Sequence[Path] = (),
    refit: bool | None = None,
    background: Background | None = None,
) -> AdapterRegister:
    """Train, calibrate, score and register an adapter, of several members where `training` says so (contract: `adapter register`).

    `source` is an opened data set, a data set's folder, or a folder of labelled captures (built beside the working folder as `build`
    says; default: with the seed of `training`). `augment`: training records change a little each epoch; `trained`: folders of tuned
    adapters, one a member, that are taken as they are, nothing is tuned. `refit`: calibration is cross-fitted and the readouts learn
    validation too; by default not of `trained` ones, which may have learnt it. `background` are flows of other sources; the manifest
    says which, and what they cover.
    Raises ArtifactError for an adapter that does not fit, with all reasons, InputError for data that cannot be learnt from or scored.
    """
    from trafficllm.records.dataset.dataset import BuildOptions

    start, place, base = time.monotonic(), training.workdir, training.base
    options = build or BuildOptions(seed=training.seed)
    dataset = open_dataset(source, task, place.with_name(f"{place.name}.data"), options=options, progress=training.progress)
    if trained:
        made = tuned.taken(trained, base, scoring.labels_of(dataset), place)
    else:
        made = tuned.tuned(training, tune_data(dataset, augment=augment, task=task))
    report = made[0].report
    manifest = manifest_of(dataset, task, base, report, training.options) | tuned.facts(made)
    coverage = Coverage.of_data(dataset, background, task=task)
    manifest |= background_facts(background, coverage)
    figures, scores, predicted = _scores(dataset, task, training, background, coverage, refit=not trained if refit is None else refit)
    manifest |= figures
    if training.baselines:
        seconds = max(SEARCH_SECONDS, training.options.max_seconds or 0.0) if training.search_s is None else training.search_s
        manifest |= baseline_rows(dataset, training, scores, manifest["cost"]["flows_per_second"], seconds)
    live = training.registry.find_live(task.id)
    manifest["parent"] = live.version if live else None
    manifest["sample"] = replay.keep(dataset, place, predicted)
    version = training.registry.register(task.id, place, manifest, status=status)
    return answer_of(AdapterRegister, version, manifest, report, seconds=round(time.monotonic() - start, 2))


def background_facts(background: Background | None, coverage: Coverage) -> dict[str, Any]:
    """What a manifest says of the background that was learnt (`background`: None for none) and of the kinds of flows that are answered."""
    learnt = umbrella.learnable(background, coverage).as_dict() if background is not None else None
    return {"background": learnt, "coverage": coverage.as_dict()}


def baseline_rows(dataset: Dataset, training: Training, scores: Scores, rate: float, seconds: float) -> dict[str, Any]:
    """The manifest's `baselines` and `cascade` beside the adapter's test `scores` at `rate` flows/s; `seconds` of search for each."""
    training.progress.update("baselines", 0, None)
    return cascade.beside(dataset, training.base, scores, rate, seed=training.seed, budget_s=seconds).as_dict()


def named(rows: Sequence[int], scores: Scores) -> dict[int, str]:
    """The likeliest label of each row."""
    return dict(zip(rows, (scores.labels[k] for k in scores.probabilities.argmax(axis=1)), strict=True))


def open_dataset(source: str | Path | Dataset, task: Task, out: Path, *, options: BuildOptions, progress: ProgressSink) -> Dataset:
    """The data set itself, the one in the folder, or one built from the folder's captures."""
    from trafficllm.lifecycle.datasets import is_data_set
    from trafficllm.records.dataset.dataset import Dataset, build_dataset, load

    if isinstance(source, Dataset):
        return source
    folder = Path(source)
    if is_data_set(folder):
        return load(folder)
    build_dataset(folder, task=task, out=out, options=options, progress=progress)
    return load(out)


def tune_data(dataset: Dataset, *, augment: bool = True, task: Task | None = None) -> TuneData:
    """What stage 2 learns from a data set: prompts and labels, or for a generation task prompts and records.

    With `augment`, training records are changed a little each epoch; validation records never. Copies of an HTTP request are learnt once.
    """
    from trafficllm.lifecycle.adapters.learn_generator import generator_data
    from trafficllm.model.tuning.augment import augment as changed
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records import prompts

    own = task or dataset.task
    labels = scoring.labels_of(dataset)
    if own.kind == "generation":
        return generator_data(dataset, task=own, labels=labels)
    train, answers = scoring.distinct(dataset, *scoring.rows(dataset, "train", labels))
    val, val_answers = scoring.distinct(dataset, *scoring.rows(dataset, "val", labels))
    return TuneData(
        prompts=[prompts.traffic_prompt(own, units) for units in dataset.units(train)],
        answers=answers,
        labels=labels,
        val_prompts=[prompts.traffic_prompt(own, units) for units in dataset.units(val)],
        val_answers=val_answers,
        records=dataset.records(train) if augment else (),
        prompt_of=(lambda record: prompts.detection(own, record, dataset.codec)) if augment else None,
        augment=changed if augment else None,
    )


def _scores(
    dataset: Dataset, task: Task, training: Training, background: Background | None, coverage: Coverage, *, refit: bool
) -> tuple[dict[str, Any], Scores, dict[int, str]]:
    """Calibration from validation and background, then quality, cost and scores from test, with the adapter as it lies on disk; and its
    predictions for held-out rows that the sample will keep. With `refit` calibration is cross-fitted and the readouts on disk learn
    validation too: a validation row's prediction is that of a readout without its capture."""
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer

    training.progress.update("scoring", 0, None)
    engine = Engine(training.base)
    engine.add_adapter(task.id, training.workdir)
    scorer = LLMScorer(engine, task.id, task, scoring.labels_of(dataset), codec=dataset.codec)
    held_out = _calibrated(scorer, dataset, training, refit=refit)
    umbrella.add(scorer, dataset, background, training, coverage)
    quality, cost, scores = scoring.assess(scorer, dataset, training.base, seed=training.seed)
    test, y = scoring.rows(dataset, "test", scores.labels)
    sampled = sorted(set(replay.sampled(dataset)) & set(dataset.indices("val")))
    others = [row for row in sampled if row not in held_out]
    predicted = named(test, scores) | {row: held_out[row] for row in sampled if row in held_out}
    predicted |= named(others, scoring.score_rows(scorer, dataset, others)) if others else {}
    first_step = umbrella.judged(scorer, scores, y, umbrella.may_be_positive(dataset, test, coverage))
    figures = {"calibration": scorer.calibration, "quality": quality.as_dict(), "cost": cost, "umbrella": first_step}
    return figures, scores, predicted


def _calibrated(scorer: LLMScorer, dataset: Dataset, training: Training, *, refit: bool) -> dict[int, str]:
    """Calibrate a scorer, cross-fitted with `refit` and readouts: those in the working folder are then replaced; what readouts without
    their capture answer to validation rows, nothing of that without a refit."""
    cross = crossfit.cross_fit(scorer, dataset, seed=training.seed) if refit else None
    if cross is None:
        scorer.calibration = scoring.calibrate(scorer, dataset, seed=training.seed)
        return {}
    for place, readout in zip(members.folders(training.workdir), cross.readouts, strict=True):
        readout.save(place)
    scorer.engine.use_readouts(scorer.adapter, cross.readouts)
    scorer.calibration = cross.calibration
    return cross.answers


def manifest_of(dataset: Dataset, task: Task, base: Base, tuned: TuneReport, options: TuneOptions) -> dict[str, Any]:
    """What a version says of its making: base, tokenizer, codec, masks, labels, data, prompts, split, seed, versions."""
    from trafficllm.records import prompts

    made = dataset.manifest
    return {
        **base_facts(base),
        "stage": "task",
        "task_definition": task.model_dump(mode="json"),
        KEY: RecordShape.of(made).as_dict(),
        "codec": made["codec"],
        "profile": dataset.profile,
        "masked_fields": list(dataset.masked_fields),
        "also": made["also"],
        "kept_fields": made["kept_fields"],
        "artefact_masked": made["artefact_masked"],
        "labels": list(scoring.labels_of(dataset)),
        "data_sha256": dataset.sha256,
        "data": {key: made[key] for key in ("records", "classes", "dropped", "duplicates")},
        "prompt_hash": sha256_bytes(repr(prompts.traffic_prompt(task, "")).encode()),
        "split": made["split"]["unit"],
        "leaky": made["leaky"],
        "seed": options.seed,
        "tuning": tuned.as_dict(),
        "baselines": {},
        "cascade": None,
        "full_steps": tuned.steps,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def answer_of(
    kind: type[Answer], version: Version, manifest: Mapping[str, Any], report: TuneReport, *, seconds: float, **more: Any
) -> Answer:
    """What `adapter register` or `adapter update` says of a version; a first version passes no gate, so its rows are empty."""
    from trafficllm.model.tuning.job import peak_bytes

    calibration = dict(manifest["calibration"])
    unknown = calibration.pop("unknown")
    calibration.pop("umbrella", None)
    first_step = manifest.get("umbrella")
    gate = {"gate": Gate(old=None, new=None, router=None), "replayed": 0}
    return kind(
        **version.as_dict(),
        path=str(version.path),
        quality=manifest["quality"],
        baselines=manifest["baselines"],
        cascade=manifest["cascade"],
        calibration=calibration,
        unknown={key: unknown[key] for key in ("method", "auroc", "tpr_at_fpr05")},
        umbrella=UmbrellaScore(**first_step) if first_step else None,
        cost=manifest["cost"],
        tuning=report,
        seconds=seconds,
        peak_bytes=peak_bytes(),
        **{**gate, **more},
    )
