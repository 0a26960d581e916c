"""`generate scenario`: the ready scenarios through the command line, looked at by tshark; 100 seeds of five scenarios in `make soak`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from cli_runner import REPO, Cli

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
import jsonschema
import scenario_samples as samples

from trafficllm.lifecycle.generate.scenario.file import load_scenario, shipped
from trafficllm.lifecycle.generate.scenario.scenario import Wish, generate_scenario

READY = ("lab-dns-tunnel", "office-beacon", "shop-web-attack", "streaming-vpn")
TSHARK = shutil.which("tshark")
SEEDS, FEWER = 100, 0.2
"""One seed of each scenario at its own pace, the others with a fifth of its flows."""


def test_the_ready_scenarios_are_these(cli: Cli) -> None:
    assert tuple(shipped()) == READY
    told = "".join(cli("generate", "scenario", "--help").out.split())
    assert all(name in told for name in READY)
    assert all(load_scenario(name)[0].rule for name in READY)


def test_a_scenario_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(samples.SMALL, encoding="utf-8")
    words = ("generate", "scenario", tmp_path / "small.toml", "--seed", 3, "--verify", "--quiet")
    body = cli(*words, "-o", tmp_path / "out", "--json").body("generate.scenario")
    out = tmp_path / "out"
    assert {"capture", "answers", "conn_log", "flows", "packets", "events", "sha256"} <= set(body)
    assert [(event["name"], event["label"]) for event in body["events"]] == [("beacon", "Quiet-Label"), ("leak", "Tunnel")]
    status = {check["name"]: check["status"] for check in body["checks"]}
    wanted = "passed" if TSHARK else "skipped"
    assert status == status | {"capture check": "passed", "answers read back": "passed", "tshark valid": wanted, "tshark answers": wanted}
    schema = json.loads((REPO / "schemas" / "trafficllm.generate.scenario.answer.1.json").read_text())
    for answer in json.loads((out / "answers.json").read_text()):
        jsonschema.validate(answer, schema)
    log = (out / "conn.log").read_text()
    assert "#path\tconn" in log
    assert sum(not line.startswith("#") for line in log.splitlines()) == body["flows"]
    shown = cli(*words, "-o", out).out
    assert "beacon" in shown
    assert "answers read back" in shown
    cli("generate", "scenario", "office-bacon", "-o", tmp_path / "x").refused(3, "office-beacon")
    cli("generate").refused(2, "--out")


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_a_filter_that_shows_other_packets_is_found_out(cli: Cli, tmp_path: Path) -> None:
    """The check of answers can fail: one answer is given another flow's filter."""
    from trafficllm.lifecycle.generate.scenario import checking

    samples.written(tmp_path)
    out = tmp_path / "out"
    assert checking._tshark_answers(out, []).status == "passed"
    answers = json.loads((out / "answers.json").read_text())
    answers[0]["filter"] = answers[1]["filter"]
    (out / "answers.json").write_text("[\n" + ",\n".join(map(json.dumps, answers)) + "\n]\n")
    look = checking._tshark_answers(out, [])
    assert look.status == "failed"
    assert answers[0]["community_id"] in look.detail


@pytest.mark.soak
@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", [*READY, "small"])
def test_scenarios_of_a_hundred_seeds_are_valid(name: str, tmp_path: Path) -> None:
    """Our check, our reader and tshark find nothing wrong, and every answer's filter shows exactly its flow."""
    (tmp_path / "small.toml").write_text(samples.SMALL, encoding="utf-8")
    file = tmp_path / "small.toml" if name == "small" else name
    for seed in range(SEEDS):
        wish = Wish(seed=seed, verify=True, rate=1.0 if seed == 0 else FEWER)
        result = generate_scenario(file, out=tmp_path / "out", wish=wish, conn_log=samples.no_log)
        failed = [(seed, look.name, look.detail) for look in result.checks if look.status == "failed"]
        assert failed == []
        assert sum(look.status == "passed" for look in result.checks) >= 4
        assert result.addresses_outside_documentation == 0
