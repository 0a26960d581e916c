"""Events laid into a capture of the user's: its time span, and which of its hosts the scenario's hosts stand for."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError
from trafficllm.lifecycle.generate.scenario.file import ScenarioFile

_MOST_HOSTS = 100_000
"""Originators that are counted; further ones of a capture do not become hosts of the scenario."""


@dataclass(frozen=True, slots=True)
class RealCapture:
    """A capture that events are laid into: first and last packet (ns), and IPv4 originators, those with most flows first."""

    start: int
    stop: int
    hosts: tuple[bytes, ...]


def look_at(path: Path) -> RealCapture:
    """Read a capture once for its span and hosts. Raises InputError where it has no packet of a time, or none of IPv4."""
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.capture.flows.counts import CountsBuilder

    counts = CountsBuilder()
    flows: Counter[bytes] = Counter()
    for batch in read_flows([path], counts=counts):
        for host, version in zip(batch.orig_h, batch.ip_version.tolist(), strict=True):
            address = host[:4].tobytes()
            if version == 4 and (address in flows or len(flows) < _MOST_HOSTS) and _is_host(address):
                flows[address] += 1
    if counts.first is None or not flows:
        raise InputError("input.merge", "no flow of IPv4 to lay events beside", input=str(path), hint="name a capture of a network")
    order = sorted(flows, key=lambda address: (not ipaddress.IPv4Address(address).is_private, -flows[address], address))
    return RealCapture(counts.first, counts.last or counts.first, tuple(order))


def _is_host(address: bytes) -> bool:
    own = ipaddress.IPv4Address(address)
    return not (own.is_multicast or own.is_unspecified or own.is_loopback or own == ipaddress.IPv4Address("255.255.255.255"))


def mapped_hosts(scenario: ScenarioFile, real: RealCapture) -> dict[str, bytes]:
    """Addresses of the capture for hosts inside the scenario's network that take part in events, the busiest first.

    Hosts outside keep documentation addresses. Where the capture has fewer hosts, the others keep theirs too.
    """
    inside = {name for host in scenario.host if not host.outside for name in scenario.expanded([host.name])}
    names = [name for event in scenario.event for name in scenario.expanded([*event.sender, *event.receiver]) if name in inside]
    return dict(zip(dict.fromkeys(names), real.hosts, strict=False))
