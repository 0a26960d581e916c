"""Many processes, random kills: the registry is never torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_registry_store import adapter

from trafficllm.registry.store import Registry

WORKER = Path(__file__).with_name("registry_worker.py")


def _watch(registry: Registry, stop: threading.Event, faults: list[str]) -> None:
    """Read without any lock as a service would: whatever is seen must be whole."""
    while not stop.is_set():
        try:
            for version in registry.list("MTD"):
                if not version.manifest["files"]:
                    faults.append(f"{version.version} without files")
            live = registry.find_live("MTD")
            if live is not None and live.manifest["version"] != live.version:
                faults.append(f"{live.version} has the manifest of {live.manifest['version']}")
        except Exception as error:  # noqa: BLE001 - any failure of a reader is the fault looked for
            faults.append(repr(error))


def _storm(tmp_path: Path, *, operations: int, kills: int, processes: int = 8) -> tuple[Registry, int, int, list[str]]:
    """Run workers, kill some at random moments and replace them; returns operations done, kills, faults."""
    rng, registry = random.Random(7), Registry(tmp_path / "registry")
    source = adapter(tmp_path / "adapter", "w" * 300_000)
    stop, faults = threading.Event(), []
    reader = threading.Thread(target=_watch, args=(registry, stop, faults))
    reader.start()
    logs: list[Path] = []

    def spawn() -> subprocess.Popen[bytes]:
        logs.append(tmp_path / f"log{len(logs)}")
        command = [sys.executable, str(WORKER), str(registry.root), str(source), str(len(logs)), str(operations)]
        with logs[-1].open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=out)

    def done() -> int:
        return sum(log.read_bytes().count(b"\n") for log in logs)

    workers = [spawn() for _ in range(processes)]
    killed, deadline = 0, time.monotonic() + 240
    try:
        while (done() < operations or killed < kills) and time.monotonic() < deadline:
            time.sleep(rng.uniform(0.02, 0.15))
            if killed < kills and done() > processes:
                victim = rng.randrange(processes)
                os.kill(workers[victim].pid, signal.SIGKILL)
                workers[victim].wait()
                killed += 1
                workers[victim] = spawn()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        stop.set()
        reader.join()
    crashes = [line for log in logs for line in log.read_text().splitlines() if "Traceback" in line or "Error" in line]
    return registry, done(), killed, faults + crashes


def _check_whole(registry: Registry) -> None:
    assert registry.verify() == {}
    pointer = json.loads((registry.root / "MTD" / "pointer.json").read_text())
    names = {v.version for v in registry.list("MTD")}
    assert pointer["live"] is None or pointer["live"] in names
    registry.gc("MTD")
    hidden = sorted(p.name for p in (registry.root / "MTD").glob(".*"))
    assert hidden == [".lock"]


def test_killed_writers_leave_no_torn_state(tmp_path: Path) -> None:
    registry, operations, killed, faults = _storm(tmp_path, operations=120, kills=8, processes=4)
    assert faults == []
    assert operations >= 120
    assert killed == 8
    _check_whole(registry)


@pytest.mark.soak
def test_a_thousand_operations_by_eight_processes_with_kills(tmp_path: Path) -> None:
    registry, operations, killed, faults = _storm(tmp_path, operations=1000, kills=60)
    assert faults == []
    assert operations >= 1000
    assert killed == 60
    _check_whole(registry)
    print(f"{operations} operations, {killed} kills, {len(faults)} faults")
