"""A question that captures answer without a model, as the object of `analyze --json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.lifecycle.analyze.captures import failures, totals
from trafficllm.lifecycle.analyze.results import Analyze
from trafficllm.lifecycle.facts.answers import SHOWN, answer
from trafficllm.lifecycle.facts.counting import collect

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.settings import Config
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.facts.asking import Understood


def analyze_facts(
    paths: Sequence[str | Path],
    question: Understood,
    config: Config,
    *,
    progress: ProgressSink | None = None,
    skipped: Skipped | None = None,
    most: int = SHOWN,
) -> Analyze:
    """The answer to a question for a fact, its table cut to `most` rows; its `flows` are those that were counted.

    Raises InputError for files that cannot be read.
    """
    assert question.fact is not None
    facts = collect(paths, config.capture, filters=question.filters, progress=progress, skipped=skipped)
    fact = answer(facts, question.fact, most=most)
    return Analyze(
        flows=facts.flows,
        tasks=[],
        route=None,
        verdicts={},
        notable=[],
        capture=totals(facts.counts),
        failed=failures(skipped),
        filters=fact.filters,
        answer=fact.sentence,
        fact=fact,
    )
