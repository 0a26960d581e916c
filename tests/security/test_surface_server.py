"""The server's doors and limits, and what it answers, in this process; uploads are read in real processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there

import server_samples

from trafficllm.capture.check.captures import check
from trafficllm.capture.fields.table import packet_rows
from trafficllm.core.errors import InputError, UsageError
from trafficllm.lifecycle.analyze.verdicts import start
from trafficllm.lifecycle.facts.asking import answer_fact, understood
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.cli.main import run
from trafficllm.surface.server import uploads
from trafficllm.surface.server.app import configuration, create_app
from trafficllm.surface.server.chat.fields import asked_fields, asked_frame
from trafficllm.surface.server.guard import Guard
from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.settings import Settings, hash_key, read_key

KEY = "correct horse battery staple"
PACKET = (
    "What is the time to live of this packet? <packet>: ip.src: 192.0.2.77, ip.ttl: 57, ip.proto: 6, tcp.srcport: 44321, tcp.dstport: 443"
)


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return server_samples.write(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module", name="client")
def _client(place: tuple[Path, Path]) -> Iterator[Any]:
    with server_samples.client(*place, wait=True) as found:
        yield found


@pytest.fixture(name="capture")
def _capture(captures: Path) -> Path:
    return sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]


def _left(client: Any) -> list[str]:
    """What requests left on disk."""
    return [path.name for path in client.service.uploads.folder.iterdir() if path.name not in {"warm.pcap", "held"}]


def _chat(client: Any, content: Any, *, model: str = "trafficllm", **more: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body)


# Doors


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", ""])
def test_other_names_are_misdirected(client: Any, host: str) -> None:
    assert client.get("/v1/tasks", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:1"])
def test_own_names_are_answered(client: Any, host: str) -> None:
    assert client.get("/v1/tasks", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["10.1.2.3:8000", "pod-7.example", ""])
def test_probes_are_answered_by_whatever_name(client: Any, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).text == "ok"
    assert client.get("/readyz", headers={"host": host}).status_code in {200, 503}
    assert client.get("/metrics", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("null", 403), ("http://localhost", 200), ("http://localhost:9", 403)]
)
def test_pages_of_other_sites_may_not_ask(client: Any, origin: str, status: int) -> None:
    found = client.get("/v1/tasks", headers={"origin": origin})
    assert found.status_code == status
    assert not [name for name in found.headers if name.startswith("access-control")]


def test_preflight_is_not_answered(client: Any) -> None:
    asked = {"origin": "http://localhost", "access-control-request-method": "POST"}
    found = client.options("/v1/analyze", headers=asked)
    assert found.status_code == 405
    assert not [name for name in found.headers if name.startswith("access-control")]


def test_pages_of_a_listed_site_may_ask_and_read(place: tuple[Path, Path]) -> None:
    site = "https://desk.example"
    with server_samples.client(*place, key_hash=hash_key(KEY), origins=(site,)) as client:
        asked = {"origin": site, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        leave = client.options("/v1/analyze", headers=asked)
        assert leave.status_code == 204
        assert leave.headers["access-control-allow-origin"] == site
        assert "authorization" in leave.headers["access-control-allow-headers"]
        assert "POST" in leave.headers["access-control-allow-methods"]
        for given, status in (({}, 401), ({"authorization": f"Bearer {KEY}"}, 200)):  # failures must be readable too
            found = client.get("/v1/tasks", headers={"origin": site, **given})
            assert found.status_code == status
            assert (found.headers["access-control-allow-origin"], found.headers["vary"]) == (site, "Origin")
        for other in ("https://evil.example", "https://desk.example.evil.example", "null"):
            refused = client.options("/v1/analyze", headers={**asked, "origin": other})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
        assert client.options("/v1/analyze").status_code == 401


@pytest.mark.parametrize(("path", "methods"), [("/v1/files", "GET, POST"), ("/v1/files/file-1", "DELETE, GET"), ("/v1/tasks", "GET")])
def test_a_wrong_method_is_told_the_right_ones(client: Any, path: str, methods: str) -> None:
    found = client.put(path)
    assert (found.status_code, found.headers["allow"]) == (405, methods)


def test_a_key_is_needed_where_there_is_one(place: tuple[Path, Path]) -> None:
    with server_samples.client(*place, key_hash=hash_key(KEY)) as client:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            for path in ("/v1/tasks", "/metrics", "/openapi.json", "/nothing"):
                found = client.get(path, headers=given)
                assert found.status_code == 401
                assert found.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/tasks", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "server.example"])
def test_a_server_for_others_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        Settings(host=host).check()
    Settings(host=host, key_hash=hash_key(KEY)).check()


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_key("", tmp_path / "key") == read_key(KEY, None) == hash_key(KEY)
    assert read_key("", None) == b""
    with pytest.raises(UsageError):
        read_key("short", None)
    with pytest.raises(InputError):
        read_key("", tmp_path / "no")


# Limits


def test_large_bodies_are_refused_before_and_while_they_are_read(place: tuple[Path, Path]) -> None:
    with server_samples.client(*place, max_body=10_000) as client:
        assert client.post("/v1/analyze", files={"file": b"x" * 20_000}).status_code == 413
        form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'

        def pieces() -> Iterator[bytes]:
            yield form
            for _ in range(30):
                yield b"x" * 1000

        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert client.post("/v1/analyze", content=pieces(), headers=kind).status_code == 413
        assert client.post("/v1/generate", content=(b" " * 1000 for _ in range(30))).status_code == 413


def test_a_full_queue_says_when_to_come_back(client: Any) -> None:
    jobs = client.service.jobs
    jobs.inside += jobs.settings.queue
    try:
        found = _chat(client, PACKET)
    finally:
        jobs.inside -= jobs.settings.queue
    assert found.status_code == 429
    assert int(found.headers["retry-after"]) >= 1
    assert _chat(client, PACKET).status_code == 200


UPLOAD = {"content-type": "multipart/form-data; boundary=b"}


def _never() -> Iterator[bytes]:
    raise AssertionError("the body was read before the upload was admitted")
    yield b""


def test_uploads_are_admitted_before_they_are_read(client: Any) -> None:
    """Where all places are taken, by work or by other uploads, not a byte is asked for."""
    jobs, intake = client.service.jobs, client.service.uploads.intake
    for taken in (jobs, intake):
        name = "inside" if taken is jobs else "arriving"
        setattr(taken, name, getattr(taken, name) + jobs.settings.queue)
        try:
            for path in ("/v1/analyze", "/v1/files"):
                found = client.post(path, content=_never(), headers=UPLOAD)
                assert (found.status_code, found.json()["error"]["code"]) == (429, "request.queue_full")
                assert int(found.headers["retry-after"]) >= 1
            assert taken is jobs or _chat(client, PACKET).status_code == 200  # uploads that arrive hold no chat up
        finally:
            setattr(taken, name, getattr(taken, name) - jobs.settings.queue)
    assert (intake.arriving, intake.inside()) == (0, 0)


def test_a_full_disk_is_said_before_and_while_a_body_is_read(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = client.service.uploads.intake
    used = intake.used

    def left(free: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))

    left(intake.settings.spare_disk)
    found = client.post("/v1/files", content=_never(), headers=UPLOAD)
    assert (found.status_code, found.json()["error"]["code"]) == (507, "request.disk")
    left(intake.settings.spare_disk + 5000)

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(30):
            yield b"x" * 1000

    assert client.post("/v1/files", content=pieces(), headers=UPLOAD).status_code == 507
    assert (intake.used, intake.arriving) == (used, 0)


def test_uploads_share_one_bound_of_disk_and_kept_captures_make_room(place: tuple[Path, Path]) -> None:
    with server_samples.client(*place, max_body=100_000, disk=0) as client:
        intake = client.service.uploads.intake
        for _ in range(8):
            assert client.post("/v1/files", files={"file": b"x" * 60_000}).status_code == 200
            assert intake.used <= intake.settings.most_disk == 200_000
        kept = client.get("/v1/files").json()["data"]
        assert 1 <= len(kept) < 4
        assert intake.used == sum(row["bytes"] for row in kept)
        on_disk = sum(path.stat().st_size for path in client.service.uploads.folder.glob("file-*"))
        assert on_disk == intake.used
        for row in kept:
            client.delete(f"/v1/files/{row['id']}")
        assert intake.used == 0


def test_questions_have_one_bound_and_are_searched_in_linear_time(client: Any) -> None:
    for words in ("what " * 500, "give me the " * 200, "which " * 70_000):
        found = _chat(client, words + PACKET)
        assert (found.status_code, found.json()["error"]["code"]) == (422, "input.question")
    assert _chat(client, "w " * 900 + PACKET).status_code == 200


@pytest.mark.parametrize("unit", ["what ", "give me the ", "which ttl.", "source ip address ", "a.", "packet #", "what is ", "ip id "])
def test_work_on_a_question_grows_with_its_length(unit: str) -> None:
    """Counted in calls and matches, not in seconds: ten times the length, at most twelve times the steps."""

    def steps(size: int) -> int:
        count = 0

        def step(frame: Any, event: str, _: Any) -> None:
            nonlocal count
            count += event in {"call", "c_call"}

        question = unit * (size // len(unit))
        sys.setprofile(step)
        try:
            asked_fields(question, {"ip.ttl", "ip.src"})
            asked_frame(question)
        finally:
            sys.setprofile(None)
        return count

    assert steps(20_000) <= 12 * steps(2000) + 200


def test_what_killed_servers_left_is_removed_and_what_lives_stays(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive, fresh = (tmp_path / f"{uploads.PREFIX}{name}" for name in ("dead", "alive", "fresh"))
    for folder in (dead, alive, fresh):
        folder.mkdir()
    for folder in (dead, alive):
        (folder / "held").touch()
    (dead / "file-1").write_bytes(b"people's packets")
    mark = uploads._hold(alive)
    try:
        assert uploads.sweep() == 1
    finally:
        os.close(mark)
    assert [folder.exists() for folder in (dead, alive, fresh)] == [False, True, True]


def test_clients_that_give_up_leave_nothing_behind(client: Any, capture: Path) -> None:
    """64 requests cancelled at any moment: while they send, while they wait, while they read."""
    guard, service = client.app, client.service
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n' + capture.read_bytes() + b"\r\n--b--\r\n"

    async def one(k: int) -> None:
        sent = 0
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            sent += 1
            if sent == 1 and k % 3:
                return {"type": "http.request", "body": form, "more_body": False}
            if sent == 1:
                return {"type": "http.request", "body": form[:40], "more_body": True}
            await (asyncio.sleep(0.01 * (k % 7)) if k % 2 else gone.wait())
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            await asyncio.sleep(0)

        headers = [(b"host", b"localhost"), (b"content-type", UPLOAD["content-type"].encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/analyze", "raw_path": b"/v1/analyze", "query_string": b"task=EAC"}
        whole = {**scope, "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "client": ("c", 1)}
        task = asyncio.ensure_future(guard(whole, receive, send))
        await asyncio.sleep(0.005 * (k % 11))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(k) for k in range(64)))

    client.portal.call(all_of_them)
    for _ in range(600):
        if not _left(client):
            break
        time.sleep(0.05)
    assert (guard.open, service.jobs.inside, service.uploads.intake.arriving) == (0, 0, 0)
    assert service.uploads.intake.used == sum(upload.bytes for upload in service.uploads.list())
    assert not [name for name in _left(client) if name not in {upload.id for upload in service.uploads.list()}]
    assert client.post("/v1/analyze?task=EAC", files={"file": capture.read_bytes()}).status_code == 200


def test_waiting_for_a_reader_does_not_count(place: tuple[Path, Path], capture: Path) -> None:
    """Readers take longer to start than a request may take: it is answered all the same; one that never starts is said."""
    with server_samples.client(*place, wait=True, deadline=5.0) as client:
        ready = client.service.uploads._ready

        async def slowly(child: Any) -> None:
            await asyncio.sleep(6.0)
            await ready(child)

        client.service.uploads._ready = slowly
        assert client.post("/v1/analyze?task=EAC", files={"file": capture.read_bytes()}).status_code == 200
    with server_samples.client(*place, startup=0.0001) as client:
        found = client.post("/v1/analyze?task=EAC", files={"file": capture.read_bytes()})
        assert (found.status_code, found.json()["error"]["code"]) == (503, "request.reader_start")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_hosts_are_known_by_their_brackets(host: str) -> None:
    assert Settings(host=host).accepts_host("[::1]:8000")
    Settings(host=host).check()
    with pytest.raises(UsageError):
        Settings(host="::").check()
    assert Settings(host="2001:db8::7", key_hash=hash_key(KEY)).accepts_host("[2001:db8::7]")


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    for mode, warned in ((0o600, False), (0o640, False), (0o644, True), (0o660, True)):
        caplog.clear()
        file.chmod(mode)
        assert read_key("", file) == hash_key(KEY)
        assert bool(caplog.records) == warned
        assert KEY not in caplog.text


def test_a_crowd_is_turned_away_but_for_health(client: Any) -> None:
    guard = client.app
    guard.open += guard.settings.crowd
    try:
        found = client.get("/v1/tasks")
        assert client.get("/healthz").status_code == 200
    finally:
        guard.open -= guard.settings.crowd
    assert (found.status_code, found.headers["retry-after"]) == (503, "1")
    assert client.get("/v1/tasks").status_code == 200
    assert guard.open == 0


def test_silent_connections_are_closed_and_hold_nobody_up(place: tuple[Path, Path]) -> None:
    """150 connections that never bring a whole request head; there is room for 72 requests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = Settings(port=probe.getsockname()[1], head=1.5, queue=1)
    app = create_app(Workspace(base=str(place[0]), registry=str(place[1])), settings)
    server = uvicorn.Server(configuration(app, settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    silent = [socket.create_connection(("127.0.0.1", settings.port), timeout=20) for _ in range(150)]
    for connection in silent[::2]:
        connection.sendall(b"GET /v1/tasks HTTP/1.1\r\nHost: local")
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=20) as asking:
        assert [asking.get("/v1/models").status_code for _ in range(3)] == [200] * 3
        assert [connection.recv(1) for connection in silent] == [b""] * 150
        assert asking.get("/healthz").status_code == 200
    for connection in silent:
        connection.close()
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def stalled(message: Any) -> None:
        await asyncio.sleep(3600)

    metrics = Metrics()
    guard = Guard(app, Settings(deadline=0.05), metrics)
    scope = {"type": "http", "method": "GET", "path": "/v1/tasks", "headers": [(b"host", b"localhost")]}
    asyncio.run(asyncio.wait_for(guard(scope, None, stalled), 20))  # type: ignore[arg-type]
    assert b'trafficllm_refused_total{why="request.reader"} 1.0' in metrics.text()
    assert guard.open == 0


def test_what_takes_too_long_is_ended(place: tuple[Path, Path], capture: Path) -> None:
    with server_samples.client(*place, wait=True, deadline=2.0) as client:

        async def endless(*_: Any) -> None:
            await asyncio.sleep(3600)

        client.service.uploads.flows = endless
        found = client.post("/v1/analyze", files={"file": capture.read_bytes()})
        assert found.status_code == 504
        assert client.service.jobs.inside == 0
        for _ in range(6000):  # the reader that warms up has a folder of its own until it is done, however busy the machine is
            if not _left(client):
                break
            time.sleep(0.05)
        assert _left(client) == []


def test_a_reader_that_needs_too_much_is_stopped(place: tuple[Path, Path], capture: Path) -> None:
    data = capture.read_bytes()
    longer = data[:24] + data[24:] * ((8 << 20) // len(data))  # a small one fits into what a reader has before it begins
    with server_samples.client(*place, parser_memory=64 << 20) as client:
        found = client.post("/v1/analyze", files={"file": longer})
        assert (found.status_code, found.json()["error"]["code"]) == (422, "input.too_costly")


def test_what_is_no_capture_is_refused_without_a_path(client: Any) -> None:
    found = client.post("/v1/analyze", files={"file": b"GET / HTTP/1.1\r\n\r\n"})
    assert found.status_code == 422
    error = found.json()["error"]
    assert (error["code"], error["input"]) == ("input.format", "upload")
    assert str(client.service.uploads.folder) not in found.text


def test_logs_hold_no_addresses_payloads_or_keys(place: tuple[Path, Path], capture: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trafficllm.server")
    with server_samples.client(*place, key_hash=hash_key(KEY)) as client:
        asked = {"authorization": f"Bearer {KEY}", "x-forwarded-for": "203.0.113.99"}
        assert _chat(client, PACKET).status_code == 401
        client.headers.update(asked)
        assert _chat(client, PACKET).status_code == 200
        client.post("/v1/analyze?task=EAC&question=canary-question", files={"file": capture.read_bytes()})
        client.post("/v1/files", files={"file": ("canary-name.pcap", b"canary-payload")})
        client.get("/canary-path?canary-query")
        metrics = client.get("/metrics").text
    text = "\n".join(record.getMessage() for record in caplog.records) + metrics
    assert "route=/v1/analyze status=200" in text
    for canary in ("canary", KEY, "192.0.2.77", "203.0.113.99", "testclient", str(capture)):
        assert canary not in text


def test_a_bug_is_named_by_place_only(client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr("trafficllm.lifecycle.tasks.task_list", broken)
    found = client.get("/v1/tasks")
    assert (found.status_code, found.json()["error"]["code"]) == (500, "internal")
    assert "canary" not in found.text + caplog.text
    assert "kind=RuntimeError at=test_surface_server.py:" in caplog.text


# Answers


def test_verdicts_are_those_of_the_command_line(client: Any, place: tuple[Path, Path], capture: Path) -> None:
    found = client.post("/v1/analyze?task=EAC", files={"file": capture.read_bytes()})
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in found.text.splitlines()]
    own = start(Workspace(base=str(place[0]), registry=str(place[1])), [capture], task="EAC")
    expected = [row for batch in own.batches for row in batch]
    assert [row["uid"] for row in rows] == [row["uid"] for row in expected]
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    assert _left(client) == []


def _asked(client: Any, mark: str, question: str, **more: str) -> list[dict[str, Any]]:
    found = client.post(f"/v1/files/{mark}/analyze", params={"question": question, **more})
    assert found.status_code == 200, found.text
    return [json.loads(line) for line in found.text.splitlines()]


def test_a_capture_without_a_flow_has_no_lines(client: Any, capture: Path) -> None:
    found = client.post("/v1/analyze?task=EAC", files={"file": capture.read_bytes()[:24]})
    assert (found.status_code, found.text) == (200, "")


def test_hosts_ports_and_times_in_a_question_hold_as_on_the_command_line(client: Any, place: tuple[Path, Path], captures: Path) -> None:
    """For an upload in one request, and for a kept capture as the page asks, also where a task is named beside the question."""
    capture = captures / "MTD" / "Neris" / "Neris_00.pcap"
    workspace = Workspace(base=str(place[0]), registry=str(place[1]))
    everything = [row for batch in start(workspace, [capture], task="EAC").batches for row in batch]
    middle = sorted(row["ts"] for row in everything)[len(everything) // 2]
    clock = time.strftime("%H:%M:%S", time.gmtime(middle))
    mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
    for question in (f"only to {everything[0]['resp_h']}", f"port {everything[0]['resp_p']}", f"after {clock}"):
        own = start(workspace, [capture], task="EAC", question=question)
        expected = [row["uid"] for batch in own.batches for row in batch]
        assert 0 < len(expected) < len(everything), question
        found = client.post("/v1/analyze", params={"task": "EAC", "question": question}, files={"file": capture.read_bytes()})
        assert [json.loads(line)["uid"] for line in found.text.splitlines()] == expected
        begin, *lines, end = _asked(client, mark, question, task="EAC")
        assert [line["uid"] for line in lines] == expected
        assert (begin["filters"], end["flows"]) == (own.filters, len(expected))
        assert begin["capture"]["flows"] == len(everything)


def test_the_page_says_what_flows_are_and_whether_they_are_bad_where_nothing_is_asked(
    client: Any, place: tuple[Path, Path], capture: Path
) -> None:
    """As the command line's table does; an upload in one request has a line a flow, as the command line's `-f jsonl` has."""
    base, registry = place
    server_samples.register(registry.parent, base, "MTD", seed=11)
    try:
        workspace = Workspace(base=str(base), registry=str(registry))
        rows = [row for batch in start(workspace, [capture], both=True).batches for row in batch]
        mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
        begin, *lines, end = _asked(client, mark, "")
        assert begin["tasks"] == ["EAC", "MTD"]
        assert [(line["task"], line["uid"], line["label"]) for line in lines] == [(row["task"], row["uid"], row["label"]) for row in rows]
        flows = begin["capture"]["flows"]
        assert {task: sum(counts.values()) for task, counts in end["verdicts"].items()} == {"EAC": flows, "MTD": flows}
        assert end["flows"] == flows
        assert _asked(client, mark, "", task="EAC")[0]["tasks"] == ["EAC"]
        once = client.post("/v1/analyze", files={"file": capture.read_bytes()}).text.splitlines()
        assert [json.loads(line)["task"] for line in once] == ["MTD"] * flows
    finally:
        shutil.rmtree(registry / "MTD")


def test_a_question_for_a_fact_is_answered_without_a_verdict(client: Any, place: tuple[Path, Path], capture: Path) -> None:
    workspace = Workspace(base=str(place[0]), registry=str(place[1]))
    for question in ("top talkers", "how many packets on port 53?"):
        own = answer_fact([capture], understood(question), workspace.config)
        assert own is not None
        found = client.post("/v1/analyze", params={"question": question}, files={"file": capture.read_bytes()})
        assert [json.loads(line) for line in found.text.splitlines()] == [own.as_dict()]
        mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
        assert _asked(client, mark, question) == [{"schema": "trafficllm.serve.fact/1", "fact": own.as_dict()}]
    assert "label" in _asked(client, mark, "top talkers", task="EAC")[1]  # a named task is asked whatever the words
    assert client.post("/v1/files/file-0/analyze", params={"question": "top talkers"}).status_code == 404


class Parrot:
    """An instruct model that writes the sentence it was shown last."""

    name = "parrot"

    def write(self, prompt: Any) -> str:
        return str(next(part.value for part in reversed(prompt[:-2]) if part.kind == "question"))

    def likelihoods(self, _: Any, texts: Any) -> list[float]:
        return [0.0 for _ in texts]


def test_an_analysis_of_a_question_ends_in_words_where_an_instruct_base_serves(
    client: Any, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
    assert _asked(client, mark, "is there malware?", task="EAC")[-1]["words"] is None  # this base has no chat template
    monkeypatch.setitem(client.service.workspace.__dict__, "writer", Parrot())
    end = _asked(client, mark, "is there malware?", task="EAC")[-1]
    assert end["words"]["base"] == "parrot"
    assert end["words"]["by"] in {"choice", "template"}
    assert str(end["flows"]) in end["words"]["text"]
    assert _asked(client, mark, "", task="EAC")[-1]["words"] is None


def test_exports_are_those_of_the_command_line(client: Any, place: tuple[Path, Path], capture: Path, tmp_path: Path) -> None:
    """CSV with the three likeliest labels as columns of their own; only the file's name is the upload's."""
    mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
    words = ["analyze", str(capture), "--task", "EAC", "--base", str(place[0]), "--registry", str(place[1])]
    for form in ("csv", "zeek"):
        assert run([*words, "-f", form, "-o", str(tmp_path / form)]) == 0
        own = (tmp_path / form).read_text().replace(str(capture), uploads.NAME)
        found = client.get(f"/v1/files/{mark}/export", params={"task": "EAC", "format": form}).text
        assert [line for line in found.splitlines() if not line.startswith("#")] == [
            line for line in own.splitlines() if not line.startswith("#")
        ]
        if form == "csv":
            assert found.splitlines()[0].endswith("label_1,probability_1,label_2,probability_2,label_3,probability_3")


@pytest.mark.parametrize(("query", "status"), [("task=NOPE", 400), ("task=MTG", 400), ("explain=maybe", 422)])
def test_wrong_requests(client: Any, capture: Path, query: str, status: int) -> None:
    found = client.post(f"/v1/analyze?{query}", files={"file": capture.read_bytes()})
    assert (found.status_code, found.json()["schema"]) == (status, "trafficllm.error/1")


def test_promoted_adapters_are_served_at_once(place: tuple[Path, Path], capture: Path) -> None:
    base, registry = place
    with server_samples.client(base, registry) as client:
        models = {row["id"]: row for row in client.get("/v1/models").json()["data"]}
        assert models["trafficllm"]["parent"] is None
        assert {models[name]["parent"] for name in ("EAC", "MTG")} == {"trafficllm"}
        before = models["EAC"]["version"]
        pasted = "<packet>: ip.ttl: 57, ip.proto: 6, tcp.srcport: 44321, tcp.dstport: 443"
        assert _chat(client, pasted, model="EAC").json()["trafficllm"]["verdicts"][0]["version"] == before
        new = server_samples.register(registry.parent, base, "EAC", seed=7)
        assert _chat(client, pasted, model="EAC").json()["trafficllm"]["verdicts"][0]["version"] == new != before
        assert f"EAC/{before}" not in client.service.workspace.engine.adapters


def test_a_task_registered_meanwhile_is_served_without_a_restart(place: tuple[Path, Path], capture: Path) -> None:
    """By name in a chat, in the list of models and for a whole capture; the catalogue does not know it."""
    base, registry = place
    with server_samples.client(base, registry) as client:
        assert client.post("/v1/analyze?task=PRINTERS", files={"file": capture.read_bytes()}).status_code == 400
        version = server_samples.register(registry.parent, base, "PRINTERS", seed=9)
        try:
            assert "PRINTERS" in {row["id"] for row in client.get("/v1/models").json()["data"]}
            said = _chat(client, "<packet>: ip.ttl: 57, ip.proto: 6", model="PRINTERS").json()["trafficllm"]["verdicts"][0]
            assert (said["task"], said["version"]) == ("PRINTERS", version)
            found = client.post("/v1/analyze?task=PRINTERS", files={"file": capture.read_bytes()})
            assert found.status_code == 200
            assert {json.loads(line)["version"] for line in found.text.splitlines()} == {version}
        finally:
            shutil.rmtree(registry / "PRINTERS")


def test_field_questions_are_answered_from_the_packet(client: Any, capture: Path) -> None:
    said = _chat(client, PACKET).json()
    assert said["choices"][0]["message"]["content"] == "ip.ttl: 57"
    mark = client.post("/v1/files", files={"file": capture.read_bytes()}, data={"purpose": "user_data"}).json()["id"]
    parts = [{"type": "text", "text": "What is the source address of packet 2?"}, {"type": "file", "file": {"file_id": mark}}]
    said = _chat(client, parts).json()
    truth = list(packet_rows([capture], ("ip.src",)))[1][0]
    assert said["choices"][0]["message"]["content"] == f"ip.src: {truth}"
    assert _chat(client, [{"type": "text", "text": "ip.ttl of packet 9999999?"}, parts[1]]).json()["trafficllm"]["fields"] == {}
    assert client.delete(f"/v1/files/{mark}").json()["deleted"]
    assert _chat(client, parts).status_code == 404


def test_tools_of_a_chat_may_be_offered_and_are_not_called(client: Any) -> None:
    """A client that offers tools with every request is answered in text; one that demands a call hears at once that none will come."""
    tools = [{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}]
    named = {"type": "function", "function": {"name": "lookup"}}
    demands = ({"tools": tools, "tool_choice": "required"}, {"tools": tools, "tool_choice": named})
    for more in (*demands, {"functions": [tools[0]["function"]], "function_call": {"name": "lookup"}}):
        found = _chat(client, PACKET, **more)
        assert (found.status_code, found.json()["error"]["code"]) == (400, "request.tools")
        assert "mcp" in found.json()["error"]["hint"]
    offers = ({"tools": tools}, {"tools": tools, "tool_choice": "auto"}, {"tools": tools, "tool_choice": "none"}, {"tools": []})
    for more in (*offers, {"functions": tools}, {"functions": tools, "function_call": "none"}):
        assert _chat(client, PACKET, **more).json()["choices"][0]["message"]["content"] == "ip.ttl: 57"


def test_chat_answers_with_what_was_said_before(client: Any, captures: Path) -> None:
    capture = captures / "EAC" / "DNS" / "anyconnect-vpn.pcap"
    kept = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
    first = {"role": "user", "content": [{"type": "text", "text": "flows"}, {"type": "file", "file": {"file_id": kept}}]}

    def said(*questions: str) -> dict[str, Any]:
        messages = [first]
        for question in questions:
            messages += [{"role": "assistant", "content": "an answer"}, {"role": "user", "content": question}]
        answer = client.post("/v1/chat/completions", json={"model": "EAC", "messages": messages})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return {**body["trafficllm"], "text": body["choices"][0]["message"]["content"]}

    every = said()["verdicts"]
    assert len(every) == 8
    assert said("and the second one?")["verdicts"] == [every[1]]
    assert said("the third one", "next")["verdicts"] == [every[3]]
    why = said("the third one", "explain it")
    assert (why["verdicts"][0]["uid"], "likeliest" in why["text"]) == (every[2]["uid"], True)
    packets = said("explain it", "show its packets")["text"].splitlines()
    assert [int(line.split()[0]) for line in packets[1:]] == every[0]["frames"]
    some = said(f"only to {every[0]['resp_h']}")
    assert {row["resp_h"] for row in some["verdicts"]} == {every[0]["resp_h"]}
    assert sum(some["counts"]["EAC"].values()) < 14
    assert said("how many packets are there?")["text"].startswith("28 packets")
    assert len(client.service.tables) == 1


def test_chat_about_a_capture_streams(client: Any, capture: Path) -> None:
    mark = client.post("/v1/files", files={"file": capture.read_bytes()}).json()["id"]
    parts = [{"type": "text", "text": "Which application is it?"}, {"type": "file", "file": {"file_id": mark}}]
    whole = _chat(client, parts, model="EAC").json()["choices"][0]["message"]["content"]
    assert whole.startswith("Encrypted application classification (EAC): ")
    assert whole.count("\n") >= 1
    assert "\\x0a" not in whole
    events = _chat(client, parts, model="EAC", stream=True).text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-1]]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == whole
    assert chunks[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("model", ["gpt-4", "EAC/v0001", "../x", "\ud800"])
def test_unknown_models(client: Any, model: str) -> None:
    found = client.post(
        "/v1/chat/completions",
        content=json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]}),
        headers={"content-type": "application/json"},
    )
    assert found.status_code in {404, 422}


@pytest.mark.parametrize("content", ["<packet>:", "<flow>: <pck>zz", "<packet>: {}", "<packet>: ip.ttl: x" + "9" * 5000, None, []])
def test_strange_chats_are_no_failure(client: Any, content: Any) -> None:
    assert _chat(client, content, model="EAC").status_code in {200, 422}


def test_generated_captures_are_valid(client: Any, tmp_path: Path) -> None:
    found = client.post("/v1/generate", json={"task": "MTG", "label": "Zeus", "flows": 2, "seed": 3})
    assert found.status_code == 200
    (tmp_path / "x.pcap").write_bytes(found.content)
    assert check([tmp_path / "x.pcap"]).valid
    assert found.headers["x-trafficllm-flows"] == "2"
    assert client.post("/v1/generate", json={"task": "MTG", "label": "Nope"}).status_code == 400
    assert client.post("/v1/generate", json={"task": "MTG", "label": "Zeus", "flows": 10**9}).status_code == 422


def test_readiness_follows_the_base(client: Any, tmp_path: Path) -> None:
    for _ in range(200):
        if client.get("/readyz").status_code == 200:
            break
        time.sleep(0.05)
    assert client.get("/readyz").text == "ready"
    with server_samples.client(tmp_path, tmp_path) as broken:
        time.sleep(0.3)
        assert broken.get("/readyz").status_code == 503
        assert broken.get("/healthz").status_code == 200
