"""What a base's manifest says of it, with types: what the commands show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.model.base.folder import MANIFEST, checked_manifest, read_manifest


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """A base by its manifest: traffic tokens in its vocabulary, tokens of traffic that it was trained on, records that it may have read
    (`seen`), licence ("" where none is named), hash of its weights, what it was made from, and warnings of
    its making."""

    kind: str
    traffic_tokens: int
    trained_tokens: int
    seen: int
    licence: str
    base_sha256: str
    source: Mapping[str, str]
    warnings: tuple[str, ...]


def base_facts(folder: Path, *, check: bool = False) -> BaseFacts:
    """The facts of a base's folder; one without a manifest is a plain model of which nothing is known.

    With `check` its files are compared with their hashes, and ArtifactError is raised where one differs.
    """
    if check:
        return _facts(checked_manifest(folder))
    return _facts(read_manifest(folder) if (folder / MANIFEST).is_file() else {})


def _facts(manifest: Mapping[str, Any]) -> BaseFacts:
    source = {str(key): str(value) for key, value in (manifest.get("source") or {}).items()}
    kind = str(manifest.get("kind", "plain"))
    return BaseFacts(
        kind=kind,
        traffic_tokens=int((manifest.get("tokenizer") or {}).get("tokens_added", 0)),
        trained_tokens=int((manifest.get("training") or {}).get("tokens", 0)) if kind == "traffic" else 0,
        seen=int(manifest.get("seen", 0)),
        licence=source.get("licence", ""),
        base_sha256=str(manifest.get("base_sha256", "")),
        source=source,
        warnings=tuple(map(str, [*(manifest.get("imported") or {}).get("warnings", ()), *manifest.get("warnings", ())])),
    )
