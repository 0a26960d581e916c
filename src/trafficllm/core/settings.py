"""Settings: each is defined here once, with its type, default, range and meaning.

The configuration file, command options that are left out, recipes and docs/settings.md follow these definitions. Unknown keys are
refused with a suggestion; a configuration never names Python objects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.results import Result
from trafficllm.core.toml import BadTomlError, read_toml

CUT = ("capture flows", "data check", "data build", "data audit", "adapter register", "embed")
"""Commands that cut flows as [capture] states; others follow the data set or adapter that they are given."""
TABLE = (*CUT, "adapter update", "analyze", "evaluate drift", "serve")
BUILD = ("data check", "data build", "data audit", "adapter register")
TRAIN = ("tune plan", "tune instruct", "tune task", "adapter register")
LEARN = ("adapter register", "adapter update")
TUNE = (*TRAIN, "adapter update")
"""An update goes on in the live adapter's method and rank, and does not evaluate while it learns: its gate judges it."""


def _key(default: Any, meaning: str, commands: tuple[str, ...], **bounds: Any) -> Any:
    return Field(default, description=meaning, json_schema_extra={"commands": list(commands)}, **bounds)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FlowOptions(_Strict):
    """How flows are cut from captures and how much of each is kept (section [capture]); times in seconds, as Zeek has them.

    Facts see a client's hello that goes on beyond `max_payload` (post-quantum key shares, QUIC); it is kept in a pool of 32 MB and in
    no record. Where `max_payload` is 0 nothing is kept.
    """

    max_packets: int = _key(32, "first packets kept of each flow; a record shows 32 at most", CUT, ge=0, le=60000)
    max_payload: int = _key(512, "payload bytes kept of each direction, up to the first hole", CUT, ge=0, le=65535)
    tcp_timeout: float = _key(300.0, "seconds without a packet that end a TCP flow", CUT, gt=0)
    udp_timeout: float = _key(60.0, "seconds without a packet that end a UDP flow", CUT, gt=0)
    icmp_timeout: float = _key(60.0, "seconds without a packet that end any other flow", CUT, gt=0)
    active_timeout: float = _key(0.0, "seconds after which a flow that goes on is cut; 0: never", CUT, ge=0)
    table_size: int = _key(1 << 17, "live flows in memory; when it is full the oldest are handed out early", TABLE, ge=16)
    flip: bool = _key(True, "take the end with the well-known port for the responder where a flow's start is missing", CUT)
    checksums: bool = _key(False, "leave packets with wrong checksums out, as Zeek does without -C", CUT)
    hello_bytes: int = _key(8192, "bytes into a direction up to which facts see a client's hello", CUT, ge=0, le=65535)
    tunnels: bool = _key(True, "the flows inside tunnels; false: those of the outermost IP header", CUT)
    vxlan_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = _key(
        (4789, 8472), "UDP ports whose datagrams may be VXLAN", (*CUT, "capture packets", "capture check")
    )


_Units: TypeAlias = Annotated[int, Field(ge=0, le=4096)]


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


class CodecOptions(_Strict):
    """How much of a flow, request or cell sequence a record shows (section [records], without the mask profile).

    A masked run of payload costs two units whatever its length.
    """

    packets: int = _key(16, "packets that a record shows; 32 are stored at most", BUILD, ge=0, le=32)
    payload: Annotated[tuple[_Units, _Units], BeforeValidator(_pair)] = _key(
        (96, 96), "visible payload units of originator and responder; one number stands for both", BUILD
    )
    text: int = _key(384, "units of an HTTP request", BUILD, ge=0, le=8192)
    bursts: int = _key(128, "bursts of a cell sequence", BUILD, ge=0, le=4096)


class RecordOptions(CodecOptions):
    """What a record shows and which masks are on (section [records])."""

    profile: Literal["strict", "names", "header", "payload", "raw"] = _key("strict", "mask profile; `--profile` goes first", BUILD)

    def codec(self) -> CodecOptions:
        """How much a record shows, without the masks."""
        return CodecOptions(**self.model_dump(exclude={"profile"}))


class TuneOptions(_Strict):
    """One tuning run, stage 1 or stage 2 (section [tune]); names as in PEFT and transformers.

    Measured on the embedded base, malware families, 123 k tokens in all, macro-F1: 512 tokens a step at 2e-3 .81, at 3e-3 .77; 1024 at
    3e-3 .67; 2048 at 5e-3 .63, at 2e-3 .47; at 1e-2 it diverges. Steps cost no more for being small, so many small ones win; rank 32
    was worse than 16 (.55 against .63).
    """

    method: Literal["lora", "rslora", "dora", "qlora", "prefix", "full"] = _key(
        "lora", "what is trained; adapters in a registry are of the first four", TRAIN
    )
    prefix_tokens: int = _key(16, "virtual tokens of method `prefix`", TRAIN, ge=1, le=512)
    r: int = _key(16, "rank of the adapter's matrices", TRAIN, ge=1, le=256)
    lora_alpha: int = _key(32, "scale of the adapter: `lora_alpha / r`", TRAIN, ge=1)
    lora_dropout: float = _key(0.0, "dropout before the adapter's matrices", TUNE, ge=0, lt=1)
    learning_rate: float = _key(2e-3, "peak of the learning rate; it warms up, then falls along a cosine", TUNE, gt=0)
    weight_decay: float = _key(0.0, "AdamW's weight decay", TUNE, ge=0)
    warmup: float = _key(0.05, "share of the run in which the learning rate rises", TUNE, ge=0, lt=1)
    epochs: int = _key(8, "passes over the training records; the first of epochs, steps and seconds ends the run", TUNE, ge=1)
    max_steps: int | None = _key(None, "optimizer steps at most", TUNE, ge=1)
    max_seconds: float | None = _key(None, "seconds at most; `--max-seconds` goes first", TUNE, gt=0)
    clock: Literal["wall", "processor"] = _key(
        "wall", "what `max_seconds` is read from; `processor` is fair between runs on a machine that others use too", TUNE
    )
    batch_tokens: int = _key(512, "tokens of a step, padding included, over all processes together", TUNE, ge=1)
    max_grad_norm: float = _key(1.0, "norm to which gradients are clipped", TUNE, gt=0)
    full_weight: float = _key(0.1, "weight of the whole-vocabulary loss beside the label trie's", TUNE, ge=0)
    label_smoothing: float = _key(0.0, "label smoothing of the loss", TUNE, ge=0, lt=1)
    balance: float = _key(0.5, "exponent of the inverse class frequency in the loss: 0 none, 1 full", TUNE, ge=0, le=1)
    looks: int = _key(8, "evaluations on validation over the run; 0: none, the last weights are kept", TRAIN, ge=0)
    first_look: float = _key(0.4, "share of the run before the first of them", TRAIN, ge=0, le=1)
    patience: int = _key(0, "evaluations without gain that end the run; 0: never. The best weights are kept in any case", TRAIN, ge=0)
    val_limit: int = _key(400, "validation records of one evaluation at most", TRAIN, ge=1)
    save_steps: int = _key(100, "steps between checkpoints", TUNE, ge=1)
    logging_steps: int = _key(10, "steps between lines of metrics.jsonl", TUNE, ge=1)
    gradient_checkpointing: bool = _key(False, "less memory, about a third more time", TUNE)
    readout: int = _key(
        6000, "records, two thirds of them augmented copies, that the readout of pooled states is fitted on; 0: no readout", TUNE, ge=0
    )
    shard: bool = _key(False, "split the base over the processes of a launcher (FSDP2) instead of copying it (DDP)", TUNE)
    report_to: tuple[str, ...] = _key((), "experiment trackers that transformers knows; their package must be installed", TUNE)
    seed: int = _key(0, "seed of tuning, and of the split of a data set; `--seed` goes first", ("data build", "data audit", *TUNE))


class TuneSettings(TuneOptions):
    """Section [tune]: a run's options and how its base is opened."""

    precision: Literal["auto", "float32", "bfloat16"] = _key(
        "auto", "of the base while it is tuned; `auto` takes bfloat16 where a half-second probe finds it faster", TUNE
    )

    def options(self, **changes: Any) -> TuneOptions:
        """The run's options with some changed."""
        return TuneOptions(**(self.model_dump(exclude={"precision"}) | changes))


class LearnOptions(_Strict):
    """What a detection adapter learns beside its labels (section [learn])."""

    background: tuple[str, ...] = _key(
        (),
        "folders of everyday captures of other sources, learnt as background beside those of the package; `--background` goes first",
        LEARN,
    )
    packaged: bool = _key(True, "learn the background of the package too; `--no-background` leaves it out", LEARN)
    false_positives: float = _key(
        0.01,
        "share of harmless flows of sources not learnt that may be called positive (malicious, VPN...); `--false-positives` goes first",
        LEARN,
        gt=0.0,
        le=0.2,
    )


class Config(_Strict):
    """The whole configuration; every key has a default."""

    capture: FlowOptions = FlowOptions()
    records: RecordOptions = RecordOptions()
    tune: TuneSettings = TuneSettings()
    learn: LearnOptions = LearnOptions()
    base: str = _key("default", "traffic base; `--base` and TRAFFICLLM_BASE go first", ("all with `--base`",))
    words: str = _key(
        "auto",
        "who puts verdicts in words: an instruct base by name, `off`, or `auto`, the base in use where it has a chat template; "
        "`--words` goes first",
        ("analyze", "chat", "serve", "web"),
    )
    products: Literal["float32", "bfloat16"] = _key(
        "float32",
        "numbers that the linear layers of adapters on a small base multiply: `bfloat16` is faster on processors with AVX512-BF16 or AMX "
        "and changes probabilities by up to .01; elsewhere it changes nothing",
        ("analyze", "chat", "serve", "web"),
    )
    registry: str = _key(
        "", "adapter registry, empty: the user's folder; `--registry` and TRAFFICLLM_REGISTRY go first", ("all with `--registry`",)
    )
    trusted_key: str = _key(
        "",
        "PEM file of an Ed25519 key: live adapters are loaded only with a signature by it; empty: none is needed",
        ("all with `--registry`",),
    )


def every_key() -> Iterator[tuple[str, Any]]:
    """Each setting as `section.key` with its pydantic FieldInfo, sections first."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((f"{name}.{key}", inner) for key, inner in section.model_fields.items())
    yield from ((name, field) for name, field in Config.model_fields.items() if field.json_schema_extra)


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def _explain(error: ValidationError, source: str) -> UsageError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"]), n=1, cutoff=0.0)
        return UsageError("config.unknown_key", f"unknown key '{key}'", input=source, where=key, hint=f"did you mean '{close[0]}'?")
    return UsageError("config.value", f"'{key}': {first['msg']}", input=source, where=key, hint="see `trafficllm config schema`")


def load_config(path: str | Path | None = None) -> Config:
    """Read a TOML configuration; with no path, the defaults.

    Raises InputError where the file is missing or no TOML, UsageError where a key or value is wrong.
    """
    if path is None:
        return Config()
    try:
        raw = read_toml(path)
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path") from error
    except BadTomlError as error:
        raise UsageError("config.toml", f"not valid TOML: {error}", input=str(path), hint="see `trafficllm config show`") from error
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, str(path)) from error


class Setting(Result):
    """The whole configuration in force."""

    source: str
    config: dict[str, Any]


def in_force(path: Path | None = None) -> Setting:
    """The configuration of a file, or the defaults (contract: `config show`). Errors: see `load_config`."""
    return Setting(source=str(path or "defaults"), config=load_config(path).model_dump())
