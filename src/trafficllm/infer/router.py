"""The router: a question's words choose the tasks, by scoring the registered task ids and "none" with the stage 1 adapter.

Only the question takes part. Captured bytes never reach it, so no payload can change the routing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from trafficllm.core.errors import UsageError
from trafficllm.infer.engine import Engine
from trafficllm.records import prompts

NONE = "none"
THRESHOLD = 0.3
"""A question that names two tasks splits its probability between them, three tasks at most leave .33 each. On training authors
kept for validation, exact task sets: .577 at .2, .611 at .3, .625 at .4, where a third task can no longer be named."""
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Route:
    """Which tasks a question asks for, likeliest first, and the probability that it asks for none."""

    tasks: tuple[tuple[str, float], ...]
    none: float

    def row(self) -> dict[str, Any]:
        """The `task route --json` object."""
        return {"tasks": [{"id": name, "probability": p} for name, p in self.tasks], "none": self.none}


class Router:
    """Routes questions over `tasks` (ids) with a stage 1 adapter.

    A task is chosen when its probability reaches `threshold`; nothing is chosen when "none" is the likeliest. UsageError
    for a threshold outside (0, 1].
    """

    def __init__(
        self, engine: Engine, adapter: str, tasks: Sequence[str], threshold: float = THRESHOLD, *, temperature: float = 1.0
    ) -> None:
        if not 0 < threshold <= 1:
            raise UsageError("usage.option", "the routing threshold lies between 0 and 1", input=str(threshold))
        self.engine = engine
        self.adapter = adapter
        self.tasks = tuple(tasks)
        self.threshold = threshold
        self.calibration = {"temperature": temperature}

    @classmethod
    def of(cls, engine: Engine, adapter: str, manifest: Mapping[str, Any], tasks: Sequence[str] | None = None) -> Router:
        """A router as its version's manifest describes it: tasks (unless given), threshold and temperature."""
        known = [name for name in manifest.get("labels", ()) if name != NONE] if tasks is None else tasks
        settings = {key: manifest[key] for key in ("threshold", "temperature") if key in manifest}
        return cls(engine, adapter, known, **settings)

    def route(self, text: str) -> Route:
        """The tasks one question asks for."""
        return next(self.stream([text]))

    def stream(self, texts: Iterable[str]) -> Iterator[Route]:
        """Routes of many questions, in order, a batch at a time."""
        source = iter(texts)
        while chunk := list(islice(source, _CHUNK)):
            yield from self._routes(chunk)

    def _routes(self, texts: Sequence[str]) -> list[Route]:
        from trafficllm.infer.calibration import apply

        asked = [prompts.routing(text) for text in texts]
        scores = self.engine.score(asked, (*self.tasks, NONE), adapter=self.adapter)
        return [self._choose(row) for row in apply(self.calibration, scores.logits).tolist()]

    def _choose(self, p: Sequence[float]) -> Route:
        *ours, none = p
        ranked = sorted(zip(self.tasks, ours, strict=True), key=lambda pair: (-pair[1], pair[0]))
        if not ranked or none >= ranked[0][1]:
            return Route((), none)
        # The likeliest task is always chosen: with many tasks even a clear question may stay below the threshold.
        return Route(tuple(pair for k, pair in enumerate(ranked) if k == 0 or pair[1] >= self.threshold), none)
