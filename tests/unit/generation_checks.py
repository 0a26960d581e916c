"""What every generated capture must pass: tshark, an independent TCP check, our own reader, no identifier of a training capture."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from trafficllm.capture.check.captures import check
from trafficllm.capture.compile.plans import CompileCounts, compile_flows
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import FlowMeta, FlowPlan, Record
from trafficllm.lifecycle.generate.synthesis import outside_documentation
from trafficllm.records.codec.flows import records_of
from trafficllm.records.codec.plan import record_of_plan

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
