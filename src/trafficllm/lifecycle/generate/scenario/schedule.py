"""When flows begin: everyday traffic at random moments, events as their plan says, all on one clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass

from trafficllm.core.errors import UsageError
from trafficllm.core.files import hash64
from trafficllm.lifecycle.generate.scenario.file import MAX_FLOWS, Background, Event, ScenarioFile

SECOND = 1_000_000_000
_MOST_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for: flows at `rate` times the scenario's pace, the whole `repeat` times in a row, from `start` (ns) on."""

    start: int
    rate: float = 1.0
    repeat: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A flow that begins: `ts` ns, number of its class (background first, then events), running number within it, and its hosts."""

    ts: int
    kind: int
    number: int
    sender: str
    receiver: str


def due_flows(scenario: ScenarioFile, load: Load, *, background: bool = True) -> Iterator[Due]:
    """Beginnings of all flows in order of time; the same arguments give the same. `background` false leaves everyday traffic out.

    Holds one flow a class. Raises UsageError for more than a million flows.
    """
    kinds = classes(scenario)
    streams = [_of_class(scenario, load, k) for k, kind in enumerate(kinds) if background or isinstance(kind, Event)]
    for count, due in enumerate(heapq.merge(*streams)):
        if count == MAX_FLOWS:
            hint = "fewer repetitions, a lower rate or a shorter span"
            raise UsageError("usage.scenario", f"more than {MAX_FLOWS:,} flows", input="scenario", hint=hint)
        yield due


def classes(scenario: ScenarioFile) -> tuple[Background | Event, ...]:
    """Everyday traffic and events, in the order that `Due.kind` counts them."""
    return (*scenario.background, *scenario.event)


def _of_class(scenario: ScenarioFile, load: Load, kind: int) -> Iterator[Due]:
    traffic = classes(scenario)[kind]
    rng = random.Random(hash64(f"{load.seed}/when/{kind}/{traffic.label}".encode()))
    senders, receivers = scenario.expanded(traffic.sender), scenario.expanded(traffic.receiver)
    number = 0
    for turn in range(load.repeat):
        begin = load.start + round(turn * scenario.span * SECOND)
        for offset in _moments(traffic, scenario.span, load.rate, rng):
            sender = rng.choice(senders)
            receiver = rng.choice([name for name in receivers if name != sender] or receivers)
            if sender != receiver:
                yield Due(begin + round(offset * SECOND), kind, number, sender, receiver)
                number += 1


def _moments(traffic: Background | Event, span: float, rate: float, rng: random.Random) -> Iterator[float]:
    """Seconds from the beginning of a turn, in order."""
    if isinstance(traffic, Background):
        at = rng.expovariate(traffic.per_minute * rate / 60)
        while at < span:
            yield at
            at += rng.expovariate(traffic.per_minute * rate / 60)
        return
    stop = min(span, span if traffic.stop is None else traffic.stop)
    if traffic.every is None:
        flows = min(max(round((traffic.flows or 1) * rate), 1), _MOST_AT_ONCE)
        yield from sorted(rng.uniform(traffic.start, stop) for _ in range(flows))
        return
    period, turn = traffic.every / rate, 0
    while (at := traffic.start + turn * period) < stop:
        # Less than half a period off, so that the order stays.
        yield min(max(at + rng.uniform(-traffic.jitter, traffic.jitter) * period * 0.999, 0.0), stop)
        turn += 1
