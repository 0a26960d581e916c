"""Looking after a registry: are its files as they were registered, and a version for use elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_dir
from trafficllm.lifecycle.adapters.replay import FOLDER

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Application
    from trafficllm.registry.store import Registry
    from trafficllm.registry.versions import Version

SMALL = 1 << 30
"""Bytes of weights up to which a merged export is written in float32."""


def verify(registry: Registry, task: str | None) -> dict[str, Any]:
    """How many versions were compared with their manifests; ArtifactError with every difference."""
    found = registry.verify(task)
    if found:
        reasons = [f"{name}: {', '.join(differences)}" for name, differences in sorted(found.items())]
        raise ArtifactError(
            "artifact.changed",
            "not as it was registered: " + "; ".join(reasons),
            input=str(registry.root),
            hint="roll back to a version that is whole, or register the task again",
        )
    versions = registry.list(task)
    return {"registry": str(registry.root), "versions": len(versions), "tasks": sorted({v.task for v in versions})}


def export(application: Application, task: str, out: Path, *, version: str, merged: bool) -> dict[str, Any]:
    """A stock PEFT folder, or with `merged` an ordinary checkpoint; the sample of old records stays in the registry."""
    registry = application.registry
    chosen = registry.show(task, version) if version else registry.live(task)
    if out.exists():
        raise UsageError("usage.out", "this exists already", input=str(out), hint="name a new folder with -o")
    if merged:
        _merge(application, chosen, out)
    else:
        registry.export(task, chosen.version, out, leave_out=[FOLDER])
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {"task": task, "version": chosen.version, "out": str(out), "merged": merged, "files": files}


def _merge(application: Application, version: Version, out: Path) -> None:
    """The weights are added into a base of their own, as merging changes the model it is given: a small one in float32, where nothing is
    rounded away, a large one as its files hold it. The readout lies beside them, with the weight that calibration chose."""
    from trafficllm.infer.engine.scorer import WEIGHT
    from trafficllm.model.adapter import lora
    from trafficllm.model.adapter.readout import Readout
    from trafficllm.model.base.extend import weight_files
    from trafficllm.model.base.load import load_base, resolve
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.registry import fit

    folder = resolve(application.base_name)
    small = sum((folder / name).stat().st_size for name in weight_files(folder)) <= SMALL
    base = load_base(folder, dtype="float32" if small else "stored")
    fit.check(version.manifest, base.manifest, codec_hash())
    model = lora.merge(base.model, version.path)
    readout, calibration = Readout.load(version.path), version.manifest.get("calibration") or {}
    with atomic_dir(out) as temporary:
        model.save_pretrained(temporary)
        base.tokenizer.save_pretrained(temporary)
        if readout is not None:
            replace(readout, weight=float(calibration.get(WEIGHT, readout.weight))).save(temporary)
