"""The examples in docstrings run, on small captures and a tiny random base."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest
import server_samples

import trafficllm

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
HANDS_ON = {
    "trafficllm.lifecycle.chat.conversation": 2,
    "trafficllm.surface.agent.server": 1,
    "trafficllm.registry.store": 2,
    "trafficllm.infer.engine.engine": 3,
    "trafficllm.infer.remote.client": 1,
}
"""Examples that only show a call (they need a base and an adapter of one's own, or a server): skipped, and this many."""


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory, captures: Path) -> Path:
    """What the examples speak of: x.pcap, captures of two labels, a folder of labelled captures, a registry with EAC."""
    root = tmp_path_factory.mktemp("examples")
    server_samples.write(root)
    for label in ("DNS", "NetBIOS"):
        found = sorted((captures / "EAC" / label).glob("*.pcap"))[:6]
        (root / "my_captures" / label).mkdir(parents=True)
        for path in found:
            shutil.copyfile(path, root / "my_captures" / label / path.name)
        shutil.copyfile(found[0], root / f"{label.lower()}.pcap")
    shutil.copyfile(captures / "EAC" / "DNS" / "ocs.pcap", root / "x.pcap")
    return root


def _modules() -> list[str]:
    found = pkgutil.walk_packages(trafficllm.__path__, "trafficllm.")
    return ["trafficllm", *(found.name for found in found if not found.name.endswith("__main__"))]


def test_every_example(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("TRAFFICLLM_BASE", str(place / "base"))
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(place / "registry"))
    finder, said = doctest.DocTestFinder(exclude_empty=True), []
    tried: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for name in _modules():
        module = importlib.import_module(name)
        for test in finder.find(module, name):
            runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
            runner.run(test, out=said.append)
            done = runner.summarize(verbose=False)
            tried[name] = tried.get(name, 0) + done.attempted
            if count := sum(example.options.get(doctest.SKIP, False) for example in test.examples):
                skipped[name] = skipped.get(name, 0) + count
    assert "".join(said) == ""
    assert skipped == HANDS_ON
    assert sum(tried.values()) >= 80
    for name in ("trafficllm", "trafficllm.surface.python.api", "trafficllm.surface.python.flows", "trafficllm.surface.python.classifier"):
        assert tried[name] >= 3, name
