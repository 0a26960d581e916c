"""The two learners of `TrafficClassifier`: an adapter on the traffic base, and boosted trees. Both live as plain bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.types import F64, I64, Record

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import Task

TASK = "CLASSIFIER"
KEPT = ("adapter_config.json", "adapter_model.safetensors", "readout.safetensors")
_VALIDATION = 7
"""One record in seven looks on while the adapter learns."""


@lru_cache(maxsize=2)
def _application(base: str) -> Workspace:
    from trafficllm.lifecycle.workspace import Workspace

    return Workspace(base=base)


def _task() -> Task:
    from trafficllm.lifecycle.datasets import own_task
    from trafficllm.records.catalog import load_tasks

    return own_task(TASK, load_tasks())


def fit_adapter(
    records: Sequence[Record], answers: Sequence[str], *, labels: Sequence[str], base: str, seed: int, max_seconds: float | None
) -> dict[str, bytes]:
    """Tune an adapter on masked records; its stock PEFT files by name."""
    from trafficllm.lifecycle.bases.tuning import tune_options
    from trafficllm.model.tuning import job as tune
    from trafficllm.records import prompts

    workspace, task = _application(base), _task()
    queries = [prompts.detection(task, record) for record in records]
    order: list[int] = np.random.default_rng(seed).permutation(len(queries)).tolist()
    watched = order[: len(queries) // _VALIDATION]
    learnt = sorted(set(range(len(queries))) - set(watched))
    data = tune.TuneData(
        [queries[k] for k in learnt],
        [answers[k] for k in learnt],
        tuple(labels),
        [queries[k] for k in watched],
        [answers[k] for k in watched],
    )
    options = tune_options(workspace.config, seed=seed, max_seconds=max_seconds)
    with tempfile.TemporaryDirectory() as folder:
        tune.tune_task(workspace.base, data, Path(folder) / "adapter", options)
        made = [Path(folder) / "adapter" / name for name in KEPT]
        return {path.name: path.read_bytes() for path in made if path.is_file()}  # `readout = 0` makes none


def open_adapter(files: Mapping[str, bytes], labels: Sequence[str], *, base: str) -> LLMScorer:
    """A scorer of masked records; ArtifactError where the files do not fit the base."""
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer

    engine = Engine(_application(base).base)
    with tempfile.TemporaryDirectory() as folder:
        for name in set(files) & set(KEPT):
            (Path(folder) / name).write_bytes(files[name])
        engine.add_adapter(TASK, folder)
    return LLMScorer(engine, TASK, _task(), tuple(labels))


def record_matrix(records: Sequence[Record]) -> F64:
    """Columns of masked records for trees: float64 [n, columns]."""
    from trafficllm.evaluate.baselines.features import everything

    return everything(records)


def fit_trees(X: F64, y: I64, *, classes: int, seed: int) -> bytes:
    """LightGBM on a matrix; the model as its own text."""
    import lightgbm

    parameters: dict[str, Any] = {
        "objective": "multiclass",
        "num_class": classes,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": max(1, min(20, len(y) // 20)),
        "min_data_in_bin": 1,
        "feature_pre_filter": False,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    booster = lightgbm.train(parameters, lightgbm.Dataset(X, y), num_boost_round=60)
    return str(booster.model_to_string()).encode()


def tree_probabilities(model: bytes, X: F64) -> F64:
    """Class probabilities [n, classes] of a matrix."""
    import lightgbm

    booster = lightgbm.Booster(model_str=model.decode())
    return np.asarray(booster.predict(X, num_threads=1), dtype=np.float64)
