"""Facts of a capture as a sentence, a table and a value."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

from trafficllm.capture.flows.rows import endpoint
from trafficllm.core.escape import spoken
from trafficllm.core.times import in_words, iso_time
from trafficllm.lifecycle.facts.results import Cell, FactAnswer
from trafficllm.lifecycle.facts.wording import Wanted, asked_as

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.results import CaptureTotals
    from trafficllm.lifecycle.facts.counting import CaptureFacts, Counted, FlowSeen

Table: TypeAlias = "tuple[str, Cell, Sequence[str], Sequence[Sequence[Cell]]]"
"""The sentence, the value, the columns' names and the rows."""
SHOWN = 20
COUNTED = frozenset({"from", "to", "protocol", "transport", "contents", "begin", "community id", "how known", "cipher suite", "link type"})
"""Columns whose words are the reader's own, never a capture's: endpoints, times, and names of protocols and kinds."""
_RCODES = {1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}


def answer(facts: CaptureFacts, wanted: Wanted, *, most: int = SHOWN) -> FactAnswer:
    """The answer to a fact's question, its table cut to `most` rows."""
    sentence, value, columns, rows = _ANSWERS[wanted.fact](facts)
    if facts.beyond:
        sentence += f" {facts.beyond:,} more counts went beyond what is kept apart."
    return FactAnswer(
        fact=wanted.fact,
        asked=asked_as(wanted.fact),
        probability=wanted.probability,
        filters=str(facts.filters),
        sentence=sentence,
        value=value,
        columns=list(columns),
        rows=[list(row) for row in rows[:most]],
        shown=min(most, len(rows)),
        total=len(rows),
    )


def size_text(count: float) -> str:
    """Bytes for people.

    >>> size_text(980), size_text(12_345_678)
    ('980 bytes', '12.3 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError(count)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _listed(names: Iterable[str], most: int = 5, *, captured: bool = True) -> str:
    """The first of the names; what was `captured` is marked where it is more than a plain word."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(map(spoken, every[:most]) if captured else every[:most]) + more


def _whole(facts: CaptureFacts) -> bool:
    return not facts.filters


def _packets(facts: CaptureFacts) -> Table:
    counts, flows = facts.counts, f"{_plural(facts.packets, 'packet')} in {_plural(facts.flows, 'flow')}"
    if not _whole(facts):
        return f"{flows}.", facts.packets, (), ()
    rest = f", {_plural(counts.non_flow, 'packet')} of them in no flow" if counts.non_flow else ""
    return f"{_plural(counts.packets, 'packet')} and {_plural(facts.flows, 'flow')}{rest}.", counts.packets, (), ()


def _bytes(facts: CaptureFacts) -> Table:
    if not _whole(facts):
        return f"{size_text(facts.bytes)} of IP packets in {_plural(facts.flows, 'flow')}.", facts.bytes, (), ()
    total = facts.counts.bytes
    return f"{size_text(total)} ({total:,} bytes) on the wire in {_plural(facts.counts.packets, 'packet')}.", total, (), ()


def _flows(facts: CaptureFacts) -> Table:
    rows = _counted_rows(facts.transports)
    kinds = ", ".join(f"{count:,} {name}" for name, count, *_ in rows)
    return f"{_plural(facts.flows, 'flow')}" + (f": {kinds}." if rows else "."), facts.flows, _counted_names("transport"), rows


def _counted_names(what: str) -> Sequence[str]:
    return (what, "flows", "packets", "bytes")


def _counted_rows(table: Mapping[str, Counted]) -> list[Sequence[Cell]]:
    order = sorted(table.items(), key=lambda item: (-item[1].flows, item[0]))
    return [(name, count.flows, count.packets, count.bytes) for name, count in order]


_HOST_NAMES = ("host", "bytes", "sent", "received", "packets", "flows opened", "flows answered")


def _host_rows(facts: CaptureFacts, by: str = "bytes") -> list[Sequence[Cell]]:
    order = sorted(facts.hosts.items(), key=lambda item: (-getattr(item[1], by), item[0]))
    return [(name, row.bytes, row.sent, row.received, row.packets, row.opened, row.answered) for name, row in order]


def _hosts(facts: CaptureFacts) -> Table:
    rows = _host_rows(facts)
    opened = sum(row.opened > 0 for row in facts.hosts.values())
    return f"{_plural(len(rows), 'host')}, {opened:,} of which opened flows.", len(rows), _HOST_NAMES, rows


def _talkers(facts: CaptureFacts) -> Table:
    rows = _host_rows(facts)
    if not rows:
        return "No flows, so nobody talks.", None, _HOST_NAMES, rows
    name, size, sent, *_ = rows[0]
    return f"{name} talks most: {size_text(int(size or 0))}, {size_text(int(sent or 0))} of them sent.", name, _HOST_NAMES, rows


def _receivers(facts: CaptureFacts) -> Table:
    rows = _host_rows(facts, "received")
    if not rows:
        return "No flows, so nobody receives anything.", None, _HOST_NAMES, rows
    return f"{rows[0][0]} receives most: {size_text(int(rows[0][3] or 0))}.", rows[0][0], _HOST_NAMES, rows


def _conversations(facts: CaptureFacts) -> Table:
    order = sorted(facts.pairs.items(), key=lambda item: (-item[1].bytes, item[0]))
    rows = [(a, b, count.flows, count.packets, count.bytes) for (a, b), count in order]
    first = f", most between {rows[0][0]} and {rows[0][1]} ({size_text(rows[0][4])})" if rows else ""
    return f"{_plural(len(rows), 'pair')} of hosts{first}.", len(rows), ("from", "to", "flows", "packets", "bytes"), rows


def _servers(facts: CaptureFacts) -> Table:
    rows = [row for row in _host_rows(facts, "answered") if row[6]]
    first = f"; {rows[0][0]} most often ({_plural(int(rows[0][6] or 0), 'flow')})" if rows else ""
    return f"{_plural(len(rows), 'host')} contacted{first}.", len(rows), _HOST_NAMES, rows


def _outside(facts: CaptureFacts) -> Table:
    rows = [row for row in _host_rows(facts) if ipaddress.ip_address(str(row[0])).is_global]
    names = _listed((str(row[0]) for row in rows), captured=False)
    noun = "public address" if len(rows) == 1 else "public addresses"
    return f"{len(rows):,} {noun}{': ' + names if rows else ''}.", len(rows), _HOST_NAMES, rows


def _protocols(facts: CaptureFacts) -> Table:
    rows = _counted_rows(facts.services)
    shown = _listed((f"{name} ({count:,})" for name, count, *_ in rows), 8, captured=False)
    return (f"Protocols by flows: {shown}." if rows else "No flows."), len(rows), _counted_names("protocol"), rows


def _ports(facts: CaptureFacts) -> Table:
    order = sorted(facts.ports.items(), key=lambda item: (-item[1].flows, item[0]))
    rows = [(port, proto, count.flows, count.packets, count.bytes) for (port, proto), count in order]
    shown = ", ".join(f"{port}/{proto} ({flows:,})" for port, proto, flows, *_ in rows[:5])
    said = f"{_plural(len(rows), 'server port')}: {shown}{' and more' if len(rows) > 5 else ''}." if rows else "No flow has ports."
    return said, len(rows), ("port", "transport", "flows", "packets", "bytes"), rows


def _begin(facts: CaptureFacts) -> Table:
    first = facts.counts.first if _whole(facts) and facts.counts.packets else facts.first
    if first is None:
        return "There is nothing that could begin.", None, (), ()
    return f"It begins at {iso_time(first, digits=6)}.", iso_time(first, digits=6), (), ()


def _end(facts: CaptureFacts) -> Table:
    last = facts.counts.last if _whole(facts) and facts.counts.packets else facts.last
    if last is None:
        return "There is nothing that could end.", None, (), ()
    return f"It ends at {iso_time(last, digits=6)}.", iso_time(last, digits=6), (), ()


def _bounds(facts: CaptureFacts) -> tuple[int, int]:
    if _whole(facts) and facts.counts.packets:
        return facts.counts.first, facts.counts.last
    return facts.first or 0, facts.last or 0


def _duration(facts: CaptureFacts) -> Table:
    first, last = _bounds(facts)
    seconds = (last - first) / 1e9
    return f"{in_words(seconds)}, from {iso_time(first)} to {iso_time(last)}.", round(seconds, 9), (), ()


def _span(facts: CaptureFacts) -> Table:
    first, last = _bounds(facts)
    said = f"From {iso_time(first, digits=6)} to {iso_time(last, digits=6)}: {in_words((last - first) / 1e9)}."
    return said, f"{iso_time(first)}/{iso_time(last)}", (), ()


def _rate(facts: CaptureFacts) -> Table:
    first, last = _bounds(facts)
    seconds, size = (last - first) / 1e9, facts.counts.bytes if _whole(facts) else facts.bytes
    packets = facts.counts.packets if _whole(facts) else facts.packets
    if seconds <= 0:
        return "All of it has one time, so there is no rate.", None, (), ()
    return f"{size_text(size / seconds)} and {packets / seconds:,.1f} packets a second on average.", round(size / seconds, 3), (), ()


def _packet_size(facts: CaptureFacts) -> Table:
    packets, size = (facts.counts.packets, facts.counts.bytes) if _whole(facts) else (facts.packets, facts.bytes)
    if not packets:
        return "There are no packets.", None, (), ()
    return f"{size / packets:,.1f} bytes on average over {_plural(packets, 'packet')}.", round(size / packets, 3), (), ()


def _named(name: str, noun: str, column: str) -> Callable[[CaptureFacts], Table]:
    """An answer from one table of names with how many flows have each."""

    def said(facts: CaptureFacts) -> Table:
        table: Mapping[Any, int] = facts.words.get(name, {})
        rows = [(str(text), count) for text, count in sorted(table.items(), key=lambda item: (-item[1], str(item[0])))]
        shown = _listed(text for text, _ in rows)
        sentence = (
            f"{_plural(len(rows), noun)}: {shown}." if rows else f"No {noun} is seen in the first bytes of {_plural(facts.flows, 'flow')}."
        )
        return sentence, len(rows), (column, "flows"), rows

    return said


def _resolvers(facts: CaptureFacts) -> Table:
    order = sorted(facts.resolvers.items(), key=lambda item: (-item[1].flows, item[0]))
    rows = [(name, count.flows, count.packets, count.bytes) for name, count in order]
    shown = _listed((f"{name} ({_plural(int(flows), 'flow')})" for name, flows, *_ in rows), captured=False)
    return (f"{_plural(len(rows), 'DNS server')}: {shown}." if rows else "No DNS is seen."), len(rows), _counted_names("server"), rows


def _tls_versions(facts: CaptureFacts) -> Table:
    table: Mapping[Any, int] = facts.words.get("tls_versions", {})
    rows = [(version, how, count) for (version, how), count in sorted(table.items(), key=lambda item: (-item[1], item[0]))]
    if not rows:
        return f"No TLS is seen in {_plural(facts.flows, 'flow')}.", 0, ("version", "how known", "flows"), rows
    shown = ", ".join(f"{version} {how} ({_plural(count, 'flow')})" for version, how, count in rows)
    return f"TLS versions: {shown}.", len({row[0] for row in rows}), ("version", "how known", "flows"), rows


@lru_cache(maxsize=1)
def _ciphers() -> Mapping[int, str]:
    import tomllib

    text = resources.files("trafficllm.lifecycle.facts").joinpath("facts.toml").read_text(encoding="utf-8")
    return {int(number, 16): name for number, name in tomllib.loads(text)["ciphers"].items()}


def _tls_ciphers(facts: CaptureFacts) -> Table:
    table: Mapping[Any, int] = facts.words.get("tls_ciphers", {})
    order = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    rows = [(_ciphers().get(number, "not in our table"), f"0x{number:04x}", count) for number, count in order]
    shown = _listed((name if name.startswith("TLS") else number for name, number, _ in rows), captured=False)
    said = f"{_plural(len(rows), 'cipher suite')} chosen by servers: {shown}." if rows else "No server's choice of a cipher suite is seen."
    return said, len(rows), ("cipher suite", "number", "flows"), rows


def _dns_errors(facts: CaptureFacts) -> Table:
    table: Mapping[Any, int] = facts.words.get("dns_errors", {})
    order = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    rows = [(str(name), _RCODES.get(code, f"code {code}"), count) for (code, name), count in order]
    total = sum(count for *_, count in rows)
    said = f"{_plural(total, 'DNS flow')} answered with an error, of {_plural(len(rows), 'name')}: {_listed(row[0] for row in rows)}."
    return (said if rows else "No DNS answer is an error."), total, ("name", "answer", "flows"), rows


def _http_methods(facts: CaptureFacts) -> Table:
    rows = [("method", str(name), count) for name, count in sorted(facts.words.get("http_methods", {}).items(), key=lambda item: -item[1])]
    rows += [("status", str(name), count) for name, count in sorted(facts.words.get("http_status", {}).items(), key=lambda item: -item[1])]
    shown = _listed((f"{name} ({count:,})" for _, name, count in rows), 8)
    return (
        (f"First request and answer of each HTTP flow: {shown}." if rows else "No HTTP is seen."),
        len(rows),
        ("kind", "value", "flows"),
        rows,
    )


def _ssh(facts: CaptureFacts) -> Table:
    sides = (("client", "ssh"), ("server", "ssh_servers"))
    rows = [(side, str(text), count) for side, name in sides for text, count in facts.words.get(name, {}).items()]
    return (f"SSH: {_listed(text for _, text, _ in rows)}." if rows else "No SSH is seen."), len(rows), ("side", "version", "flows"), rows


_FLOW_NAMES = ("from", "to", "protocol", "begin", "seconds", "packets", "bytes", "community id")


def _flow_row(flow: FlowSeen) -> Sequence[Cell]:
    ends = flow.ends
    orig, resp = endpoint(ends.orig_h, ends.orig_p), endpoint(ends.resp_h, ends.resp_p)
    service = flow.service or "-"
    return orig, resp, service, iso_time(ends.ts, digits=3), round(flow.duration / 1e9, 3), flow.packets, flow.bytes, flow.community_id


def _largest(facts: CaptureFacts) -> Table:
    rows = [_flow_row(flow) for flow in facts.largest()]
    said = f"{rows[0][0]} to {rows[0][1]} is the largest: {size_text(int(rows[0][6] or 0))}." if rows else "There are no flows."
    return said, rows[0][6] if rows else None, _FLOW_NAMES, rows


def _longest(facts: CaptureFacts) -> Table:
    rows = [_flow_row(flow) for flow in facts.longest()]
    said = f"{rows[0][0]} to {rows[0][1]} lasts longest: {in_words(float(rows[0][4] or 0))}." if rows else "There are no flows."
    return said, rows[0][4] if rows else None, _FLOW_NAMES, rows


def _failed(facts: CaptureFacts) -> Table:
    order = sorted(facts.failed.items(), key=lambda item: (-item[1], item[0]))
    rows = [(orig, resp, port, state, count) for (orig, resp, port, state), count in order]
    total = sum(facts.failed.values())
    said = (
        f"{_plural(total, 'TCP connection')} came to nothing (S0: no answer, REJ: refused)."
        if rows
        else "No TCP connection failed at its start."
    )
    return said, total, ("from", "to", "port", "state (Zeek)", "flows"), rows


def _ip_versions(facts: CaptureFacts) -> Table:
    rows = [(f"IPv{version}" if version else "not IP", count) for version, count in sorted(facts.versions.items())]
    shown = " and ".join(f"{_plural(count, 'flow')} over {name}" for name, count in rows) or "no flows"
    return f"{shown[0].upper()}{shown[1:]}.", facts.versions.get(6, 0), ("version", "flows"), rows


def _encrypted(facts: CaptureFacts) -> Table:
    rows = _counted_rows(facts.secrecy)
    total = sum(count.bytes for count in facts.secrecy.values()) or 1
    share = facts.secrecy["encrypted"].bytes / total if "encrypted" in facts.secrecy else 0.0
    said = f"{share:.1%} of the bytes are in flows of protocols that encrypt (TLS, QUIC, DTLS, SSH, ESP)."
    return said, round(share, 4), _counted_names("contents"), rows


def _links(facts: CaptureFacts) -> Table:
    rows = [(name, count) for name, count in facts.counts.link_types.items()]
    return (
        f"Link types: {_listed((f'{name} ({count:,} packets)' for name, count in rows), captured=False)}.",
        len(rows),
        ("link type", "packets"),
        rows,
    )


def _damage(facts: CaptureFacts) -> Table:
    counts = facts.counts
    rows: list[Sequence[Cell]] = [("cut short when captured", counts.truncated), ("flows handed out early", counts.evicted)]
    rows += [(f"malformed: {name}", count) for name, count in sorted(counts.malformed.items())]
    rows += [(f"not read: {name}", count) for name, count in counts.not_read.items()]
    rows = [row for row in rows if row[1]]
    said = "; ".join(f"{name}: {count:,}" for name, count in rows) or "Nothing is malformed, cut short or left unread"
    return f"{said}.", sum(int(row[1] or 0) for row in rows), ("what", "packets"), rows


def overview(facts: CaptureFacts, totals: CaptureTotals | None = None) -> str:
    """One line of facts: packets, hosts, time span, protocols, and what is not covered; `totals` where they were counted apart."""
    counts = totals if totals is not None else facts.counts
    first, last = _bounds(facts)
    packets = counts.packets if _whole(facts) and counts.packets else facts.packets
    parts = [_plural(packets, "packet"), _plural(facts.flows, "flow"), _plural(len(facts.hosts), "host")]
    span = f"{in_words((last - first) / 1e9)} from {iso_time(first)}" if facts.flows or packets else "no time"
    shown = [f"{name} {count:,}" for name, count, *_ in _counted_rows(facts.services)]
    protocols = f"; flows by protocol: {', '.join(shown[:6])}{f', {len(shown) - 6} more' if len(shown) > 6 else ''}" if shown else ""
    missing = [f"{count:,} packets of {name}" for name, count in counts.not_read.items()] if _whole(facts) else []
    missing += [f"{_plural(counts.truncated, 'packet')} cut short"] if counts.truncated and _whole(facts) else []
    return f"{', '.join(parts)}, {span}{protocols}" + (f"; not covered: {', '.join(missing)}" if missing else "") + "."


def _overview(facts: CaptureFacts) -> Table:
    rows = _counted_rows(facts.services)
    return overview(facts), facts.counts.packets, _counted_names("protocol"), rows


_ANSWERS: Mapping[str, Callable[[CaptureFacts], Any]] = {
    "packets": _packets,
    "bytes": _bytes,
    "flows": _flows,
    "hosts": _hosts,
    "begin": _begin,
    "end": _end,
    "duration": _duration,
    "span": _span,
    "talkers": _talkers,
    "receivers": _receivers,
    "conversations": _conversations,
    "servers": _servers,
    "outside": _outside,
    "protocols": _protocols,
    "ports": _ports,
    "tls_versions": _tls_versions,
    "tls_ciphers": _tls_ciphers,
    "server_names": _named("server_names", "server name", "server name"),
    "ja4": _named("ja4", "JA4 fingerprint", "JA4"),
    "dns_names": _named("dns_names", "DNS name", "name"),
    "dns_errors": _dns_errors,
    "dns_servers": _resolvers,
    "http_hosts": _named("http_hosts", "HTTP host", "host"),
    "http_urls": _named("http_urls", "URL", "URL"),
    "user_agents": _named("user_agents", "user agent", "user agent"),
    "http_methods": _http_methods,
    "ssh_versions": _ssh,
    "largest": _largest,
    "longest": _longest,
    "failed": _failed,
    "rate": _rate,
    "packet_size": _packet_size,
    "ip_versions": _ip_versions,
    "encrypted": _encrypted,
    "links": _links,
    "damage": _damage,
    "overview": _overview,
}
