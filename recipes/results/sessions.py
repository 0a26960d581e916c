"""The sessions in docs/sessions.md, run anew: `python recipes/results/sessions.py`.

A server of this checkout with an empty registry, so with the adapters of the package, is asked by curl and the openai client; a notebook's
lines run in this process. Long lines are cut at `...`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "src" / "trafficllm" / "data" / "captures"
KEY = "a key of this session only"
BEGIN, END = "<!-- {}: recipes/results/sessions.py writes it -->", "<!-- end of {} -->"
_WIDE, _LINES = 420, 9
AUTHORIZED = '-H "Authorization: Bearer $TRAFFICLLM_API_KEY"'
CURL = (
    f'curl -sS {AUTHORIZED} -F file=@infected.pcap "$SERVER/v1/analyze?task=MTD" | head -1',
    (
        f'curl -sS -D - {AUTHORIZED} -H \'Content-Type: application/json\' -d \'{{"task": "MTG", "label": "Neris", "flows": 5}}\' '
        '"$SERVER/v1/generate" -o neris.pcap'
    ),
    'curl -sS -i -F file=@infected.pcap "$SERVER/v1/analyze?task=MTD"',
    f'curl -sS -i {AUTHORIZED} -H "Host: evil.example" "$SERVER/v1/tasks"',
)
PACKET = (
    "<packet>: ip.src: 147.32.84.165, ip.dst: 94.63.149.152, ip.ttl: 128, ip.proto: 6, tcp.srcport: 1040, tcp.dstport: 80, "
    "tcp.flags: 0x0018, tcp.len: 3, tcp.payload: 47:45:54"
)
OPENAI = (
    'client = OpenAI(base_url=f"{SERVER}/v1", api_key=KEY)',
    "[(model.id, model.parent, model.version) for model in client.models.list()]",
    f'packet = "{PACKET}"',
    'ask("What is the TTL of this packet? " + packet)',
    'kept = client.files.create(file=open("infected.pcap", "rb"), purpose="user_data")',
    'ask("Is there malware in this capture?", kept)',
    'ask("What is the destination port of packet 3?", kept)',
)
NOTEBOOK = (
    "import trafficllm as tl",
    'flows = tl.read("infected.pcap")',
    "flows",
    'next(iter(flows))["community_id"]',
    'flows.to_arrow().select(["orig_h", "resp_p", "orig_bytes", "conn_state"]).slice(0, 2).to_pylist()',
    'verdicts = tl.analyze("infected.pcap", question="is any of this malware, and which family?")',
    'verdicts.route["tasks"]',
    "verdicts.counts()",
    "table = verdicts.to_pandas()",
    'table.sort_values("confidence", ascending=False)[["resp_h", "resp_p", "label", "confidence", "frames"]].head(3)',
    "verdicts",
)


def cut(text: str) -> list[str]:
    """Lines of an output, long ones and long lists of them cut."""
    lines = [line if len(line) <= _WIDE else line[:_WIDE] + " ..." for line in text.rstrip().replace("\r", "").splitlines()]
    return lines if len(lines) <= _LINES else [*lines[:_LINES], "..."]


def repl(lines: tuple[str, ...], names: dict[str, Any]) -> str:
    """Each line with what Python's prompt would show."""
    shown = []
    for line in lines:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            tree = ast.parse(line)
            if isinstance(tree.body[0], ast.Expr):
                value = eval(line, names)
                if value is not None:
                    print(repr(value))
            else:
                exec(line, names)
        shown += [f">>> {line}", *cut(said.getvalue())]
    return "```\n" + "\n".join(shown) + "\n```"


@contextmanager
def serving(place: Path) -> Iterator[str]:
    """A server with the adapters of the package; its address."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "trafficllm", "serve", "--port", str(port), "--registry", str(place / "registry")]
    address = f"http://127.0.0.1:{port}"
    with (place / "log").open("w") as log, subprocess.Popen(command, stderr=log, env={**os.environ, "TRAFFICLLM_API_KEY": KEY}) as server:
        while server.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/readyz")
                break
        yield address
        server.terminate()


def curl(address: str) -> str:
    """The requests as typed, and what the server sent."""
    names = {**os.environ, "SERVER": address, "TRAFFICLLM_API_KEY": KEY}
    shown = []
    for line in CURL:
        done = subprocess.run(["bash", "-c", line], env=names, capture_output=True, text=True, check=True)
        shown += [f"$ {line}", *cut(done.stdout), ""]
    return "```\n" + "\n".join(shown).rstrip() + "\n```"


def openai(address: str) -> str:
    """The client's lines."""
    from openai import OpenAI

    def ask(text: str, file: Any = None) -> None:
        content: Any = [{"type": "text", "text": text}, {"type": "file", "file": {"file_id": file.id}}] if file else text
        reply = names["client"].chat.completions.create(model="trafficllm", messages=[{"role": "user", "content": content}])
        print(reply.choices[0].message.content)

    names: dict[str, Any] = {"OpenAI": OpenAI, "SERVER": address, "KEY": KEY, "ask": ask}
    return repl(OPENAI, names)


def main() -> None:
    """Run every session and write them between their markers."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    page = ROOT / "docs" / "sessions.md"
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copy(CAPTURES / "MTD" / "Neris" / "Neris_05.pcap", place / "infected.pcap")
        os.environ["TRAFFICLLM_REGISTRY"] = str(place / "registry")
        os.chdir(place)
        with serving(place) as address:
            parts["curl"] = curl(address)
            parts["the openai client"] = openai(address)
        parts["the log"] = "```\n" + "\n".join((place / "log").read_text().splitlines()[-2:]) + "\n```"
        parts["a notebook"] = repl(NOTEBOOK, {})
    text = page.read_text(encoding="utf-8")
    for name, shown in parts.items():
        head, _, rest = text.partition(BEGIN.format(name))
        _, _, tail = rest.partition(END.format(name))
        text = f"{head}{BEGIN.format(name)}\n\n{shown}\n\n{END.format(name)}{tail}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
