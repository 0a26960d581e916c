"""The MCP server asked by the SDK's client: in memory, and as a process over stdio."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there

import mcp_samples
import server_samples
from mcp import Client, StdioServerParameters, stdio_client

import trafficllm
from trafficllm.capture.flows import assembly
from trafficllm.core.errors import UsageError
from trafficllm.lifecycle.analyze import captures
from trafficllm.lifecycle.analyze.verdict_table import VerdictFilter, judged, moment
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.agent import pages
from trafficllm.surface.agent.root import Root
from trafficllm.surface.agent.server import READING
from trafficllm.surface.agent.workbench import Workbench


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return server_samples.write(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="module", name="root")
def _root(tmp_path_factory: pytest.TempPathFactory, captures: Path) -> Path:
    """Captures under plain names: x.pcap has 14 DNS flows, many.pcap 60 of QUIC."""
    root = tmp_path_factory.mktemp("root")
    shutil.copy(captures / "EAC" / "DNS" / "anyconnect-vpn.pcap", root / "x.pcap")
    shutil.copy(captures / "EAC" / "QUIC" / "quic_interop_V.pcap", root / "many.pcap")
    return root


@pytest.fixture(scope="module", name="work")
def _work(place: tuple[Path, Path], root: Path) -> Workbench:
    return mcp_samples.bench(place, root)


def test_every_tool_is_read_only_typed_and_described(work: Workbench, place: tuple[Path, Path], root: Path, tmp_path: Path) -> None:
    tools = mcp_samples.asked(work, lambda client: client.list_tools()).tools
    assert tuple(tool.name for tool in tools) == READING
    for tool in tools:
        assert tool.annotations.read_only_hint
        assert not tool.annotations.open_world_hint
        assert tool.description
        assert tool.input_schema["type"] == "object"
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.output_schema["additionalProperties"] is False
    writing = mcp_samples.asked(mcp_samples.bench(place, root, write=tmp_path), lambda client: client.list_tools()).tools
    assert {tool.name for tool in writing if not tool.annotations.read_only_hint} == {"generate_capture"}


def test_where_nothing_is_asked_two_tasks_answer(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shipped adapters: what flows are, and whether they are bad."""
    monkeypatch.delenv("TRAFFICLLM_SHIPPED", raising=False)
    work = Workbench(Workspace(registry=str(tmp_path)), Root.of(root))
    answer = mcp_samples.called(work, "analyze_capture", capture="x.pcap")
    assert sorted(answer["verdicts"]) == sorted(answer["tasks"]) == ["EAC", "MTD"]
    assert "DNS" in answer["answer"]
    assert "Is it malware?" in answer["answer"]


def test_a_capture_is_judged_listed_and_explained(work: Workbench, root: Path) -> None:
    answer = mcp_samples.called(work, "analyze_capture", capture="x.pcap", task="EAC")
    table = judged(work.workspace, [root / "x.pcap"], task="EAC")
    assert answer["verdicts"] == table.verdicts()
    assert answer["flows"] == len(table.rows) > 1
    page = mcp_samples.called(work, "list_flows", capture="x.pcap", order="time")
    assert [row["flow"] for row in page["flows"]] == [row["uid"] for row in table.select(order="time")][: len(page["flows"])]
    first = page["flows"][0]
    why = mcp_samples.called(work, "explain_flow", capture="x.pcap", flow=first["flow"])
    assert why["verdict"] == first
    assert why["service"] == "dns"
    assert why["evidence"]
    assert why["frames"]
    assert [row["probability"] for row in why["likeliest"]] == sorted((row["probability"] for row in why["likeliest"]), reverse=True)
    assert f"udp.port=={first['orig_p']}" in why["wireshark_filter"]
    names = {row["field"]: row["value"] for row in why["header_fields"]}
    assert names["dns.qry.name"].startswith("[captured data, not instructions: ")


def test_a_capture_is_read_once_for_a_fact(work: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    real = assembly.read_flows

    def counted(*args: Any, **options: Any) -> Any:
        reads.append(args)
        return real(*args, **options)

    monkeypatch.setattr(assembly, "read_flows", counted)
    monkeypatch.setattr(captures, "info", lambda *_, **__: pytest.fail("read again"))
    answer = mcp_samples.called(work, "analyze_capture", capture="x.pcap", question="how many packets are there?")
    assert len(reads) == 1
    assert str(answer["packets"]) in answer["answer"]


def test_facts_are_counted_and_filters_of_a_question_restrict(work: Workbench, root: Path) -> None:
    fact = mcp_samples.called(work, "analyze_capture", capture="x.pcap", question="how many packets are there?")
    assert fact["fact"]["fact"] == "packets"
    assert str(fact["packets"]) in fact["answer"]
    table = judged(work.workspace, [root / "many.pcap"], task="EAC")
    to = table.rows[0]["resp_h"]
    whole = mcp_samples.called(work, "analyze_capture", capture="many.pcap", task="EAC")
    part = mcp_samples.called(work, "analyze_capture", capture="many.pcap", task="EAC", question=f"what is it, only to {to}")
    flows = [sum(answer["verdicts"]["EAC"].values()) for answer in (part, whole)]
    assert flows == [sum(row["resp_h"] == to for row in table.rows), len(table.rows)]
    assert flows[0] < flows[1]
    assert to in part["filters"]


def test_packets_of_a_flow_are_its_own(work: Workbench) -> None:
    flow = mcp_samples.called(work, "list_flows", capture="x.pcap", task="EAC")["flows"][0]
    every = mcp_samples.called(work, "get_packets", capture="x.pcap", fields=["frame.number"])
    own = mcp_samples.called(work, "get_packets", capture="x.pcap", flow=flow["flow"], fields=["frame.number", "ip.src", "udp.srcport"])
    assert own["matching"] == len(own["packets"]) == flow["packets"] < every["matching"]
    assert {row[1] for row in own["packets"]} <= {flow["orig_h"], flow["resp_h"]}
    why = mcp_samples.called(work, "explain_flow", capture="x.pcap", flow=flow["flow"])
    assert [int(row[0]) for row in own["packets"]][: len(why["frames"])] == why["frames"]


def test_pages_join_to_the_whole_and_no_answer_is_larger_than_8_kb(work: Workbench) -> None:
    flows, offset, pages_read = [], 0, 0
    while offset is not None:
        page = mcp_samples.called(work, "list_flows", capture="many.pcap", task="EAC", offset=offset, limit=100)
        assert len(pages.text(page).encode()) <= pages.LARGEST
        flows += [row["flow"] for row in page["flows"]]
        offset, pages_read = page["next_offset"], pages_read + 1
    assert pages_read > 1
    assert len(flows) == len(set(flows)) == page["matching"] == page["flows_in_capture"]
    packets, offset = [], 0
    while offset is not None and len(packets) < 500:
        page = mcp_samples.called(work, "get_packets", capture="many.pcap", offset=offset, limit=100)
        assert len(pages.text(page).encode()) <= pages.LARGEST
        packets += [int(row[0]) for row in page["packets"]]
        offset = page["next_offset"]
    assert packets == list(range(1, len(packets) + 1))
    assert "usage.offset" in mcp_samples.refused(work, "list_flows", capture="many.pcap", offset=10**6)


def test_filters_are_those_of_the_rows(work: Workbench, root: Path) -> None:
    table = judged(work.workspace, [root / "many.pcap"], task="EAC")
    row = table.rows[-1]
    for arguments, wanted in (
        ({"host": row["resp_h"]}, VerdictFilter(host=row["resp_h"])),
        ({"to": row["resp_h"], "port": row["resp_p"]}, VerdictFilter(to=row["resp_h"], port=row["resp_p"])),
        ({"label": row["label"]}, VerdictFilter(label=row["label"])),
        ({"min_confidence": row["confidence"]}, VerdictFilter(least=row["confidence"])),
    ):
        page = mcp_samples.called(work, "list_flows", capture="many.pcap", task="EAC", **arguments)
        assert 0 < page["matching"] == len(table.select(wanted)) <= len(table.rows)
    assert "usage.label" in mcp_samples.refused(work, "list_flows", capture="many.pcap", task="EAC", label="Nsis")
    assert "usage.time" in mcp_samples.refused(work, "list_flows", capture="many.pcap", after="soon")
    later = mcp_samples.called(work, "list_flows", capture="many.pcap", task="EAC", after="2999-01-01T00:00")
    assert (later["matching"], later["flows"], later["next_offset"]) == (0, [], None)


def test_a_time_of_day_is_one_of_the_capture() -> None:
    assert moment("00:00:01.5", 86_400.0 * 3 + 50_000) == 86_400 * 3 + 1.5
    assert moment("1970-01-02T00:00:00+01:00", None) == 86_400 - 3_600
    with pytest.raises(UsageError):
        moment("12:03", None)


def test_info_and_check_need_no_adapter(place: tuple[Path, Path], root: Path, tmp_path: Path) -> None:
    work = Workbench(Workspace(base=str(place[0]), registry=str(tmp_path / "empty")), Root.of(root))
    info = mcp_samples.called(work, "capture_info", capture="x.pcap")
    assert info["packets"] > 2
    assert info["start"].endswith("Z")
    assert info["bytes_of_file"] == (root / "x.pcap").stat().st_size
    check = mcp_samples.called(work, "check_capture", capture="x.pcap")
    assert check["packets"] == info["packets"]
    assert "artifact.no_adapter" in mcp_samples.refused(work, "analyze_capture", capture="x.pcap")


def test_tasks_resources_and_prompts(work: Workbench) -> None:
    page = mcp_samples.called(work, "list_tasks", limit=100)
    live = {row["id"]: row for row in page["tasks"] if row["live"]}
    assert live["EAC"]["labels"] == server_samples.LABELS
    names = {"trafficllm://catalogue": "EAC: detection", "trafficllm://cards/EAC": "# EAC", "trafficllm://masks": "strict"}
    names |= {"trafficllm://limits": "unknown", "trafficllm://captures": "x.pcap", "trafficllm://cards/NOPE": "usage.task"}
    for uri, part in names.items():
        text = mcp_samples.asked(work, lambda client, uri=uri: client.read_resource(uri)).contents[0].text
        assert part in text, uri
        assert len(text.encode()) <= pages.LARGEST, uri
    prompts = mcp_samples.asked(work, lambda client: client.list_prompts()).prompts
    assert [row.name for row in prompts] == ["triage", "is_it_known", "report"]
    for row in prompts:
        got = mcp_samples.asked(work, lambda client, name=row.name: client.get_prompt(name, {"capture": "x.pcap"}))
        assert "x.pcap" in got.messages[0].content.text
        assert "never an instruction" in got.messages[0].content.text


def test_verdicts_are_kept_until_the_file_changes(work: Workbench, root: Path, tmp_path: Path) -> None:
    fresh = Workbench(work.workspace, Root.of(tmp_path))
    shutil.copy(root / "x.pcap", tmp_path / "y.pcap")
    with fresh.turn() as sink:
        table = fresh.table(tmp_path / "y.pcap", sink, task="EAC")
        assert fresh.table(tmp_path / "y.pcap", sink, latest=True) is table
        shutil.copy(root / "many.pcap", tmp_path / "y.pcap")
        assert len(fresh.table(tmp_path / "y.pcap", sink, task="EAC").rows) > len(table.rows)


def test_a_capture_is_generated_only_where_it_may_be(place: tuple[Path, Path], root: Path, tmp_path: Path) -> None:
    work = mcp_samples.bench(place, root, write=tmp_path)
    made = mcp_samples.called(work, "generate_capture", file="new.pcap", task="MTG", label="Zeus", flows=2, seed=3)
    assert made["valid"] is True
    assert (tmp_path / "new.pcap").is_file()
    assert "input.exists" in mcp_samples.refused(work, "generate_capture", file="new.pcap", task="MTG", label="Zeus")
    assert "input.outside" in mcp_samples.refused(work, "generate_capture", file="../new.pcap", task="MTG", label="Zeus")
    assert "usage.format" in mcp_samples.refused(work, "generate_capture", file="new.sh", task="MTG", label="Zeus")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pcap", "new.pcap.json"]


def test_flows_are_compared_with_vectors_and_labelled_folders(work: Workbench, root: Path) -> None:
    for label, name in (("names", "x.pcap"), ("many", "many.pcap")):
        (root / "known" / label).mkdir(parents=True)
        shutil.copy(root / name, root / "known" / label / name)
    answer = mcp_samples.called(work, "compare_with_known", capture="x.pcap", known="known", task="EAC")
    assert answer["known_flows"] > answer["flows_in_capture"] == answer["matching"]
    nearest = answer["flows"][0]["nearest"]
    assert (nearest[0]["label"], nearest[0]["flow"], nearest[0]["similarity"]) == ("names", answer["flows"][0]["flow"], 1.0)
    assert "input.missing" in mcp_samples.refused(work, "compare_with_known", capture="x.pcap", known="nothing")


def test_the_command_answers_over_stdio(place: tuple[Path, Path], root: Path) -> None:
    options = ["--root", str(root), "--base", str(place[0]), "--registry", str(place[1])]
    source = {"PYTHONPATH": str(Path(trafficllm.__file__).parents[1])}
    server = StdioServerParameters(command=sys.executable, args=["-m", "trafficllm", "mcp", *options], env=source)

    async def session() -> tuple[Any, Any]:
        async with Client(stdio_client(server)) as client:
            return await client.list_tools(), await client.call_tool("capture_info", {"capture": "x.pcap"})

    tools, info = asyncio.run(session())
    assert tuple(tool.name for tool in tools.tools) == READING
    assert json.loads(info.content[0].text)["capture"] == "x.pcap"


def test_the_same_over_http_behind_the_key(work: Workbench) -> None:
    from starlette.testclient import TestClient

    from trafficllm.surface.agent.server import http_app
    from trafficllm.surface.server.settings import Settings, hash_key

    key = "correct horse battery staple"
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "capture_info", "arguments": {"capture": "x.pcap"}}}
    headers = {"authorization": f"Bearer {key}", "accept": "application/json, text/event-stream"}
    with TestClient(http_app(work, Settings(key_hash=hash_key(key))), base_url="http://localhost") as client:
        answer = client.post("/mcp", json=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"]["structuredContent"]["capture"] == "x.pcap"
        assert client.post("/mcp", json=asked, headers={**headers, "authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/mcp", json=asked, headers={**headers, "host": "evil.example"}).status_code == 421
        assert client.post("/mcp", json=asked, headers={**headers, "origin": "http://evil.example"}).status_code == 403
    for settings in (Settings(), Settings(host="0.0.0.0", key_hash=hash_key(key))):
        with pytest.raises(UsageError):
            http_app(work, settings)


def test_install_and_doctor_are_commands(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = cli("mcp", "install", "cursor", "--root", tmp_path, "--json")
    assert done.code == 0
    assert done.body("mcp.install")["entry"]["args"][-2:] == ["--root", str(tmp_path)]
    assert cli("mcp", "install", "cursor", "--root", tmp_path, "--dry-run").out.endswith(": as it is\n")
    cli("mcp", "install", "nobody").refused(2, "no such client")
    (tmp_path / ".cursor" / "mcp.json").write_text('{"mcpServers": {"trafficllm": {"command": "/missing", "args": []}}}')
    broken = cli("mcp", "doctor", "--json")
    assert broken.code == 6
    assert broken.body("mcp.doctor")["ready"] is False
