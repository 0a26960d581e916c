"""What the router answers."""

from __future__ import annotations

from trafficllm.core.results import Result, Share


class Probability(Result):
    """A task and how likely the question asks for it."""

    id: str
    probability: Share


class TaskRoute(Result):
    """Which tasks a question asks for; `facts`, where the word model is heard: whether it asks for facts of a whole capture."""

    tasks: list[Probability]
    none: Share
    facts: Share | None = None
