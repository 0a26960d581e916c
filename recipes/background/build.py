"""The packaged background, cut from the developer data: `python recipes/background/build.py --data ../shared/data`.

`--plan malware.toml --out src/trafficllm/data/malware` cuts the malware of other sources that stands beside it. Of each source in the
plan: captures that are not kept for scoring (RESERVED.csv, by file, by origin and by flow), of each at most
FLOWS flows (or the source's `flows`), of each flow PACKETS packets, and of each packet what a record can show. Same data, same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import shutil
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import InputError
from trafficllm.core.sampling import evenly_spaced, fair_shares
from trafficllm.core.types import FlowBatch, FlowMeta, FrameBatch, Record
from trafficllm.records.codec.flows import records_in
from trafficllm.records.coverage import kind_of
from trafficllm.records.sources.background import read_background, wire_hash
from trafficllm.records.sources.origins import source_name

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "src" / "trafficllm" / "data"
OUT = PACKAGE / "background"
FLOWS, PACKETS, OF_SOURCE = 40, 20, 400
WHOLE = (2048, 640)
"""Payload bytes, by direction, up to which packets stay whole: 512 of each are shown, a ClientHello may go on beyond them."""
CUT = 128
"""Bytes kept of each packet after those: its headers."""
HEAD = ("file", "source", "origin", "licence", "packets", "flows", "bytes", "holds")

Frame = tuple[int, bytes, int]
"""Time in ns, captured bytes, original length."""

SERVICES = {
    "industrial": ("modbus", "dnp3", "cotp", "iec104", "enip", "bacnet"), "iot": ("mqtt", "coap", "doip", "someip"),
    "mail": ("smtp", "imap", "pop3"), "files": ("smb", "ftp", "nfs"), "remote": ("ssh", "telnet", "rdp"),
    "calls": ("sip", "stun", "rtp", "dtls"), "directory": ("ldap", "kerberos", "radius", "dcerpc"),
    "databases": ("mysql", "postgresql", "redis"), "routing": ("bgp",), "logging": ("syslog", "snmp"), "chat": ("irc",),
    "http": ("http",), "tls": ("tls",),
}  # fmt: skip
PORTS = {
    "industrial": (102, 502, 2404, 20000, 47808), "iot": (1883, 5683, 13400, 30490), "http": (80, 8080), "tls": (443,),
    "remote": (22, 23, 3389), "files": (21, 445, 548, 2049), "mail": (25, 110, 143), "directory": (88, 135, 389),
    "logging": (161, 514, 6343), "routing": (179, 520, 646, 1985, 3784, 6633, 6653), "databases": (3306, 5432, 6379),
}  # fmt: skip
_BY_SERVICE = {service: kind for kind, services in SERVICES.items() for service in services}
_BY_PORT = {port: kind for kind, ports in PORTS.items() for port in ports}


def holds(record: Record, meta: FlowMeta) -> str:
    """What a flow is, as the coverage table names it: the kinds of `records.coverage`, and by service or port for the rest."""
    kind = kind_of(record, meta.resp_h)
    if kind not in ("tcp", "udp", "broadcast"):
        return "routing" if kind == "ip" else kind
    named = _BY_SERVICE.get(record.facts.service)
    ports = [_BY_PORT[port] for port in (meta.resp_p, meta.orig_p) if port in _BY_PORT]
    return named or (ports[0] if ports else ("broadcast" if kind == "broadcast" else f"other {kind}"))


@dataclass(slots=True)
class Group:
    """The captures that one origin capture was parted into, with one link type: they are put together again."""

    source: Mapping[str, Any]
    name: str
    origin: str
    files: list[Path] = field(default_factory=list)


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True, slots=True)
class Scored:
    """What is kept for scoring: files, origin captures, the stems of their names by source, and every flow of them."""

    files: frozenset[str]
    origins: frozenset[str]
    stems: frozenset[tuple[str, str]]
    flows: frozenset[object]


def scored(data: Path, origins: Mapping[str, str]) -> Scored:
    """The reserved part of the developer data and of the package's captures."""
    names = {row["file"] for row in table(data / "RESERVED.csv")}
    held = {origins[name] for name in names if name in origins}
    stems = {(source_name(origin), _stem(origin)) for origin in held}
    own = PACKAGE / "captures"
    paths = [data / name for name in names] + [own / row["file"] for row in table(own / "reserved.csv")]
    flows: set[object] = set()
    for path in sorted(path for path in paths if "pcap" in path.suffixes[-1:][0] and path.is_file()):
        for record, meta in _records(path):
            flows.update((meta.uid, wire_hash(record)))
    return Scored(frozenset(names), frozenset(held), frozenset(stems), frozenset(flows - {None}))


def _stem(name: str) -> str:
    """The name of a capture without folders and endings: of `a/b/dns.pcapng`, `zeek_dns__dns.pcap` and `EAC/2022_dns.pcap`: dns."""
    parts = [part for part in re.split(r"/|__|\s", name.split(".pcap", 1)[0]) if part not in ("", "input")]
    return re.sub(r"^((zeek|ndpi|ppp|suri|arkime)_|\d{4}_)", "", parts[-1])


def _records(path: Path) -> Iterator[tuple[Record, FlowMeta]]:
    try:
        for batch in read_flows([path]):
            yield from records_in(batch, 0, len(batch))
    except InputError:
        return


def groups(data: Path, source: Mapping[str, Any], origins: Mapping[str, str], kept_out: Scored) -> list[Group]:
    """The captures of one source that may be taken, those of one origin together."""
    out: dict[tuple[str, int], Group] = {}
    root = HERE / source["root"] if "root" in source else data
    for path in sorted({path for pattern in source["take"] for path in root.glob(pattern)}):
        rel = path.relative_to(root).as_posix()
        origin = origins.get(rel, "")
        if ".pcap" not in path.name or any(part in path.name or part in origin for part in source.get("leave", ())):
            continue
        if origin and source_name(origin) != source["name"]:
            continue
        stem = _stem(origin or rel)
        if rel in kept_out.files or origin in kept_out.origins or (source["name"], stem) in kept_out.stems:
            continue
        link = _link(path)
        if link is None:
            continue
        group = out.setdefault((origin or rel, link), Group(source, stem, origin or f"{source['name']}@{source['version']} {path.name}"))
        group.files.append(path)
    return list(out.values())


def _link(path: Path) -> int | None:
    """The one link type of a capture; None where it has several, or no frames."""
    try:
        links = {int(link) for batch in read_frames([path]) for link in batch.link}
    except InputError:
        return None
    return links.pop() if len(links) == 1 else None


def merged(group: Group) -> tuple[list[Frame], int]:
    """All frames of a group in time order, equal ones once, and their link type."""
    frames: dict[tuple[int, bytes], Frame] = {}
    link = 1
    for path in group.files:
        for batch in read_frames([path]):
            buffer = batch.buffer.tobytes()
            columns = (batch.ts, batch.offset, batch.caplen, batch.origlen, batch.link)
            for ts, at, size, whole, link in zip(*(column.tolist() for column in columns), strict=True):  # noqa: B007 - one link a group
                data = buffer[at : at + size]
                frames.setdefault((ts, data), (ts, data, whole))
    return sorted(frames.values(), key=lambda frame: frame[0]), link


def write(path: Path, frames: Sequence[Frame], link: int) -> None:
    """Frames as classic pcap with nanoseconds."""
    sizes = [len(data) for _, data, _ in frames]
    offsets = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)
    batch = FrameBatch(
        buffer=np.frombuffer(b"".join(data for _, data, _ in frames), dtype=np.uint8),
        offset=offsets,
        caplen=np.array(sizes, dtype=np.uint32),
        origlen=np.array([whole for _, _, whole in frames], dtype=np.uint32),
        ts=np.array([ts for ts, _, _ in frames], dtype=np.int64),
        link=np.full(len(frames), link, dtype=np.uint16),
        source=np.zeros(len(frames), dtype=np.uint32),
        number=np.arange(1, len(frames) + 1, dtype=np.int64),
        files=(path.name,),
    )
    write_capture(path, [batch], nanoseconds=any(ts % 1000 for ts, _, _ in frames))


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow of a merged capture: the frames that are kept, by number, with how many bytes of each."""

    record: Record
    meta: FlowMeta
    frames: Mapping[int, int]


def flows_of(path: Path) -> list[Flow]:
    """The flows of a capture with the cut of their first packets."""
    out = []
    for batch in read_flows([path]):
        for i, (record, meta) in enumerate(records_in(batch, 0, len(batch))):
            out.append(Flow(record, meta, _cut(batch, i)))
    return out


def _cut(batch: FlowBatch, i: int) -> dict[int, int]:
    spent = [0, 0]
    out: dict[int, int] = {}
    for k in range(int(batch.pkt_ptr[i]), min(int(batch.pkt_ptr[i + 1]), int(batch.pkt_ptr[i]) + PACKETS)):
        side = int(batch.p_dir[k])
        out[int(batch.p_frame[k])] = CUT if spent[side] >= WHOLE[side] else 1 << 18
        spent[side] += int(batch.p_payload[k])
    return out


def chosen(group: Group, place: Path, kept_out: Scored, seen: set[object]) -> tuple[list[Frame], int, list[Flow]]:
    """The group's frames, its link type, and the flows of it that may be taken: not scored, not taken already."""
    frames, link = merged(group)
    write(place, frames, link)
    out, servers = [], group.source.get("servers")
    for flow in flows_of(place):
        if servers is not None and f"{flow.meta.resp_h}:{flow.meta.resp_p}" not in servers:
            continue
        keys = {flow.meta.uid, wire_hash(flow.record)} - {None}
        if flow.record.dirs and not keys & kept_out.flows and not keys & seen:
            seen |= keys
            out.append(flow)
    return frames, link, evenly_spaced(out, int(group.source.get("flows", FLOWS)))


def sources(plan: Path = HERE / "sources.toml") -> list[dict[str, Any]]:
    """The sources of a plan."""
    return list(tomllib.loads(plan.read_text(encoding="utf-8"))["source"])


def build(data: Path, out: Path, taken_from: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Write the captures of these sources below `out`; the manifest's rows."""
    origins = {row["file"]: row["origin"] for row in table(data / "manifest.csv")}
    traces = "zeek/zeek@a13de64f testing/btest/Traces/"
    origins |= {f"zeek_conn/{row['capture']}": traces + row["origin trace"] for row in table(data / "zeek_conn" / "pairs.csv")}
    kept_out = scored(data, origins)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in taken_from:
            seen: set[object] = set()
            taken_of = groups(data, source, origins, kept_out)
            made = [(group, *chosen(group, Path(scratch) / "merged.pcap", kept_out, seen)) for group in taken_of]
            shares = fair_shares([len(flows) for _, _, _, flows in made], OF_SOURCE)
            taken: Counter[str] = Counter()
            for (group, frames, link, flows), share in zip(made, shares, strict=True):
                few = evenly_spaced(flows, share)
                if not few:
                    continue
                taken[group.name] += 1
                name = group.name if taken[group.name] == 1 else f"{group.name}-{taken[group.name]}"
                file = f"{source['slug']}/{re.sub(r'[^A-Za-z0-9._+-]', '-', name)}.pcap.gz"
                rows += _written(out / file, file, group, _only(frames, few), link)
    return rows


def _only(frames: Sequence[Frame], flows: Sequence[Flow]) -> list[Frame]:
    """The frames of some flows, cut."""
    most: dict[int, int] = {}
    for flow in flows:
        for number, size in flow.frames.items():
            most[number] = max(most.get(number, 0), size)
    return [(frames[n - 1][0], frames[n - 1][1][: most[n]], frames[n - 1][2]) for n in sorted(most)]


def _written(path: Path, file: str, group: Group, frames: Sequence[Frame], link: int) -> list[dict[str, object]]:
    """The capture on disk and its row; neither where its flows do not outlast the cut (fragments)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("")
    write(plain, frames, link)
    rows = list(_records(plain))
    if not rows:
        plain.unlink()
        return []
    path.write_bytes(gzip.compress(plain.read_bytes(), 9, mtime=0))
    plain.unlink()
    kinds = Counter(holds(record, meta) for record, meta in rows)
    said = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    values = (file, group.source["name"], group.origin, group.source["licence"], len(frames), len(rows), path.stat().st_size, said)
    return [dict(zip(HEAD, values, strict=True))]


def coverage(rows: Sequence[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """Flows of each kind by source."""
    out: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        for kind, count in (part.rsplit(" ", 1) for part in str(row["holds"]).split(", ")):
            source = str(row["source"])
            out[kind][source] = out[kind].get(source, 0) + int(count)
    return dict(out)


KINDS = {
    "dns": "DNS", "mdns": "mDNS", "llmnr": "LLMNR", "netbios": "NetBIOS name and datagram service", "ssdp": "SSDP",
    "wsd": "WS-Discovery", "discovery": "printer and router discovery (ENPC, BJNP, NAT-PMP)", "dhcp": "DHCP, DHCPv6", "ntp": "NTP",
    "icmp": "ICMP", "nd": "ICMPv6 neighbour discovery", "icmp6": "other ICMPv6", "igmp": "IGMP",
    "broadcast": "other broadcast and multicast", "quic": "QUIC", "tls": "TLS", "http": "HTTP", "mail": "mail",
    "files": "SMB, FTP, NFS, AFP",
    "directory": "LDAP, Kerberos, RADIUS", "remote": "SSH, Telnet, RDP", "calls": "SIP, STUN, RTP, DTLS",
    "chat": "IRC",
    "databases": "databases", "iot": "MQTT, DoIP, SOME/IP", "industrial": "Modbus, DNP3, S7, BACnet", "logging": "syslog, SNMP, sFlow",
    "routing": "routing, IP protocols beside TCP, UDP and ICMP", "other tcp": "other TCP", "other udp": "other UDP",
}  # fmt: skip
"""Kinds of traffic in the words and order of the page."""
WANTED = 3
"""Sources of each kind that are wanted."""


def page_table(rows: Sequence[Mapping[str, object]]) -> str:
    """The coverage table of docs/background.md."""
    counts = coverage(rows)
    lines = ["| kind | sources | flows | of |", "|---|--:|--:|---|"]
    for kind, words in KINDS.items():
        by_source = counts.get(kind, {})
        few = "" if len(by_source) >= WANTED else " (fewer than three)"
        names = ", ".join(sorted(source.split("/")[-1] for source in by_source)) or "none"
        lines.append(f"| {words} | {len(by_source)}{few} | {sum(by_source.values())} | {names} |")
    return "\n".join(lines)


def main() -> None:
    """Build the folder anew and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1].parent / "shared" / "data")
    parser.add_argument("--plan", type=Path, default=HERE / "sources.toml")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for slug in {path.parent for path in options.out.glob("*/*.pcap.gz")}:
        shutil.rmtree(slug)
    rows = build(options.data, options.out, sources(options.plan))
    with (options.out / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, HEAD, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(page_table(rows))
    background = read_background([options.out])
    print(background.as_dict(), sum(path.stat().st_size for path in options.out.glob("*/*.pcap.gz")))


if __name__ == "__main__":
    main()
