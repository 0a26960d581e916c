"""Label -> valid capture: sampled plans, compiled, written, then checked as any other capture would be."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm import __version__
from trafficllm.core.errors import UsageError
from trafficllm.core.files import sha256_file
from trafficllm.core.types import FlowPlan, ProgressSink

if TYPE_CHECKING:
    from trafficllm.lifecycle.application import Application

START = 1_767_225_600_000_000_000
"""Generated captures begin at 2026-01-01 00:00 UTC: a fixed time, so that equal seeds give equal bytes."""
SPREAD = 1_000_000_000
"""ns of the timeline a flow adds: one flow a second on average."""

# RFC 5737, RFC 3849: addresses that belong to nobody.
DOCUMENTATION = tuple(
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))
)
_ADDRESSES = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst")


def outside_documentation(path: Path) -> int:
    """How many different addresses of a capture lie outside the documentation ranges."""
    from trafficllm.capture.fields import packet_rows

    seen = {
        address
        for row in packet_rows([path], _ADDRESSES)
        for cell in row
        for address in cell.split(",")
        if address
    }
    return sum(not any(ipaddress.ip_address(address) in net for net in DOCUMENTATION) for address in seen)


def label_of(task_labels: tuple[str, ...], label: str, task: str) -> str:
    """The label as the adapter knows it; UsageError with a suggestion."""
    import difflib

    if label in task_labels:
        return label
    near = difflib.get_close_matches(label, task_labels, n=1, cutoff=0.0)
    raise UsageError(
        "usage.label",
        f"task {task} has no label '{label}'",
        input="--label",
        where=label,
        hint=f"did you mean '{near[0]}'?" if near else "",
    )


def generate(
    application: Application,
    task: str,
    label: str,
    *,
    flows: int,
    seed: int,
    out: Path,
    temperature: float,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Write `flows` synthetic flows of a label (contract: `generate`).

    Raises UsageError for a task that generates nothing or a label it does not know, ArtifactError where no adapter is live.
    """
    from trafficllm.capture.check import check
    from trafficllm.capture.compile import CompileCounts, compile_flows
    from trafficllm.capture.write import write_capture
    from trafficllm.infer.generator import Generator

    chosen = application.task(task)
    if chosen.kind != "generation":
        names = ", ".join(name for name, other in application.tasks().items() if other.kind == "generation")
        raise UsageError(
            "usage.task",
            f"task {chosen.id} generates nothing",
            input="--task",
            where=task,
            hint=f"generation tasks are {names}",
        )
    live = application.registry.live(chosen.id)
    known = label_of(tuple(live.manifest.get("labels", chosen.labels)), label, chosen.id)
    application.load(chosen.id)
    generator = Generator(application.engine, chosen.id)
    plans: list[FlowPlan] = []
    for plan in generator.plans(chosen, known, flows, seed=seed, temperature=temperature):
        plans.append(plan)
        progress.update("generating", len(plans), flows)
    counts = CompileCounts()
    frames = compile_flows(plans, seed=seed, start=START, spread=SPREAD * flows, counts=counts)
    mark = f"synthetic traffic: TrafficLLM {__version__}, task {chosen.id}, label {known}, seed {seed}"
    packets = write_capture(out, [frames], format="pcapng" if out.suffix == ".pcapng" else "pcap", comment=mark)
    return {
        "task": chosen.id,
        "label": known,
        "version": live.version,
        "file": str(out),
        "flows": len(plans),
        "packets": packets,
        "prevented": dict(sorted(generator.prevented.items())),
        "repairs": dict(sorted(counts.repairs.items())),
        "addresses_outside_documentation": outside_documentation(out),
        "valid": bool(check([out]).valid),
        "sha256": sha256_file(out),
        "seed": seed,
    }
