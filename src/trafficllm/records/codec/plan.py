"""Record -> flow plan for the compiler, and back: packets become actions, masked bytes become made-up ones.

A record shows the beginning of each direction and every size; a plan says who does what when. What a mask hid
(randoms, names, addresses) is filled anew, from the plan's own seed, so nothing of a training capture comes through.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from trafficllm.capture.compile.dns import synthetic_name
from trafficllm.capture.compile.http import filler
from trafficllm.capture.compile.icmp import REPLY_OF
from trafficllm.capture.compile.ports import CLIENTS, NEUTRAL, SERVICE_PORTS, port_class
from trafficllm.core.files import hash64
from trafficllm.core.types import ORIG, RESP, Action, FlowPlan, Record
from trafficllm.records.codec import units
from trafficllm.records.codec.canonical import HIDDEN, filled, runs
from trafficllm.records.codec.view import stands_in

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
_EXTRA = 0xE0 | PSH
_SMALL_WINDOW = 502
"""Stands for the window class "small", which a record writes as 1."""
_TEXT = frozenset(("http", "smtp", "ftp", "imap", "pop3", "sip"))
_ZERO = frozenset((3724,))
"""Responder ports whose messages end in fields that filler would set."""
_CARRIERS = frozenset(("send", "close", "datagram", "icmp"))


def plan_of(record: Record, *, label: str, seed: int = 0) -> FlowPlan:
    """The plan whose compiled flow a reader would see as `record`.

    Unknown values (-1) fall to the compiler's defaults; a missing protocol or IP version to TCP over IPv4.
    `seed` and `label` choose the bytes put where the record hides its own: the same arguments give the same plan.

    >>> plan_of(Record(proto=17, ip_version=4, dirs=(0, 1), sizes=(20, 80), iats=(0, 1000)), label="x").actions[1].size
    80
    """
    rng = random.Random(hash64(f"{seed}/{label}/{record!r}".encode("utf-8", "surrogatepass")))
    proto = record.proto if record.proto > 0 else 6
    service = _service(record)
    payload = [_shown(record, way, service, rng) for way in (ORIG, RESP)]
    version = record.ip_version if record.ip_version in {4, 6} else 6 if proto == 58 else 4
    orig_p, resp_p = _ports(record, service, rng)
    fill = "zero" if resp_p in _ZERO else "text" if service in _TEXT else "random"
    actions = tuple(_actions(record, proto, payload, fill))
    return FlowPlan(proto, version, resp_p, actions, label, orig_p)


def _service(record: Record) -> str:
    if record.facts.service:
        return record.facts.service
    if record.ports is None:
        return ""
    return {53: "dns", 5353: "dns", 5355: "dns", 443: "tls", 80: "http"}.get(record.ports[1], "")


def _ports(record: Record, service: str, rng: random.Random) -> tuple[int, int]:
    """Ports as shown; where only a class is, the service's if its class agrees, else a neutral one of the class; -1: any."""
    classes = f"{record.port_class:-<2}"
    if record.ports is not None:
        classes = "".join(map(port_class, record.ports))
    orig = rng.randrange(*CLIENTS[classes[0]]) if classes[0] in "wr" else -1
    if record.ports is not None and not stands_in(record.ports[0]):
        orig = record.ports[0]
    if record.ports is not None and not stands_in(record.ports[1]):
        return orig, record.ports[1]
    usual = 5355 if service == "dns" and classes[1] == "r" else SERVICE_PORTS.get(service, 0)
    if usual and classes[1] in {port_class(usual), "-"}:
        return orig, usual
    return orig, NEUTRAL.get(classes[1], NEUTRAL["r"])


def _actions(record: Record, proto: int, payload: list[bytes], fill: str) -> Iterator[Action]:
    n = len(record.dirs)
    sizes, iats, flags = filled(record.sizes, n), filled(record.iats, n), filled(record.flags, n)
    windows, ttls = filled(record.windows, n), filled(record.ttls, n)
    at = [0, 0]
    for i in range(n):
        way = 1 if record.dirs[i] else 0
        size = max(sizes[i], 0)
        op, extra = _step(proto, flags[i], size)
        data = payload[way][at[way] : at[way] + size] if op in _CARRIERS else b""
        at[way] += len(data)
        window = _SMALL_WINDOW if windows[i] == 1 else windows[i]
        yield Action(
            op,
            way,
            size,
            data,
            gap=max(iats[i], 0),
            window=window,
            ttl=ttls[i],
            flags=extra,
            icmp=_icmp(record, way) if op == "icmp" else -1,
            fill=fill,
        )


def _step(proto: int, flags: int, size: int) -> tuple[str, int]:
    """Operation and flags of one packet."""
    if proto != 6:
        return ("icmp" if proto in {1, 58} else "datagram"), 0
    bits = max(flags, 0)
    if bits & RST:
        return "reset", bits & ACK
    if bits & SYN:
        return "open", bits & 0xC0
    if bits & FIN:
        return "close", bits & _EXTRA
    return ("send" if size else "ack"), bits & _EXTRA


def _icmp(record: Record, way: int) -> int:
    """Type and code: a record names the first packet's, the other side answers with the matching reply."""
    if record.icmp < 0 or way == ORIG:
        return record.icmp
    kind = record.icmp >> 8
    return REPLY_OF[kind] << 8 if kind in REPLY_OF else record.icmp


def _shown(record: Record, way: int, service: str, rng: random.Random) -> bytes:
    """One direction's payload prefix with its hidden runs replaced."""
    data = record.payload[way]
    out = bytearray()
    at = 0
    for begin, end in runs(record.hidden, way, len(data)):
        out += data[at:begin]
        kinds = {span.kind for span in record.hidden if span.dir == way and span.start < end and span.end > begin}
        size = _true_length(out, end - begin) if HIDDEN in kinds else end - begin
        out += _made_up(service, kinds, size, rng)
        at = end
    return bytes(out + data[at:])


def _true_length(before: bytearray, run: int) -> int:
    """A decoded run is known to its bucket only: the length byte or word in front of it tells the rest, if it agrees."""
    bucket = units.run_bucket(run)
    for width in (2, 1):
        told = int.from_bytes(before[-width:], "big") if len(before) >= width else 0
        if told and units.run_bucket(told) == bucket:
            return told
    return run


def _made_up(service: str, kinds: set[str], size: int, rng: random.Random) -> bytes:
    if service == "dns" and not kinds & {"dns.id", "dns.address"} and size > 2:
        return synthetic_name(size + 1, min(size - 1, 7), rng)[:size] if size > 4 else filler(rng.randbytes(size))
    if service in _TEXT or any(kind.startswith("http.") for kind in kinds):
        return filler(rng.randbytes(size))
    if "dns.address" in kinds or "address" in kinds:
        return bytes((198, 51, 100, rng.randrange(1, 255)))[:size].ljust(size, b"\1")
    return rng.randbytes(size)
