"""Flows that are due, compiled as they begin, and their packets in order of time: memory holds the flows under way."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trafficllm.capture.compile.plans import CompileCounts, compile_flows
from trafficllm.capture.files.write import frames_of
from trafficllm.capture.flows.community import community_id
from trafficllm.core.files import hash64
from trafficllm.core.types import FrameBatch
from trafficllm.lifecycle.generate.scenario.file import Event
from trafficllm.lifecycle.generate.scenario.source.patterns import Place

if TYPE_CHECKING:
    from trafficllm.lifecycle.generate.scenario.file import Background
    from trafficllm.lifecycle.generate.scenario.network import Network
    from trafficllm.lifecycle.generate.scenario.schedule import Due
    from trafficllm.lifecycle.generate.scenario.source.open import Opened

ANSWER_FRAMES = 8
"""First frames of a flow that its answer names."""
_ETHERNET = 14


@dataclass(slots=True)
class Flow:
    """A flow of the scenario while it is written: whose it is, its five-tuple, and the frames it got."""

    kind: int
    traffic: Background | Event
    sender: str
    receiver: str
    community_id: str
    proto: int
    ends: tuple[tuple[str, int], tuple[str, int]]
    begin: int
    frames: list[int] = field(default_factory=list)
    packets: int = 0
    left: int = 0
    last: int = 0

    @property
    def event(self) -> str:
        """Name of its event, "" for everyday traffic."""
        return self.traffic.name if isinstance(self.traffic, Event) else ""

    def written(self, number: int, ts: int) -> bool:
        """Note that a packet was written as frame `number`; returns whether it was the last one."""
        if len(self.frames) < ANSWER_FRAMES:
            self.frames.append(number)
        self.packets += 1
        self.left -= 1
        self.last = ts
        return self.left == 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet in its place in time: `flow` None where it is of the capture that is merged with."""

    ts: int
    frame: bytes
    original: int
    link: int
    flow: Flow | None


class Compiler:
    """Makes flows: source, hosts and port of each, compiled to frames. `counts` says what plans had wrong."""

    def __init__(self, network: Network, kinds: tuple[Background | Event, ...], sources: Mapping[int, Opened], *, seed: int) -> None:
        self._network, self._kinds, self._sources, self._seed = network, kinds, sources, seed
        self._domains = sorted({machine.domain for machine in network.machines.values() if machine.outside}) or ["example.org"]
        self.counts = CompileCounts()

    def compiled(self, due: Due) -> tuple[Flow, list[tuple[int, bytes]]]:
        """The flow that is due and its packets in order."""
        traffic = self._kinds[due.kind]
        key = hash64(f"{self._seed}/{due.kind}/{due.number}".encode())
        rng = random.Random(key)
        version = traffic.ip_version
        server = self._network.machines[due.receiver]
        place = Place(server.domain, traffic.source.domains or self._domains, server.addresses[version], version)
        plan = self._sources[due.kind].plan(place, rng)
        plan = replace(plan, ip_version=version, orig_p=self._network.port(due.sender, due.receiver))
        ends = self._network.ends(due.sender, due.receiver, version)
        batch = compile_flows([plan], seed=key, start=due.ts, spread=0, ends=[ends], counts=self.counts)
        packets = [(ts, frame) for frame, ts, _, _ in frames_of(batch)]
        proto, sport, dport = _transport(packets[0][1], version)
        if packets[0][1][_ETHERNET + (12 if version == 4 else 8) :].startswith(ends.hosts[1]):
            sport, dport = dport, sport
        community = community_id(proto, ends.hosts[0], sport, ends.hosts[1], dport)
        names = [self._network.machines[name].address(version) for name in (due.sender, due.receiver)]
        flow = Flow(due.kind, traffic, due.sender, due.receiver, community, proto, ((names[0], sport), (names[1], dport)), due.ts)
        flow.left = len(packets)
        return flow, packets


def _transport(frame: bytes, version: int) -> tuple[int, int, int]:
    """Protocol, source and destination port of a compiled frame: Ethernet, no options, no extension headers."""
    proto = frame[_ETHERNET + (9 if version == 4 else 6)]
    at = _ETHERNET + (20 if version == 4 else 40)
    return proto, int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")


def in_order(flows: Iterable[Due], compiler: Compiler) -> Iterator[Sent]:
    """Packets of all flows in order of time; `flows` are in order of their beginnings."""
    waiting: list[tuple[int, int, int, Flow, list[tuple[int, bytes]]]] = []
    for count, due in enumerate(flows):
        yield from _until(waiting, due.ts)
        flow, packets = compiler.compiled(due)
        heapq.heappush(waiting, (packets[0][0], count, 0, flow, packets))
    yield from _until(waiting, 1 << 63)


def _until(waiting: list[tuple[int, int, int, Flow, list[tuple[int, bytes]]]], moment: int) -> Iterator[Sent]:
    while waiting and waiting[0][0] < moment:
        ts, count, at, flow, packets = waiting[0]
        yield Sent(ts, packets[at][1], len(packets[at][1]), 1, flow)
        if at + 1 < len(packets):
            heapq.heapreplace(waiting, (packets[at + 1][0], count, at + 1, flow, packets))
        else:
            heapq.heappop(waiting)


def captured(batches: Iterable[FrameBatch]) -> Iterator[Sent]:
    """Packets of a capture as they are."""
    for batch in batches:
        for frame, ts, original, link in frames_of(batch):
            yield Sent(ts, frame, original, link, None)


def merged(one: Iterator[Sent], other: Iterator[Sent]) -> Iterator[Sent]:
    """Two streams on one clock."""
    return heapq.merge(one, other, key=lambda sent: sent.ts)
