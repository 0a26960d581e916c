"""What an answer in words is, for programs."""

from __future__ import annotations

from typing import Literal

from trafficllm.core.results import Captured, Result


class Words(Result):
    """An answer in words: `by` the `model` in its own words, by its `choice` among the table's sentences, or by the `template`; `why` it
    is not the model's own words, or that they hold; `base` is the model."""

    text: Captured
    by: Literal["model", "choice", "template"]
    why: str
    base: str
