"""`trafficllm config`: show, schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

from trafficllm.surface.options import Config, Json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Print the whole configuration in force, as TOML."""
    from trafficllm.core.config import load_config
    from trafficllm.surface.output import emit

    settings = load_config(config).model_dump()
    emit(
        "config.show", {"source": str(config or "defaults"), "config": settings}, as_json=as_json, show=_toml
    )


def _toml(body: Mapping[str, Any]) -> None:
    settings = body["config"]
    for key, value in settings.items():
        if not isinstance(value, Mapping):
            print(_line(key, value))
    for section, values in settings.items():
        if isinstance(values, Mapping):
            print(f"\n[{section}]")
            for key, value in values.items():
                print(_line(key, value))


def _line(key: str, value: Any) -> str:
    return f"# {key} is not set" if value is None else f"{key} = {json.dumps(value)}"


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from trafficllm.core.config import Config as Settings

    print(json.dumps(Settings.model_json_schema(), indent=1, sort_keys=True))
