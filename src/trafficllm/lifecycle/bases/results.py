"""What the `base`, `tokenizer` and `tune` commands answer."""

from __future__ import annotations

from typing import Literal

from trafficllm.core.results import Result
from trafficllm.model.results import Forecast, Imported, Tokens, TuneReport


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


class StageEstimate(Result):
    """A stage of making an adapter, the seconds it takes on this machine when nothing else runs, and whether `--max-seconds` bounds it."""

    stage: str
    seconds: float
    bounded: bool


class TunePlan(Forecast):
    """What a tuning run will need; nothing was trained. `stages`: what `adapter register` of the data does, tuning among it, and how long
    each takes; of stage 1 tuning alone. `total_seconds` is their sum."""

    stage: str
    base: str
    method: str
    precision: str
    processes: int
    labels: int
    stages: list[StageEstimate]
    total_seconds: float


class Tune(TuneReport):
    """A finished tuning run and the folder it was written to; `plot` is its loss curve."""

    out: str
    plot: str | None = None


class BaseRow(Result):
    """A base that has a name; `size` is bytes of its weights, of the download where it is not here."""

    name: str
    origin: str
    here: bool
    size: int
    traffic_tokens: int
    trained_tokens: int
    licence: str
    path: str


class BaseList(Result):
    """Bases by name; `folder` is where fetched ones lie."""

    folder: str
    bases: list[BaseRow]


class BaseGet(Result):
    """A base that was fetched: `path` with traffic tokens, `plain` as it was published; `extension` is "shipped" or "untrained"."""

    name: str
    title: str
    package: str
    licence: str
    path: str
    plain: str
    size: int
    traffic_tokens: int
    trained_tokens: int
    extension: Literal["shipped", "untrained"]
    reused: bool
    seconds: float
    warnings: list[str]


class BaseImport(Imported):
    """A GGUF file that became the base in the folder `out`; `size` is bytes of its weights."""

    out: str
    size: int
    base_sha256: str
    seconds: float


class BaseShow(Result):
    """What a base holds and what it was made from."""

    name: str
    path: str
    kind: str
    architecture: str
    parameters: int
    rows: int
    context: int | None
    size: int
    traffic_tokens: int
    trained_tokens: int
    seen: int
    licence: str
    base_sha256: str
    source: dict[str, str]
    warnings: list[str]
