"""Record <-> string of units: compact, reversible, the same for training, serving and generation.

A flow is written as kind, protocol, IP version, ports, then its packets, facts and payload prefixes:

    flow tcp ip4 e w | > S 0 w65535 | < SA 0 w65535 26ms | > A 0 262us | payload orig 16 03 01 .. hidden 32 ..

One packet is direction, flags, size, window and ttl where they change, inter-arrival time: in this order so that
common packets ("> A 0") merge into one learnt token. What is kept exactly, and what in which bucket, is `canonical`.
"""

from __future__ import annotations

from collections.abc import Sequence

from trafficllm.core.errors import InputError
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Facts, Record, RecordKind, Span
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import (
    DEFAULT,
    HIDDEN,
    ICMP_PROTOS,
    TCP,
    canonical,
    fact_value,
    filled,
    load_of,
    port_class,
    runs,
    shown_service,
    text_bytes,
)

__all__ = ["DEFAULT", "CodecOptions", "canonical", "decode", "encode", "pretty"]

KIND_UNITS = {kind: u.unit(f"kind:{kind}") for kind in u.KINDS}
PROTO_UNITS = {number: u.unit(f"proto:{name}") for number, name in u.PROTOS.items()}
IP_UNITS = {4: u.unit("ip4"), 6: u.unit("ip6")}
PORT_UNITS = tuple({c: u.unit(f"{end}:{c}") for c in u.PORT_CLASSES} for end in ("orig_p", "resp_p"))
SERVICE_UNITS = {name: u.unit(f"service:{name}") for name in u.SERVICES}
FACT_UNITS = {name: u.unit(f"fact:{name}") for name in u.FACTS}
PAYLOAD_UNITS = (u.unit("payload:orig"), u.unit("payload:resp"))
PROTO, PORTS, ICMP_MARK, MASK, END = (u.unit(n) for n in ("proto", "ports", "icmp", "mask", "end"))


def encode(record: Record, options: CodecOptions = DEFAULT) -> str:
    """The record as units, no spaces; ends with the unit "end".

    >>> pretty(encode(Record(proto=17, dirs=(0,), sizes=(33,), iats=(0,))))
    'flow udp ip4 | > 33 | end'
    """
    parts = [KIND_UNITS[record.kind]]
    if record.kind == "http":
        data = text_bytes(record.text)
        parts.append(_payload_units(data, runs(record.hidden, 0, len(data)), options.text))
    elif record.kind == "cells":
        _load_units(record, parts)
        _burst_units(record, options.bursts, parts)
    else:
        _head_units(record, parts)
        _packet_units(record, 1 if record.kind == "packet" else options.packets, parts)
        parts.append(beginning_units(record.facts, record.payload, record.hidden, options))
    parts.append(END)
    return "".join(parts)


def beginning_units(facts: Facts, payload: tuple[bytes, bytes], hidden: Sequence[Span], options: CodecOptions = DEFAULT) -> str:
    """The units of a flow behind its packets: facts, then each direction's payload, without the end."""
    parts: list[str] = []
    _fact_units(facts, parts)
    for d in (0, 1):
        data = payload[d]
        units = _payload_units(data, runs(hidden, d, len(data)) if hidden else [], options.payload[d]) if data else ""
        if units:
            parts += (PAYLOAD_UNITS[d], units)
    return "".join(parts)


def _head_units(record: Record, parts: list[str]) -> None:
    if 0 <= record.proto < 256:
        parts.append(PROTO_UNITS.get(record.proto) or PROTO + u.BYTE_UNITS[record.proto])
    if record.ip_version in IP_UNITS:
        parts.append(IP_UNITS[record.ip_version])
    if record.proto in ICMP_PROTOS:
        if record.icmp >= 0:
            parts.append(ICMP_MARK + u.bytes_units(record.icmp.to_bytes(2, "big")))
    elif record.ports is not None:
        raw = b"".join((port & 0xFFFF).to_bytes(2, "big") for port in record.ports)
        parts.append(PORTS + u.bytes_units(raw))
    else:
        parts += [PORT_UNITS[end].get(c, "") for end, c in enumerate(record.port_class[:2])]


def _packet_units(record: Record, limit: int, parts: list[str]) -> None:
    n = min(len(record.dirs), limit)
    tcp = record.proto in (TCP, -1)
    flags = filled(record.flags if tcp else (), n)
    windows = filled(record.windows if tcp else (), n)
    sizes, iats, ttls = filled(record.sizes, n), filled(record.iats, n), filled(record.ttls, n)
    window_now, ttl_now = [-1, -1], [-1, -1]
    for i in range(n):
        d = 1 if record.dirs[i] else 0
        parts.append(u.DIR_UNITS[d])
        if flags[i] >= 0:
            parts.append(u.FLAG_UNITS[flags[i] & 31])
            if flags[i] & 0xE0:
                parts.append(u.EXTRA_UNITS[flags[i] & 0xE0])
        if sizes[i] >= 0:
            parts.append(u.size_units(sizes[i]))
        if windows[i] >= 0 and (bucket := u.window_bucket(min(windows[i], 65535))) != window_now[d]:
            window_now[d] = bucket
            parts.append(u.WINDOW_UNITS[bucket])
        if ttls[i] >= 0 and (bucket := u.ttl_bucket(min(ttls[i], 255))) != ttl_now[d]:
            ttl_now[d] = bucket
            parts.append(u.TTL_UNITS[bucket])
        if i and iats[i] >= 0:
            parts.append(u.IAT_UNITS[u.iat_bucket(iats[i])])


def _fact_units(facts: Facts, parts: list[str]) -> None:
    service = shown_service(facts.service)
    if service:
        parts.append(SERVICE_UNITS[service])
    if not facts.fields:
        return
    for name, (form, _) in u.FACTS.items():
        value = fact_value(facts.fields, name, form) if name in facts.fields else None
        if value is None:
            continue
        parts.append(FACT_UNITS[name] + u.bytes_units(_fact_bytes(value, form)))


def _fact_bytes(value: int | str | tuple[int, ...], form: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, tuple) else value.to_bytes(u.FACT_WIDTH[form], "big")


def _load_units(record: Record, parts: list[str]) -> None:
    """What the whole load adds up to, before its bursts: a prompt that is cut still has it."""
    load = load_of(record)
    for char, count in zip((*u.TOTAL_UNITS, *u.CUMUL_UNITS), load, strict=False):
        parts.append(char + u.size_units(count))
    for char, time in zip(u.MOMENT_UNITS, load[-len(u.MOMENT_UNITS) :] if load else (), strict=False):
        if time >= 0:
            parts.append(char + u.IAT_UNITS[u.iat_bucket(time)])


def _payload_units(data: bytes, hidden: list[tuple[int, int]], budget: int) -> str:
    if not hidden:
        return u.bytes_units(data[: max(budget, 0)])
    out = []
    at = 0
    for start, end in [*hidden, (len(data), len(data))]:
        plain = data[at : min(start, at + budget)]
        out.append(u.bytes_units(plain))
        budget -= len(plain)
        if len(plain) < start - at or start == end or budget < 2:
            break
        out.append(MASK + u.RUN_UNITS[u.run_bucket(end - start)])
        budget -= 2
        at = end
    return "".join(out)


def _burst_units(record: Record, limit: int, parts: list[str]) -> None:
    iats = filled(record.iats, len(record.dirs))
    bursts: list[list[int]] = []
    for d, gap in zip(record.dirs, iats, strict=True):
        d = 1 if d else 0
        if bursts and bursts[-1][0] == d and bursts[-1][1] < u.SIZE_EXACT - 1:
            bursts[-1][1] += 1
        elif len(bursts) == limit:
            break
        else:
            bursts.append([d, 1, gap])
    for k, (d, count, gap) in enumerate(bursts):
        parts.append(u.DIR_UNITS[d] + u.SIZE_UNITS[count])
        if k and gap >= 0:
            parts.append(u.IAT_UNITS[u.iat_bucket(gap)])


class _Reader:
    """A cursor over a unit string; every refusal names the place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self, table: dict[str, int]) -> int:
        """The value of the next unit where it is one of `table`, and move on; -1 where not."""
        value = table.get(self.peek(), -1)
        if value >= 0:
            self.at += 1
        return value

    def octets(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count and self.peek() and u.is_byte(self.peek()):
            out.append(ord(self.peek()) - u.BYTE0)
            self.at += 1
        return bytes(out)

    def number(self, count: int) -> int:
        raw = self.octets(count)
        if len(raw) < count:
            raise self.fault()
        return int.from_bytes(raw, "big")

    def fault(self) -> InputError:
        char = self.peek()
        unit_name = u.UNIT_NAMES.get(char, repr(char)) if char else "its end"
        message = f"not a record: {unit_name} is out of place"
        return InputError("input.record", message, where=f"unit {self.at}", hint="the string was not written by this codec")


def _table(row: tuple[str, ...]) -> dict[str, int]:
    return {char: k for k, char in enumerate(row)}


_KIND_OF: dict[str, RecordKind] = {KIND_UNITS[k]: k for k in ("flow", "packet", "http", "cells")}
_PROTO_OF = {char: number for number, char in PROTO_UNITS.items()}
_IP_OF = {char: version for version, char in IP_UNITS.items()}
_PORT_OF = tuple({char: ord(c) for c, char in row.items()} for row in PORT_UNITS)
_DIR_OF, _FLAG_OF, _IAT_OF = _table(u.DIR_UNITS), _table(u.FLAG_UNITS), _table(u.IAT_UNITS)
_EXTRA_OF = {char: bits for bits, char in u.EXTRA_UNITS.items()}
_HIGH_OF, _LOW_OF, _OVER_OF = _table(u.SIZE_HIGH), _table(u.SIZE_LOW), _table(u.SIZE_OVER)
_WINDOW_OF, _TTL_OF, _RUN_OF = _table(u.WINDOW_UNITS), _table(u.TTL_UNITS), _table(u.RUN_UNITS)
_SERVICE_OF = {char: name for name, char in SERVICE_UNITS.items()}


def decode(units: str) -> Record:
    """The record a unit string stands for: exact where the codec is, the bucket's value where it is not.

    Raises InputError with the unit's place where `encode` could not have written the string.
    """
    reader = _Reader(units)
    kind = _KIND_OF.get(reader.peek())
    if kind is None:
        raise reader.fault()
    reader.at = 1
    if kind == "http":
        data, hidden = _read_payload(reader, 0)
        record = Record(kind="http", ip_version=0, proto=-1, text=data.decode("utf-8", "surrogateescape"), hidden=hidden)
    elif kind == "cells":
        record = _read_cells(reader)
    else:
        record = _read_flow(reader, kind)
    if reader.peek() != END or reader.at != len(units) - 1:
        raise reader.fault()
    return record


def _read_flow(reader: _Reader, kind: RecordKind) -> Record:
    proto = reader.take(_PROTO_OF)
    if proto < 0 and reader.peek() == PROTO:
        reader.at += 1
        proto = reader.number(1)
    version = reader.take(_IP_OF)
    ports, classes, icmp = _read_ports(reader, proto)
    dirs, sizes, iats, flags, windows, ttls = _read_packets(reader)
    facts = _read_facts(reader)
    payload: list[bytes] = [b"", b""]
    hidden: list[Span] = []
    for d in (0, 1):
        if reader.peek() == PAYLOAD_UNITS[d]:
            reader.at += 1
            payload[d], spans = _read_payload(reader, d)
            hidden += spans
    return Record(
        kind,
        max(version, 0),
        proto,
        ports,
        classes,
        dirs,
        sizes,
        iats,
        flags,
        windows,
        ttls,
        icmp=icmp,
        payload=(payload[0], payload[1]),
        hidden=tuple(hidden),
        facts=facts,
    )


def _read_ports(reader: _Reader, proto: int) -> tuple[tuple[int, int] | None, str, int]:
    if proto in ICMP_PROTOS and reader.peek() == ICMP_MARK:
        reader.at += 1
        return None, "", reader.number(2)
    if reader.peek() == PORTS:
        reader.at += 1
        ports = reader.number(2), reader.number(2)
        return ports, port_class(ports[0]) + port_class(ports[1]), -1
    codes = [reader.take(table) for table in _PORT_OF]
    classes = "".join("-" if code < 0 else chr(code) for code in codes)
    return None, "" if classes == "--" else classes, -1


def _read_size(reader: _Reader) -> int:
    if reader.peek() == u.SIZE_ZERO:
        reader.at += 1
        return 0
    high = reader.take(_HIGH_OF)
    if high >= 0:
        low = reader.take(_LOW_OF)
        if low < 0:
            raise reader.fault()
        return high * 32 + low
    over = reader.take(_OVER_OF)
    return -1 if over < 0 else u.SIZE_BOUNDS[over]


def _read_packets(reader: _Reader) -> tuple[tuple[int, ...], ...]:
    rows: list[tuple[int, int, int, int, int, int]] = []
    windows, ttls = [-1, -1], [-1, -1]
    while (d := reader.take(_DIR_OF)) >= 0:
        flags = reader.take(_FLAG_OF)
        if flags >= 0:
            flags |= max(reader.take(_EXTRA_OF), 0)
        size = _read_size(reader)
        if (bucket := reader.take(_WINDOW_OF)) >= 0:
            windows[d] = u.window_value(bucket)
        if (bucket := reader.take(_TTL_OF)) >= 0:
            ttls[d] = u.TTL_UPPER[bucket]
        gap = reader.take(_IAT_OF) if rows else 0
        rows.append((d, size, u.iat_value(gap) if gap >= 0 else -1, flags, windows[d], ttls[d]))
    return tuple(zip(*rows, strict=True)) if rows else ((),) * 6


def _read_facts(reader: _Reader) -> Facts:
    service = _SERVICE_OF.get(reader.peek(), "")
    reader.at += bool(service)
    fields: dict[str, int | str | tuple[int, ...]] = {}
    for name, (form, _) in u.FACTS.items():
        if reader.peek() != FACT_UNITS[name]:
            continue
        reader.at += 1
        if form == "str":
            fields[name] = reader.octets(u.FACT_TEXT).decode("ascii", "replace")
        elif form == "set":
            fields[name] = tuple(reader.octets(u.FACT_SET))
        else:
            fields[name] = reader.number(u.FACT_WIDTH[form])
    return Facts(service=service, fields=fields)


def _read_payload(reader: _Reader, direction: int) -> tuple[bytes, tuple[Span, ...]]:
    out = bytearray()
    hidden: list[Span] = []
    while True:
        out += reader.octets(1 << 20)
        if reader.peek() != MASK:
            return bytes(out), tuple(hidden)
        reader.at += 1
        bucket = reader.take(_RUN_OF)
        if bucket < 0:
            raise reader.fault()
        hidden.append(Span(direction, len(out), len(out) + u.RUN_BOUNDS[bucket], HIDDEN))
        out += bytes(u.RUN_BOUNDS[bucket])


def _read_load(reader: _Reader) -> tuple[int, ...]:
    """What the whole load adds up to: all counts, and either all times or none."""
    if reader.peek() != u.TOTAL_UNITS[0]:
        return ()
    counts, times = [], []
    for char in (*u.TOTAL_UNITS, *u.CUMUL_UNITS):
        if reader.peek() != char:
            raise reader.fault()
        reader.at += 1
        counts.append(_read_size(reader))
    for char in u.MOMENT_UNITS if reader.peek() == u.MOMENT_UNITS[0] else ():
        if reader.peek() != char:
            raise reader.fault()
        reader.at += 1
        times.append(u.iat_value(max(reader.take(_IAT_OF), 0)))
    return (*counts, *(times or [-1] * len(u.MOMENT_UNITS)))


def _read_cells(reader: _Reader) -> Record:
    load = _read_load(reader)
    dirs: list[int] = []
    iats: list[int] = []
    while (d := reader.take(_DIR_OF)) >= 0:
        count = max(_read_size(reader), 0)
        gap = reader.take(_IAT_OF) if dirs else 0
        dirs += [d] * count
        iats += [u.iat_value(gap) if gap >= 0 else -1, *[0] * (count - 1)][:count]
    empty = (-1,) * len(dirs)
    return Record("cells", 0, -1, None, "", tuple(dirs), empty, tuple(iats), empty, empty, empty, load=load)


def pretty(units: str) -> str:
    """The string for people: names for units, a bar before each packet and section, payload in hex.

    >>> pretty(encode(Record(proto=17, dirs=(0,), sizes=(5,), payload=(b"hi", b""))))
    'flow udp ip4 | > 5 | payload orig 68 69 | end'
    """
    out: list[str] = []
    high = 0
    for char in units:
        name = u.UNIT_NAMES.get(char, "?")
        head, _, value = name.partition(":")
        if char in _HIGH_OF:
            high = _HIGH_OF[char] * 32
        elif char in _LOW_OF:
            out.append(str(high + _LOW_OF[char]))
        else:
            out.append(_word(name, head, value))
    return " ".join(out)


def _word(name: str, head: str, value: str) -> str:
    if head in {"kind", "proto", "size", "iat", "flags"} and value:
        return value
    if head in {"run", "ttl", "window"}:
        return value if head == "run" else f"{head}={value}"
    if head in {"service", "fact", "payload", "total", "cumul", "moment"} or name == "end":
        return f"| {head} {value}".rstrip()
    return {"dir:orig": "| >", "dir:resp": "| <", "mask": "hidden", "ports": "ports", "flags+U": "+U"}.get(name, name)
