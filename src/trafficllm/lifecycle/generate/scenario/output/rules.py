"""The rule test: for each event a capture that its rules must fire on, and everyday traffic they must stay silent on.

Folders have the form of suricata-verify: `test.yaml`, `test.rules`, `input.pcap`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trafficllm.capture.files.write import PcapngWriter
from trafficllm.core.files import atomic_stream, atomic_write
from trafficllm.lifecycle.generate.scenario.file import Rule, ScenarioFile
from trafficllm.lifecycle.generate.scenario.traffic import Sent

SILENT = "silent"
_INPUT = "input.pcapng"


class RuleCaptures:
    """Captures of the rule test as they grow: one an event that has rules, one of all that is no event of a rule."""

    def __init__(self, writers: Mapping[str, PcapngWriter]) -> None:
        self._writers = writers

    def add(self, sent: Sent) -> None:
        """Write a packet where it belongs; events without rules are in none."""
        name = sent.flow.event if sent.flow is not None else ""
        writer = self._writers.get(name or SILENT)
        if writer is not None:
            writer.add(sent.frame, sent.ts, sent.original, sent.link)


@contextmanager
def rule_captures(scenario: ScenarioFile, folder: Path) -> Iterator[RuleCaptures]:
    """Open the captures below `folder`; none where the scenario has no rule."""
    names = [*dict.fromkeys(rule.event for rule in scenario.rule), *([SILENT] if scenario.rule else [])]
    with ExitStack() as stack:
        writers = {}
        for name in names:
            stream = stack.enter_context(atomic_stream(folder / _folder(name) / _INPUT))
            writers[name] = PcapngWriter(stream, name=name)
            stack.callback(writers[name].close)
        yield RuleCaptures(writers)


def _folder(name: str) -> str:
    return name if name == SILENT else f"fires-{name}"


def write_tests(scenario: ScenarioFile, folder: Path) -> list[str]:
    """Rules and expectations beside the captures; returns the folders' names."""
    made = []
    for name in dict.fromkeys([*(rule.event for rule in scenario.rule), *([SILENT] if scenario.rule else [])]):
        rules = [rule for rule in scenario.rule if name in {rule.event, SILENT}]
        place = folder / _folder(name)
        atomic_write(place / "test.rules", "".join(f"{rule.text}\n" for rule in rules))
        atomic_write(place / "test.yaml", _expected(rules, fires=name != SILENT))
        made.append(_folder(name))
    return made


def _expected(rules: Sequence[Rule], *, fires: bool) -> str:
    """Checks of suricata-verify: each rule at least once, or never."""
    lines = ["requires:", "  min-version: 6", "", "pcap: input.pcapng", "", "args:", "  - -k none", "", "checks:"]
    for rule in rules:
        if fires:
            count = f"grep -c '\"signature_id\":{rule.sid},' eve.json | awk '{{print ($1 > 0)}}'"
            lines.append(f"  - shell:\n      args: {count}\n      expect: 1\n")
        else:
            match = json.dumps({"event_type": "alert", "alert.signature_id": rule.sid})
            lines.append(f"  - filter:\n      count: 0\n      match: {match}\n")
    return "\n".join(lines) + "\n"
