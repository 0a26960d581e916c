"""What `generate` answers."""

from __future__ import annotations

from trafficllm.core.results import Counts, Result


class GeneratedPart(Result):
    """Flows of one label in a synthetic capture."""

    task: str
    label: str
    flows: int


class Generate(Result):
    """A synthetic capture and what the model had wrong before the grammar and the compiler put it right.

    `valid` is null where actions were written instead of packets.
    """

    task: str
    label: str
    version: str
    parts: list[GeneratedPart]
    file: str
    flows: int
    packets: int
    prevented: Counts
    repairs: Counts
    addresses_outside_documentation: int
    valid: bool | None
    sha256: str
    seed: int
