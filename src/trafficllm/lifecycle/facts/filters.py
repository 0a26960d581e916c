"""Filters in a question ("only to 10.0.0.5", "after 12:03", "port 443") and the flows that pass them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from trafficllm.core.times import NS, iso_time
from trafficllm.core.types import FlowMeta

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
Side: TypeAlias = Literal["from", "to", "of"]
"""The host that opened the flow, the one that answered, either."""

_ADDRESS = r"(?:\d{1,3}(?:\.\d{1,3}){3}|(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})(?:/\d{1,3})?(?![\w:])"
_ENDS = (
    r"(?:(?:only|just)\s+)?"
    r"(?P<word>from|by|sent by|to|towards|into|reaching|between|of|with|at|about|involving|for|on|did|does|host|is)?\s*"
    r"(?:the\s+)?(?:host|server|client|machine|address|ip)?\s*"
)
_HOSTS = re.compile(rf"\b{_ENDS}(?P<first>{_ADDRESS})(?P<more>(?:\s*(?:,|or)\s*(?:{_ADDRESS}))*)", re.IGNORECASE)
_ADDRESSES = re.compile(_ADDRESS, re.IGNORECASE)
_PORT = re.compile(r"\b(?:only\s+|just\s+)?(?:on|to|at|over|via|from)?\s*ports?\s*(?:number\s*)?(\d{1,5})\b", re.IGNORECASE)
_PROTO = re.compile(r"\b(?:only\s+(?:over\s+)?|just\s+|over\s+|via\s+)(tcp|udp|icmp|sctp)\b", re.IGNORECASE)
_CLOCK = r"(?P<day>\d{4}-\d{2}-\d{2})?[t ]?(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?:\s*(?:utc|z)\b)?"
_TIME = re.compile(rf"\b(?P<side>after|since|from|starting at|before|until|till|up to|between|and)\s+{_CLOCK}(?![\d.:])", re.IGNORECASE)
_FIRST = re.compile(r"\b(?:in|during|of|within)\s+the\s+first\s+(\d{1,6})\s*(seconds?|secs?|s|minutes?|mins?|hours?|h)\b", re.IGNORECASE)
_SIDES: dict[str, Side] = {"from": "from", "by": "from", "sent by": "from", "did": "from", "does": "from"}
_SIDES |= {"to": "to", "towards": "to", "into": "to", "reaching": "to", "at": "to"}
_PROTOS = {"icmp": (1, 58), "tcp": (6,), "udp": (17,), "sctp": (132,)}
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time in UTC: `seconds` of the day, on `day` (seconds since the epoch) or, where that is None, on the day the capture begins."""

    seconds: int
    day: int | None = None

    def at(self, first: int) -> int:
        """The time in ns, for a capture whose first flow began at `first` ns."""
        day = self.day if self.day is not None else first // NS // 86400 * 86400
        return (day + self.seconds) * NS

    def __str__(self) -> str:
        text = f"{self.seconds // 3600:02d}:{self.seconds // 60 % 60:02d}:{self.seconds % 60:02d} UTC"
        return text if self.day is None else iso_time((self.day + self.seconds) * NS)


@dataclass(frozen=True, slots=True)
class Ends:
    """What a filter or a counter needs of a flow: both ends as text, protocol number, start and duration in ns."""

    orig_h: str
    resp_h: str
    orig_p: int
    resp_p: int
    proto: int
    ts: int


def ends_of(meta: FlowMeta) -> Ends:
    """Both ends of a record's flow."""
    return Ends(meta.orig_h, meta.resp_h, meta.orig_p, meta.resp_p, meta.proto, meta.ts)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a question restricts flows to; every part must hold. `first` seconds count from the first flow."""

    hosts: tuple[tuple[Side, tuple[Network, ...]], ...] = ()
    ports: tuple[int, ...] = ()
    protos: tuple[str, ...] = ()
    after: Moment | None = None
    before: Moment | None = None
    first: int | None = None

    def __bool__(self) -> bool:
        return self != Filters()

    def passing(self) -> Callable[[Ends], bool]:
        """A test of flows in the order of a capture; days that the question leaves open are those of the first flow."""
        begin: list[int] = []
        numbers = {number for name in self.protos for number in _PROTOS[name]}

        def holds(flow: Ends) -> bool:
            if not begin:
                begin.append(flow.ts)
            return (
                all(_touches(flow, side, nets) for side, nets in self.hosts)
                and all(port in {flow.orig_p, flow.resp_p} for port in self.ports)
                and (not numbers or flow.proto in numbers)
                and (self.after is None or flow.ts >= self.after.at(begin[0]))
                and (self.before is None or flow.ts < self.before.at(begin[0]))
                and (self.first is None or flow.ts < begin[0] + self.first * NS)
            )

        return holds

    def __str__(self) -> str:
        parts = [f"{side} {' or '.join(map(_short, nets))}" for side, nets in self.hosts]
        parts += [f"port {port}" for port in self.ports] + [name.upper() for name in self.protos]
        parts += [f"begun at or after {self.after}"] if self.after else []
        parts += [f"begun before {self.before}"] if self.before else []
        parts += [f"begun in the first {self.first:,} s"] if self.first is not None else []
        return ", ".join(parts)


def _short(net: Network) -> str:
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def _touches(flow: Ends, side: Side, nets: tuple[Network, ...]) -> bool:
    names = {"from": (flow.orig_h,), "to": (flow.resp_h,), "of": (flow.orig_h, flow.resp_h)}[side]
    return any(address in net for address in map(ipaddress.ip_address, names) for net in nets if address.version == net.version)


def split_filters(question: str) -> tuple[Filters, str]:
    """The filters of a question, and the question without them. What is no address or time stays in it.

    >>> filters, rest = split_filters("top talkers only to 10.0.0.5 after 12:03")
    >>> str(filters), rest
    ('to 10.0.0.5, begun at or after 12:03:00 UTC', 'top talkers')
    """
    hosts: list[tuple[Side, tuple[Network, ...]]] = []
    times: dict[str, Moment] = {}
    rest = _TIME.sub(lambda match: _taken_time(match, times), question)
    first = _FIRST.search(rest)
    rest = _FIRST.sub(" ", rest)
    rest = _HOSTS.sub(lambda match: _taken_hosts(match, hosts), rest)
    ports = [int(number) for number in _PORT.findall(rest) if int(number) < 1 << 16]
    protos = [name.lower() for name in _PROTO.findall(rest)]
    rest = _PROTO.sub(" ", _PORT.sub(" ", rest)) if ports or protos else rest
    filters = Filters(
        hosts=tuple(hosts),
        ports=tuple(dict.fromkeys(ports)),
        protos=tuple(dict.fromkeys(protos)),
        after=times.get("after"),
        before=times.get("before"),
        first=int(first[1]) * _UNITS[first[2][0].lower()] if first else None,
    )
    return filters, " ".join(rest.split()) if filters else question


def _taken_hosts(match: re.Match[str], hosts: list[tuple[Side, tuple[Network, ...]]]) -> str:
    nets: list[Network] = []
    for text in [match["first"], *_ADDRESSES.findall(match["more"])]:
        try:
            nets.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            return match[0]
    word = (match["word"] or "").lower()
    hosts.append((_SIDES.get(word, "of"), tuple(nets)))
    return f" {match['word']} " if word in {"did", "does", "is"} else " "


def _taken_time(match: re.Match[str], times: dict[str, Moment]) -> str:
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        return match[0]
    try:
        day = int(datetime.fromisoformat(match["day"]).replace(tzinfo=UTC).timestamp()) if match["day"] else None
    except ValueError:
        return match[0]
    word = match["side"].lower()
    if word == "and" and "after" not in times:
        return match[0]
    times["before" if word in {"before", "until", "till", "up to", "and"} else "after"] = Moment(hour * 3600 + minute * 60 + second, day)
    return " "
