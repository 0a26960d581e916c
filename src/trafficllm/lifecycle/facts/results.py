"""What a question about facts is answered with."""

from __future__ import annotations

from typing import TypeAlias

from trafficllm.core.results import Captured, Result, Share

Cell: TypeAlias = int | float | str | None


class FactAnswer(Result):
    """An answer counted from the capture: `sentence` says it, `rows` under `columns` are the same as a table, at most `shown` of `total`.

    `value` is the one number or time asked for, where there is one. `probability`: share of the question's words that the fact explains.
    `filters` says which flows were counted, empty for all.
    """

    fact: str
    asked: str
    probability: Share
    filters: str = ""
    sentence: Captured
    value: Cell = None
    columns: list[str]
    rows: list[list[Cell]]
    shown: int
    total: int
