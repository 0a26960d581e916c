"""A Ray cluster of two raylets on loopback: killed workers and a killed raylet lose nothing, and a command that was killed goes on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cli_runner import Cli

from trafficllm.surface.parts.folder import MANIFEST

COPIES = 24
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
"""Ray takes 127.0.0.1 for the machine's own address; others of the loopback range stay what they are."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_period_ms": "1000",
}
pytestmark = pytest.mark.soak


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HEAD, port)) == 0


def _until(holds: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


@contextmanager
def _raylet(*words: str) -> Iterator[psutil.Process]:
    """`ray start --block` with these words; everything below it is ended with the block."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", f"--object-store-memory={80 << 20}", *words]
    process = psutil.Popen(command, env={**os.environ, **SETTINGS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        below = process.children(recursive=True) if process.is_running() else []
        process.terminate()
        psutil.wait_procs([process, *below], timeout=20)
        for each in (process, *below):
            if each.is_running():
                each.kill()
        process.wait()


def _workers(process: psutil.Process) -> list[psutil.Process]:
    """Workers below a raylet that run a task."""
    found = []
    for each in process.children(recursive=True):
        try:
            if "ray::_task" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(name="folder")
def _folder(captures: Path, tmp_path: Path) -> Path:
    """Captures that take about a second each: the largest bundled one, joined with itself."""
    place = tmp_path / "in"
    place.mkdir()
    source = max((captures / "MTD").rglob("*.pcap"), key=lambda path: path.stat().st_size).read_bytes()
    for number in range(COPIES):
        (place / f"{number:02d}.pcap").write_bytes(source[:24] + source[24:] * (20 + number))
    return place


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_dies_on_the_way_loses_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    port = _free_port()
    out, address = tmp_path / "out", f"{HEAD}:{port}"
    command = [sys.executable, "-m", "trafficllm", "capture", "flows", str(folder), "--ray", address, "-o", str(out), "--quiet"]
    environment = {**os.environ, **SETTINGS}

    def parts() -> int:
        return len(list(out.glob("part-*.parquet"))) if out.is_dir() else 0

    with _raylet("--head", f"--node-ip-address={HEAD}", f"--port={port}", "--include-dashboard=false") as head:
        _until(lambda: _listens(port))
        with _raylet(f"--node-ip-address={SECOND}", f"--address={address}") as second:
            first = subprocess.Popen(command, env=environment)
            _until(lambda: parts() >= 2 and bool(_workers(head)))
            _workers(head)[0].send_signal(signal.SIGKILL)
            _until(lambda: parts() >= 4)
            first.kill()  # the command itself
            first.wait()
            before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
            assert 4 <= len(before) < COPIES
            assert not (out / MANIFEST).exists()
            again = subprocess.Popen(command, env=environment)
            _until(lambda: parts() >= len(before) + 2 and bool(_workers(second)))
            for raylet in [each for each in second.children(recursive=True) if "raylet" in each.name()]:
                raylet.kill()  # its workers go with it
            assert again.wait(timeout=300) == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert {name for name in before if before[name] == after[name]} == set(before)
    assert cli("capture", "flows", folder, "--ray", "local", "-o", tmp_path / "alone", "--quiet").code == 0
    assert _files(out) == _files(tmp_path / "alone")
    assert len(after) == COPIES
