"""Generation adapters: stage 2 on "label -> record", from a data set's training part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.records.record_shape import KEY, RecordShape

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.results import TuneReport
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.registry.versions import Version


def generator_data(dataset: Dataset, *, task: Task, labels: Sequence[str]) -> TuneData:
    """What a generator learns: the label, then the record as `records.view` shows it.

    Hidden bytes are hidden runs: no address, name or cookie of a training capture can be written, whatever the data set's own masks.
    Raises InputError where a label has no training record.
    """
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.codec import view
    from trafficllm.records.codec.codec import encode
    from trafficllm.records.prompts import generation

    def part(name: str) -> tuple[list[str], list[str]]:
        rows = [k for k, label in zip(*_labelled(dataset, name), strict=True) if label in labels]
        records = dataset.raw_records(rows)
        return dataset.labels_of(rows), [encode(view.shown(record), dataset.codec) for record in records]

    answers, units = part("train")
    absent = sorted(set(labels) - set(answers))
    if absent:
        hint = "choose labels of the data set's training part"
        raise InputError("input.label", f"no training record of {', '.join(absent)}", input=str(dataset.path), hint=hint)
    val_answers, val_units = part("val")
    return TuneData(
        prompts=[generation(task, label) for label in answers],
        answers=units,
        val_prompts=[generation(task, label) for label in val_answers],
        val_answers=val_units,
    )


def learn_generator(dataset: Dataset, training: Training, *, task: Task, labels: Sequence[str]) -> tuple[Version, TuneReport]:
    """Tune a generation adapter on the training records of `labels` and register it, live, for `task`.

    Raises InputError where a label has no training record.
    """
    from trafficllm.model.tuning.job import tune_generation

    data = generator_data(dataset, task=task, labels=labels)
    report = tune_generation(training.base, data, training.workdir, training.options, training.progress)
    manifest = {
        "task": task.id,
        "labels": sorted(labels),
        "profile": dataset.profile,
        KEY: RecordShape.of(dataset.manifest).as_dict(),
        "stage": "generation",
        "data_sha256": dataset.sha256,
        "rows": len(data.answers),
        "values": values_of(dataset, labels),
        "seed": training.seed,
        "tuning": report.as_dict(),
        **base_facts(training.base),
    }
    return training.registry.register(task.id, training.workdir, manifest, status="live"), report


def values_of(dataset: Dataset, labels: Sequence[str]) -> dict[str, Any]:
    """By label, what windows, TTLs and gaps of training flows stand behind the codec's buckets."""
    from trafficllm.records.codec import values, view

    rows: dict[str, list[int]] = {label: [] for label in labels}
    for k, label in zip(*_labelled(dataset, "train"), strict=True):
        if label in rows:
            rows[label].append(k)
    return {label: values.learnt([view.shown(record) for record in dataset.raw_records(at)]) for label, at in sorted(rows.items())}


def _labelled(dataset: Dataset, part: str) -> tuple[list[int], list[str]]:
    rows = dataset.indices(part)
    return rows, dataset.labels_of(rows)
