"""`trafficllm doctor`: what is missing here and how to get it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trafficllm.surface.options import Json, Registry


def doctor(registry: Registry = "", as_json: Json = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from trafficllm.lifecycle.application import registry_root
    from trafficllm.lifecycle.doctor import diagnose
    from trafficllm.surface.output import emit

    emit("doctor", diagnose(registry_root(registry)), as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import note, show_table

    show_table(
        ("what", "status", "found", "remedy"),
        ([row["name"], row["status"], row["detail"], row["hint"]] for row in body["findings"]),
    )
    note("ready" if body["ready"] else "something that is needed is missing: see the remedies above")
