"""What leaving sources out shows: a row a source, the mean over sources, the worst one, intervals over sources."""

from __future__ import annotations

from pydantic import Field

from trafficllm.core.results import Captured, Result, Share


class SourceScore(Result):
    """One side of one source, judged by models that had not learnt it, means over seeds.

    `fpr_flow`, `fpr_host` (a host with a positive flow; hosts are client addresses within a capture) and `fpr_capture` (mean over
    captures: what the operating point keeps) are the benign side's, `recall` and `recall_host` the malicious side's. `auroc` is against
    the flows of every source of the other side, sources alike. `unknown` is the share of flows that are neither positive nor clear.
    """

    source: Captured
    side: str
    captures: int
    flows: int
    hosts: int
    fpr_flow: Share | None
    fpr_host: Share | None
    fpr_capture: Share | None
    recall: Share | None
    recall_host: Share | None
    auroc: Share | None
    unknown: Share


class MeanScore(Result):
    """Means over sources, each counted once; null where no source has that side.

    `recall_at_fpr_001` and `recall_at_fpr_01` are recall where .1 % and 1 % of benign flows are positive, benign sources alike;
    `..._flows` where every benign flow counts alike. `fpr_flow_pooled`, `recall_pooled` and `auroc_pooled` count flows, not sources.
    `precision_at_1pct` is the share of true ones among positive flows where one flow in a hundred is malicious, at the operating point.
    """

    fpr_flow: Share | None
    fpr_host: Share | None
    fpr_capture: Share | None
    recall: Share | None
    recall_host: Share | None
    auroc: Share | None
    recall_at_fpr_001: Share | None
    recall_at_fpr_01: Share | None
    recall_at_fpr_001_flows: Share | None
    recall_at_fpr_01_flows: Share | None
    precision_at_1pct: Share | None
    unknown_benign: Share | None
    unknown_malicious: Share | None
    fpr_flow_pooled: Share | None
    recall_pooled: Share | None
    auroc_pooled: Share | None


class WorstScore(Result):
    """The worst source of each figure and its value; `fpr_flow_100` is the worst among sources of 100 benign flows or more."""

    fpr_flow: Share | None
    fpr_flow_source: Captured
    fpr_flow_100: Share | None
    fpr_flow_100_source: Captured
    fpr_host: Share | None
    fpr_host_source: Captured
    recall: Share | None
    recall_source: Captured
    auroc: Share | None
    auroc_source: Captured


class RocPoint(Result):
    """Recall, mean over malicious sources, where `fpr` of benign flows are positive, mean over benign sources."""

    fpr: Share
    recall: Share


class OperatingSummary(Result):
    """The operating points of all folds: what was wanted, what training sources said of it, what it promises.

    `rate` and `unknown` are means over folds, `worst` the worst of all; `threshold` is the mean threshold in standard deviations of
    left-out benign flows above their mean. `expected`, `bound` and `guarantee` are those of the fold with the fewest `sources` (see
    `evaluate.openworld`).
    """

    wanted: Share
    rate: Share
    worst: Share
    unknown: Share
    threshold: float
    sources: int
    expected: Share
    bound: Share
    confidence: Share
    guarantee: str


class OpenworldScores(Result):
    """How one learner fares on sources that it had not learnt. `ci95` resamples sources; `per_seed` are the means of each seed."""

    sources: list[SourceScore]
    worst: WorstScore
    mean: MeanScore
    ci95: dict[str, list[float]]
    per_seed: list[MeanScore]
    curve: list[RocPoint]
    operating: OperatingSummary | None
    skipped: dict[Captured, str]


class OpenworldBaseline(OpenworldScores):
    """A baseline on the same masked records, with the same weights, background, calibration and folds; `seconds` it took."""

    seconds: float


class Gain(Result):
    """Our figure less the baseline's, on the same sources; `ci95` resamples sources in pairs."""

    against: str
    figure: str
    difference: float
    ci95: list[float] = Field(min_length=2, max_length=2)
