"""Masks: which fields of a record a profile hides, from one table (masks.toml), and how each is hidden.

>>> from trafficllm.records import masks
>>> masks.apply(Record(proto=6, ports=(50000, 443), dirs=(0,), ttls=(64,))).port_class
'ew'
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any, TypeAlias

from trafficllm.core.errors import UsageError
from trafficllm.core.files import sha256_bytes
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records.codec import units
from trafficllm.records.codec.canonical import canonical_facts, filled, port_class, text_bytes

Draft: TypeAlias = dict[str, Any]

SMALL_WINDOW = 1024
PORT_SERVICES = frozenset({"dhcp", "ntp", "netbios", "snmp", "syslog"})
"""Services that the parsers know by port number alone: to name them is to show the port."""
_COLUMNS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
SYN, ACK = 0x02, 0x10
_HEAD = 4
# RFC 9110 field names whose values name a host, a moment, a session or a person.
_TELLING = frozenset(
    b"date last-modified expires etag if-none-match if-modified-since referer origin location authorization "
    b"proxy-authorization set-cookie x-forwarded-for forwarded via from server-timing x-request-id alt-svc".split()
)
_DOTTED = re.compile(rb"(?<![0-9.])(?:[0-9]{1,3}[.,]){3}[0-9]{1,3}(?![0-9.])")
_DOTS = re.compile(rb"[.,][0-9]{1,3}[.,][0-9]{1,3}[.,]")
"""In every match of _DOTTED; a search that begins with a set of bytes is 20 times as fast."""
_URL = re.compile(rb"(?i)(?:://|%3A%2F%2F)([^\x00-\x20\x7f/\\?#%&\"'<>]+)")
"""A host ends at white space and other control bytes, so that a URL in a certificate does not hide what follows it."""
_NAME_FACTS = ("http.host", "dns.qry.name", "tls.handshake.extensions_server_name")


@dataclass(frozen=True, slots=True)
class Field:
    """One row of masks.toml: `carried` by the codec or not; `span`: a stretch of payload named by its SpanKind."""

    name: str
    hides: str
    why: str
    profiles: tuple[str, ...] = ()
    carried: bool = True
    span: bool = False


@lru_cache(maxsize=1)
def table() -> tuple[Field, ...]:
    """Every field with what hiding does, which profiles hide it and why."""
    text = resources.files("trafficllm.records").joinpath("masks.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["field"]
    return tuple(Field(**{**row, "profiles": tuple(row.get("profiles", ()))}) for row in rows)


def table_hash() -> str:
    """SHA-256 of masks.toml: part of what a data set's key stands for."""
    return sha256_bytes(resources.files("trafficllm.records").joinpath("masks.toml").read_bytes())


PROFILES = ("strict", "header", "payload", "raw")
FIELDS: tuple[str, ...] = tuple(row.name for row in table() if row.carried)
"""Fields that can be hidden or kept by name; "fact:" and a name of units.FACTS is one too."""
FACT = "fact:"
_SPANS = frozenset(row.name for row in table() if row.span)


@lru_cache(maxsize=256)
def hidden_fields(profile: str, also: frozenset[str] = frozenset(), keep: frozenset[str] = frozenset()) -> frozenset[str]:
    """Names hidden under `profile`, plus `also`, minus `keep`. Raises UsageError for a name that is none."""
    if profile not in PROFILES:
        hint = f"choose one of {', '.join(PROFILES)}"
        raise UsageError("usage.mask", f"no mask profile {profile!r}", input=profile, hint=hint)
    for name in sorted(also | keep):
        if name not in FIELDS and name.removeprefix(FACT) not in units.FACTS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields are {', '.join(FIELDS)}"
            raise UsageError("usage.mask", f"no field {name!r} to mask or keep", input=name, hint=hint)
    return (frozenset(row.name for row in table() if row.carried and profile in row.profiles) | also) - keep


def apply(record: Record, profile: str = "strict", also: frozenset[str] = frozenset(), keep: frozenset[str] = frozenset()) -> Record:
    """The record as `profile` shows it; `also` hides more, `keep` shows what the profile would hide.

    Hidden stretches of payload stay in `payload` but are listed in `hidden`, which is what the codec obeys; use
    `wiped` where the bytes themselves must be gone.
    """
    names = hidden_fields(profile, also, keep)
    draft = {name: getattr(record, name) for name in _NAMES}
    for name, hide in _ORDERED:
        if name in names:
            hide(draft)
    if also:
        _single_facts(draft, names)
    spans = _spans(draft, names)
    if spans:
        draft["hidden"] = (*draft["hidden"], *spans)
    draft["masked"] = record.masked | names
    return Record(**draft)


def beginning(facts: Facts, payload: tuple[bytes, bytes], names: frozenset[str]) -> tuple[Facts, tuple[bytes, bytes], list[Span]]:
    """Facts, payload and hidden stretches of a raw flow record as `apply` leaves them where `names` are hidden."""
    if not payload[0] and not payload[1] and not facts.service and not facts.fields:
        return facts, payload, []
    draft: Draft = {"kind": "flow", "text": "", "facts": facts, "payload": payload}
    if facts.service in PORT_SERVICES and not _PORT_FIELDS.isdisjoint(names):
        _service(draft)
    for name in _BEGINNING:
        if name in names:
            _HIDE[name](draft)
    if facts.fields and _hides_single_facts(names):
        _single_facts(draft, names)
    return draft["facts"], draft["payload"], _spans(draft, names)


@lru_cache(maxsize=256)
def _hides_single_facts(names: frozenset[str]) -> bool:
    return any(name.startswith(FACT) for name in names)


def beginning_key(names: Collection[str]) -> tuple[frozenset[str], bool]:
    """What of `names` `beginning` looks at: where the keys of two sets are equal, so is what it leaves."""
    told = {name for name in names if name.startswith(FACT) or name in _SPANS or name in _BEGINNING or name in _IN_PAYLOAD}
    return frozenset(told), not _PORT_FIELDS.isdisjoint(names)


def wiped(record: Record) -> Record:
    """The record with hidden bytes zeroed and only the facts that the codec carries: safe to store and to show."""
    payload = [bytearray(part) for part in record.payload]
    text = bytearray(text_bytes(record.text))
    for span in record.hidden:
        part = text if record.kind == "http" else payload[span.dir]
        start, end = max(span.start, 0), min(span.end, len(part))
        part[start:end] = bytes(max(end - start, 0))
    draft = {name: getattr(record, name) for name in _NAMES}
    draft["payload"] = (bytes(payload[0]), bytes(payload[1]))
    draft["text"] = text.decode("utf-8", "surrogateescape")
    draft["facts"] = canonical_facts(record.facts)
    return Record(**draft)


def _spans(draft: Draft, names: Collection[str]) -> list[Span]:
    """Stretches to hide: by kind from the facts, addresses from the bytes, the head if asked for."""
    parts = (text_bytes(draft["text"]), b"") if draft["kind"] == "http" else draft["payload"]
    if not parts[0] and not parts[1]:
        return []
    out = [s for s in draft["facts"].spans if s.kind in names and (s.kind != "http.header_value" or _telling(parts[s.dir], s.start))]
    if "payload_address" in names:
        out += [s for s in draft["facts"].spans if s.kind == "address"]
        for d in (0, 1):
            if _DOTS.search(parts[d]):
                out += [Span(d, *match.span(), "address") for match in _DOTTED.finditer(parts[d])]
    if "payload_name" in names:
        out += _names(draft["facts"], parts)
    if "payload_head" in names:
        out += [Span(d, 0, _HEAD, "head") for d in (0, 1)]
    return out


def _names(facts: Facts, parts: tuple[bytes, bytes]) -> list[Span]:
    """Host names of URLs in payload, percent-encoded ones too, and the flow's own names wherever they stand."""
    out = []
    known = {str(facts.fields[key]).encode("utf-8", "replace") for key in _NAME_FACTS if facts.fields.get(key)} if facts.fields else ()
    for d, part in enumerate(parts):
        if b"://" in part or b"%2F" in part or b"%2f" in part:
            out += [Span(d, start, end, "name") for start, end in _url_hosts(part)]
        for name in known:
            at = part.find(name) if len(name) > 3 else -1
            while at >= 0:
                out.append(Span(d, at, at + len(name), "name"))
                at = part.find(name, at + len(name))
    return out


def _url_hosts(part: bytes) -> Iterator[tuple[int, int]]:
    """Where the hosts of URLs stand: behind a separator with a letter before it that is no other host's."""
    at = 0
    while match := _URL.search(part, at):
        if match.start() > at and part[match.start() - 1 : match.start()].isalpha():
            at = match.end()
            yield match.span(1)
        else:
            at = match.start() + 1


def _telling(data: bytes, at: int) -> bool:
    line = data.rfind(b"\n", 0, at) + 1
    return data[line:at].split(b":", 1)[0].strip().lower() in _TELLING


def _ports(draft: Draft) -> None:
    if draft["ports"] is not None:
        draft["port_class"] = "".join(port_class(port) for port in draft["ports"])
        draft["ports"] = None
    facts = draft["facts"]
    if facts.service in PORT_SERVICES:
        draft["facts"] = Facts("", facts.fields, facts.spans)


def _port_class(end: int) -> Callable[[Draft], None]:
    def hide(draft: Draft) -> None:
        _ports(draft)
        classes = f"{draft['port_class']:-<2}"
        draft["port_class"] = "-" + classes[1] if end == 0 else classes[0] + "-"

    return hide


def _window_class(draft: Draft) -> None:
    draft["windows"] = tuple(w if w <= 0 else 1 if w < SMALL_WINDOW else 65535 for w in draft["windows"])


def _all(*columns: str) -> Callable[[Draft], None]:
    def hide(draft: Draft) -> None:
        for column in columns:
            draft[column] = (-1,) * len(draft["dirs"])

    return hide


def _one(column: str, position: int) -> Callable[[Draft], None]:
    def hide(draft: Draft) -> None:
        values = list(filled(draft[column], len(draft["dirs"])))
        if -len(values) <= position < len(values):
            values[position] = -1
        draft[column] = tuple(values)

    return hide


def _proto(draft: Draft) -> None:
    draft["proto"], draft["icmp"] = -1, -1
    _all("flags", "windows")(draft)


def _values(**values: object) -> Callable[[Draft], None]:
    return lambda draft: draft.update(values)


def _service(draft: Draft) -> None:
    draft["facts"] = Facts("", draft["facts"].fields, draft["facts"].spans)


def _facts(draft: Draft) -> None:
    draft["facts"] = Facts(draft["facts"].service, {}, draft["facts"].spans)


def _single_facts(draft: Draft, names: Collection[str]) -> None:
    facts = draft["facts"]
    shown = {name: value for name, value in facts.fields.items() if FACT + name not in names}
    draft["facts"] = Facts(facts.service, shown, facts.spans)


def _handshake(draft: Draft) -> None:
    """Leave out SYN, SYN-ACK and the bare ACK that ends the handshake; clear SYN where it comes later."""
    flags, sizes = draft["flags"], draft["sizes"]
    if not flags or not any(f >= 0 for f in flags):
        return
    skip = 0
    while skip < len(flags) and flags[skip] >= 0 and flags[skip] & SYN and not sizes[skip] > 0:
        skip += 1
    if 0 < skip < len(flags) and flags[skip] == ACK and sizes[skip] == 0:
        skip += 1
    _keep_packets(draft, range(skip, len(draft["dirs"])))
    draft["flags"] = tuple(f if f < 0 else f & ~SYN for f in draft["flags"])


def _keep_packets(draft: Draft, rows: Iterable[int]) -> None:
    picked = list(rows)
    n = len(draft["dirs"])
    for column in _COLUMNS:
        values = filled(draft[column], n)
        draft[column] = tuple(values[i] for i in picked)
    if draft["iats"]:
        draft["iats"] = (0, *draft["iats"][1:])


def _first_packet(draft: Draft) -> None:
    _keep_packets(draft, range(min(1, len(draft["dirs"]))))


_HIDE: dict[str, Callable[[Draft], None]] = {
    "ports": _ports,
    "orig_port_class": _port_class(0),
    "resp_port_class": _port_class(1),
    "ttl": _all("ttls"),
    "window_value": _window_class,
    "window": _all("windows"),
    "handshake": _handshake,
    "packet_count": _first_packet,
    "proto": _proto,
    "ip_version": _values(ip_version=0),
    "flags_first": _one("flags", 0),
    "flags": _all("flags"),
    "size_first": _one("sizes", 0),
    "size_last": _one("sizes", -1),
    "iat_first": _one("iats", 1),
    "iat_second": _one("iats", 2),
    "iat_third": _one("iats", 3),
    "iats": _all("iats"),
    "packets": _values(**dict.fromkeys(_COLUMNS, ())),
    "service": _service,
    "facts": _facts,
    "payload": _values(payload=(b"", b""), text="", hidden=()),
}
_ORDERED = tuple(_HIDE.items())
_PORT_FIELDS = frozenset({"ports", "orig_port_class", "resp_port_class"})
_BEGINNING = ("service", "facts", "payload")
_IN_PAYLOAD = ("payload_head", "payload_address", "payload_name")
_NAMES = tuple(f.name for f in fields(Record))
