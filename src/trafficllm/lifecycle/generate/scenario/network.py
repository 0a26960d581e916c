"""Hosts of a scenario as machines: documentation addresses, MACs, names, and a port for each new flow."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from trafficllm.capture.compile.headers import Ends
from trafficllm.capture.compile.ports import claimed
from trafficllm.core.errors import UsageError
from trafficllm.core.files import hash64
from trafficllm.lifecycle.generate.scenario.file import ScenarioFile

_INSIDE, _OUTSIDE = ("192.0.2.0",), ("198.51.100.0", "203.0.113.0")
_FIRST = 10
"""Lowest host part of an address: those below look like routers."""
_PER_NET = 255 - _FIRST
_EPHEMERAL = range(49152, 65536)
_STRIDE = 5_003
"""Prime to the number of ports: numbers of following flows lie apart, and none comes again before all have been used."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One host: addresses by IP version as packed bytes, MAC, the name it serves, and what it is."""

    name: str
    addresses: Mapping[int, bytes]
    mac: bytes
    domain: str
    role: str
    outside: bool

    def address(self, version: int) -> str:
        """The address of an IP version as text."""
        return str(ipaddress.ip_address(self.addresses[version]))


class Network:
    """The machines of a scenario by name. `mapped` gives some of them other IPv4 addresses (those of a capture that is merged with).

    Raises UsageError where a scenario has more hosts than the documentation ranges (RFC 5737).
    """

    def __init__(self, scenario: ScenarioFile, *, seed: int = 0, mapped: Mapping[str, bytes] | None = None) -> None:
        self._seed = seed
        self.machines: dict[str, Machine] = {}
        self._used: Counter[tuple[str, str]] = Counter()
        numbers = Counter[bool]()
        for host in scenario.host:
            for name in scenario.expanded([host.name]):
                number = numbers[host.outside]
                numbers[host.outside] += 1
                addresses = {4: _address4(number, outside=host.outside), 6: _address6(number, outside=host.outside)}
                if mapped and name in mapped:
                    addresses[4] = mapped[name]
                domain = host.domain or f"{name}.example"
                mac = bytes((0, 0, 0x5E, 0, 0x53, 1)) if host.outside else bytes((0, 0, 0x5E, 0, 0x53, 2 + number % 250))
                self.machines[name] = Machine(name, addresses, mac, domain, host.role, host.outside)

    def ends(self, sender: str, receiver: str, version: int) -> Ends:
        """Both ends of a flow for the compiler."""
        one, other = self.machines[sender], self.machines[receiver]
        return Ends(version, (one.addresses[version], other.addresses[version]), (one.mac, other.mac))

    def port(self, sender: str, receiver: str) -> int:
        """The sender's port of a new flow: none comes twice between two hosts, so that a Community ID names one flow.

        Raises UsageError where all ports between the two have been used.
        """
        key = (min(sender, receiver), max(sender, receiver))
        number, ports = self._used[key], free_ports()
        if number == len(ports):
            raise UsageError(
                "usage.scenario",
                f"more than {number:,} flows between {sender} and {receiver}",
                input="scenario",
                where=f"{sender}, {receiver}",
                hint="more hosts (count), fewer repetitions or a lower rate",
            )
        self._used[key] += 1
        return ports[(hash64(f"{self._seed}/{key}".encode()) + number * _STRIDE) % len(ports)]


@lru_cache(maxsize=1)
def free_ports() -> tuple[int, ...]:
    """Ephemeral ports (RFC 6335) that no analyser expects a protocol on."""
    taken = claimed("tcp") | claimed("udp")
    ports = tuple(port for port in _EPHEMERAL if port not in taken)
    return ports if len(ports) % _STRIDE else ports[:-1]


def _address4(number: int, *, outside: bool) -> bytes:
    nets = _OUTSIDE if outside else _INSIDE
    if number >= _PER_NET * len(nets):
        where = "outside" if outside else "inside"
        raise UsageError(
            "usage.scenario", f"more than {_PER_NET * len(nets)} hosts {where}", input="scenario", where="host", hint="fewer hosts (count)"
        )
    return (ipaddress.IPv4Address(nets[number // _PER_NET]) + _FIRST + number % _PER_NET).packed


def _address6(number: int, *, outside: bool) -> bytes:
    return bytes.fromhex("20010db8") + struct.pack("!HHQ", 2 if outside else 1, 0, _FIRST + number)
