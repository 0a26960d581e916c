"""What the server takes: memory over many requests, clients that give up, senders that are slow. `python bench/bench_server.py [--json]`.

    python bench/bench_server.py [--requests 10000] [--clients 64] [--slow 40] [--small] [--json]

A server of its own is started on loopback with the embedded base; nothing is trained. Chats ask for a field of a pasted packet,
uploads are a bundled capture; every tenth request lists the models. Reported: resident memory after a tenth of the requests and
after all; bytes that were left on disk after clients hung up in the middle; how long others waited while slow senders held uploads.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trafficllm

CAPTURE = Path(trafficllm.__file__).parent / "data" / "captures" / "EAC" / "DNS" / "dns_fragmented.pcap"
PACKET = "what is the TTL? <packet>: ip.ttl: 57, ip.proto: 6, tcp.srcport: 44321, tcp.dstport: 443"
CHAT = json.dumps({"model": "trafficllm", "messages": [{"role": "user", "content": PACKET}]}).encode()
FORM = "multipart/form-data; boundary=b"
_STARTED_S = 300


class Served:
    """A server process, its port and its temporary folder."""

    def __init__(self, place: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.place = place
        code = "from trafficllm.surface.cli.main import main; main()"
        command = [sys.executable, "-c", code, "serve", "--port", str(self.port), "--registry", str(place / "registry")]
        (place / "tmp").mkdir()
        environment = {**os.environ, "TMPDIR": str(place / "tmp")}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + _STARTED_S
        while self.ask("GET", "/readyz")[0] != 200:
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.2)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, float]:
        """Status (0: no answer) and seconds of one request."""
        began = time.monotonic()
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            link.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = link.getresponse()
            answer.read()
            return answer.status, time.monotonic() - began
        except OSError:
            return 0, time.monotonic() - began
        finally:
            link.close()

    def resident(self) -> float:
        """MiB of memory of the server's own process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def disk(self) -> float:
        """MiB that uploads take: files in its folder, and spools that have no name any more."""
        named = sum(path.stat().st_blocks * 512 for path in (self.place / "tmp").rglob("file-*") if path.is_file())
        opened = 0
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                if "(deleted)" in str(link.readlink()):
                    opened += link.stat().st_blocks * 512
            except OSError:
                continue
        return (named + opened) / 2**20

    def stop(self) -> float:
        """Seconds that it takes to end after SIGTERM."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)
        return time.monotonic() - began


def memory(server: Served, requests: int) -> dict[str, Any]:
    """Chats, every tenth a list of models, every hundredth a capture to keep and to forget."""
    seen: Counter[int] = Counter()
    early = server.resident()
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n' + CAPTURE.read_bytes() + b"\r\n--b--\r\n"
    began = time.monotonic()
    for k in range(requests):
        seen[server.ask("POST", "/v1/chat/completions", CHAT)[0]] += 1
        if k % 10 == 0:
            seen[server.ask("GET", "/v1/models")[0]] += 1
        if k % 100 == 0:
            seen[server.ask("POST", "/v1/files", form, FORM)[0]] += 1
        if k == requests // 10:
            early = server.resident()
    rate = sum(seen.values()) / (time.monotonic() - began)
    late = server.resident()
    return {"requests": requests, "statuses": dict(seen), "per_s": rate, "early_mib": early, "late_mib": late, "grown_mib": late - early}


def _head(length: int, path: str = "/v1/analyze") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {FORM}", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode() + b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'


def cancels(server: Served, clients: int) -> dict[str, Any]:
    """Clients that send half a capture, or a whole one, and hang up."""
    data = CAPTURE.read_bytes() + b"\r\n--b--\r\n"
    before = server.disk()
    for k in range(clients):
        link = socket.create_connection(("127.0.0.1", server.port))
        link.sendall(_head(65 + len(data)) + (data if k % 2 else data[: len(data) // 2]))
        link.close()
    time.sleep(2)
    status, seconds = server.ask("GET", "/healthz")
    return {"clients": clients, "left_mib": server.disk() - before, "healthz": status, "healthz_s": seconds}


def slow(server: Served, senders: int, mib: int = 8) -> dict[str, Any]:
    """Uploads that are never finished: how many are refused at the door, what they take, and how others fare meanwhile."""
    links = []
    for _ in range(senders):
        link = socket.create_connection(("127.0.0.1", server.port))
        link.sendall(_head((mib + 1) << 20))
        links.append(link)
    time.sleep(1)
    refused = 0
    for link in links:
        link.settimeout(20)
        try:
            for _ in range(mib):
                link.sendall(bytes(1 << 20))
        except OSError:
            refused += 1
    taken = server.disk()
    waits = [server.ask("POST", "/v1/chat/completions", CHAT) for _ in range(20)]
    for link in links:
        link.close()
    time.sleep(3)
    answered = sum(status == 200 for status, _ in waits)
    middle = statistics.median(seconds for _, seconds in waits)
    return {"senders": senders, "refused": refused, "disk_mib": taken, "chats": answered, "chat_s": middle, "after_mib": server.disk()}


def main() -> None:
    """All three, one after the other, on one server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slow", type=int, default=40)
    parser.add_argument("--small", action="store_true", help="a few requests only, to see that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.small:
        args.requests, args.clients, args.slow = 40, 4, 20
    with tempfile.TemporaryDirectory() as place:
        server = Served(Path(place))
        try:
            found = {"cancels": cancels(server, args.clients), "slow": slow(server, args.slow), "memory": memory(server, args.requests)}
        finally:
            drained = server.stop()
    report = {"schema": "trafficllm.bench.server/1", **found, "drain_s": drained}
    print(json.dumps(report, indent=1) if args.json else "\n".join(f"{name}: {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
