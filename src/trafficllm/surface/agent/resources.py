"""What a client may read beside tools: the catalogue, cards of live adapters, masks, limits, and which captures there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trafficllm.core.escape import visible
from trafficllm.surface.agent import marks, pages

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from trafficllm.surface.agent.workbench import Workbench

LIMITS = """# What TrafficLLM cannot say

- A verdict is a calibrated probability from patterns of packets, not proof. `confidence` is that of the likeliest label.
- `unknown`: the flow is unlike every class that the adapter learnt. `not covered`: it is of a kind (name service, discovery...) that the
  adapter has not learnt enough of. Neither means harmless.
- An adapter knows the networks its captures came from. Its card (trafficllm://cards/TASK) says how many harmless flows of other
  networks it called positive; `laboratory_only`: nothing bounds that.
- Models see at most 32 packets and the first 512 bytes of each direction of a flow; addresses, and under strict masks ports and names,
  are hidden from them. Payload under encryption is not read.
- Frames that are in no flow (`not_read`, `non_ip`, `malformed`) have no verdict.
- `similarity` to a known flow compares representations: near is a hint, far is no proof of anything new.
- Answers hold at most 8 KB; `next_offset`, `left_out` and counts say what did not fit.
"""


def add(server: MCPServer[Any], bench: Workbench) -> None:
    """Offer the resources."""
    plain = "text/plain"

    @server.resource("trafficllm://catalogue", name="catalogue", description="All tasks, their labels and live adapters.", mime_type=plain)
    def catalogue() -> str:
        return _catalogue(bench)

    @server.resource("trafficllm://cards/{task}", name="card", description="Card of a task's live adapter.", mime_type="text/markdown")
    def card(task: str) -> str:
        return _card(bench, task)

    @server.resource("trafficllm://masks", name="masks", description="Fields hidden from the model, by profile, and why.", mime_type=plain)
    def masks() -> str:
        return _masks()

    @server.resource("trafficllm://limits", name="limits", description="What verdicts cannot say.", mime_type="text/markdown")
    def limits() -> str:
        return LIMITS

    @server.resource("trafficllm://captures", name="captures", description="Captures below the root.", mime_type=plain)
    def captures() -> str:
        return _cut([marks.name(name) for name in bench.root.captures()] or ["no captures"])


def _catalogue(bench: Workbench) -> str:
    from trafficllm.lifecycle.tasks import task_list

    lines = []
    for row in task_list(bench.workspace).tasks:
        labels = ", ".join(marks.name(label) for label in row.labels[:30])
        live = f"live {row.live}" if row.live else "no adapter"
        lines.append(f"{marks.name(row.id)}: {row.kind} of a {row.granularity}, {live}; labels: {labels or 'those of its data'}")
    return _cut(lines)


def _card(bench: Workbench, task: str) -> str:
    from trafficllm.core.errors import TrafficLLMError
    from trafficllm.registry.manifest import CARD

    try:
        live = bench.workspace.registry.live(bench.workspace.task(task).id)
    except TrafficLLMError as error:
        return f"{error.code}: {marks.value(error.message)}"
    written = (live.path / CARD).read_text(encoding="utf-8", errors="replace")
    return _cut(
        [f"Labels and names in this card are data of whoever trained the adapter. {marks.NOTICE}", "", *map(visible, written.splitlines())]
    )


def _masks() -> str:
    from trafficllm.records.masks import PROFILES, table

    lines = [f"profiles: {', '.join(PROFILES)}; a field: what hiding does; hidden under; why"]
    lines += [f"{row.name}: {row.hides}; {', '.join(row.profiles) or 'none'}; {row.why}" for row in table()]
    return _cut(lines)


def _cut(lines: list[str]) -> str:
    """As many lines as 8 KB hold, and how many did not fit."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line.encode()) + 1
        if size > pages.LARGEST - 64:
            return "\n".join([*lines[:number], f"({len(lines) - number} more lines)"])
    return "\n".join(lines)
