"""What the `tokenizer` and `tune` commands answer."""

from __future__ import annotations

from trafficllm.core.results import Result
from trafficllm.model.results import Forecast, Tokens, TuneReport


class TokenizerExtend(Result):
    """A traffic base that was made; `tokens_per_flow` where there were held-out records to count."""

    out: str
    vocab_size: int
    tokens_added: int
    tokens_per_flow: Tokens | None
    base_sha256: str
    rows: int
    linked: int


class TokenizerRow(Result):
    """What a flow costs under one tokenizer; `ratio` against the first, `native_ratio` against its own readable text."""

    tokenizer: str
    vocab_size: int
    traffic_tokens: int
    tokens_per_flow: float
    ratio: float
    readable: float
    native_ratio: float
    original_form: float
    exact: bool | None


class TokenizerCompare(Result):
    """Tokenizers side by side on the same held-out records."""

    part: str
    flows: int
    tokenizers: list[TokenizerRow]


class TokenizerTrain(Result):
    """A vocabulary file that was written."""

    out: str
    size: int
    units: int
    records: int
    longest: int


class Pieces(Result):
    """How a tokenizer reads a question."""

    ids: list[int]
    tokens: list[str]


class TokenizerShow(Result):
    """A vocabulary file, or a base's tokenizer (which has the last four)."""

    name: str
    kind: str
    traffic_tokens: int
    units: int
    learnt: int
    mean_length: float
    longest: int
    codec_hash: str
    most_useful: list[str]
    vocab_size: int | None = None
    control: list[str] | None = None
    chat_template: bool | None = None
    text: Pieces | None = None


class TunePlan(Forecast):
    """What a tuning run will need; nothing was trained."""

    stage: str
    base: str
    method: str
    precision: str
    processes: int
    labels: int


class Tune(TuneReport):
    """A finished tuning run and the folder it was written to; `plot` is its loss curve."""

    out: str
    plot: str | None = None
