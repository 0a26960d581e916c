"""`trafficllm serve` as a process: the official OpenAI client, slow clients, a drain at SIGTERM, and a soak."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import serve_fuzz

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there

import server_samples

KEY = "an api key for tests 0123456789"
PACKET = "what is the TTL? <packet>: ip.ttl: 57, ip.proto: 6, tcp.srcport: 44321, tcp.dstport: 443"
REPO = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(base: Path, registry: Path, port: int, *more: str) -> subprocess.Popen[str]:
    """The log goes to a file: a pipe that nobody reads would stop the server once it is full."""
    code = "from trafficllm.surface.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port), "--base", str(base), "--registry", str(registry), *more]
    environment = {**os.environ, "TRAFFICLLM_API_KEY": KEY, "PYTHONPATH": str(REPO / "src")}
    with (registry.parent / "log").open("w") as log:
        return subprocess.Popen(command, env=environment, stderr=log, text=True)


def _wait(url: str, process: subprocess.Popen[str], log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    base, registry = server_samples.write(tmp_path_factory.mktemp("served"))
    port = _free_port()
    process = _start(base, registry, port)
    url = f"http://127.0.0.1:{port}"
    _wait(url, process, registry.parent / "log")
    yield url, process, registry.parent / "log"
    if process.poll() is None:
        process.kill()
    process.wait()


def test_the_official_client(server: tuple[str, Any, Path], captures: Path) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key=KEY, max_retries=0)
    models = {model.id: model.parent for model in client.models.list()}
    assert models == {"trafficllm": None, "EAC": "trafficllm", "MTG": "trafficllm"}
    said = client.chat.completions.create(model="trafficllm", messages=[{"role": "user", "content": PACKET}])
    assert said.choices[0].message.content == "ip.ttl: 57"
    pasted = PACKET.replace("what is the TTL?", "which application is it?")
    said = client.chat.completions.create(model="EAC", messages=[{"role": "user", "content": pasted}])
    assert re.match(r"(DNS|HTTP|QUIC|unknown) \(task EAC, likeliest at 0\.\d\d, adapter v0001\)$", said.choices[0].message.content or "")
    capture = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]
    kept = client.files.create(file=capture, purpose="user_data")
    parts = [{"type": "text", "text": "Which application?"}, {"type": "file", "file": {"file_id": kept.id}}]
    stream = client.chat.completions.create(model="EAC", messages=[{"role": "user", "content": parts}], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.startswith("Encrypted application classification (EAC): ")
    with pytest.raises(openai.NotFoundError) as found:
        client.models.retrieve("gpt-4")
    assert found.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server[0]}/v1", api_key="wrong", max_retries=0).models.list()
    client.close()


def test_a_slow_client_holds_nobody_up(server: tuple[str, Any, Path]) -> None:
    host, port = server[0].removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    form = "Content-Type: multipart/form-data; boundary=b"
    head = f"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{form}\r\n"
    for connection in slow:
        connection.sendall(f"{head}Content-Length: 100000\r\n\r\n--b\r\n".encode())
    asked = {"authorization": f"Bearer {KEY}"}
    body = {"model": "EAC", "messages": [{"role": "user", "content": PACKET}]}
    began = time.monotonic()
    assert httpx.post(f"{server[0]}/v1/chat/completions", json=body, headers=asked, timeout=20).status_code == 200
    assert time.monotonic() - began < 10
    for connection in slow:
        connection.close()


def _resident(process: subprocess.Popen[str]) -> int:
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
def test_ten_thousand_requests_leave_no_memory_behind(server: tuple[str, subprocess.Popen[str], Path]) -> None:
    url, process, _ = server
    bodies = [PACKET, PACKET.replace("what is the TTL?", "which application?")]
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:

        def ask(count: int) -> None:
            for k in range(count):
                body = {"model": "EAC", "messages": [{"role": "user", "content": bodies[k % 2]}]}
                assert client.post("/v1/chat/completions", json=body).status_code == 200
                if k % 10 == 0:
                    assert client.get("/v1/models").status_code == 200

        ask(1000)
        before = _resident(process)
        ask(9000)
        after = _resident(process)
    assert after - before < 32 << 20, f"{(after - before) >> 20} MiB more after 9,000 requests"


def test_fuzzed_requests_are_answered_as_described(server: tuple[str, Any, Path], captures: Path) -> None:
    capture = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]
    asked, seen = serve_fuzz.fuzz(server[0], KEY, capture.read_bytes(), examples=2)
    assert len(asked) == 21
    assert not [status for status in seen if status >= 500]
    assert seen[200] >= 5


@pytest.mark.soak
def test_thousands_of_fuzzed_requests(server: tuple[str, Any, Path], captures: Path) -> None:
    capture = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]
    asked, seen = serve_fuzz.fuzz(server[0], KEY, capture.read_bytes(), examples=150)
    assert sum(asked.values()) > 2000
    assert not [status for status in seen if status >= 500]


def test_zz_sigterm_drains(server: tuple[str, subprocess.Popen[str], Path], captures: Path) -> None:
    """A request that is inside is finished; the log has a line for it, and nothing that was in it."""
    import threading

    url, process, logged = server
    capture = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]
    done: list[int] = []

    def ask() -> None:
        found = httpx.post(
            f"{url}/v1/analyze?task=EAC", files={"file": capture.read_bytes()}, headers={"authorization": f"Bearer {KEY}"}, timeout=60
        )
        done.append(found.status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert done == [200]
    process.wait(timeout=60)
    log = logged.read_text()
    assert process.returncode in {0, -signal.SIGTERM}
    assert "route=/v1/analyze status=200" in log
    assert KEY not in log
    assert "Traceback" not in log


def test_a_socket_of_ipv6(tmp_path: Path) -> None:
    base, registry = server_samples.write(tmp_path)
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = int(probe.getsockname()[1])
    except OSError:
        pytest.skip("no IPv6 here")
    process = _start(base, registry, port, "--host", "::1")
    try:
        url = f"http://[::1]:{port}"
        _wait(url, process, registry.parent / "log")
        assert httpx.get(f"{url}/v1/tasks").status_code == 401
        assert httpx.get(f"{url}/v1/tasks", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/readyz")
    finally:
        process.kill()
        process.wait()


def test_an_open_server_is_refused() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRAFFICLLM_API_KEY"}
    code = "from trafficllm.surface.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--host", "0.0.0.0"],
        env={**environment, "PYTHONPATH": str(REPO / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "API key" in done.stderr
