"""The formats that are made for one destination (ECS, Zeek's notices and indicators, STIX), by their name behind `-f`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from trafficllm.surface.formats.writers import Form, Lines
from trafficllm.surface.terminal.output import json_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from trafficllm.lifecycle.analyze.alerts import Alerts


def _documents(document: Callable[[Any], Mapping[str, Any]]) -> Form:
    return partial(Lines, line=lambda row: json_line(document(row)) + "\n")


def flow_forms() -> dict[str, Form]:
    """Formats of `capture flows`."""
    from trafficllm.surface.formats.ecs import flow_document

    return {"ecs": _documents(flow_document)}


def host_forms(alerts: Alerts) -> dict[str, Form]:
    """Formats of `analyze --hosts`."""
    from trafficllm.surface.formats.ecs import host_document

    return {"ecs": _documents(partial(host_document, alerts=alerts))}


def verdict_forms(alerts: Alerts) -> dict[str, Form]:
    """Formats of `analyze`; those of `ALERT_FORMATS` hold alerts only."""
    from trafficllm.surface.formats.ecs import verdict_document
    from trafficllm.surface.formats.zeek_alerts import Intel, Notices

    def stix(stream: BinaryIO) -> Any:
        from trafficllm.surface.formats.stix import Sightings

        return Sightings(stream, alerts)

    return {
        "ecs": _documents(partial(verdict_document, alerts=alerts)),
        "notice": partial(Notices, alerts=alerts),
        "intel": partial(Intel, alerts=alerts),
        "stix": stix,
    }
