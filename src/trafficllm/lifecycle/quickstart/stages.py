"""Stages of a long job: each result is kept with the key of its inputs, reused when the key is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trafficllm.core.files import json_text, read_json, sha256_bytes, write_json
from trafficllm.core.results import Result
from trafficllm.core.types import ProgressSink

R = TypeVar("R", bound=Result)


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

    def run(self, name: str, key: str, kind: type[R], work: Callable[[], R]) -> R:
        """The stage's result, a value of `kind`. Files and folders that it names under `made` must still be there to be reused."""
        path = self.workdir / "stages" / f"{name}.json"
        stored = read_json(path) if path.is_file() else {}
        if stored.get("key") == key and all((self.workdir / made).exists() for made in stored.get("made", [])):
            with suppress(ValidationError):  # an earlier program's result of another form: work again
                result = kind.model_validate(stored["result"])
                self.reused.append(name)
                self.seconds[name] = stored["seconds"]
                return result
        self.progress.update(name, 0, None)
        start = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - start, 2)
        made = list(getattr(result, "made", ()))
        write_json(path, {"key": key, "seconds": self.seconds[name], "result": result.as_dict(), "made": made})
        return result
