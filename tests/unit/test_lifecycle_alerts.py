"""Verdicts as alerts: only where wanted or measured, of severity 3 unless a signature fired on the same flow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from test_surface_formats import HOST_ROW, ROW

from trafficllm.capture.foreign.signatures import Signatures
from trafficllm.core.errors import InputError
from trafficllm.core.umbrella import AlertPoint
from trafficllm.evaluate.umbrella import PRECISION, PREVALENCE, LeftOut, alert_point
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts
from trafficllm.lifecycle.analyze.alerts import Alerts, probability
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.surface.cli.main import run
from trafficllm.surface.formats.eve import GID, EveEvent, EveHostEvent, host_event, verdict_event

START = 1_338_265_177.25
ALERT: dict[str, Any] = {
    "timestamp": "2012-05-29T04:19:37.500000+0000",
    "event_type": "alert",
    "src_ip": "192.0.2.1",
    "src_port": 49152,
    "dest_ip": "198.51.100.2",
    "dest_port": 443,
    "proto": "TCP",
    "community_id": ROW["community_id"],
    "alert": {"action": "allowed", "gid": 1, "signature_id": 2_000_001, "rev": 1, "signature": "ET A", "category": "", "severity": 2},
}


def _log(path: Path, *events: dict[str, Any]) -> Signatures:
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return Signatures([path], own=GID)


def _alerts(signatures: Signatures | None = None, *, always: bool = False, point: float | None = None) -> Alerts:
    measured = None if point is None else AlertPoint(point, 0.92, 0.4, 0.01)
    facts = AdapterFacts("traffic", "ab" * 32, ("strict", "iat_first"), True, measured)
    analysis = Analysis(("MTD",), None, iter(()), notable={"MTD": frozenset({"malicious"})}, models={"MTD": facts})
    return Alerts(analysis, always=always, signatures=signatures)


def _with(**values: Any) -> Any:
    return {**ROW, **values}


def test_a_verdict_is_no_alert_unless_wanted_or_measured() -> None:
    assert _alerts().severity(ROW) == 0
    assert _alerts(always=True).severity(ROW) == 3
    assert _alerts(point=0.8).severity(ROW) == 3
    assert _alerts(point=0.875).severity(ROW) == 0, "the point itself was not precise enough"
    benign = _with(label="FTP", umbrella="benign", umbrella_probability=0.9)
    assert _alerts(always=True, point=0.1).severity(benign) == 0
    unknown = _with(label="unknown", umbrella="unknown", umbrella_probability=0.9)
    assert _alerts(always=True, point=0.1).severity(unknown) == 0, "an unknown flow is never an alert"
    assert _alerts(always=True).severity(_with(label="unknown")) == 3, "malware of no known family is"


def test_a_signature_on_the_same_flow_gives_its_severity(tmp_path: Path) -> None:
    worse = {**ALERT, "alert": {**ALERT["alert"], "severity": 1, "signature_id": 2_000_002}}
    signatures = _log(tmp_path / "eve.json", ALERT, worse, {"timestamp": ALERT["timestamp"], "event_type": "stats", "stats": {}})
    assert signatures.alerts == 2
    assert [each.sid for each in signatures.on(ROW["community_id"], START, 0.5)] == [2_000_002, 2_000_001]
    alerts = _alerts(signatures, always=True)
    event = verdict_event(ROW, alerts)
    assert event["alert"]["severity"] == 1
    assert [each["signature_id"] for each in event["trafficllm"]["corroborated_by"]] == [2_000_002, 2_000_001]
    assert alerts.severity(_with(community_id="1:other=")) == 3
    assert alerts.severity(_with(ts=START + 60)) == 3, "the same ports an hour later are another flow"
    assert verdict_event(ROW, _alerts(signatures))["event_type"] == "trafficllm", "corroboration alone makes no alert"
    low = _log(tmp_path / "low.json", {**ALERT, "alert": {**ALERT["alert"], "severity": 4}})
    assert _alerts(low, always=True).severity(ROW) == 3


def test_our_own_alerts_corroborate_nothing(tmp_path: Path) -> None:
    own = verdict_event(ROW, _alerts(always=True))
    signatures = _log(tmp_path / "eve.json", json.loads(json.dumps(own)))
    assert (signatures.alerts, signatures.on(ROW["community_id"], START, 0.5)) == (0, [])


def test_an_alert_without_a_community_id_gets_that_of_its_ports(tmp_path: Path) -> None:
    from trafficllm.capture.flows.community import community_id

    name = community_id(6, bytes([192, 0, 2, 1]), 49152, bytes([198, 51, 100, 2]), 443)
    bare = {key: value for key, value in ALERT.items() if key != "community_id"}
    icmp = {**bare, "proto": "ICMP"}
    signatures = _log(tmp_path / "eve.json", bare, icmp)
    assert signatures.alerts == 1
    assert len(signatures.on(name, START, 0.5)) == 1
    untimed = {key: value for key, value in bare.items() if key != "timestamp"}
    assert len(_log(tmp_path / "untimed.json", untimed).on(name, 5.0, 1.0)) == 1


def test_a_log_that_is_no_eve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no EVE events"):
        _log(tmp_path / "x.json", {"community_id": "1:x", "label": "web"})


def test_a_host_has_the_signatures_of_its_flows(tmp_path: Path) -> None:
    alerts = _alerts(_log(tmp_path / "eve.json", ALERT), always=True)
    alerts.corroborating(_with(file="x.pcap", orig_h="10.0.0.5"))
    event = host_event(HOST_ROW, alerts)
    TypeAdapter(EveHostEvent).validate_python(event)
    assert event["alert"]["severity"] == 2
    assert host_event({**HOST_ROW, "host": "10.0.0.6"}, alerts)["alert"]["severity"] == 3
    assert host_event(HOST_ROW, replace(alerts, always=False))["event_type"] == "trafficllm"


def test_an_event_says_what_its_number_rests_on() -> None:
    event = verdict_event(ROW, _alerts())
    TypeAdapter(EveEvent).validate_python(event)
    own = event["trafficllm"]
    assert (own["schema"], own["probability"], own["calibrated"], own["unknown"]) == ("trafficllm.eve/2", 0.75, True, False)
    assert (own["model"], own["masks"], own["corroborated_by"]) == ("traffic", ["strict", "iat_first"], [])
    assert "alert" not in event


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, 0.75),
        ({"label": "unknown"}, 0.875),
        ({"label": "benign", "umbrella": "benign", "umbrella_probability": 0.25}, 0.75),
        ({"label": "unknown", "umbrella": "unknown"}, None),
        ({"label": "unknown", "umbrella": None, "umbrella_probability": None}, None),
    ],
)
def test_the_probability_is_that_of_what_is_said(row: dict[str, Any], expected: float | None) -> None:
    assert probability(_with(**row)) == expected


def test_facts_of_a_manifest() -> None:
    step = {"positive": "malicious", "negative": "benign", "classes": ["Zeus", "(background)"], "members": [True, False]}
    step |= {"slope": 1.0, "intercept": 0.0, "flow": {"threshold": 1.0, "clear": -1.0}, "host": None}
    alert = {"threshold": 3.0, "probability": 0.95, "precision": 0.91, "recall": 0.5, "rate": 0.0, "prevalence": 0.01}
    manifest = {"base": "traffic", "profile": "strict", "calibration": {"temperature": 1.0, "umbrella": {**step, "alert": alert}}}
    facts = AdapterFacts.of(manifest)
    assert facts.alert == AlertPoint(0.95, 0.91, 0.5, 0.01)
    assert (facts.masks, facts.calibrated) == (("strict",), True)
    assert AdapterFacts.of({"calibration": {"umbrella": step}}) == AdapterFacts(masks=("",))


def _left(odds: np.ndarray[Any, Any]) -> LeftOut:
    n = len(odds)
    return LeftOut(odds, [f"s{k % 4}" for k in range(n)], [f"c{k % 40}" for k in range(n)], ["h"] * n)


def test_the_alert_point_is_the_lowest_that_is_precise_enough() -> None:
    odds = np.linspace(-9, 4, 8000)
    true = np.linspace(0, 8, 200)
    point = alert_point(_left(odds), true, [True] * 200, least=0.0)
    assert point is not None
    assert point["precision"] >= PRECISION > 0.5
    wrong = float(np.mean(odds > point["threshold"])) + 1 / len(odds)
    recall = float(np.mean(true > point["threshold"]))
    assert point["recall"] == recall
    assert point["precision"] == pytest.approx(PREVALENCE * recall / (PREVALENCE * recall + (1 - PREVALENCE) * wrong), rel=0.02)
    lower = float(odds[odds < point["threshold"]].max())
    wrong = float(np.mean(odds > lower)) + 1 / len(odds)
    recall = float(np.mean(true > lower))
    assert PREVALENCE * recall / (PREVALENCE * recall + (1 - PREVALENCE) * wrong) < PRECISION + 0.001


def test_no_alert_point_where_too_few_flows_could_show_it() -> None:
    few = np.linspace(-9, -5, 300)
    assert alert_point(_left(few), np.linspace(0, 8, 200), [True] * 200, least=0.0) is None, "none of 300 flows is no proof"
    assert alert_point(_left(np.linspace(-9, -5, 9000)), np.linspace(0, 8, 200), [True] * 200, least=0.0) is not None
    assert alert_point(_left(few), np.zeros(0), [], least=0.0) is None
    above = alert_point(_left(np.linspace(-9, -5, 9000)), np.linspace(0, 8, 200), [True] * 200, least=2.0)
    assert above is not None
    assert above["threshold"] == 2.0, "never below the threshold of the verdict"


def test_options_of_alerts_need_a_format_that_has_them(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["--alert"], ["--alert", "-f", "csv"], ["--corroborate", "eve.json"]):
        assert run(["analyze", "x.pcap", *words]) == 2
        assert "-f eve" in capfd.readouterr().err
