"""The page with many flows: how long 100,000 verdicts take to show, and how smooth scrolling, filtering and sorting then are.

    python bench/bench_page.py [--flows 100000] [--json]

Chromium (Debian's package) shows the page's own files; the server's answers are made up here, so that the browser's work alone is
measured. A jump is the time from setting the scroll position to the second frame after it: 33 ms at 60 Hz where no frame is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trafficllm.surface.web import page as files

FILE = "file-00000000000000000000000000000000"
JUMPS = 120
LABELS = ("DNS", "TLS", "HTTP", "QUIC", "unknown")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def row(n: int) -> dict[str, Any]:
    """One verdict as `/analyze` gives it: 500 bytes."""
    label = "malicious" if n % 500 == 7 else LABELS[n % len(LABELS)]
    return {
        "uid": f"C{n:016x}", "ts": 1.7e9 + n / 10, "duration": 0.25, "community_id": f"1:{n:027d}=",
        "orig_h": f"10.{n % 7}.{n % 250}.{n % 199}", "orig_p": 1024 + n % 60000, "resp_h": f"198.51.100.{n % 251}", "resp_p": 443,
        "proto": "tcp", "packets": 1 + n % 90, "task": "EAC", "label": label, "confidence": 0.5 + n % 50 / 100,
        "probabilities": dict.fromkeys(LABELS, 0.2), "unknown_score": 0.1, "evidence": [], "file": "x.pcap", "frames": [n, n + 1],
        "adapter": "EAC", "version": "v0001", "umbrella": None, "umbrella_probability": None, "malicious": None, "labels_90": [label],
        "source": "shipped",
    }  # fmt: skip


def analysis(flows: int) -> bytes:
    """The lines of an answer about a capture of so many flows."""
    totals = {
        "packets": 9 * flows, "bytes": 900 * flows, "first": 1.7e9, "last": 1.7e9 + flows / 10, "link_types": {}, "truncated": 0,
        "malformed": {}, "non_ip": 0, "non_flow": 0, "flows": flows, "evicted": 0, "not_read": {},
    }  # fmt: skip
    begin = {"schema": "trafficllm.serve.begin/1", "tasks": ["EAC"], "route": None, "capture": totals, "notable": {"EAC": ["malicious"]}}
    end = {"schema": "trafficllm.serve.end/1", "sentence": "x", "flows": flows, "above": {}, "hosts": [], "hosts_total": 0, "uncovered": {}}
    rows = [row(n) for n in range(flows)]
    counts: dict[str, int] = {}
    for line in rows:
        counts[line["label"]] = counts.get(line["label"], 0) + 1
    return ("\n".join(map(json.dumps, [begin, *rows, end | {"verdicts": {"EAC": counts}}])) + "\n").encode()


class Handler(BaseHTTPRequestHandler):
    """The page's files, and the answers it asks for."""

    def __init__(self, lines: bytes, *rest: Any) -> None:
        self.lines = lines
        super().__init__(*rest)

    def do_GET(self) -> None:
        """Files of the page, the list of tasks, the limits."""
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        if name in files.FILES:
            self.answer(files.FILES[name].read_bytes(), TYPES[files.FILES[name].suffix])
        else:
            self.answer(json.dumps({"tasks": [], "max_body": 1 << 30, "key": False}).encode(), "application/json")

    def do_POST(self) -> None:
        """The upload, then its analysis."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        stored = {"id": FILE, "filename": "x.pcap", "bytes": 1}
        self.answer(self.lines if "/analyze" in self.path else json.dumps(stored).encode(), "application/json")

    def answer(self, body: bytes, kind: str) -> None:
        """One whole answer under the page's policy."""
        self.send_response(200)
        for name, value in {"content-type": kind, "content-length": str(len(body)), "content-security-policy": files.CSP}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(lines: bytes) -> Iterator[str]:
    """A server of the page on this machine; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, lines))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()


NEXT = "const next = () => new Promise((done) => requestAnimationFrame(done));"
SCROLL = (
    "async (jumps) => {" + NEXT + "const grid = document.querySelector('.grid'), out = [];"
    "for (let k = 0; k < jumps; k++) { grid.scrollTop = (grid.scrollHeight * ((k * 37) % jumps)) / jumps; const begin = performance.now();"
    "await next(); await next(); out.push(performance.now() - begin); } return out; }"
)
FILTER = (
    "async (text) => {"
    + NEXT
    + "const box = document.querySelector('input[type=search]'); box.value = text; const begin = performance.now();"
    "box.dispatchEvent(new Event('input', { bubbles: true })); await next(); await next(); return performance.now() - begin; }"
)
SORT = (
    "async () => {"
    + NEXT
    + "const button = [...document.querySelectorAll('[role=columnheader] button')].find((e) => /Verdict/.test(e.textContent));"
    "const begin = performance.now(); button.click(); await next(); await next(); return performance.now() - begin; }"
)


def measure(flows: int) -> dict[str, float]:
    """Milliseconds of each step, in one Chromium of 1,280 x 800 pixels."""
    from playwright.sync_api import sync_playwright

    lines = analysis(flows)
    with served(lines) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(300_000)
        page.goto(address)
        page.evaluate("window.begun = performance.now()")
        page.set_input_files("input[type=file]", {"name": "x.pcap", "mimeType": "", "buffer": b"x"})
        page.wait_for_selector("h2:has-text('Exports')")
        shown = page.evaluate("performance.now() - window.begun")
        jumps = sorted(page.evaluate(SCROLL, JUMPS))
        figures = {
            "flows": flows,
            "bytes": len(lines),
            "shown_ms": shown,
            "jump_median_ms": statistics.median(jumps),
            "jump_p95_ms": jumps[int(0.95 * len(jumps))],
            "jump_worst_ms": jumps[-1],
            "rows_in_page": page.locator(".rows .row").count(),
            "filter_ms": page.evaluate(FILTER, "198.51.100.7:"),
            "clear_ms": page.evaluate(FILTER, ""),
            "sort_ms": page.evaluate(SORT),
        }
        browser.close()
    return {name: round(value, 1) for name, value in figures.items()} | {"load": round(os.getloadavg()[0], 1)}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    figures = measure(2_000 if options.small else options.flows)
    print(json.dumps(figures, indent=1) if options.json else "\n".join(f"{name:16s} {value:>12,.1f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
