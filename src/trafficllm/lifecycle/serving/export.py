"""`adapter export --for vllm`: a version as LoRA folders that vLLM loads, and what a client needs to score with them.

Readouts read hidden states, which such a server does not give: there the label trie answers alone, with a temperature and an unknown score
of its own, fitted here in process on the validation part of a data set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_dir, read_json, write_json
from trafficllm.core.sealed import sealed
from trafficllm.infer.remote.served import FILE, KEYS, SCHEMA, names_of
from trafficllm.lifecycle.adapters.results import AdapterExport
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.registry.versions import Version

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA = ("r", "lora_alpha", "target_modules", "bias", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""What of PEFT's configuration vLLM reads."""
_REFUSED = ("modules_to_save", "use_dora", "lora_bias", "trainable_token_indices", "rank_pattern", "alpha_pattern")
"""Keys that vLLM has no way to serve where they are set."""


def export_for_vllm(workspace: Workspace, task: str, out: Path, *, version: str = "", data: Path | None = None) -> AdapterExport:
    """Write each member of a version, by default the live one, as `out/NAME`, and `out/serving.json` beside them.

    `data`: a data set's folder, on whose validation part answers alone are calibrated; without it probabilities are as the trie has them,
    and no flow is `unknown`. Raises ArtifactError for an adapter that vLLM cannot serve, UsageError where `out` exists.
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
    body |= {"rank": max(int(config["r"]) for config in configs), "calibration": _calibration(workspace, exported, data) if data else {}}
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


def _calibration(workspace: Workspace, version: Version, data: Path) -> dict[str, Any]:
    """Temperature, unknown score and threshold of the trie's answers, from the validation part of a data set."""
    from trafficllm.evaluate import calibrate as fitting
    from trafficllm.infer.detector import TaskModel
    from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer
    from trafficllm.lifecycle.studies import scoring
    from trafficllm.records.dataset.dataset import load

    model = TaskModel.of(workspace.engine, workspace.task(version.task), version)
    scorer = model.scorer
    assert isinstance(scorer, LLMScorer)
    dataset = load(data)
    rows, y = scoring.rows(dataset, "val", scorer.labels)
    step = max(1, -(-len(rows) // scoring.CALIBRATION_ROWS))
    rows, y = rows[::step], y[::step]
    scorer.calibration = {WEIGHT: 0.0}
    logits = scoring.score_rows(scorer, dataset, rows).logits
    return fitting.fit(logits, y, scorer.labels, groups=dataset.groups(rows)).as_dict()
