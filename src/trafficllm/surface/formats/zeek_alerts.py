"""Alerts for Zeek: lines of its notice.log, and indicators for its Intelligence Framework.

Both hold only verdicts that `lifecycle.analyze.alerts` lets be alerts. Formats: Zeek's `Notice::Info` and `Intel::Item` records
(https://docs.zeek.org/en/master/scripts/base/frameworks/notice/main.zeek.html, .../intel/main.zeek.html).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from trafficllm.core.escape import for_zeek
from trafficllm.infer.detector import VerdictRow
from trafficllm.lifecycle.analyze.alerts import Alerts, probability
from trafficllm.surface.formats.columns import NOTICE
from trafficllm.surface.formats.eve import said
from trafficllm.surface.formats.writers import MOST_GROUPS, Lines, zeek_header, zeek_line
from trafficllm.surface.terminal.output import note

NOTE = "TrafficLLM::Verdict"
"""The Notice::Type of every notice."""
_INSIDE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))
"""Networks whose addresses mean another host elsewhere (RFC 1918, 6598, 4193)."""


def sentence(row: VerdictRow, alerts: Alerts) -> str:
    """An alert in words: what was said, how likely, by whom."""
    facts, chance = alerts.facts(row["task"]), probability(row)
    likely = "" if chance is None else f", probability {chance:.3f}{'' if facts.calibrated else ' (not calibrated)'}"
    return f"TrafficLLM {row['task']}: {said(row)}{likely}, adapter {row['adapter']} {row['version']}, base {facts.model or 'unnamed'}"


def notice(row: VerdictRow, alerts: Alerts) -> dict[str, Any] | None:
    """The notice of a verdict, its columns those of `NOTICE`; None where it is no alert."""
    if not alerts.severity(row):
        return None
    fired = "; ".join(f"{each.gid}:{each.sid} {each.text}" for each in alerts.corroborating(row))
    ends = {name: row[name] for name in ("ts", "uid", "orig_h", "orig_p", "resp_h", "resp_p", "proto")}
    return ends | {
        "note": NOTE,
        "msg": sentence(row, alerts),
        "sub": f"corroborated by {fired}" if fired else "not corroborated",
        "src": row["orig_h"],
        "dst": row["resp_h"],
        "p": row["resp_p"],
        "peer_descr": "trafficllm",
        "actions": ["Notice::ACTION_LOG"],
        "suppress_for": 0.0,
    }


class Notices(Lines):
    """A notice.log of the verdicts that are alerts."""

    def __init__(self, stream: BinaryIO, alerts: Alerts) -> None:
        names = [column.name for column in NOTICE]
        super().__init__(stream, lambda row: zeek_line(row, names), header=zeek_header(NOTICE, "notice"))
        self._alerts = alerts

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the notices of a batch."""
        super().write([line for row in rows if (line := notice(row, self._alerts)) is not None])  # type: ignore[arg-type]


@dataclass(slots=True)
class _Indicator:
    first: str
    flows: int = 0


class Intel:
    """A file for Zeek's Intelligence Framework: the outside addresses of alerts, one line each, written at the end."""

    def __init__(self, stream: BinaryIO, alerts: Alerts) -> None:
        self._stream, self._alerts = stream, alerts
        self._indicators: dict[str, _Indicator] = {}
        self.beyond = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the alerts of a batch."""
        for row in rows:
            verdict: VerdictRow = row  # type: ignore[assignment]
            address = outside(verdict["orig_h"], verdict["resp_h"])
            if not address or not self._alerts.severity(verdict):
                continue
            if address not in self._indicators:
                if len(self._indicators) >= MOST_GROUPS:
                    self.beyond += 1
                    continue
                self._indicators[address] = _Indicator(sentence(verdict, self._alerts))
            self._indicators[address].flows += 1

    def close(self) -> None:
        """Write header and lines, in the order in which addresses were seen; the stream belongs to the caller."""
        if self.beyond:
            note(f"{self.beyond:,} alerts are of further addresses than can be kept apart: these have no line")
        lines = ["#fields\tindicator\tindicator_type\tmeta.source\tmeta.desc\n"]
        for address, one in self._indicators.items():
            words = for_zeek(f"{one.first}; {one.flows} flow{'s' * (one.flows > 1)}")
            lines.append(f"{address}\tIntel::ADDR\tTrafficLLM\t{words}\n")
        self._stream.write("".join(lines).encode())
        self._stream.flush()


def outside(orig: str, resp: str) -> str:
    """The address of a flow's two that others may know too: the responder's, else the originator's; "" where both are inside, or no
    single host's (multicast, loopback, link-local).

    >>> outside("10.0.0.5", "198.51.100.7"), outside("198.51.100.7", "10.0.0.5"), outside("10.0.0.5", "10.0.0.6")
    ('198.51.100.7', '198.51.100.7', '')
    """
    return next((host for host in (resp, orig) if _is_outside(host)), "")


def _is_outside(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    nowhere = address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified
    broadcast = host == "255.255.255.255"
    return not (nowhere or broadcast or any(address in network for network in _INSIDE if network.version == address.version))
