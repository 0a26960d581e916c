"""The sessions in docs/guides/first-minutes.md, mcp.md and chat.md: `python recipes/results/conversations.py minutes mcp chat`.

`minutes` runs what a new user types, in an empty folder with an empty home; `mcp` triages a bundled capture with a client of the MCP SDK;
`chat` asks about the same capture in sequence. The adapters are those of the package unless `--registry` names others. What stands between
the markers of a guide is what came back; long lists are cut, and the cut is said.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "src" / "trafficllm" / "data" / "captures" / "unseen"
CAPTURE = "asyncrat-2024-02-28.pcap"
MINUTES = (
    "trafficllm",
    "trafficllm demo",
    "trafficllm analyze new.pcap",
    "trafficllm analyze new.pcap -q 'which TLS versions?'",
    "trafficllm analyze new.pcap -q 'who is the most suspicious host?'",
    "trafficllm analyze new.pcap --task MTD --explain --only Miuref",
    "trafficllm analyze new.pcap --task MTD -o verdicts.csv",
    "trafficllm adapter list",
    "trafficllm adapter show MTD",
    "trafficllm generate --task MTG --label Zeus --flows 5 -o zeus.pcap",
    "trafficllm capture check zeus.pcap",
)
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
_LINES = 24


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

    parts = []
    async with Client(create_server(Workbench(Workspace(registry=registry), Root.of(CAPTURES)))) as client:

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
        await call("compare_with_known", capture=CAPTURE, flow=flow)
        await call(
            "get_packets", capture=CAPTURE, flow=flow, fields=["frame.number", "frame.time_relative", "ip.src", "tcp.flags", "tcp.len"]
        )
        await call("list_flows", capture=CAPTURE, port=4782, limit=2)
    return "\n\n".join(parts)


class _Typed(io.StringIO):
    """Standard input that shows each question when it is taken."""

    def __iter__(self) -> Iterator[str]:
        for question in QUESTIONS:
            print(f"\n> {question}", flush=True)
            yield question


def chat(registry: str) -> str:
    """Each question with its answer, as a pipe gives them; what a question was taken for comes on stderr."""
    from trafficllm.surface.cli.main import run

    said = io.StringIO()
    where = ["--registry", registry] if registry else []
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), mock.patch.object(sys, "stdin", _Typed()):
        run(["chat", str(CAPTURES / CAPTURE), *where, "--quiet"])
    shown = ["\n".join(short(part.splitlines(), 14)) for part in said.getvalue().strip().split("\n\n")]
    return "```text\n" + "\n\n".join(shown) + "\n```"


def short(lines: list[str], most: int) -> list[str]:
    """The first lines; how many are left out."""
    return lines if len(lines) <= most else [*lines[:most], f"({len(lines) - most} more lines)"]


def clean(said: str, home: str) -> list[str]:
    """Lines of an output without this machine's folders, which a table may have broken in two, and without the lines of slow work."""
    for folder, name in ((home, "~"), (f"{ROOT}/", "")):
        said = re.sub("\n?".join(map(re.escape, folder)), name, said)
    return [line.rstrip() for line in said.rstrip().splitlines() if not re.match(r"\d+ s: ", line)]


def minutes(registry: str) -> str:
    """What each command of a new user's first minutes prints, with its processor seconds; in an empty folder with an empty home."""
    parts = []
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(CAPTURES / CAPTURE, Path(place) / "new.pcap")
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "TZ", "OMP_NUM_THREADS", "NUMBA_CACHE_DIR") if name in os.environ}
        home = {"HOME": f"{place}/home", **({"TRAFFICLLM_REGISTRY": registry} if registry else {})}
        for line in MINUTES:
            command = [sys.executable, "-m", *shlex.split(line)]
            before = os.times()
            done = subprocess.run(
                command, cwd=place, env=kept | home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            after = os.times()
            seconds = after.children_user + after.children_system - before.children_user - before.children_system
            code = f", exit code {done.returncode}" if done.returncode else ""
            shown = short(clean(done.stdout, home["HOME"]), _LINES)
            parts.append(f"{seconds:.1f} s of one core{code}:\n\n```text\n$ {line}\n" + "\n".join(shown) + "\n```")
    return "\n\n".join(parts)


def put(guide: Path, transcript: str) -> None:
    """Write a transcript between the markers of a guide."""
    head, _, rest = guide.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    guide.write_text(f"{head}{BEGIN}\n\n{transcript}\n\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Write the guides that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sessions", nargs="+", choices=("minutes", "mcp", "chat"))
    parser.add_argument("--registry", default="", help="adapters in place of the package's")
    asked = parser.parse_args()
    guides = ROOT / "docs" / "guides"
    with tempfile.TemporaryDirectory() as empty:
        registry = asked.registry or f"{empty}/registry"
        if "minutes" in asked.sessions:
            put(guides / "first-minutes.md", minutes(asked.registry))
        if "mcp" in asked.sessions:
            put(guides / "mcp.md", asyncio.run(triage(registry)))
        if "chat" in asked.sessions:
            put(guides / "chat.md", chat(registry))


if __name__ == "__main__":
    main()
