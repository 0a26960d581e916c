"""What the codec keeps of a record: the values that encode and decode give back, stated apart from both.

`decode(encode(x)) == canonical(x)`, and `canonical` changes nothing that it gave itself. Absent and masked
values are -1 in `sizes`, `iats`, `flags`, `windows`, `ttls`, `icmp` and `proto`, 0 in `ip_version`, "-" in `port_class`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records.codec import units as u
from trafficllm.records.codec.page_load import MOMENTS, page_load

TCP, ICMP, ICMP6 = 6, 1, 58
ICMP_PROTOS = (ICMP, ICMP6)
HIDDEN = "hidden"
MAX_PACKETS = 32
"""Packets of a flow that a raw record holds at most, whatever a record shows of them."""
GREASE = 0x0A0A
_SERVICES = frozenset(u.SERVICES)


DEFAULT = CodecOptions()


def port_class(port: int) -> str:
    """'w' below 1024, 'r' below 49152, 'e' above (RFC 6335 section 6)."""
    return "w" if port < 1024 else "r" if port < 49152 else "e"


def runs(spans: Sequence[Span], direction: int, size: int) -> list[tuple[int, int]]:
    """Hidden byte ranges of one direction: clipped to `size`, sorted, touching ones joined."""
    out: list[tuple[int, int]] = []
    for start, end in sorted((max(s.start, 0), min(s.end, size)) for s in spans if s.dir == direction):
        if start >= end:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def text_bytes(text: str) -> bytes:
    """Bytes of a text; undecodable ones travel as surrogate escapes (PEP 383), so nothing is lost."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def canonical(record: Record, options: CodecOptions = DEFAULT) -> Record:
    """The record as it comes back from `decode(encode(record))`; `masked` and facts' spans are not kept."""
    if record.kind == "http":
        data, hidden = _payload(text_bytes(record.text), runs(record.hidden, 0, 1 << 30), 0, options.text)
        return Record(kind="http", ip_version=0, proto=-1, text=data.decode("utf-8", "surrogateescape"), hidden=hidden)
    if record.kind == "cells":
        return _cells(record, options.bursts)
    return _flow(record, options)


def _flow(record: Record, options: CodecOptions) -> Record:
    n = min(len(record.dirs), 1 if record.kind == "packet" else options.packets)
    dirs = tuple(1 if d else 0 for d in record.dirs[:n])
    icmp = record.proto in ICMP_PROTOS
    tcp = record.proto in (TCP, -1)
    ports = None if icmp or record.ports is None else (record.ports[0] & 0xFFFF, record.ports[1] & 0xFFFF)
    payload: list[bytes] = []
    hidden: list[Span] = []
    for d in (0, 1):
        spans = runs(record.hidden, d, len(record.payload[d]))
        data, hidden_runs = _payload(record.payload[d], spans, d, options.payload[d])
        payload.append(data)
        hidden += hidden_runs
    return Record(
        kind=record.kind,
        ip_version=record.ip_version if record.ip_version in (4, 6) else 0,
        proto=record.proto if 0 <= record.proto < 256 else -1,
        ports=ports,
        port_class=_classes(record, ports, icmp=icmp),
        dirs=dirs,
        sizes=tuple(_size(x) for x in filled(record.sizes, n)),
        iats=tuple(_iat(x, i) for i, x in enumerate(filled(record.iats, n))),
        flags=filled(record.flags, n) if tcp else (-1,) * n,
        windows=_carried(filled(record.windows, n), dirs, _window) if tcp else (-1,) * n,
        ttls=_carried(filled(record.ttls, n), dirs, _ttl),
        icmp=record.icmp if icmp else -1,
        payload=(payload[0], payload[1]),
        hidden=tuple(hidden),
        facts=canonical_facts(record.facts),
    )


def _cells(record: Record, bursts: int) -> Record:
    dirs: list[int] = []
    iats: list[int] = []
    seen = 0
    gaps = filled(record.iats, len(record.dirs))
    last, run = -1, 0
    for d, gap in zip(record.dirs, gaps, strict=True):
        d = 1 if d else 0
        if d != last or run == u.SIZE_EXACT - 1:
            if seen == bursts:
                break
            seen, run = seen + 1, 0
            iats.append(_iat(gap, len(iats)))
        else:
            iats.append(0)
        run += 1
        dirs.append(d)
        last = d
    empty = (-1,) * len(dirs)
    return Record(
        kind="cells",
        ip_version=0,
        proto=-1,
        dirs=tuple(dirs),
        iats=tuple(iats),
        sizes=empty,
        flags=empty,
        windows=empty,
        ttls=empty,
        load=load_of(record),
    )


def load_of(record: Record) -> tuple[int, ...]:
    """What the whole load adds up to (`page_load`), as the codec carries it: counts like sizes, times in their buckets."""
    values = record.load or page_load(record.dirs, filled(record.iats, len(record.dirs)))
    counts, times = values[: len(values) - MOMENTS], values[-MOMENTS:] if values else ()
    return (*(_size(value) for value in counts), *(-1 if time < 0 else u.iat_value(u.iat_bucket(time)) for time in times))


def filled(values: Sequence[int], n: int) -> tuple[int, ...]:
    """The first `n` values, -1 where there are fewer."""
    head = tuple(values[:n])
    return head if len(head) == n else head + (-1,) * (n - len(head))


def _classes(record: Record, ports: tuple[int, int] | None, *, icmp: bool) -> str:
    if icmp:
        return ""
    if ports is not None:
        return port_class(ports[0]) + port_class(ports[1])
    classes = "".join(c if c in u.PORT_CLASSES else "-" for c in f"{record.port_class:-<2}"[:2])
    return "" if classes == "--" else classes


def _size(size: int) -> int:
    if size < u.SIZE_EXACT:
        return max(size, -1)
    return max(low for low in u.SIZE_BOUNDS if low <= size)


def _iat(gap: int, position: int) -> int:
    if position == 0:
        return 0
    return -1 if gap < 0 else u.iat_value(u.iat_bucket(gap))


def _window(window: int) -> int:
    return u.window_value(u.window_bucket(min(window, 65535)))


def _ttl(ttl: int) -> int:
    return u.TTL_UPPER[u.ttl_bucket(min(ttl, 255))]


def _carried(values: Sequence[int], dirs: Sequence[int], quantise: object) -> tuple[int, ...]:
    """A direction keeps its last known value where a packet has none: the codec writes only changes."""
    assert callable(quantise)
    last = [-1, -1]
    out = []
    for value, d in zip(values, dirs, strict=True):
        if value >= 0:
            last[d] = quantise(value)
        out.append(last[d])
    return tuple(out)


def _payload(data: bytes, spans: list[tuple[int, int]], direction: int, budget: int) -> tuple[bytes, tuple[Span, ...]]:
    """Payload cut to `budget` units, hidden runs as zeros of their bucket's length."""
    out = bytearray()
    hidden: list[Span] = []
    at = 0
    for start, end in [*((s, min(e, len(data))) for s, e in spans if s < len(data)), (len(data), len(data))]:
        plain = data[at:start][:budget]
        out += plain
        budget -= len(plain)
        if len(plain) < start - at or start == end or budget < 2:
            break
        length = u.RUN_BOUNDS[u.run_bucket(end - start)]
        hidden.append(Span(direction, len(out), len(out) + length, HIDDEN))
        out += bytes(length)
        budget -= 2
        at = end
    return bytes(out), tuple(hidden)


def canonical_facts(facts: Facts) -> Facts:
    """Service and the facts of units.FACTS, clipped to their forms; everything else is not carried."""
    service = shown_service(facts.service)
    fields: dict[str, int | str | tuple[int, ...]] = {}
    for name, (form, _) in u.FACTS.items() if facts.fields else ():
        value = fact_value(facts.fields, name, form)
        if value is not None:
            fields[name] = value
    return Facts(service=service, fields=fields)


def shown_service(service: str) -> str:
    """The service as the codec shows it: by its unit, or as "other"."""
    return service if service in _SERVICES or not service else "other"


def fact_value(fields: Mapping[str, int | str | tuple[int, ...]], name: str, form: str) -> int | str | tuple[int, ...] | None:
    """One fact in its codec form, or None where it is absent, empty or of another type."""
    value = fields.get(name)
    if form == "str":
        text = value.encode("ascii", "replace")[: u.FACT_TEXT].decode("ascii") if isinstance(value, str) else ""
        return text or None
    if form == "set":
        return tuple(sorted(max(0, min(v, 255)) for v in value)[: u.FACT_SET]) or None if isinstance(value, tuple) else None
    if form == "n8" and isinstance(value, tuple | str):
        value = len(value)
    if form == "m16" and isinstance(value, tuple):
        value = max((v for v in value if v & 0x0F0F != GREASE), default=None)
    if not isinstance(value, int):
        return None
    return max(0, min(value, (1 << 8 * u.FACT_WIDTH[form]) - 1))


def bare(record: Record) -> Record:
    """The record without `masked`: what an equality with a decoded record compares."""
    return dataclasses.replace(record, masked=frozenset())
