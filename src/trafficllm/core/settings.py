"""Configuration: one TOML file, one strict schema, choices by name.

Unknown keys are refused with a suggestion; a config never names Python objects.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trafficllm.core.errors import InputError, UsageError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CaptureConfig(_Strict):
    """How captures are read. Timeouts in seconds (Zeek's defaults), sizes in packets and bytes."""

    max_packets: int = Field(32, ge=1, le=1024)
    max_payload: int = Field(512, ge=0, le=65535)
    tcp_timeout: float = Field(300.0, gt=0)
    udp_timeout: float = Field(60.0, gt=0)
    icmp_timeout: float = Field(60.0, gt=0)
    table_size: int = Field(1 << 17, ge=1024)
    tunnels: bool = True


class RecordsConfig(_Strict):
    """What a record shows of a flow and which masks are on."""

    profile: Literal["strict", "header", "payload", "raw"] = "strict"
    packets: int = Field(16, ge=1, le=64)
    payload: int = Field(96, ge=0, le=512)


class TuneConfig(_Strict):
    """Stage 1 and stage 2 tuning; names as in PEFT and transformers.

    `precision` "auto" takes the faster of float32 and bfloat16 by a probe; `shard` splits the parameters over the processes of a
    launcher (FSDP2) instead of copying them; `batch_tokens` padded tokens a step; `balance` exponent of the inverse class
    frequency; `patience` looks at validation without gain that end the run (0: never).
    """

    method: Literal["lora", "rslora", "dora", "qlora", "prefix", "full"] = "lora"
    r: int = Field(16, ge=1, le=256)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    prefix_tokens: int = Field(16, ge=1, le=512)
    learning_rate: float = Field(2e-3, gt=0)
    batch_tokens: int = Field(512, ge=1)
    epochs: float = Field(8.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0)
    balance: float = Field(0.5, ge=0, le=1)
    patience: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    shard: bool = False
    save_steps: int = Field(100, ge=1)
    logging_steps: int = Field(10, ge=1)
    report_to: tuple[str, ...] = ()
    seed: int = 0


class Config(_Strict):
    """The whole configuration; every key has a default."""

    capture: CaptureConfig = CaptureConfig()
    records: RecordsConfig = RecordsConfig()
    tune: TuneConfig = TuneConfig()
    base: str = "default"
    registry: str = ""


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
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("config.toml", f"not valid TOML: {error}", input=str(path), hint="see `trafficllm config show`") from error
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, str(path)) from error
