"""An adapter on a data set's test part, beside the baselines on the same masked records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import read_json
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.learn import SEARCH_SECONDS

if TYPE_CHECKING:
    from trafficllm.lifecycle.application import Application
    from trafficllm.records.dataset import Dataset


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
    from trafficllm.infer.scorer import LLMScorer
    from trafficllm.lifecycle import cascade, scoring
    from trafficllm.records.dataset import load

    opened = load(data)
    chosen = pick(application, opened, adapter)
    engine = application.engine
    engine.add_adapter(chosen.name, chosen.folder)
    progress.update("scoring", 0, None)
    scorer = LLMScorer(
        engine, chosen.name, opened.task, chosen.labels, chosen.calibration, codec=opened.codec
    )
    quality, cost, scores = scoring.assess(scorer, opened, application.base, seed=seed)
    body = {
        **quality,
        "task": opened.task.id,
        "adapter": chosen.name,
        "version": chosen.version,
        "cost": cost,
        "baselines": {},
        "cascade": None,
    }
    if baselines:
        progress.update("baselines", 0, None)
        rate = cost["flows_per_second"]
        body |= cascade.beside(opened, application.base, scores, rate, seed=seed, budget_s=SEARCH_SECONDS)
    return body
