"""Does an adapter fit the base, codec, masks and labels it is to serve with? All reasons at once, before loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trafficllm.core.errors import ArtifactError

KEYS = ("base_sha256", "tokenizer_sha256", "codec_hash", "profile", "labels")
"""What a manifest must say for its adapter to be served; the first two are the base manifest's keys too."""


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) > 16 else text


def _differs(what: str, mine: object, theirs: object) -> list[str]:
    return [] if mine == theirs else [f"{what}: adapter {_short(mine)}, here {_short(theirs)}"]


def _label_reasons(mine: object, theirs: Sequence[str]) -> list[str]:
    if not isinstance(mine, list | tuple):
        return ["labels: the adapter names none"]
    lost, new = [x for x in mine if x not in theirs], [x for x in theirs if x not in mine]
    reasons = [f"labels only in the adapter: {', '.join(map(str, lost))}"] if lost else []
    reasons += [f"labels it never learnt: {', '.join(new)}"] if new else []
    if not reasons and list(mine) != list(theirs):
        reasons.append("labels: same names in another order")
    return reasons


def reasons(
    manifest: Mapping[str, Any], base_manifest: Mapping[str, Any], codec_hash: str, labels: Sequence[str] | None, profile: str | None
) -> list[str]:
    """Why the adapter does not fit, empty when it does; `labels` or `profile` None: whatever the adapter has."""
    misfits = [f"{key} is missing from its manifest" for key in KEYS if key not in manifest]
    here = {**{key: base_manifest.get(key) for key in KEYS[:2]}, "codec_hash": codec_hash}
    first_kind = "schema" not in manifest  # those recorded no hash of a base without a manifest of its own
    for key, value in here.items():
        if key in manifest and not (first_kind and manifest[key] is None):
            misfits += _differs(key, manifest[key], value)
    if profile is not None and "profile" in manifest:
        misfits += _differs("mask profile", manifest["profile"], profile)
    if labels is not None and "labels" in manifest:
        misfits += _label_reasons(manifest["labels"], labels)
    return misfits


def check(
    manifest: Mapping[str, Any],
    base_manifest: Mapping[str, Any],
    codec_hash: str,
    labels: Sequence[str] | None = None,
    profile: str | None = None,
) -> None:
    """Refuse an adapter that does not fit: ArtifactError with every reason."""
    misfits = reasons(manifest, base_manifest, codec_hash, labels, profile)
    if misfits:
        name = f"{manifest.get('task', 'adapter')} {manifest.get('version', '')}".strip()
        raise ArtifactError(
            "artifact.fit",
            "the adapter does not fit: " + "; ".join(misfits),
            input=name,
            hint="use the base it was trained on, or train it again: `trafficllm adapter register`",
        )
