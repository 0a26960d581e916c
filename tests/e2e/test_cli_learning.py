"""The learning commands on a small data set and a base extended in the test: bodies against schemas, verdicts in every format."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
from cli_runner import REPO, Cli, schema

from trafficllm.surface.cli.main import run

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # samples live there

import evaluate_samples

CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures"
LABELS = ("FTP", "Neris", "Zeus")
SECONDS = ("--max-seconds", "1")
BARE = ("--no-background", "--json")
GENERATED = """
title = "Flows of a generator"
span = 60
host = [{ name = "pc" }, { name = "c2", outside = true }]

[[event]]
name = "malware"
label = "Neris"
from = "pc"
to = "c2"
flows = 3
source = { generator = "MTG/Neris" }
"""


@dataclass(frozen=True)
class Bench:
    """Captures of three labels, a data set, an extended base, a registry with one adapter."""

    captures: Path
    data: Path
    base: Path
    registry: Path

    @property
    def capture(self) -> Path:
        """A capture that nothing was learnt from."""
        return CAPTURES / "MTD" / "Zeus" / "Zeus_04.pcap"


def _did(*words: object) -> None:
    assert run([str(word) for word in words]) == 0, words


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(name="bench", scope="module")
def _bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("learning")
    for label in LABELS:
        (root / "in" / label).mkdir(parents=True)
        for number in (0, 1, 2):
            shutil.copyfile(CAPTURES / "MTD" / label / f"{label}_0{number}.pcap", root / "in" / label / f"{label}_0{number}.pcap")
    for source, label in (("home", "TLS"), ("office", "HTTP")):
        (root / "background" / source).mkdir(parents=True)
        for path in sorted((CAPTURES / "EAC" / label).glob("*.pcap"), key=lambda path: path.stat().st_size)[:3]:
            shutil.copyfile(path, root / "background" / source / path.name)
    beside = ("--background", root / "background", "--no-background", "--false-positives", "0.05")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAFFICLLM_REGISTRY", str(root / "registry"))
        patch.setenv("TRAFFICLLM_BASE", str(root / "base"))
        _did("data", "build", root / "in", "-o", root / "data", "--task", "MTD", "--cap", "30")
        _did("tokenizer", "extend", "--base", "plain", "--data", root / "data", "-o", root / "base", "--size", "700")
        _did("adapter", "register", root / "data", "--task", "MTD", *SECONDS, *beside)
        yield Bench(root / "in", root / "data", root / "base", root / "registry")


@pytest.fixture(name="use")
def _use(cli: Cli, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(bench.registry))
    monkeypatch.setenv("TRAFFICLLM_BASE", str(bench.base))
    return cli


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_analyze_gives_every_flow_a_verdict(use: Cli, bench: Bench) -> None:
    rows = _lines(use("analyze", bench.capture, "-f", "jsonl").out)
    info = use("capture", "info", bench.capture, "--json").body("capture.info")
    assert len(rows) == info["flows"] > 10
    for row in rows:
        jsonschema.validate(row, schema("analyze.line"))
        assert math.isclose(sum(row["probabilities"].values()), 1, abs_tol=1e-5)
        assert row["label"] in {*LABELS, "benign", "unknown", "not covered"}
        assert row["umbrella"] in {"malicious", "benign", "unknown", "not covered"}
        assert row["malicious"] == row["umbrella_probability"]
        assert row["labels_90"][0] == max(row["probabilities"], key=row["probabilities"].__getitem__)
        assert (row["task"], row["version"]) == ("MTD", "v0001")


def test_analyze_in_every_format(use: Cli, bench: Bench, tmp_path: Path) -> None:
    rows = _lines(use("analyze", bench.capture, "--task", "MTD", "-f", "jsonl").out)
    assert use("analyze", bench.capture, "-f", "csv").out.count("\n") == 1 + len(rows)
    zeek = [line for line in use("analyze", bench.capture, "-f", "zeek").out.splitlines() if not line.startswith("#")]
    assert [line.split("\t")[0] for line in zeek] == [row["uid"] for row in rows]
    assert use("analyze", bench.capture, "-f", "parquet", "-o", tmp_path / "v.parquet").code == 0
    assert pq.read_table(tmp_path / "v.parquet")["label"].to_pylist() == [row["label"] for row in rows]
    step = use("adapter", "show", "MTD", "--json").body("adapter.show")["manifest"]["calibration"]["umbrella"]
    point = step.get("alert", {"probability": 1.0})["probability"]
    events = _lines(use("analyze", bench.capture, "-f", "eve").out)
    wanted = _lines(use("analyze", bench.capture, "-f", "eve", "--alert").out)
    for event, alert, row in zip(events, wanted, rows, strict=True):
        for line in (event, alert):
            jsonschema.validate(line, schema("eve.line"))
        assert (event["event_type"] == "alert") == (row["umbrella"] == "malicious" and row["umbrella_probability"] > point)
        assert (alert["event_type"] == "alert") == (row["umbrella"] == "malicious")
        assert alert.get("alert", {}).get("severity") == (3 if row["umbrella"] == "malicious" else None)


def test_alerts_for_other_systems(use: Cli, bench: Bench, tmp_path: Path) -> None:
    """A signature on the first malicious flow gives its severity; notices, indicators and sightings are the alerts and no more."""
    rows = [row for row in _lines(use("analyze", bench.capture, "-f", "jsonl").out) if row["umbrella"] == "malicious"]
    assert rows
    when = datetime.fromtimestamp(rows[0]["ts"], tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z")
    alert = {"action": "allowed", "gid": 1, "signature_id": 9, "rev": 1, "signature": "ET A", "category": "", "severity": 2}
    event = {"timestamp": when, "event_type": "alert", "community_id": rows[0]["community_id"], "alert": alert}
    (tmp_path / "eve.json").write_text(json.dumps(event) + "\n", encoding="utf-8")
    backed = ("--alert", "--corroborate", tmp_path / "eve.json")
    documents = _lines(use("analyze", bench.capture, "-f", "ecs", *backed).out)
    alerts = [document for document in documents if document["event"]["kind"] == "alert"]
    assert [document["event"]["id"] for document in alerts] == [row["uid"] for row in rows]
    fired = {document["event"]["id"]: document["event"]["severity"] for document in alerts}
    assert fired[rows[0]["uid"]] == 2
    assert set(fired.values()) <= {2, 3}
    notices = [line for line in use("analyze", bench.capture, "-f", "notice", *backed).out.splitlines() if not line.startswith("#")]
    assert [line.split("\t")[1] for line in notices] == [row["uid"] for row in rows]
    assert sum("corroborated by 1:9 ET A" in line for line in notices) == sum(value == 2 for value in fired.values())
    bundle = json.loads(use("analyze", bench.capture, "-f", "stix", *backed).out)
    sightings = [each for each in bundle["objects"] if each["type"] == "sighting"]
    assert sum(each["count"] for each in sightings) == len(rows)
    outside = use("analyze", bench.capture, "-f", "intel", "--alert").out.splitlines()
    assert {line.split("\t")[0] for line in outside[1:]} <= {row[end] for row in rows for end in ("orig_h", "resp_h")}


def test_hosts_and_their_answer(use: Cli, bench: Bench) -> None:
    """A row a client, whose flows add up to the capture's; exit 7 by the answer above the labels, whatever the label."""
    rows = _lines(use("analyze", bench.capture, "-f", "jsonl").out)
    hosts = _lines(use("analyze", bench.capture, "-f", "jsonl", "--hosts").out)
    assert {host["host"] for host in hosts} == {row["orig_h"] for row in rows}
    assert sum(host["flows"] for host in hosts) == len(rows)
    for host in hosts:
        jsonschema.validate(host, schema("analyze.hosts.line"))
    for event in _lines(use("analyze", bench.capture, "-f", "eve", "--hosts").out):
        jsonschema.validate(event, schema("eve.hosts.line"))
    body = use("analyze", bench.capture, "--json").body("analyze")
    assert body["above"]["MTD"] == dict(Counter(row["umbrella"] for row in rows).most_common())
    assert sum(body["hosts"]["MTD"].values()) == len(hosts)
    for answer in ("malicious", "benign"):
        seen = any(row["umbrella"] == answer for row in rows)
        assert use("analyze", bench.capture, "-f", "jsonl", "--fail-on", answer).code == (7 if seen else 0)
    assert {row["umbrella"] for row in rows} & {"malicious", "benign"}


def test_the_first_step_travels_with_the_adapter(use: Cli, bench: Bench, tmp_path: Path) -> None:
    shown = use("adapter", "show", "MTD", "--json").body("adapter.show")["manifest"]
    assert shown["umbrella"]["left_out"]["asked"] == 0.05
    assert set(shown["background"]["sources"]) == {"home", "office"}
    files = use("adapter", "export", "MTD", "-o", tmp_path / "out", "--json").body("adapter.export")["files"]
    assert "umbrella.safetensors" in files


def test_analyze_summary_and_pipeline_options(use: Cli, bench: Bench) -> None:
    body = use("analyze", bench.capture, "--json", "--explain").body("analyze")
    assert body["flows"] == sum(body["verdicts"]["MTD"].values()) == body["capture"]["flows"]
    assert body["notable"][0]["evidence"]
    label = max(body["verdicts"]["MTD"], key=body["verdicts"]["MTD"].__getitem__)
    hit = use("analyze", bench.capture, "-f", "jsonl", "--only", label, "--fail-on", label)
    assert hit.code == 7
    assert {row["label"] for row in _lines(hit.out)} == {label}
    assert "--fail-on" in hit.err
    use("analyze", bench.capture, "--fail-on", "Zeuss").refused(2, "did you mean 'Zeus'")
    assert "verdict" in use("analyze", bench.capture).out


def test_analyze_goes_on_after_a_bad_file(use: Cli, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bad.pcap").write_bytes(b"GIF89a")
    alone = use("analyze", bench.capture, "-f", "jsonl")
    done = use("analyze", tmp_path / "bad.pcap", bench.capture, "-f", "jsonl")
    assert (alone.code, done.code, done.out) == (0, 3, alone.out)
    body = use("analyze", bench.capture, tmp_path / "bad.pcap", "--json").body("analyze")
    assert [failure["code"] for failure in body["failed"]] == ["input.format"]
    assert body["flows"] == len(_lines(alone.out))


def test_same_capture_same_bytes(use: Cli, bench: Bench) -> None:
    first, again = (use("analyze", bench.capture, "-f", "jsonl").out for _ in range(2))
    assert first == again


def _stages_are_told(log: str) -> None:
    """Before tuning, every stage that follows with its time; tuning is named as all that the budget bounds."""
    lines = [line.split(" s: ", 1)[1] for line in log.splitlines() if " s: " in line]
    (at,) = (k for k, line in enumerate(lines) if " to come: " in line)
    told = re.findall(r"(?:: |, )([a-z ]+?) (?:\d+ (?:h|min|s) ?)+", lines[at])
    assert told == ["tune task", "readout", "scoring", "baselines"]
    assert "tune task 1 s (--max-seconds bounds this stage alone), readout" in lines[at]
    begun = [name for line in lines[at + 1 :] for name in told if line.startswith(name)]
    assert list(dict.fromkeys(begun)) == told
    assert any("next: baselines" in line for line in lines[at + 1 :])


def test_a_second_version_and_back(use: Cli, bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.registry, tmp_path / "r")
    where = ("--registry", tmp_path / "r")
    done = use("adapter", "register", bench.captures, "--task", "MTD", *SECONDS, *where, *BARE)
    body = done.body("adapter.register")
    _stages_are_told(done.err)
    assert body["umbrella"] is None
    assert (body["version"], body["parent"], body["status"]) == ("v0002", "v0001", "live")
    assert set(body["baselines"]) == {"majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest"}
    assert use("adapter", "rollback", "MTD", *where, "--json").body("adapter.rollback")["version"] == "v0001"
    assert use("adapter", "promote", "MTD", "v0002", *where, "--json").body("adapter.promote")["status"] == "live"
    listed = use("adapter", "list", *where, "--json").body("adapter.list")["adapters"]
    assert [(row["version"], row["status"]) for row in listed] == [("v0001", "candidate"), ("v0002", "live")]
    shown = use("adapter", "show", "MTD", *where, "--json").body("adapter.show")
    assert shown["manifest"]["labels"] == list(LABELS)
    assert list((tmp_path / "r" / ".work").iterdir()) == []
    use("adapter", "promote", "MTD", "v0009", *where).refused(2, "v0009")


def test_evaluate_agrees_with_the_registration(use: Cli, bench: Bench) -> None:
    body = use("evaluate", "run", bench.data, "--no-baselines", "--json").body("evaluate.run")
    manifest = use("adapter", "show", "MTD", "--json").body("adapter.show")["manifest"]
    assert body["macro_f1"] == pytest.approx(manifest["quality"]["macro_f1"], abs=0.02)
    assert body["n_test"] == manifest["quality"]["n_test"]
    for point in (manifest["umbrella"]["left_out"][part] for part in ("flow", "host")):  # as the page's card reads them
        assert 0 <= point["rate"] <= point["worst"] <= 1
        assert "2 left-out sources" in point["guarantee"]


def test_tune_task_resumes_nothing_twice(use: Cli, bench: Bench, tmp_path: Path) -> None:
    words = ("tune", "task", bench.data, "--base", bench.base, "-o", tmp_path / "a", *SECONDS, "--json")
    first, again = (use(*words).body("tune.task") for _ in range(2))
    assert (first["stage"], first["reused"], again["reused"]) == ("task", False, True)
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "a" / "metrics.jsonl").is_file()
    scored = use("evaluate", "run", bench.data, "--adapter", tmp_path / "a", "--no-baselines", "--json").body("evaluate.run")
    assert scored["version"] == ""


def test_tune_instruct(use: Cli, bench: Bench, tmp_path: Path) -> None:
    words = ("tune", "instruct", "--base", bench.base, "-o", tmp_path / "r", "--task", "MTD", "--task", "EAC", *SECONDS, "--json")
    assert use(*words).body("tune.instruct")["stage"] == "instruct"
    use("tune", "instruct", "--base", bench.base, "-o", tmp_path / "x", "--task", "MTD").refused(2, "two tasks")


def test_tune_base_and_compare(use: Cli, bench: Bench, tmp_path: Path) -> None:
    words = ("tune", "base", bench.data, "--base", bench.base, "-o", tmp_path / "b", *SECONDS, "--json")
    assert use(*words).body("tune.base")["steps"] >= 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "registry"] == ["b"]
    body = use("tokenizer", "compare", bench.data, "--base", "plain", "--base", tmp_path / "b", "--json").body("tokenizer.compare")
    plain, extended = body["tokenizers"]
    assert extended["ratio"] > 2
    assert plain["traffic_tokens"] == 0 < extended["traffic_tokens"]


def test_data_check_and_audit(use: Cli, bench: Bench) -> None:
    assert use("data", "check", bench.data, "--json").body("data.check")["ready"]
    body = use("data", "check", bench.captures, "--task", "MTD", "--json").body("data.check")
    assert {row["kind"] for row in body["findings"]} >= {"conflict"} or body["classes"]
    assert use("data", "audit", bench.data, "--json").body("data.audit")["verdict"]


def test_generate(use: Cli, bench: Bench, tmp_path: Path) -> None:
    """A generation adapter after two seconds writes nonsense, but valid nonsense."""
    shutil.copytree(bench.registry, tmp_path / "r")
    where = ("--registry", tmp_path / "r")
    made = use("adapter", "register", bench.data, "--task", "MTG", *SECONDS, *where, "--json").body("adapter.register")
    assert made["quality"] is None
    words = ("generate", "--task", "MTG", "--label", "Neris", "--flows", "3", "--seed", "5", *where, "--json")
    first = use(*words, "-o", tmp_path / "a.pcap").body("generate")
    again = use(*words, "-o", tmp_path / "b.pcap").body("generate")
    assert (first["flows"], first["valid"], first["addresses_outside_documentation"]) == (3, True, 0)
    assert first["sha256"] == again["sha256"]
    assert json.loads((tmp_path / "a.pcap.json").read_text())["synthetic"].startswith("synthetic traffic: TrafficLLM")
    mixed = ("generate", "--task", "MTG", "--mix", "Neris=2,Zeus=1", "--flows", "3", "--start", "2026-03-01", "--duration", "60", *where)
    body = use(*mixed, "-o", tmp_path / "m.pcapng", "--json").body("generate")
    assert [(part["label"], part["flows"]) for part in body["parts"]] == [("Neris", 2), ("Zeus", 1)]
    assert body["valid"]
    assert use("capture", "info", tmp_path / "m.pcapng", "--json").body("capture.info")["first"] >= 1772323200
    asked = use("generate", "--task", "MTG", "-q", "give me 2 flows of zeus", "-o", tmp_path / "q.jsonl", *where, "--json").body("generate")
    assert [line["label"] for line in _lines((tmp_path / "q.jsonl").read_text())] == ["Zeus", "Zeus"]
    assert (asked["flows"], asked["valid"]) == (2, None)
    file = tmp_path / "x.toml"
    file.write_text(GENERATED, encoding="utf-8")
    body = use("generate", "scenario", file, "-o", tmp_path / "s", *where, "--json").body("generate.scenario")
    assert [(event["label"], event["flows"]) for event in body["events"]] == [("Neris", 3)]
    assert {check["status"] for check in body["checks"][:2]} == {"passed"}
    again = use("generate", "scenario", file, "-o", tmp_path / "s", *where, "--json").body("generate.scenario")
    assert again["sha256"] == body["sha256"]
    file.write_text(GENERATED.replace("Neris", "Nerys"), encoding="utf-8")
    use("generate", "scenario", file, "-o", tmp_path / "t", *where).refused(2, "Neris")
    use("generate", "--task", "MTG", "-o", tmp_path / "c.pcap", *where).refused(2, "say what to write")
    use("generate", "--task", "MTG", "--label", "Nerys", "-o", tmp_path / "c.pcap", *where).refused(2, "Neris")
    use("generate", "--task", "MTD", "--label", "Neris", "-o", tmp_path / "c.pcap", *where).refused(2, "MTG")


@pytest.mark.parametrize("what", ["empty", "no/such/folder", "text"])
def test_base_that_is_no_model(use: Cli, bench: Bench, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    use("analyze", bench.capture, "--base", tmp_path / what).refused(4, what)
    use("tokenizer", "extend", "--base", tmp_path / what, "--data", bench.data, "-o", tmp_path / "out").refused(4, what)
    assert not (tmp_path / "out").exists()


def test_base_that_the_adapter_was_not_made_for(use: Cli, bench: Bench, tmp_path: Path) -> None:
    use("tokenizer", "extend", "--base", "plain", "--data", bench.data, "-o", tmp_path / "b", "--size", "720")
    use("analyze", bench.capture, "--base", tmp_path / "b").refused(4, "does not fit")


def test_a_hub_name_fetches_nothing(use: Cli, bench: Bench) -> None:
    use("analyze", bench.capture, "--base", "some/model").refused(4, "from the Hub it would fetch")


def test_analyze_reads_flow_logs(use: Cli, bench: Bench, tmp_path: Path) -> None:
    rows = _lines(use("analyze", bench.capture, "--task", "MTD", "-f", "jsonl").out)
    conn = tmp_path / "conn.log"
    conn.write_text(use("capture", "flows", bench.capture, "-f", "zeek").out)
    done = use("analyze", conn, "--task", "MTD", "-f", "jsonl")
    logged = _lines(done.out)
    assert [row["community_id"] for row in logged] == [row["community_id"] for row in rows]
    assert {row["label"] for row in logged} <= {"unknown", "not covered"}
    assert "neither packets nor contents" in done.err
    for row in logged:
        jsonschema.validate(row, schema("analyze.line"))
    both = use("analyze", bench.capture, conn, "--task", "MTD", "--json").body("analyze")
    assert both["flows"] == 2 * len(rows)
    assert use("embed", conn, "--task", "MTD", "-o", tmp_path / "v.parquet", "--json").body("embed")["flows"] == len(rows)
