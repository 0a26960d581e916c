"""The transcripts in docs/guides/mcp.md and docs/guides/chat.md: `python recipes/results/conversations.py --registry DIR`.

A client of the MCP SDK triages a bundled capture, and the same capture is asked about in `trafficllm chat` through a pipe. What stands
between the markers of both guides is what came back; long lists are cut, and the cut is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "src" / "trafficllm" / "data" / "captures" / "unseen"
CAPTURE = "asyncrat-2024-02-28.pcap"
QUESTIONS = (
    "how many packets are there?",
    "is there malware?",
    "who is the most suspicious host?",
    "flows",
    "explain it",
    "show its packets",
    "and the second one?",
    "only to 192.168.100.2",
    "how many packets are malicious in spirit?",
)
BEGIN, END = "<!-- transcript: recipes/results/conversations.py writes it -->", "<!-- end of the transcript -->"
_ITEMS = 2
_WIDE = 130


def cut(value: Any) -> Any:
    """A JSON value with lists of objects or lists cut to two items; the cut is said in their place."""
    if isinstance(value, dict):
        return {name: cut(item) for name, item in value.items()}
    if isinstance(value, list):
        rows = [cut(item) for item in value[:_ITEMS]] if value and isinstance(value[0], dict | list) else value
        return [*rows, f"({len(value) - len(rows)} more)"] if len(rows) < len(value) else rows
    return value


def text(value: Any, indent: str = "") -> str:
    """JSON of a cut value: what fits on a line stands on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent + line) <= _WIDE or not value or not isinstance(value, dict | list):
        return line
    deeper = indent + " "
    if isinstance(value, list):
        return "[\n" + ",\n".join(deeper + text(item, deeper) for item in value) + f"\n{indent}]"
    rows = [f"{deeper}{json.dumps(name, ensure_ascii=False)}: {text(item, deeper)}" for name, item in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


async def triage(registry: str) -> str:
    """The calls of the prompt `triage` and what each answered."""
    from mcp import Client

    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.agent.root import Root
    from trafficllm.surface.agent.server import create_server
    from trafficllm.surface.agent.workbench import Workbench

    bench = Workbench(Workspace(registry=registry), Root.of(CAPTURES))
    parts = []
    async with Client(create_server(bench)) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = (await client.call_tool(tool, arguments)).structured_content
            given = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
            parts.append(
                f"`{tool}({given})` ({len(json.dumps(answer, ensure_ascii=False).encode()):,} bytes)\n\n```json\n{text(cut(answer))}\n```"
            )
            return dict(answer)

        await call("capture_info", capture=CAPTURE)
        judged = await call("analyze_capture", capture=CAPTURE, question="is there malware?")
        flow = judged["notable_flows"][0]["flow"]
        await call("explain_flow", capture=CAPTURE, flow=flow)
        await call(
            "get_packets", capture=CAPTURE, flow=flow, fields=["frame.number", "frame.time_relative", "ip.src", "tcp.flags", "tcp.len"]
        )
        await call("list_flows", capture=CAPTURE, label="unknown", order="packets", limit=2)
    bench.close()
    return "\n\n".join(parts)


def chat(registry: str) -> str:
    """Each question with its answer, as a pipe gives them; what a question was taken for comes on stderr."""
    command = [sys.executable, "-m", "trafficllm", "chat", str(CAPTURES / CAPTURE), "--registry", registry, "--quiet"]
    lines = []
    for number in range(len(QUESTIONS)):
        asked = "".join(f"{question}\n" for question in QUESTIONS[: number + 1])
        done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        lines.append(done.stdout)
    shown, before = [], ""
    for question, whole in zip(QUESTIONS, lines, strict=True):
        own = whole.removeprefix(before).rstrip("\n").splitlines()
        shown += [f"> {question}", *own[:12], *([f"({len(own) - 12} more lines)"] if len(own) > 12 else []), ""]
        before = whole
    return "```text\n" + "\n".join(shown).rstrip("\n") + "\n```"


def put(guide: Path, transcript: str) -> None:
    """Write a transcript between the markers of a guide."""
    head, _, rest = guide.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    guide.write_text(f"{head}{BEGIN}\n\n{transcript}\n\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Write both guides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", required=True, help="a registry with a live MTD adapter and a router, such as a quickstart's")
    registry = parser.parse_args().registry
    guides = ROOT / "docs" / "guides"
    put(guides / "mcp.md", asyncio.run(triage(registry)))
    put(guides / "chat.md", chat(registry))


if __name__ == "__main__":
    main()
