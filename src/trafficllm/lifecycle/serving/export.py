"""`adapter export --for vllm`: a version as LoRA folders that vLLM loads, and what a client needs to score with them.

Readouts read hidden states, which such a server does not give: there the label tree answers alone. Its temperature and unknown score are
fitted here, in process, on the validation part of a data set, whose captures tuning has not learnt; without a data set they are the
version's own, as far as they need no states.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core import calibration as formulas
from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_dir, read_json, write_json
from trafficllm.core.sealed import sealed
from trafficllm.infer.remote.served import FILE, KEYS, SCHEMA, names_of
from trafficllm.lifecycle.adapters.results import AdapterExport
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.registry.versions import Version

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA = ("r", "lora_alpha", "target_modules", "bias", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""What of PEFT's configuration vLLM reads."""
_REFUSED = ("modules_to_save", "use_dora", "lora_bias", "trainable_token_indices", "rank_pattern", "alpha_pattern")
"""Keys that vLLM has no way to serve where they are set."""


def export_for_vllm(workspace: Workspace, task: str, out: Path, *, version: str = "", data: Path | None = None) -> AdapterExport:
    """Write each member of a version, by default the live one, as `out/NAME`, and `out/serving.json` beside them.

    `data`: a data set's folder, on whose validation part answers alone are calibrated, see `answers_alone`; without it they take the
    version's own temperature and state-free unknown score, see `without_states`. Raises ArtifactError for an adapter that vLLM cannot
    serve, UsageError where `out` exists.
    """
    exported = workspace.registry.show(task, version) if version else workspace.registry.live(task)
    if out.exists():
        raise UsageError("usage.out", "this exists already", input=str(out), hint="name a new folder with -o")
    folders = members.folders(exported.path)
    names = names_of(exported.task, len(folders))
    configs = [_config(folder, exported) for folder in folders]
    manifest = exported.manifest
    if manifest.get("task_definition", {}).get("kind") != "detection":
        raise ArtifactError("artifact.kind", f"{task} gives no verdicts, so no server can", input=task, hint="export it without --for")
    body = {key: manifest[key] for key in KEYS if key in manifest}
    body |= {"schema": SCHEMA, "task": exported.task, "version": exported.version, "models": list(names)}
    body |= {"rank": max(int(config["r"]) for config in configs), "calibration": _calibration(workspace, exported, data)}
    with atomic_dir(out) as temporary:
        for name, folder, config in zip(names, folders, configs, strict=True):
            (temporary / name).mkdir()
            write_json(temporary / name / CONFIG, config)
            shutil.copyfile(folder / WEIGHTS, temporary / name / WEIGHTS)
        (temporary / FILE).write_text(sealed(body), encoding="utf-8")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return AdapterExport(task=exported.task, version=exported.version, out=str(out), merged=False, files=files, members=len(folders))


def _config(folder: Path, version: Version) -> Mapping[str, Any]:
    """PEFT's configuration as far as vLLM reads it; ArtifactError where it holds something else."""
    body = read_json(folder / CONFIG)
    wrong = [key for key in _REFUSED if body.get(key)] if isinstance(body, dict) else ["the file"]
    if wrong or body.get("peft_type") != "LORA" or body.get("bias", "none") != "none":
        why = f"vLLM serves LoRA on Linear layers, this one has {', '.join(wrong) or body.get('peft_type')}"
        raise ArtifactError("artifact.vllm", why, input=f"{version.task} {version.version}", hint="export it --merged as a whole base")
    kept = {key: body[key] for key in _LORA if key in body and body[key] not in ({}, None)}
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "base_model_name_or_path": "", **kept}


def without_states(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What of a version's calibration serves answers alone: the temperature, and the unknown score that reads log-probabilities.

    Sets of labels are left out: they were fitted to other probabilities.

    >>> without_states({"temperature": 1.2, "unknown": {"method": "nearest", "bare": {"method": "energy", "threshold": 2.5}}})
    {'temperature': 1.2, 'unknown': {'method': 'energy', 'threshold': 2.5}}
    """
    own = calibration.get("unknown") or {}
    bare = own.get("bare") or own
    serves = bare.get("method") and not formulas.NEEDS.get(bare["method"])
    return {"temperature": float(calibration.get("temperature", 1.0))} | ({"unknown": dict(bare)} if serves else {})


def answers_alone(scorer: LLMScorer, dataset: Dataset, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, unknown score and threshold of the label tree's answers from the validation part of a data set.

    The temperature stays as near to that of the version's own `calibration` as validation captures allow, see
    `evaluate.calibrate.temperature_near`. Without validation rows it is `without_states(calibration)`. The scorer stays as it is.
    """
    from trafficllm.evaluate import calibrate as fitting
    from trafficllm.lifecycle.studies import scoring

    rows, y = scoring.rows(dataset, "val", scorer.labels)
    if not rows:
        return without_states(calibration)
    step = max(1, -(-len(rows) // scoring.CALIBRATION_ROWS))
    rows, y = rows[::step], y[::step]
    logits = tree_scores(scorer, dataset, rows).logits
    start = float(calibration.get("temperature", 1.0))
    return fitting.fit(logits, y, scorer.labels, groups=dataset.groups(rows), start=start).as_dict()


def tree_scores(scorer: LLMScorer, dataset: Dataset, rows: Sequence[int]) -> Scores:
    """Scores of a data set's rows by the label tree alone, uncalibrated: the log-probabilities that a server computes."""
    from trafficllm.infer.engine.scorer import WEIGHT
    from trafficllm.lifecycle.studies import scoring

    past, scorer.calibration = scorer.calibration, {WEIGHT: 0.0}
    try:
        return scoring.score_rows(scorer, dataset, rows)
    finally:
        scorer.calibration = past


def _calibration(workspace: Workspace, version: Version, data: Path | None) -> dict[str, Any]:
    """The calibration that goes along."""
    own = version.manifest.get("calibration", {})
    if data is None:
        return without_states(own)
    from trafficllm.infer.detector import TaskModel
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.records.dataset.dataset import load

    scorer = TaskModel.of(workspace.engine, workspace.task(version.task), version).scorer
    assert isinstance(scorer, LLMScorer)
    return answers_alone(scorer, load(data), own)
