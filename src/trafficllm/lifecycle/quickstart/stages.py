"""Stages of a long job: each result is kept with the key of its inputs, reused when the key is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficllm.core.files import json_text, read_json, sha256_bytes, write_json
from trafficllm.core.types import ProgressSink


def stage_key(**inputs: Any) -> str:
    """A hash of everything a stage depends on (plain JSON values)."""
    return sha256_bytes(json_text(inputs).encode())[:16]


@dataclass(slots=True)
class Stages:
    """Runs stages in a work folder.

    A finished stage leaves `stages/<name>.json`; the next run with equal inputs reads it instead of working again and
    names it in `reused`. An interrupted stage leaves none, so it runs again and resumes from its own checkpoints.
    """

    workdir: Path
    progress: ProgressSink
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def run(self, name: str, key: str, work: Callable[[], Any]) -> Any:
        """The stage's result: plain JSON values."""
        path = self.workdir / "stages" / f"{name}.json"
        if path.is_file():
            kept = read_json(path)
            if kept.get("key") == key and all((self.workdir / made).exists() for made in kept.get("made", [])):
                self.reused.append(name)
                self.seconds[name] = kept["seconds"]
                return kept["result"]
        self.progress.update(name, 0, None)
        start = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - start, 2)
        write_json(path, {"key": key, "seconds": self.seconds[name], "result": result, "made": made_by(result)})
        return result


def made_by(result: Any) -> list[str]:
    """Files and folders a stage result names under `made`: relative to the work folder."""
    return list(result.get("made", [])) if isinstance(result, dict) else []
