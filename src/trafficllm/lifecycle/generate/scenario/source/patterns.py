"""Written patterns: what one flow of a class does, from a random source and a few ranges.

Nothing here works as an attack: probes are the strings that scanners are known by, sent to documentation addresses; tunnels and
beacons carry random bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trafficllm.core.types import ORIG, RESP, Action, FlowPlan
from trafficllm.lifecycle.generate.scenario.file import PatternName, Source
from trafficllm.lifecycle.generate.scenario.source import messages

_PSH = 8
_SECOND = 1_000_000_000
_LARGEST = 60_000
"""Bytes of one send; longer answers are several."""
_MTU = 1420
"""Largest inner packet of a WireGuard tunnel over IPv4."""
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_PROBES = (
    "/search?q=1%27%20OR%20%271%27%3D%271",
    "/product?id=7%20UNION%20SELECT%20NULL,NULL--",
    "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
    "/download?file=../../../../etc/passwd",
    "/login?next=%24%7Bprobe%7D",
    "/.env",
    "/backup.zip",
    "/admin/config.php",
)
_REFUSALS = ("404 Not Found", "403 Forbidden", "400 Bad Request")
_PAGES = ("/", "/catalogue", "/product?id=7", "/product?id=12", "/basket", "/search?q=garden", "/about", "/delivery")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a flow happens: the server's name, every name that is looked up, and an address for answers."""

    domain: str
    domains: Sequence[str]
    address: bytes
    ip_version: int


@dataclass(frozen=True, slots=True)
class _Ranges:
    """What a source asks for, or the pattern's own."""

    exchanges: tuple[int, int]
    request: tuple[int, int]
    answer: tuple[int, int]
    pause: tuple[float, float]


_DEFAULTS: dict[PatternName, _Ranges] = {
    "dns": _Ranges((1, 2), (0, 0), (0, 0), (0.002, 0.01)),
    "tls": _Ranges((1, 5), (200, 900), (600, 18_000), (0.05, 3.0)),
    "http": _Ranges((1, 5), (0, 0), (300, 9_000), (0.3, 6.0)),
    "login-guessing": _Ranges((6, 14), (0, 0), (120, 180), (0.15, 0.6)),
    "web-probes": _Ranges((3, 8), (0, 0), (150, 400), (0.05, 0.4)),
    "dns-tunnel": _Ranges((12, 40), (60, 110), (80, 180), (0.05, 1.5)),
    "wireguard": _Ranges((20, 60), (60, 700), (200, 6_000), (0.02, 2.0)),
}


class _Talk:
    """The actions of one flow as they are written; `rtt` ns between the ends."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rtt = round(rng.uniform(2e6, 60e6))
        self.actions: list[Action] = []
        self._wait = 0

    def pause(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self._wait += round(seconds * _SECOND)

    def _gap(self, least: int) -> int:
        gap, self._wait = self._wait + least, 0
        return gap

    def open(self) -> None:
        """The three-way handshake."""
        self.actions += [Action("open"), Action("open", RESP, gap=self.rtt), Action("ack", gap=40_000)]

    def send(self, way: int, data: bytes) -> None:
        """Data from one end, acknowledged by the other."""
        for at in range(0, len(data), _LARGEST):
            part = data[at : at + _LARGEST]
            gap = self._gap(self.rtt // 2 + self.rng.randrange(200_000, 4_000_000))
            self.actions.append(Action("send", way, len(part), part, gap=gap, flags=_PSH))
            self.actions.append(Action("ack", 1 - way, gap=self.rtt // 2 + 30_000))

    def datagram(self, way: int, data: bytes) -> None:
        """One datagram."""
        turned = bool(self.actions) and self.actions[-1].dir != way
        gap = self._gap(self.rtt if turned else 60_000) if self.actions else 0
        self.actions.append(Action("datagram", way, len(data), data, gap=gap))

    def close(self) -> None:
        """Both ends finish, the originator first."""
        half = self.rtt // 2
        self.actions += [Action("close", gap=self._gap(1_000_000)), Action("close", RESP, gap=half), Action("ack", gap=half)]

    def plan(self, proto: int, port: int, place: Place) -> FlowPlan:
        """The flow for the compiler."""
        return FlowPlan(proto, place.ip_version, port, tuple(self.actions), whole=True)


def plan(source: Source, place: Place, rng: random.Random) -> FlowPlan:
    """One flow of a written pattern: the same source, place and state of `rng` give the same flow."""
    assert source.pattern is not None
    own = _DEFAULTS[source.pattern]
    ranges = _Ranges(
        source.exchanges or own.exchanges, source.request or own.request, source.answer or own.answer, source.pause or own.pause
    )
    return _PATTERNS[source.pattern](source, ranges, place, _Talk(rng))


def _size(rng: random.Random, span: tuple[int, int]) -> int:
    """A size of the range, small ones more often: sizes of answers are skewed."""
    low, high = span
    return low + round((high - low) * rng.random() ** 2)


def _dns(_source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    rng = talk.rng
    for _ in range(rng.randint(*ranges.exchanges)):
        ident, name = rng.randrange(1 << 16), rng.choice(place.domains)
        talk.datagram(ORIG, messages.dns_query(ident, name))
        address = bytes((198, 51, 100, 10 + sum(name.encode()) % 200))
        talk.datagram(RESP, messages.dns_address(ident, name, address))
        talk.pause(rng.uniform(*ranges.pause))
    return talk.plan(17, 53, place)


def _tls(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    rng = talk.rng
    talk.open()
    talk.send(ORIG, messages.client_hello(rng, rng.choice(source.domains) if source.domains else place.domain))
    talk.send(RESP, messages.server_hello(rng))
    talk.send(ORIG, messages.client_finished(rng))
    for k in range(rng.randint(*ranges.exchanges)):
        talk.pause(rng.uniform(*ranges.pause) if k else 0.0)
        talk.send(ORIG, messages.application_data(rng, _size(rng, ranges.request)))
        talk.send(RESP, messages.application_data(rng, _size(rng, ranges.answer)))
    talk.close()
    return talk.plan(6, source.port or 443, place)


def _http(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    return _requests(source, ranges, place, talk, probing=False)


def _web_probes(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    return _requests(source, ranges, place, talk, probing=True)


def _requests(source: Source, ranges: _Ranges, place: Place, talk: _Talk, *, probing: bool) -> FlowPlan:
    rng, agent = talk.rng, source.agent or _AGENT
    paths, statuses = (_PROBES, _REFUSALS) if probing else (_PAGES, ("200 OK",))
    talk.open()
    for k in range(rng.randint(*ranges.exchanges)):
        talk.pause(rng.uniform(*ranges.pause) if k else 0.0)
        talk.send(ORIG, messages.http_request("GET", rng.choice(source.paths or paths), place.domain, agent))
        talk.send(RESP, messages.http_answer(rng.choice(statuses), messages.text(rng, _size(rng, ranges.answer))))
    talk.close()
    return talk.plan(6, source.port or 80, place)


def _login_guessing(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    rng, agent = talk.rng, source.agent or _AGENT
    path = source.paths[0] if source.paths else "/login"
    talk.open()
    for _ in range(rng.randint(*ranges.exchanges)):
        form = f"user=admin&password={messages.encoded(rng, rng.randrange(6, 12))}".encode()
        talk.send(ORIG, messages.http_request("POST", path, place.domain, agent, form))
        talk.send(RESP, messages.http_answer("401 Unauthorized", messages.text(rng, _size(rng, ranges.answer))))
        talk.pause(rng.uniform(*ranges.pause))
    talk.close()
    return talk.plan(6, source.port or 80, place)


def _dns_tunnel(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    rng = talk.rng
    zone = source.domains[0] if source.domains else place.domain
    kind = messages.TYPES[rng.choice(source.types)]
    for _ in range(rng.randint(*ranges.exchanges)):
        data = messages.encoded(rng, min(max(_size(rng, ranges.request), 8), 240 - len(zone)))
        labels = [data[at : at + 57] for at in range(0, len(data), 57)]
        ident, name = rng.randrange(1 << 16), ".".join([*labels, zone])
        talk.datagram(ORIG, messages.dns_query(ident, name, kind=kind))
        down = messages.encoded(rng, min(max(_size(rng, ranges.answer), 1), 900)).encode()
        talk.datagram(RESP, messages.dns_carried(ident, name, kind, down))
        talk.pause(rng.uniform(*ranges.pause))
    return talk.plan(17, 53, place)


def _wireguard(source: Source, ranges: _Ranges, place: Place, talk: _Talk) -> FlowPlan:
    rng = talk.rng
    indexes, counters = (rng.randrange(1 << 32), rng.randrange(1 << 32)), [0, 0]
    talk.datagram(ORIG, messages.wireguard_initiation(rng, indexes[ORIG]))
    talk.datagram(RESP, messages.wireguard_response(rng, indexes[RESP], indexes[ORIG]))
    talk.datagram(ORIG, messages.wireguard_data(rng, indexes[RESP], 0, 0))
    for _ in range(rng.randint(*ranges.exchanges)):
        talk.pause(rng.uniform(*ranges.pause))
        for way, span in ((ORIG, ranges.request), (RESP, ranges.answer)):
            left = max(_size(rng, span), 1)
            while left > 0:
                counters[way] += 1
                talk.datagram(way, messages.wireguard_data(rng, indexes[1 - way], counters[way], min(left, _MTU)))
                left -= _MTU
    return talk.plan(17, source.port or 51820, place)


_PATTERNS: dict[PatternName, Callable[[Source, _Ranges, Place, _Talk], FlowPlan]] = {
    "dns": _dns,
    "tls": _tls,
    "http": _http,
    "login-guessing": _login_guessing,
    "web-probes": _web_probes,
    "dns-tunnel": _dns_tunnel,
    "wireguard": _wireguard,
}
