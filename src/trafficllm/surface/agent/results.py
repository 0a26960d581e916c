"""What the tools answer: each a closed type, from which the tool's output schema is written. Captured text arrives in these marked."""

from __future__ import annotations

from pydantic import Field

from trafficllm.core.results import Captured, Counts, Result, Share


class RoutedTask(Result):
    """A task that the question asks for."""

    id: str
    probability: Share


class FlowBrief(Result):
    """One flow and its verdict by one task; `flow` is its id, the same whenever the capture is read."""

    flow: str = Field(description="Id for explain_flow and get_packets.")
    start: str = Field(description="First packet, ISO 8601, UTC.")
    seconds: float
    orig_h: str = Field(description="The host that opened the flow.")
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str
    packets: int
    task: str
    label: Captured = Field(description='The verdict; "unknown" and "not covered" are answers too.')
    confidence: Share = Field(description="Calibrated probability of the likeliest label, also where the verdict is unknown.")
    umbrella: Captured | None = Field(description="The answer above the label (malicious or benign, VPN or not) where the task asks one.")
    umbrella_probability: Share | None


class HostBrief(Result):
    """A host judged by all flows that it opened."""

    host: str
    task: str
    umbrella: Captured
    umbrella_probability: Share | None
    flows: int
    labels: dict[str, int]
    first: str
    last: str


class FactTable(Result):
    """An answer counted from the capture, without a model; `probability` is the share of the question's words that it explains."""

    fact: str
    probability: Share
    columns: list[str]
    rows: list[list[int | float | Captured | None]]
    rows_in_all: int


class AnalyzeAnswer(Result):
    """A capture judged: the sentence first, hosts before flows, then the most notable flows."""

    capture: Captured
    answer: str = Field(description="The verdict in one sentence.")
    fact: FactTable | None = Field(description="The answer as a table where the capture alone gives it.")
    filters: str = Field(description="Which flows the question restricts the answer to.")
    tasks: list[str]
    routed_to: list[RoutedTask] = Field(description="What the question was routed to; empty where none was asked.")
    packets: int
    flows: int
    start: str | None
    end: str | None
    verdicts: dict[str, Counts] = Field(description="Flows by label, for each task.")
    above: dict[str, Counts] = Field(description="Flows by the answer above the label.")
    hosts: dict[str, Counts] = Field(description="Hosts by answer.")
    notable_hosts: list[HostBrief]
    notable_flows: list[FlowBrief]
    left_out: Counts = Field(description="What did not fit: see list_flows.")
    not_read: Counts = Field(description="Frames by the reason why they are in no flow.")
    next: list[str] = Field(description="Tool calls that go on from here.")


class FlowPage(Result):
    """Flows of a capture that a filter takes, a page of them."""

    capture: Captured
    flows_in_capture: int
    matching: int
    offset: int
    flows: list[FlowBrief]
    next_offset: int | None = Field(description="Pass it as offset for the next page; null on the last one.")


class LikelyLabel(Result):
    """A label and how likely it is."""

    label: Captured
    probability: Share


class EvidenceItem(Result):
    """A part of the flow that its verdict rests on: without it the label's probability is lower by `weight`."""

    part: str
    frame: int
    weight: float


class HeaderField(Result):
    """A field that a parser read in the flow's first bytes."""

    field: str
    value: Captured


class FlowExplanation(Result):
    """Why a flow has its verdict, and how to open it in Wireshark."""

    capture: Captured
    verdict: FlowBrief
    other_tasks: list[FlowBrief] = Field(description="The same flow by other tasks.")
    likeliest: list[LikelyLabel] = Field(description="The three likeliest labels.")
    labels_90: list[Captured] = Field(description="Labels that hold the truth in 90 % of flows.")
    unknown_score: float
    evidence: list[EvidenceItem]
    service: str = Field(description="The protocol spoken, told by the first bytes.")
    header_fields: list[HeaderField] = Field(description="What parsers read there: names, versions, types.")
    frames: list[int] = Field(description="The flow's first frames.")
    community_id: str
    wireshark_filter: str
    adapter: Captured
    version: str
    laboratory_only: bool = Field(description="Nothing bounds this adapter's false alarms on other networks.")


class PacketPage(Result):
    """Packets, a row each, in the order of `fields` (tshark's names and formats). Text that the capture chose is marked."""

    capture: Captured
    flow: str
    fields: list[str]
    packets: list[list[Captured]]
    matching: int | None = Field(description="How many packets there are in all; null where the page ends before the file.")
    offset: int
    next_offset: int | None


class CaptureFacts(Result):
    """What a capture holds, without a verdict."""

    capture: Captured
    bytes_of_file: int
    packets: int
    bytes: int
    start: str | None
    end: str | None
    seconds: float
    flows: int
    link_types: Counts
    non_ip: int
    non_flow: int
    truncated: int
    malformed: Counts
    not_read: Counts


class CaptureValidity(Result):
    """Whether packets are valid: headers, lengths, checksums, possible TCP."""

    capture: Captured
    valid: bool
    packets: int
    malformed: Counts
    bad_checksums: int
    bad_lengths: int
    tcp_violations: list[Captured]
    tcp_violations_in_all: int
    tcp_unseen: int
    unchecked: int


class NearFlow(Result):
    """A known flow near to one of the capture; `similarity` is the cosine of their representations."""

    label: Captured
    similarity: float
    flow: str
    file: Captured


class Compared(Result):
    """A flow and the known flows nearest to it."""

    flow: str
    orig_h: str
    resp_h: str
    resp_p: int
    nearest: list[NearFlow]


class Comparison(Result):
    """Flows of a capture beside flows that are known."""

    capture: Captured
    known: Captured = Field(description="What is known: a file or folder below the root, or the package's labelled captures.")
    known_flows: int
    flows_in_capture: int
    matching: int
    offset: int
    flows: list[Compared]
    next_offset: int | None


class TaskBrief(Result):
    """A task of the catalogue; `live` is its adapter's version, null where it can give no verdict."""

    id: str
    title: str
    kind: str
    granularity: str
    live: str | None
    laboratory_only: bool
    labels: list[Captured]
    labels_in_all: int


class TaskPage(Result):
    """The catalogue, a page of it."""

    tasks: list[TaskBrief]
    total: int
    offset: int
    next_offset: int | None


class AuditedFinding(Result):
    """A shortcut that a data set offers."""

    kind: str
    finding: Captured


class DatasetAudit(Result):
    """Whether a score on a data set may be believed."""

    dataset: Captured
    verdict: Captured
    honest: Share | None = Field(description="Macro-F1 of single packets, masked and split by group.")
    leaky: Share | None = Field(description="Macro-F1 of single packets, raw and split at random.")
    findings: list[AuditedFinding]
    findings_in_all: int
    not_measurable: list[Captured]
    masked_fields: list[str]


class Generated(Result):
    """A synthetic capture with documentation addresses only."""

    file: Captured
    task: str
    label: Captured
    flows: int
    packets: int
    valid: bool | None
    seed: int
    sha256: str
