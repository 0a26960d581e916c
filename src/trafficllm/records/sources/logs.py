"""Flows of other sensors' logs as raw records: what a log does not say is masked as missing.

A conn.log, an EVE flow event or an IPFIX table has no packets and no contents: of such a flow a record shows protocol, IP version,
port classes and the service that the sensor found. Rows of `capture flows` carry the first packets (`splt`) and keep them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trafficllm.capture.flows.community import community_id
from trafficllm.capture.foreign.columns import Entry, number
from trafficllm.capture.foreign.logs import entries, is_log
from trafficllm.core.errors import InputError
from trafficllm.core.types import Facts, FlowMeta, Record
from trafficllm.records.codec.canonical import ICMP_PROTOS, MAX_PACKETS
from trafficllm.records.codec.flows import flow_uid
from trafficllm.records.codec.units import SERVICES

NO_CONTENTS = frozenset({"payload", "facts", "ttl", "window", "flags"})
"""Fields that no log has; masked as missing."""
NO_PACKETS = NO_CONTENTS | {"packets"}
_SERVICE = {"ssl": "tls", "krb": "kerberos", "krb_tcp": "kerberos", "smb,gssapi": "smb", "http2": "http"}
_LARGEST = 1 << 20
_LONGEST_GAP = 1 << 62


def part_logs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Captures and logs among files, told by their names."""
    captures: list[Path] = []
    logs: list[Path] = []
    for path in paths:
        (logs if str(path) != "-" and is_log(path) else captures).append(path)
    return captures, logs


def log_records(path: Path) -> Iterator[tuple[Record, FlowMeta]]:
    """Raw records of a log's connections, in its order, each with its FlowMeta; lines that name no connection are passed over.

    Raises InputError where the file is no log, names no connection, or a line cannot be read.
    """
    given = 0
    for entry, values in entries(path):
        if entry.has_tuple:
            given += 1
            yield _record(entry, values), _meta(entry, path)
    if not given:
        hint = "Zeek's conn.log, Suricata's EVE flow events, and tables with addresses, ports and protocol are read"
        raise InputError("input.log_flows", "no line names a connection", input=str(path), hint=hint)


def is_blank(record: Record) -> bool:
    """Whether a masked record shows nothing of what a flow did: no packet, no byte, no fact, no service."""
    return not (record.dirs or any(record.payload) or record.text or record.facts.fields or record.facts.service)


def _record(entry: Entry, values: Mapping[str, Any]) -> Record:
    packets = _packets(values.get("splt"))
    icmp = entry.proto in ICMP_PROTOS
    absent = (-1,) * len(packets)
    return Record(
        kind="flow",
        ip_version=ipaddress.ip_address(entry.orig_h).version,
        proto=entry.proto,
        ports=None if icmp else (entry.orig_p, entry.resp_p),
        dirs=tuple(packet[0] for packet in packets),
        sizes=tuple(packet[1] for packet in packets),
        iats=tuple(packet[2] for packet in packets),
        flags=absent,
        windows=absent,
        ttls=absent,
        facts=Facts(_service(entry)),
        masked=NO_CONTENTS if packets else NO_PACKETS,
    )


def _packets(value: Any) -> list[tuple[int, int, int]]:
    """(direction, payload bytes, ns since the one before) of the packets in a row of `capture flows`; none where it has no such list."""
    if not isinstance(value, list):
        return []
    out = []
    for packet in value[:MAX_PACKETS]:
        if not isinstance(packet, Mapping) or not {"dir", "size", "iat"} <= packet.keys():
            return []
        try:
            out.append((min(number(packet["dir"]), 1), min(number(packet["size"]), _LARGEST), _gap(packet["iat"])))
        except (ValueError, TypeError, OverflowError):
            return []
    return out


def _gap(value: Any) -> int:
    return min(max(round(float(value) * 1e9), 0), _LONGEST_GAP)


def _service(entry: Entry) -> str:
    fields = entry.fields or {}
    name = str(fields.get("service") or "").lower()
    first = name.split(".", 1)[0].split(",", 1)[0]
    service = _SERVICE.get(name) or _SERVICE.get(first, first)
    return service if service in SERVICES else ""


def _meta(entry: Entry, path: Path) -> FlowMeta:
    fields = entry.fields or {}
    ts = entry.ts or 0
    packed = [ipaddress.ip_address(host).packed for host in (entry.orig_h, entry.resp_h)]
    community = entry.community_id or community_id(entry.proto, packed[0], entry.orig_p, packed[1], entry.resp_p)
    return FlowMeta(
        uid=flow_uid(community, ts),
        capture=str(path),
        origin=path.name,
        host=entry.orig_h,
        ts=ts,
        duration=entry.duration,
        community_id=community,
        orig_h=entry.orig_h,
        orig_p=entry.orig_p,
        resp_h=entry.resp_h,
        resp_p=entry.resp_p,
        proto=entry.proto,
        packets=number(fields.get("orig_pkts")) + number(fields.get("resp_pkts")),
    )
