"""What captures answer: counts, validity, and the summary of `analyze`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trafficllm.core.results import Captured, Counts, Failure, Result
from trafficllm.infer.detector import VerdictRow
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.analyze.hosts import HostRow
from trafficllm.lifecycle.facts.results import FactAnswer
from trafficllm.lifecycle.words.results import Words


class CaptureTotals(Result):
    """Counts of captures; `first` and `last` in seconds since the Unix epoch."""

    packets: int
    bytes: int
    first: float | None
    last: float | None
    link_types: Counts
    truncated: int
    malformed: Counts
    non_ip: int
    non_flow: int
    flows: int
    evicted: int
    not_read: Counts = Field(default_factory=dict)


class CaptureInfo(CaptureTotals):
    """Counts of captures, and the inputs among several that could not be read."""

    failed: list[Failure] = Field(default_factory=list)


class CaptureCheck(Result):
    """Validity of every packet."""

    valid: bool
    packets: int
    malformed: Counts
    bad_checksums: int
    bad_lengths: int
    tcp_violations: list[str]
    tcp_unseen: int
    unchecked: int


class CaptureConvert(Result):
    """A capture in another container."""

    file: str
    format: Literal["pcap", "pcapng"]
    packets: int


class CaptureAnonymize(CaptureConvert):
    """A capture with every host under another name; `dropped` frames by the reason."""

    payload: Literal["zero", "cut", "keep"]
    hosts: int
    dropped: Counts


class Analyze(Result):
    """The summary of `analyze --json`.

    `filters`: the flows that the question asks for, in words; `overview`: a line of facts; `answer`: sentences to the question; `fact`:
    its answer where the capture alone gives it, no task having judged; `suspicious`: the hosts asked for, the most suspicious first;
    `words`: the answer in words, where a question was asked and an instruct base is there.
    """

    flows: int
    tasks: list[str]
    route: TaskRoute | None
    verdicts: dict[str, Counts]
    above: dict[str, Counts] = Field(default_factory=dict)
    hosts: dict[str, Counts] = Field(default_factory=dict)
    notable_hosts: list[HostRow] = Field(default_factory=list)
    notable: list[VerdictRow]
    interrupted: bool = False
    capture: CaptureTotals
    failed: list[Failure] = Field(default_factory=list)
    filters: str = ""
    overview: str = ""
    answer: Captured = ""
    fact: FactAnswer | None = None
    suspicious: list[HostRow] = Field(default_factory=list)
    words: Words | None = None
