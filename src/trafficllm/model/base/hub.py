"""What the local Hub cache holds of a model, and what is missing: looked up on disk, never asked of the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.files import inside
from trafficllm.model.base.folder import INDEX, WEIGHTS, index_of, shards

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Cached:
    """A Hub name in the cache: its snapshot `folder` (None: nothing there) and the files `missing`, with sizes where known."""

    folder: Path | None
    missing: tuple[str, ...]


def cached(name: str) -> Cached:
    """Look a Hub name ("Qwen/Qwen3-8B") up in the cache of huggingface_hub; nothing is fetched."""
    snapshot = _snapshot(name)
    if snapshot is None:
        return Cached(None, (*NEEDED, f"{WEIGHTS} (or its shards, {INDEX})"))
    missing = [file for file in NEEDED if not (snapshot / file).is_file()]
    return Cached(snapshot, (*missing, *_weights(snapshot)))


def _snapshot(name: str) -> Path | None:
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / ("models--" + name.replace("/", "--"))
    reference = home / "refs" / "main"
    if reference.is_file():
        folder = inside(home / "snapshots", reference.read_text(encoding="utf-8", errors="replace").strip())
        return folder if folder.is_dir() else None
    return next((path for path in sorted(home.glob("snapshots/*")) if path.is_dir()), None)


def _weights(snapshot: Path) -> list[str]:
    """Missing weight files; the index, where it is here, names the shards and their size together."""
    if (snapshot / WEIGHTS).is_file():
        return []
    if not (snapshot / INDEX).is_file():
        return [f"{WEIGHTS} (or its shards, {INDEX})"]
    names = shards(snapshot)
    gone = [file for file in names if not (snapshot / file).is_file()]
    total = (index_of(snapshot).get("metadata") or {}).get("total_size")
    if gone and isinstance(total, int | float):
        gone[-1] += f" ({len(gone)} of {len(names)} shards; all together {total / 1e9:.1f} GB)"
    return gone
