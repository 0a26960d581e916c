"""What a question asks for: a fact, the most suspicious hosts, or a task's verdict; and which flows it is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.lifecycle.facts.filters import Filters, split_filters
from trafficllm.lifecycle.facts.wording import Wanted, has_content, wanted_fact

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.settings import Config, FlowOptions
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.facts.results import FactAnswer

_RANK = re.compile(
    r"\b(?:most|more|highly|least trustworthy|top(?: \d+)?|worst|which|what|who|any)?\s*"
    r"(?:suspicious|suspect|dangerous|harmful|infected|compromised|malicious|alarming|worst|hacked)(?:[- ]looking)?\s+"
    r"(?:hosts?|machines?|devices?|computers?|clients?|addresses|address|ips?|endpoints?)\b"
    r"|\b(?:hosts?|machines?|devices?|computers?|clients?|ips?|who)\b[^.?!]{0,24}\b(?:most (?:suspicious|dangerous)|worst|look at first)\b",
    re.IGNORECASE,
)
SUSPICIOUS = "who is the most suspicious host?"
"""How the question for hosts by their verdicts is shown in a list of what can be asked."""
_SUPERLATIVE = re.compile(r"\b(?:most|worst|top|first)\b", re.IGNORECASE)
_TOP = re.compile(r"\b(?:top|first|worst)\s+(\d{1,4})\b|\b(\d{1,4})\s+most\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Understood:
    """A question taken apart: `fact` where the capture alone answers it; `hosts` > 0 where so many of the most suspicious hosts are asked
    for; `filters` that restrict the flows; `rest`, the words without the filters, for the router."""

    question: str
    rest: str
    filters: Filters = field(default_factory=Filters)
    fact: Wanted | None = None
    hosts: int = 0

    @property
    def asks(self) -> bool:
        """Whether anything is asked beside the filters."""
        return bool(self.question) and (not self.filters or has_content(self.rest))


def understood(question: str) -> Understood:
    """Take a question apart; no model takes part.

    >>> understood("Who is the most suspicious host after 12:03?").hosts
    1
    >>> understood("which TLS versions").fact.fact
    'tls_versions'
    """
    filters, rest = split_filters(question)
    fact = wanted_fact(rest)
    hosts = 0
    if fact is None and _RANK.search(rest) and _SUPERLATIVE.search(rest):
        number = _TOP.search(rest)
        many = 20 if re.search(r"\b(?:hosts|machines|devices|computers|clients|addresses|ips|endpoints)\b", rest, re.IGNORECASE) else 1
        hosts = int(number[1] or number[2]) if number else many
    return Understood(question, rest, filters, fact, hosts)


def answer_fact(
    paths: Sequence[str | Path],
    question: Understood,
    config: Config,
    *,
    progress: ProgressSink | None = None,
    skipped: Skipped | None = None,
) -> FactAnswer | None:
    """The answer to a question that the captures alone answer, None for another one. Raises InputError for files that cannot be read."""
    from trafficllm.lifecycle.facts.answers import answer
    from trafficllm.lifecycle.facts.counting import collect

    if question.fact is None:
        return None
    options: FlowOptions = config.capture
    facts = collect(paths, options, filters=question.filters, progress=progress, skipped=skipped)
    return answer(facts, question.fact)
