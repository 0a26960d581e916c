"""Upkeep of a registry: list and show versions, promote, roll back, verify, export, remove old ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_dir
from trafficllm.evaluate.results import Quality
from trafficllm.lifecycle.adapters.replay import FOLDER
from trafficllm.lifecycle.adapters.results import (
    AdapterChange,
    AdapterExport,
    AdapterGc,
    AdapterList,
    AdapterRow,
    AdapterShow,
    AdapterSign,
    AdapterVerify,
    DamageRow,
)

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.registry.versions import Version

SMALL = 1 << 30
"""Bytes of weights up to which a merged export is written in float32."""


def list_adapters(workspace: Workspace) -> AdapterList:
    """Every version with its quality (contract: `adapter list`); `failed` names the tasks and versions that cannot be read."""
    rows = []
    for version in workspace.registry.list():
        quality = version.manifest.get("quality") or {}
        laboratory = version.laboratory_only
        rows.append(
            AdapterRow(
                **version.as_dict(),
                macro_f1=quality.get("macro_f1"),
                path=str(version.path),
                source=version.source,
                laboratory_only=laboratory,
                experimental=version.experimental,
            )
        )
    return AdapterList(registry=str(workspace.registry_root), adapters=rows, **failed(workspace))


def failed(workspace: Workspace) -> dict[str, list[DamageRow]]:
    """`failed`: the damaged tasks and versions of the registry with their errors; nothing where all is well."""
    damages = [DamageRow(**damage.as_dict()) for damage in workspace.registry.damaged()]
    return {"failed": damages} if damages else {}


def sign(workspace: Workspace, task: str, key: Path, *, version: str = "") -> AdapterSign:
    """Sign a version, by default the live one, with an Ed25519 key (`adapter sign`)."""
    registry = workspace.registry
    name = version or registry.live(task, signed=False).version
    signed = registry.sign(task, name, key)
    return AdapterSign(task=task, version=name, public_key=signed["public_key"], signature=signed["signature"])


def show_adapter(workspace: Workspace, task: str, version: str = "") -> AdapterShow:
    """A version, by default the live one, with its manifest (contract: `adapter show`)."""
    shown = workspace.registry.show(task, version) if version else workspace.registry.live(task, signed=False)
    size = sum(path.stat().st_size for path in shown.path.rglob("*.safetensors"))
    return AdapterShow(**shown.as_dict(), path=str(shown.path), manifest=dict(shown.manifest), source=shown.source, weight_bytes=size)


def promote(workspace: Workspace, task: str, version: str) -> AdapterChange:
    """Make a version live; a shipped one is copied into the registry first."""
    return _change(workspace.registry.promote(task, version))


def rollback(workspace: Workspace, task: str) -> AdapterChange:
    """Make the previously live version live again."""
    return _change(workspace.registry.rollback(task))


def _change(version: Version) -> AdapterChange:
    try:
        quality = Quality.model_validate(version.manifest["quality"])
    except (KeyError, ValidationError):  # a generator, a router, or a score without its context: none is shown
        quality = None
    return AdapterChange(**version.as_dict(), quality=quality, baselines=version.manifest.get("baselines"))


def gc(workspace: Workspace, task: str = "", *, keep: int = 3) -> AdapterGc:
    """Remove all versions but the live one, the last `keep` and the last `keep` live ones (contract: `adapter gc`)."""
    only = workspace.task(task).id if task else None
    return AdapterGc(registry=str(workspace.registry_root), removed=list(workspace.registry.gc(only, keep=keep)))


def verify(workspace: Workspace, task: str = "", *, key: Path | None = None) -> AdapterVerify:
    """Compare every version, or a task's, with its manifest (contract: `adapter verify`); ArtifactError with every difference.

    With a public `key`, or one in the settings, each must also carry a valid signature by it.
    """
    registry, only = workspace.registry, workspace.task(task).id if task else None
    changed = registry.verify(only, key=key)
    if changed:
        reasons = [f"{name}: {', '.join(differences)}" for name, differences in sorted(changed.items())]
        raise ArtifactError(
            "artifact.changed",
            "not as it was registered: " + "; ".join(reasons),
            input=str(registry.root),
            hint="roll back to a version that is whole, or register the task again",
        )
    versions = registry.list(only)
    return AdapterVerify(registry=str(registry.root), versions=len(versions), tasks=sorted({v.task for v in versions}))


def export(workspace: Workspace, task: str, out: Path, *, version: str = "", merged: bool = False) -> AdapterExport:
    """A folder that stock PEFT loads, or with `merged` an ordinary checkpoint (contract: `adapter export`).

    The sample of old records stays in the registry. Of several members the folder is the first, and holds the others in `members`;
    UsageError where they are to be merged into one checkpoint.
    """
    registry = workspace.registry
    exported = registry.show(task, version) if version else registry.live(task)
    count = len(exported.manifest.get("members") or [None])
    if out.exists():
        raise UsageError("usage.out", "this exists already", input=str(out), hint="name a new folder with -o")
    if merged and count > 1:
        why = f"{task} {exported.version} has {count} members whose answers are averaged: no one checkpoint answers so"
        hint = "export it without --merged, and merge one of its folders with PEFT; or register the task with --members 1"
        raise UsageError("usage.members", why, input="--merged", hint=hint)
    if merged:
        _merge(workspace, exported, out)
    else:
        registry.export(task, exported.version, out, leave_out=[FOLDER])
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return AdapterExport(task=task, version=exported.version, out=str(out), merged=merged, files=files, members=count)


def _merge(workspace: Workspace, version: Version, out: Path) -> None:
    """The weights are added into a base of their own, as merging changes the model it is given: a small one in float32, where nothing is
    rounded away, a large one as its files hold it. The readouts lie beside them, the one with the weight that calibration chose."""
    from trafficllm.infer.engine.scorer import WEIGHT
    from trafficllm.model.adapter import lora
    from trafficllm.model.adapter.readout import UMBRELLA, Readout
    from trafficllm.model.base.folder import weight_files
    from trafficllm.model.base.load import load_base, resolve
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.registry import fit

    folder = resolve(workspace.base_name)
    small = sum((folder / name).stat().st_size for name in weight_files(folder)) <= SMALL
    base = load_base(folder, dtype="float32" if small else "stored")
    fit.check(version.manifest, base.manifest, codec_hash())
    model = lora.merge(base.model, version.path)
    readout, umbrella = Readout.load(version.path), Readout.load(version.path, UMBRELLA)
    calibration = version.manifest.get("calibration") or {}
    with atomic_dir(out) as temporary:
        model.save_pretrained(temporary)
        base.tokenizer.save_pretrained(temporary)
        if readout is not None:
            replace(readout, weight=float(calibration.get(WEIGHT, readout.weight))).save(temporary)
        if umbrella is not None:
            umbrella.save(temporary, UMBRELLA)
