"""The manifest of a version, read as a stranger's: schema, own hash and types are checked before anyone believes it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import inside, read_bytes, sha256_bytes
from trafficllm.core.sealed import LARGEST_MANIFEST, opened, parse_object, sealed
from trafficllm.registry import members

FILE, CARD, SIGNATURE = "manifest.json", "README.md", "signature.json"
SCHEMA = "trafficllm.adapter/2"
"""Manifests without a schema are of the first kind: they carry no hash of their own."""
_HASH = re.compile(r"[0-9a-f]{64}")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "task": str,
    "version": str,
    "files": dict,
    "labels": list,
    "calibration": dict,
    "quality": (dict, type(None)),
    "baselines": dict,
    "profile": str,
    "also": list,
    "kept_fields": list,
    "task_definition": dict,
    "parent": (str, type(None)),
    "routing": dict,
    "tuning": dict,
    "gate": (dict, type(None)),
    "background": (dict, type(None)),
    "coverage": (dict, type(None)),
    "members": list,
    "origins": dict,
    "experimental": str,
}
"""Types of the keys that others read without asking; keys not named here may be anything."""
_MOST = 48
_READ: OrderedDict[str, dict[str, Any]] = OrderedDict()
"""Manifests whose own hash was right, by SHA-256 of the file: a command reads its adapters' six times (36 readings of 0.6 MB)."""


def written(manifest: Mapping[str, Any], task: str, version: str, files: Mapping[str, str]) -> str:
    """Text of a new version's manifest: what the registry knows of it is added, and its own hash."""
    return sealed({**manifest, "schema": SCHEMA, "task": task, "version": version, "files": dict(files)})


def read(folder: Path, version: str) -> tuple[dict[str, Any], str]:
    """(manifest, SHA-256 of its file) of a version's folder. Whoever reads the same bytes again gets the same object: change a copy.

    ArtifactError names the file where it is damaged, is not as it was written, belongs to another version, or was written by a newer
    trafficllm; InputError `input.missing` where there is none.
    """
    path = folder / FILE
    try:
        data = read_bytes(path, largest=LARGEST_MANIFEST)
        content = sha256_bytes(data)
        body = _parsed(data, content, path)
    except InputError as error:
        if error.code == "input.missing":
            raise
        raise _damaged(path, f"{error.message}{f' (at {error.where})' if error.where else ''}") from error
    if reasons := _reasons(body, folder, version):
        raise _damaged(path, "; ".join(reasons))
    return body, content


def _parsed(data: bytes, content: str, path: Path) -> dict[str, Any]:
    """The manifest that these bytes are, its schema and its own hash checked; what has passed once is not parsed again."""
    if content in _READ:
        _READ.move_to_end(content)
        return _READ[content]
    body = parse_object(data, path)
    schema = body.get("schema", "")
    if schema not in (SCHEMA, ""):  # any JSON value may stand there, also one that no set can hold
        raise ArtifactError(
            "artifact.schema",
            f"its schema is {str(schema)[:40]!r}, this version reads up to {SCHEMA!r}",
            input=str(path),
            hint="it was written by a newer trafficllm, or is damaged: update, or restore it from a backup",
        )
    opened(body, data, path, required=schema == SCHEMA)
    _READ[content] = body
    while len(_READ) > _MOST:
        _READ.popitem(last=False)
    return body


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        "artifact.damaged", f"no manifest of a version: {why}", input=str(path), hint="restore it, or register the task again"
    )


def _reasons(body: dict[str, Any], folder: Path, version: str) -> list[str]:
    reasons = [f"{key} is {type(body[key]).__name__}" for key, kind in _TYPES.items() if key in body and not isinstance(body[key], kind)]
    if reasons:
        return reasons
    if body.get("version", version) != version:
        reasons.append(f"it is of version {str(body['version'])[:20]!r}")
    if not all(isinstance(label, str) for label in body.get("labels", ())):
        reasons.append("labels that are no text")
    for name, digest in body.get("files", {}).items():
        try:
            inside(folder, name, nested=True)
        except ArtifactError as error:
            reasons.append(error.message)
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            reasons.append(f"{str(name)[:80]!r} has no SHA-256")
    return [
        *reasons,
        *_member_reasons(body),
        *_score_reasons(body),
        *_calibration_reasons(body.get("calibration", {})),
        *_codec_reasons(body),
    ]


def _member_reasons(body: Mapping[str, Any]) -> list[str]:
    """The members that a version names are the adapters that its files are of; one that names none is one adapter alone."""
    files, rows = body.get("files", {}), body.get("members", [])
    below = {name.split("/")[1] for name in files if name.startswith(f"{members.FOLDER}/")}
    named = ["", *(f"{members.FOLDER}/{number}" for number in range(2, len(rows) + 1))] if rows else []
    if [row.get("folder") if isinstance(row, dict) else None for row in rows] != named or len(rows) > members.MOST:
        return ["members are not named by their folders, in order"]
    whole = all((f"{at}/adapter_config.json" if at else "adapter_config.json") in files for at in named)
    return [] if whole and below == {at.split("/")[1] for at in named[1:]} else ["members are not those that lie in its folder"]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _calibration_reasons(calibration: Mapping[str, Any]) -> list[str]:
    """What is applied to every score: a temperature above 0, a method by name, a threshold, parameters as objects."""
    reasons = []
    temperature, unknown = calibration.get("temperature", 1.0), calibration.get("unknown") or {}
    if not _number(temperature) or not temperature > 0:
        reasons.append("calibration.temperature is no number above 0")
    rows = [unknown, *([unknown["bare"]] if isinstance(unknown, dict) and unknown.get("bare") else [])]
    for row in rows:
        if not isinstance(row, dict):
            reasons.append("calibration.unknown is no object")
        elif (
            not isinstance(row.get("method", ""), str)
            or not isinstance(row.get("params") or {}, dict)
            or not _number(row.get("threshold", 0))
        ):
            reasons.append("calibration.unknown has no method, parameters and threshold")
    return reasons


def _codec_reasons(body: Mapping[str, Any]) -> list[str]:
    codec = body.get("codec", [0] * 5)
    whole = isinstance(codec, list) and len(codec) == 5 and all(type(value) in {int, bool} and 0 <= value < 10**6 for value in codec)
    return [] if whole else ["codec is no list of five numbers"]


def _score_reasons(body: Mapping[str, Any]) -> list[str]:
    """Figures that cards and tables format: numbers or absent."""
    reasons = []
    baselines = body.get("baselines", {})
    rows = {"quality": body.get("quality") or {}, **{f"baselines.{name}": row for name, row in baselines.items()}}
    for name, row in rows.items():
        if not isinstance(row, dict):
            reasons.append(f"{name[:60]} is no object")
            continue
        interval = row.get("ci95", [0.0, 1.0])
        numbers = [row.get(key) for key in ("macro_f1", "accuracy") if row.get(key) is not None]
        pair = interval if isinstance(interval, list) and len(interval) == 2 else ["no pair"]
        if not all(map(_number, (*numbers, *pair))):
            reasons.append(f"{name[:60]} holds no numbers")
    return reasons
