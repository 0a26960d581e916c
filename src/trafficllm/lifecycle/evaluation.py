"""An adapter on a data set's test part, beside the baselines on the same masked records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import read_json
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines import Part
    from trafficllm.lifecycle.application import Application
    from trafficllm.records.dataset import Dataset

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Chosen:
    """The adapter to score: where it lies, what it answers, how it is calibrated."""

    name: str
    folder: Path
    labels: tuple[str, ...]
    calibration: Mapping[str, Any]
    version: str


def pick(application: Application, data: Dataset, adapter: Path | None) -> Chosen:
    """The adapter folder, or the task's live version, checked against the data set: all reasons at once."""
    from trafficllm.records.units import codec_hash
    from trafficllm.registry import fit

    if adapter is None:
        live = application.registry.live(data.task.id)
        fit.check(live.manifest, application.base.manifest, codec_hash(), profile=data.profile)
        calibration = live.manifest.get("calibration", {})
        return Chosen(data.task.id, live.path, tuple(live.manifest["labels"]), calibration, live.version)
    for name in ("manifest.json", "tune.json"):
        if (adapter / name).is_file():
            facts = read_json(adapter / name)
            return Chosen(
                str(adapter),
                adapter,
                tuple(facts["labels"]),
                facts.get("calibration", {}),
                facts.get("version", ""),
            )
    hint = "name a folder made by `tune task`, or a version's folder"
    raise ArtifactError("artifact.adapter", "no adapter that says its labels", input=str(adapter), hint=hint)


def evaluate(
    application: Application,
    data: Path,
    *,
    adapter: Path | None,
    baselines: bool,
    seed: int,
    progress: ProgressSink,
) -> dict[str, Any]:
    """The quality object of an adapter with its baselines (contract: `evaluate run`)."""
    from trafficllm.evaluate import baselines as trees
    from trafficllm.evaluate.quality import quality, seen_by_base
    from trafficllm.model.base import load_seen
    from trafficllm.records.dataset import load

    opened = load(data)
    test = opened.indices("test")
    if not test:
        raise InputError(
            "input.no_records",
            "the data set has no test records",
            input=str(data),
            hint="build it from more captures",
        )
    chosen = pick(application, opened, adapter)
    hashes = opened.hashes(test)
    score = partial(
        quality,
        groups=opened.groups(test),
        unique_hashes=hashes,
        split=opened.manifest["split"]["unit"],
        mask=opened.profile,
        leaky=opened.manifest["leaky"],
        seen_by_base=seen_by_base(hashes, set(load_seen(application.base.path).tolist())),
        seeds=[seed],
    )
    truth = opened.labels_of(test)
    labels = sorted({*chosen.labels, *truth})
    answers = _answers(application, opened, chosen, test, progress)
    body = {
        **score(labels, truth, answers),
        "task": opened.task.id,
        "version": chosen.version,
        "adapter": chosen.name,
    }
    if not baselines:
        return body
    progress.update("baselines", 0, None)
    parts = [_part(opened, opened.indices(part)) for part in ("train", "val", "test")]
    outcomes = trees.run(*parts, labels=labels, seed=seed)
    return {**body, "baselines": trees.table(outcomes, lambda y, p: score(labels, truth, y, probabilities=p))}


def _answers(
    application: Application, data: Dataset, chosen: Chosen, rows: Sequence[int], progress: ProgressSink
) -> list[str]:
    """The likeliest label of each test record; unknown is no answer here, since every test record has a label."""
    from trafficllm.infer.scorer import LLMScorer

    engine = application.engine
    engine.add_adapter(chosen.name, chosen.folder)
    scorer = LLMScorer(engine, chosen.name, data.task, chosen.labels, chosen.calibration)
    out: list[str] = []
    for at in range(0, len(rows), _CHUNK):
        scores = scorer.score(data.records(rows[at : at + _CHUNK]))
        out += [chosen.labels[k] for k in scores.probabilities.argmax(axis=1).tolist()]
        progress.update("scoring", len(out), len(rows))
    return out


def _part(data: Dataset, rows: Sequence[int]) -> Part:
    from trafficllm.evaluate.baselines import Part

    return Part(data.records(rows), data.labels_of(rows), data.raw_records(rows), data.meta(rows))
