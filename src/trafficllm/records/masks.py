"""Masks: which fields of a record a profile hides, from one table (masks.toml), and how each is hidden.

>>> from trafficllm.records import masks
>>> masks.apply(Record(proto=6, ports=(50000, 443), dirs=(0,), ttls=(64,))).port_class
'ew'
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any, TypeAlias

from trafficllm.core.errors import UsageError
from trafficllm.core.files import sha256_bytes
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records import byte_classes
from trafficllm.records.codec import units
from trafficllm.records.codec.canonical import canonical_facts, filled, port_class, text_bytes
from trafficllm.records.codec.page_load import MOMENTS, UNKNOWN

Draft: TypeAlias = dict[str, Any]

SMALL_WINDOW = 1024
PORT_SERVICES = frozenset({"dhcp", "ntp", "netbios", "snmp", "syslog"})
"""Services that the parsers know by port number alone: to name them is to show the port."""
_COLUMNS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
SYN, ACK = 0x02, 0x10
_HEAD = 4
_TIMES = frozenset({"iats", "iat_first", "iat_second", "iat_third"})
_PLAIN_HEADERS = frozenset(
    b"accept accept-charset accept-encoding accept-language accept-ranges age allow cache-control connection content-encoding "
    b"content-language content-length content-range content-transfer-encoding content-type dnt expect keep-alive man max-forwards "
    b"mime-version mx nts p3p pragma proxy-connection range sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode "
    b"sec-fetch-site sec-fetch-user sec-websocket-version server soapaction st strict-transport-security te trailer transfer-encoding "
    b"upgrade upgrade-insecure-requests user-agent vary x-aspnet-version x-content-type-options x-frame-options x-powered-by "
    b"x-requested-with x-xss-protection".split()
)
"""RFC 9110 field names whose values say what software there is and what it can do; all others may name a host, a moment or a person."""
_DOTTED = re.compile(rb"(?<![0-9.])(?:[0-9]{1,3}[.,]){3}[0-9]{1,3}(?![0-9.])")
_DOTS = re.compile(rb"[.,][0-9]{1,3}[.,][0-9]{1,3}[.,]")
"""In every match of _DOTTED; a search that begins with a set of bytes is 20 times as fast."""
_URL = re.compile(rb"(?i)(?:://|%3A%2F%2F)([^\x00-\x20\x7f/\\?#%&\"'<>]+)")
"""A host ends at white space and other control bytes, so that a URL in a certificate does not hide what follows it."""
_AT = re.compile(rb"@|%40")
_LOCAL = re.compile(rb"[A-Za-z0-9._%+-]{1,64}\Z")
_HOST = re.compile(rb"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
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


PROFILES = ("strict", "names", "header", "payload", "raw")
PROBED = frozenset({"strict", "names"})
"""Profiles under which a data set looks for artefacts, and keeps nothing of the payload that they hide."""
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
    if draft["load"]:
        _load(draft, names)
    if also:
        _single_facts(draft, names)
    spans = _spans(draft, names)
    if spans:
        draft["hidden"] = (*draft["hidden"], *spans)
    _write_classes(draft, names)
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
    spans = _spans(draft, names)
    _write_classes(draft, names)
    return draft["facts"], draft["payload"], spans


@lru_cache(maxsize=256)
def _hides_single_facts(names: frozenset[str]) -> bool:
    return any(name.startswith(FACT) for name in names)


def beginning_key(names: Collection[str]) -> tuple[frozenset[str], bool]:
    """What of `names` `beginning` looks at: where the keys of two sets are equal, so is what it leaves."""
    told = {name for name in names if name.startswith(FACT) or name in _SPANS or name in _BEGINNING or name in _IN_PAYLOAD}
    return frozenset(told), not _PORT_FIELDS.isdisjoint(names)


def wiped(record: Record) -> Record:
    """The record with hidden bytes zeroed and only the facts that the codec carries: safe to store and to show."""
    draft = {name: getattr(record, name) for name in _NAMES}
    _set_parts(draft, _without(_parts(draft), record.hidden))
    draft["facts"] = canonical_facts(record.facts)
    return Record(**draft)


ENDPOINTS = frozenset(["tls.sni", "tls.cert_name", "tls.session_id", "tls.ticket", "dns.name", "dns.address", "http.host", "address"])
"""Spans that name endpoints: a data set keeps them beside its addresses, for the identifier probe. What names people is not kept."""


def kept(record: Record, names: Collection[str]) -> Record:
    """A raw record as a data set keeps it where `names` are hidden: payload without what they hide, ENDPOINTS aside, facts that the codec
    carries and endpoints' names. Masking it gives what masking the raw record gives, since all stretches are listed as spans."""
    draft: Draft = {name: getattr(record, name) for name in _NAMES}
    facts, spans = record.facts, _spans(draft, names)
    _write_classes(draft, names)
    _set_parts(draft, _without(_parts(draft), [s for s in spans if s.kind not in ENDPOINTS]))
    fields = {**canonical_facts(facts).fields, **{name: facts.fields[name] for name in _NAME_FACTS if name in facts.fields}}
    listed = set(facts.spans)
    draft["facts"] = Facts(facts.service, fields, (*facts.spans, *(s for s in spans if s not in listed and s.kind != "head")))
    return Record(**draft)


def _parts(draft: Draft) -> tuple[bytes, bytes]:
    """The bytes of a record: a request's text, or both payload prefixes."""
    return (text_bytes(draft["text"]), b"") if draft["kind"] == "http" else draft["payload"]


def _set_parts(draft: Draft, parts: tuple[bytes, bytes]) -> None:
    if draft["kind"] == "http":
        draft["text"] = parts[0].decode("utf-8", "surrogateescape")
    else:
        draft["payload"] = parts


def _spans(draft: Draft, names: Collection[str]) -> list[Span]:
    """Stretches to hide: by kind from the facts, addresses from the bytes, the head if asked for."""
    parts = _parts(draft)
    if not parts[0] and not parts[1]:
        return []
    marked = [s for s in draft["facts"].spans if s.kind in names]
    out = [s for s in marked if s.kind not in _WRITERS and (s.kind != "http.header_value" or _telling(parts[s.dir], s.start))]
    parts = _without(parts, [*out, *(s for s in marked if s.kind in _WRITERS)])
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


def _without(parts: tuple[bytes, bytes], spans: Sequence[Span]) -> tuple[bytes, bytes]:
    """Both parts with the spans zeroed: what is hidden already is not searched, and cannot join with what stands beside it."""
    if not spans:
        return parts
    left = (bytearray(parts[0]), bytearray(parts[1]))
    for span in spans:
        start, end = max(span.start, 0), min(span.end, len(left[span.dir]))
        left[span.dir][start:end] = bytes(max(end - start, 0))
    return bytes(left[0]), bytes(left[1])


def _names(facts: Facts, parts: tuple[bytes, bytes]) -> list[Span]:
    """Host names of URLs in payload, percent-encoded ones too, and the flow's own names wherever they stand."""
    out = []
    known = {str(facts.fields[key]).encode("utf-8", "replace") for key in _NAME_FACTS if facts.fields.get(key)} if facts.fields else ()
    for d, part in enumerate(parts):
        if b"://" in part or b"%2F" in part or b"%2f" in part:
            out += [Span(d, start, end, "name") for start, end in _url_hosts(part)]
        if b"@" in part or b"%40" in part:
            out += [Span(d, start, end, "name") for start, end in _mail_boxes(part)]
        for name in known:
            at = part.find(name) if len(name) > 3 else -1
            while at >= 0:
                out.append(Span(d, at, at + len(name), "name"))
                at = part.find(name, at + len(name))
    return out


def _mail_boxes(part: bytes) -> Iterator[tuple[int, int]]:
    """Where mail addresses stand: an at sign with a name before it and a host behind it."""
    for sign in _AT.finditer(part):
        before = _LOCAL.search(part, max(sign.start() - 64, 0), sign.start())
        behind = _HOST.match(part, sign.end())
        if before and behind:
            yield before.start(), behind.end()


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
    return data[line:at].split(b":", 1)[0].strip().lower() not in _PLAIN_HEADERS


_WRITERS: dict[str, Callable[[bytes], bytes]] = {"content": byte_classes.classes, "query": byte_classes.values}
"""Spans that are shown as classes of bytes, by what writes them; length stays."""


def _write_classes(draft: Draft, names: Collection[str]) -> None:
    """Put classes in the place of the bytes of such spans, where `names` hide them."""
    spans = [s for s in draft["facts"].spans if s.kind in _WRITERS and s.kind in names]
    if not spans:
        return
    parts = [bytearray(part) for part in _parts(draft)]
    for span in spans:
        part = parts[span.dir]
        part[span.start : span.end] = _WRITERS[span.kind](bytes(part[span.start : span.end]))
    _set_parts(draft, (bytes(parts[0]), bytes(parts[1])))


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


def _load(draft: Draft, names: Collection[str]) -> None:
    """Sums of a cell sequence that was decoded: nothing in them gives hidden times or packets away."""
    if not _TIMES.isdisjoint(names):
        draft["load"] = (*draft["load"][:-MOMENTS], *(UNKNOWN,) * MOMENTS)
    if "packet_count" in names or "packets" in names:
        draft["load"] = ()


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
