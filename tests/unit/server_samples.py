"""A server with a tiny random base and two random adapters: a detector (EAC) and a generator (MTG)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import infer_samples as samples

from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import load_tasks
from trafficllm.registry.store import Registry

LABELS = ["DNS", "HTTP", "QUIC"]


def write(place: Path) -> tuple[Path, Path]:
    """Base and registry below `place`; returns both folders."""
    base = samples.write_base(place / "base")
    register(place, base, "EAC", seed=1)
    register(place, base, "MTG", seed=2)
    return base, place / "registry"


def register(place: Path, base: Path, task: str, *, seed: int) -> str:
    """One more live version of a task; its name."""
    adapter = samples.write_adapter(base, place / f"adapter-{task}-{seed}", seed=seed)
    labels = LABELS if task == "EAC" else ["Zeus", "Neris"]
    manifest: dict[str, Any] = {**base_facts(load_base(base)), "labels": labels, "profile": "strict"}
    if task not in load_tasks():
        manifest["task_definition"] = {"id": task, "title": task.lower(), "kind": "detection", "instruction": task.lower()}
    return Registry(place / "registry").register(task, adapter, manifest, status="live").version


@contextmanager
def client(base: Path, registry: Path, *, wait: bool = False, **settings: Any) -> Iterator[Any]:
    """A client of a server in this process; its workspace is `client.app_state`."""
    from starlette.testclient import TestClient

    from trafficllm.surface.server.app import create_app
    from trafficllm.surface.server.settings import Settings

    guard = create_app(Workspace(base=str(base), registry=str(registry)), Settings(**settings))
    with TestClient(guard, base_url="http://localhost", raise_server_exceptions=False) as found:
        found.service = guard.app.state.service  # type: ignore[attr-defined]
        for _ in range(1200 if wait else 0):
            if found.get("/readyz").status_code == 200:
                break
            time.sleep(0.05)
        yield found
