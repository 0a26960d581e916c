"""What every generated capture must pass: tshark, an independent TCP check, our own reader, no identifier of a training capture."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from capture_samples import ACK, FIN, PSH, RST, SYN

from trafficllm.capture.check.captures import check
from trafficllm.capture.compile.plans import CompileCounts, compile_flows
from trafficllm.capture.compile.ports import port_class
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import Action, FlowMeta, FlowPlan, Record
from trafficllm.lifecycle.generate.synthesis import outside_documentation
from trafficllm.records.codec.flows import records_of

TSHARK = shutil.which("tshark")
MSS = 1440
HARMLESS = frozenset(("payload.lengths", "port.moved", "port.range"))
"""Repairs that change no packet's direction, size, flags or time."""
_SUMS = ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status")


def wrong(path: Path) -> Counter[str]:
    """Protocols of frames that tshark calls malformed, wrong in a checksum or length, or an error."""
    options = [arg for proto in ("ip", "tcp", "udp") for arg in ("-o", f"{proto}.check_checksum:TRUE")]
    bad = " || ".join(("_ws.malformed", "_ws.expert.severity >= 0x00800000", *(f"{name} == 0" for name in _SUMS)))
    command = [str(TSHARK), "-n", "-r", str(path), *options, "-Y", bad, "-T", "fields", "-e", "frame.protocols"]
    return Counter(subprocess.run(command, capture_output=True, check=True, text=True, errors="replace").stdout.splitlines())


def compiled(plans: Sequence[FlowPlan], path: Path, *, seed: int = 1) -> tuple[int, list[bool], Counter[str]]:
    """Write plans, an hour apart so that each comes back as one flow; packets, whether each plan was sound as it stood, all repairs."""
    sound = []
    repairs: Counter[str] = Counter()
    batches = []
    for k, plan in enumerate(plans):
        counts = CompileCounts()
        batches.append(compile_flows([plan], seed=seed, start=10**18 + k * 7200 * 10**9, spread=0, first=k, counts=counts))
        sound.append(not set(+counts.repairs) - HARMLESS)
        repairs.update(counts.repairs)
    return write_capture(path, batches, format="pcapng"), sound, repairs


def read_back(path: Path) -> list[tuple[Record, FlowMeta]]:
    """Raw flows of a capture, in order of time."""
    rows = [row for batch in read_flows([path]) for row in records_of(batch)]
    return sorted(rows, key=lambda row: row[1].ts)


def given_back(plans: Iterable[FlowPlan], sound: Iterable[bool], rows: Sequence[tuple[Record, FlowMeta]]) -> tuple[int, int]:
    """Of the plans that needed no repair and no segmentation: how many there are, and how many our reader gives back packet by packet."""
    at: dict[int, Record] = {(meta.ts - 10**18) // (7200 * 10**9): record for record, meta in reversed(rows)}
    asked = same = 0
    for k, (plan, good) in enumerate(zip(plans, sound, strict=True)):
        said = record_of_plan(plan)
        if not good or max(said.sizes) > MSS or sum(said.iats) >= 60 * 10**9:
            continue  # a pause of a minute ends a UDP flow for any reader
        asked += 1
        found = at.get(k)
        same += found is not None and (found.proto, found.dirs, found.sizes) == (said.proto, said.dirs, said.sizes)
    return asked, same


def passes(path: Path) -> None:
    """All that any tool may hold against a capture."""
    report = check([path])
    assert (report.valid, report.malformed, report.bad_checksums, report.bad_lengths, report.tcp_violations) == (True, {}, 0, 0, ())
    assert outside_documentation(path) == 0
    if TSHARK:
        assert wrong(path) == {}


def record_of_plan(plan: FlowPlan) -> Record:
    """What a plan says packet by packet, before the compiler repairs or splits anything (one packet an action)."""
    rows: list[tuple[int, int, int, int, int, int]] = []
    payload = (bytearray(), bytearray())
    gap = 0
    for action in plan.actions:
        gap += action.gap
        if action.op == "wait":
            continue
        way = 1 if action.dir else 0
        flags = _flags(action) if plan.proto == 6 else -1
        rows.append((way, action.size, gap if rows else 0, flags, action.window, action.ttl))
        payload[way].extend(action.payload[: action.size])
        gap = 0
    columns = [tuple(row[k] for row in rows) for k in range(6)]
    icmp = next((action.icmp for action in plan.actions if action.icmp >= 0), -1) if plan.proto in {1, 58} else -1
    ports = (plan.orig_p, plan.resp_p) if plan.orig_p > 0 and plan.proto in {6, 17} else None
    classes = port_class(max(plan.resp_p, 0))
    return Record(
        ip_version=plan.ip_version,
        proto=plan.proto,
        ports=ports,
        port_class=f"e{classes}" if ports is None and icmp < 0 else "",
        dirs=columns[0],
        sizes=columns[1],
        iats=columns[2],
        flags=columns[3],
        windows=columns[4],
        ttls=columns[5],
        icmp=icmp,
        payload=(bytes(payload[0]), bytes(payload[1])),
    )


def _flags(action: Action) -> int:
    extra = action.flags & (0xE0 | PSH)
    fixed = {"open": SYN | (ACK if action.dir else 0) | action.flags & 0xC0, "close": FIN | ACK | extra, "reset": RST | action.flags & ACK}
    return fixed.get(action.op, ACK | extra)
