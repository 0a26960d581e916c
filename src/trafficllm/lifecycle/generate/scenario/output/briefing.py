"""The briefing: what who solves the exercise is told, and nothing of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from trafficllm.core.escape import visible
from trafficllm.lifecycle.generate.scenario.file import ScenarioFile
from trafficllm.lifecycle.generate.scenario.network import Machine, Network

_ASK = """## Tasks

1. Which hosts take part in what is not everyday traffic, and when does it begin and end?
2. What is it? Give the kind, and what in the packets shows it (frame numbers).
3. Which flows belong to it? Give their Community IDs, or a display filter.
4. Write a rule that fires on it and stays silent on everyday traffic.

`answers.json` has the answers: a line a flow, with its first frames and a display filter. The packet comments of the labelled capture
have them too, so hand out the capture without comments.
"""


def briefing(scenario: ScenarioFile, network: Network, *, start: int, stop: int, capture: str, merged: str = "") -> str:
    """Markdown for those who solve the exercise: the network, the time span, the tasks. `start` and `stop` in ns."""
    events = len(scenario.event)
    what = f"{events} event{'s' if events != 1 else ''}" if events else "no event"
    parts = [f"# {visible(scenario.title)}\n"]
    if scenario.briefing:
        parts.append("\n".join(visible(line, limit=10_000) for line in scenario.briefing.strip().splitlines()) + "\n")
    parts.append(f"The capture `{capture}` goes from {_moment(start)} to {_moment(stop)} (UTC). It holds {what} among everyday traffic.\n")
    if merged:
        parts.append("Everyday traffic is a capture of yours; hosts of the network have its addresses.\n")
    parts.append("All flows of the scenario are synthetic; its addresses belong to nobody (RFC 5737, RFC 3849).\n")
    parts += ["## Hosts\n", *_hosts(scenario, list(network.machines.values())), "", _ASK]
    return "\n".join(parts)


def _hosts(scenario: ScenarioFile, machines: Sequence[Machine]) -> list[str]:
    six = any(traffic.ip_version == 6 for traffic in (*scenario.background, *scenario.event))
    rows = ["| host | address | serves | role |", "|---|---|---|---|"]
    for machine in machines:
        if machine.outside:
            continue
        addresses = machine.address(4) + (f", {machine.address(6)}" if six else "")
        serves = machine.domain if not machine.domain.endswith(f"{machine.name}.example") else ""
        rows.append(f"| {machine.name} | {addresses} | {serves} | {visible(machine.role)} |")
    return rows


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns // 1_000_000_000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
