"""`trafficllm config`: show, schema; and `trafficllm doctor`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from trafficllm.surface.terminal.options import Config, Json, Registry

if TYPE_CHECKING:
    from trafficllm.core.settings import Setting
    from trafficllm.lifecycle.doctor import Doctor

app = typer.Typer(rich_markup_mode=None)


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Print the whole configuration in force, as TOML."""
    from trafficllm.core.settings import in_force
    from trafficllm.surface.terminal.output import emit

    emit("config.show", in_force(config), as_json=as_json, show=_toml)


def _toml(answer: Setting) -> None:
    settings = answer.config
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
    from trafficllm.core.settings import Config as Settings

    print(json.dumps(Settings.model_json_schema(), indent=1, sort_keys=True))


def doctor(registry: Registry = "", as_json: Json = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from trafficllm.lifecycle.doctor import diagnose
    from trafficllm.lifecycle.workspace import registry_root
    from trafficllm.surface.terminal.output import emit

    emit("doctor", diagnose(registry_root(registry)), as_json=as_json, show=_show)


def _show(answer: Doctor) -> None:
    from trafficllm.surface.terminal.output import note, show_table

    show_table(("what", "status", "found", "remedy"), ([row.name, row.status, row.detail, row.hint] for row in answer.findings))
    note("ready" if answer.ready else "something that is needed is missing: see the remedies above")
