"""What the router answers."""

from __future__ import annotations

from trafficllm.core.results import Result, Share


class Probability(Result):
    """A task and how likely the question asks for it."""

    id: str
    probability: Share


class TaskRoute(Result):
    """Which tasks a question asks for."""

    tasks: list[Probability]
    none: Share
