"""What the page's own paths take and answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trafficllm.capture.flows.rows import FlowRow
from trafficllm.core.results import Captured, Counts, Result
from trafficllm.infer.detector import VerdictRow
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.analyze.hosts import HostRow
from trafficllm.lifecycle.analyze.results import CaptureTotals
from trafficllm.lifecycle.facts.results import FactAnswer
from trafficllm.lifecycle.words.results import Words


class Limits(Result):
    """What a request may take, in bytes and seconds, and whether changes are allowed (`key`: the server has an API key)."""

    version: str
    key: bool
    max_body: int
    max_flows: int
    deadline: float


class AnalysisFact(Result):
    """The only line where the capture alone answers the question."""

    schema_: Literal["trafficllm.serve.fact/1"] = Field(alias="schema")
    fact: FactAnswer


class AnalysisBegin(Result):
    """First line of an analysis for the page: the counts of the whole capture, by which tasks it is judged, and which flows are asked for
    (`filters`, in words; empty for all)."""

    schema_: Literal["trafficllm.serve.begin/1"] = Field(alias="schema")
    tasks: list[str]
    route: TaskRoute | None
    capture: CaptureTotals
    notable: dict[str, list[str]]
    filters: str = ""


class AnalysisEnd(Result):
    """Last line of an analysis for the page: a sentence a task, or who is the most suspicious host where that was asked; and the hosts,
    those with the positive answer first. `words` are the verdicts in words where a question was asked and an instruct base serves."""

    schema_: Literal["trafficllm.serve.end/1"] = Field(alias="schema")
    sentence: Captured
    flows: int
    verdicts: dict[str, Counts]
    above: dict[str, Counts]
    hosts: list[HostRow]
    hosts_total: int
    uncovered: Counts
    words: Words | None = None


class FlowDetail(Result):
    """One flow: its verdict with evidence, its columns in Zeek's words, and its first packets in tshark's fields."""

    verdict: VerdictRow
    flow: FlowRow
    fields: list[str]
    packets: list[list[Captured]]


class KnownFlow(Result):
    """A flow of a labelled capture of the package; `distance` is 1 less the cosine of both representations, 0 where they are equal."""

    label: str
    distance: float
    uid: str
    file: str


class NearestKnown(Result):
    """A flow and the known flows nearest to it, nearest first, of `known_flows` in all. Nearest does not mean the same."""

    uid: str
    known_flows: int
    nearest: list[KnownFlow]


class Promotion(BaseModel):
    """The version that shall be live."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, max_length=32, pattern=r"^v[0-9]+$", examples=["v0002"])


class Correction(BaseModel):
    """What a flow is, by someone who knows."""

    model_config = ConfigDict(extra="forbid")

    uid: str = Field(min_length=1, max_length=64)
    label: str = Field(max_length=128, pattern=r"^\w[\w .()&+,-]*$", description="becomes the name of a folder")


class Corrections(BaseModel):
    """Corrected flows of one capture."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(min_length=1, max_length=128)
    corrections: list[Correction] = Field(min_length=1, max_length=5000)
