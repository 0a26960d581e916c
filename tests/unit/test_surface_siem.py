"""Verdicts for other systems: ECS, Zeek's notices and indicators, STIX; each read back as its reader would."""

from __future__ import annotations

import io
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import stix2
from test_surface_formats import FLOW_ROW, HOST_ROW, ROW

from trafficllm.capture.foreign.logs import rows as log_rows
from trafficllm.capture.foreign.signatures import Signature, Signatures
from trafficllm.core.errors import ResourceError
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts
from trafficllm.lifecycle.analyze.alerts import Alerts
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.surface.cli.main import run
from trafficllm.surface.formats import stix, zeek_alerts
from trafficllm.surface.formats.columns import FLOW, HOST, NOTICE, VERDICT
from trafficllm.surface.formats.destinations import flow_forms, host_forms, verdict_forms
from trafficllm.surface.formats.ecs import FIELDS, table
from trafficllm.surface.formats.writers import make_writer
from trafficllm.surface.formats.zeek_alerts import outside

KINDS = {"alert", "event"}
TYPES = {"network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"}}
TYPES["intrusion_detection"] = {"allowed", "denied", "info"}
"""Values that ECS allows of `event.kind`, and the `event.type` that it expects for each `event.category`."""
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
CHECKS = {
    "date": lambda value: bool(DATE.fullmatch(value)),
    "keyword": lambda value: isinstance(value, str) and value != "",
    "long": lambda value: type(value) is int,
    "ip": lambda value: bool(ipaddress.ip_address(value)),
}
ROWS: list[dict[str, Any]] = [
    {**ROW, "resp_h": "198.51.100.7"},
    {**ROW, "resp_h": "198.51.100.7", "ts": ROW["ts"] + 9, "uid": "C2", "duration": 0.0, "probabilities": {"Zeus": 0.5, "Neris": 0.5}},
    {**ROW, "orig_h": "2001:db8::5", "label": "unknown", "uid": "C3"},
    {**ROW, "label": "FTP", "umbrella": "benign", "umbrella_probability": 0.1, "uid": "C4"},
]


class _Fired(Signatures):
    """A signature on the first flow."""

    def __init__(self) -> None:
        pass

    def on(self, name: str, ts: float, duration: float) -> list[Signature]:
        return [Signature(2, 1, 2_000_001, "ET A")] if ts == ROW["ts"] else []


def _alerts(*, always: bool = True, signatures: Signatures | None = None) -> Alerts:
    facts = AdapterFacts("traffic", "ab" * 32, ("strict", "iat_first"), True)
    analysis = Analysis(("MTD",), None, iter(()), notable={"MTD": frozenset({"malicious"})}, models={"MTD": facts})
    return Alerts(analysis, always=always, signatures=signatures)


def _written(form: str, rows: list[dict[str, Any]], alerts: Alerts) -> str:
    stream = io.BytesIO()
    writer = make_writer(form, stream, VERDICT, path="x", eve=dict, forms=verdict_forms(alerts))
    writer.write(rows[:1])
    writer.write(rows[1:])
    writer.close()
    return stream.getvalue().decode()


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _sound(document: dict[str, Any]) -> dict[str, Any]:
    """The leaves of an ECS document, each a field of the table and of its type; our own object aside."""
    own = document.pop("trafficllm")
    assert own
    leaves = dict(_leaves(document))
    kinds = {field.name: field.kind for field in FIELDS}
    for name, value in leaves.items():
        assert all(CHECKS[kinds[name]](each) for each in (value if isinstance(value, list) else [value])), name
    assert leaves["event.kind"] in KINDS
    for category in leaves["event.category"]:
        assert set(leaves["event.type"]) & TYPES[category]
    return leaves


def test_ecs_documents_are_of_the_table() -> None:
    documents = [json.loads(line) for line in _written("ecs", ROWS, _alerts()).splitlines()]
    owned = documents[0]["trafficllm"]
    leaves = [_sound(document) for document in documents]
    assert [each["event.kind"] for each in leaves] == ["alert", "alert", "alert", "event"]
    assert leaves[0]["event.category"] == ["network", "intrusion_detection"]
    assert (leaves[0]["event.end"], leaves[0]["event.duration"]) == ("2012-05-29T04:19:37.750000Z", 500_000_000)
    assert (leaves[0]["rule.ruleset"], leaves[0]["event.severity"]) == ("MTD", 3)
    assert leaves[0]["network.community_id"] == ROW["community_id"]
    assert leaves[2]["network.type"] == "ipv6"
    assert "rule.id" not in leaves[3]
    assert not any("risk_score" in name for each in leaves for name in each)
    assert (owned["probability"], owned["model"], owned["masks"]) == (0.75, "traffic", ["strict", "iat_first"])
    assert _sound(json.loads(_written("ecs", ROWS[:1], _alerts(always=False))))["event.kind"] == "event"


def test_ecs_of_flows_and_hosts() -> None:
    stream = io.BytesIO()
    make_writer("ecs", stream, FLOW, path="x", eve=dict, forms=flow_forms()).write([{**FLOW_ROW, "label": "web"}])
    document = json.loads(stream.getvalue())
    assert (document["trafficllm"]["conn_state"], document["trafficllm"]["label"]) == ("S0", "web")
    flow = _sound(document)
    assert (flow["source.bytes"], flow["network.bytes"], flow["network.packets"]) == (60, 60, 1)
    for always, kind in ((True, "alert"), (False, "event")):
        stream = io.BytesIO()
        make_writer("ecs", stream, HOST, path="x", eve=dict, forms=host_forms(_alerts(always=always))).write([HOST_ROW])
        host = _sound(json.loads(stream.getvalue()))
        assert (host["event.kind"], host["event.type"], host["related.ip"]) == (kind, ["info"], ["10.0.0.5"])
        assert "destination.ip" not in host


def test_every_field_of_the_table_is_used() -> None:
    stream = io.BytesIO()
    make_writer("ecs", stream, FLOW, path="x", eve=dict, forms=flow_forms()).write([FLOW_ROW])
    lines = [*_written("ecs", ROWS, _alerts()).splitlines(), stream.getvalue().decode()]
    seen = {name for line in lines for name, _ in _leaves(json.loads(line))}
    assert {field.name for field in FIELDS} == {name for name in seen if not name.startswith("trafficllm.")}


def test_the_guide_has_the_table() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "guides" / "siem.md"
    assert table() in guide.read_text(encoding="utf-8")


def test_notices_are_alerts_in_zeeks_columns(tmp_path: Path) -> None:
    log = tmp_path / "notice.log"
    log.write_text(_written("notice", ROWS, _alerts(signatures=_Fired())), encoding="utf-8")
    notices = [row.values for row in log_rows(log)]
    assert [row["uid"] for row in notices] == [ROW["uid"], "C2", "C3"]
    assert list(notices[0]) == [column.zeek for column in NOTICE]
    assert notices[0]["note"] == "TrafficLLM::Verdict"
    assert notices[0]["sub"] == "corroborated by 1:2000001 ET A"
    assert notices[1]["sub"] == "not corroborated"
    assert notices[0]["msg"] == "TrafficLLM MTD: Zeus (malicious), probability 0.750, adapter MTD v0001, base traffic"
    assert (notices[0]["dst"], notices[0]["p"], notices[0]["fuid"]) == ("198.51.100.7", "443", None)
    assert _written("notice", ROWS, _alerts(always=False)).count("\n") == 7, "the header alone"


def test_indicators_are_outside_addresses_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    inside = {**ROW, "orig_h": "10.0.0.1", "resp_h": "10.0.0.2"}
    lines = _written("intel", [*ROWS, inside], _alerts()).splitlines()
    assert lines[0] == "#fields\tindicator\tindicator_type\tmeta.source\tmeta.desc"
    assert [line.split("\t")[:3] for line in lines[1:]] == [
        ["198.51.100.7", "Intel::ADDR", "TrafficLLM"],
        ["2001:db8::1", "Intel::ADDR", "TrafficLLM"],
    ]
    assert lines[1].endswith("; 2 flows")
    assert len(_written("intel", ROWS, _alerts(always=False)).splitlines()) == 1
    monkeypatch.setattr(zeek_alerts, "MOST_GROUPS", 1)
    assert len(_written("intel", ROWS, _alerts()).splitlines()) == 2
    assert "1 alerts are of further addresses" in capfd.readouterr().err


@pytest.mark.parametrize(
    "host", ["224.0.0.251", "127.0.0.1", "169.254.1.1", "fe80::1", "255.255.255.255", "100.64.0.1", "fd00::1", "::", "x"]
)
def test_no_indicator_of_an_address_that_is_no_hosts_elsewhere(host: str) -> None:
    assert outside(host, host) == ""


def _bundle(rows: list[dict[str, Any]], alerts: Alerts) -> Any:
    text = _written("stix", rows, alerts)
    assert text == _written("stix", rows, alerts), "the same rows, the same bytes"
    return stix2.parse(text, allow_custom=False, version="2.1")


def test_sightings_are_valid_stix_with_confidence_and_model() -> None:
    bundle = _bundle(ROWS, _alerts(signatures=_Fired()))
    by_type: dict[str, list[Any]] = {}
    for each in bundle.objects:
        by_type.setdefault(each.type, []).append(each)
    first, second = by_type["sighting"]
    assert (first.count, first.confidence, second.count, second.confidence) == (2, 62, 1, 88)
    assert [each.name for each in by_type["malware"]] == ["Zeus", "unknown (malicious)"]
    assert [each.is_family for each in by_type["malware"]] == [True, False]
    assert first.external_references[0].external_id == "MTD/v0001"
    assert first.external_references[0].description == f"base traffic, sha256 {'ab' * 32}, masks strict, iat_first"
    assert first.external_references[1].external_id == "1:2000001"
    assert "calibrated" in first.description
    assert "corroborated by a signature" in first.description
    observed = {each.id: each for each in by_type["observed-data"]}[first.observed_data_refs[0]]
    known = {each.id for each in bundle.objects}
    assert set(observed.object_refs) <= known
    assert {first.sighting_of_ref, first.created_by_ref, *first.where_sighted_refs} <= known
    assert (str(observed.first_observed), observed.number_observed) == ("2012-05-29 04:19:37.250000+00:00", 2)


def test_a_label_that_names_no_family_is_an_attack_pattern() -> None:
    rows = [{**ROW, "label": "malicious"}, {**ROW, "label": "attack", "umbrella": "attack"}]
    alerts = _alerts()
    alerts.analysis.notable["MTD"] = frozenset({"malicious", "attack"})  # type: ignore[index]
    names = [each.name for each in _bundle(rows, alerts).objects if each.type == "attack-pattern"]
    assert names == ["MTD: malicious", "MTD: attack"]


def test_a_bundle_without_alerts_is_empty_and_long_ones_are_cut(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(json.loads(_written("stix", ROWS, _alerts(always=False)))) == ["type", "id"]
    many = [{**ROW, "uid": f"C{k}", "orig_p": 1000 + k} for k in range(30)]
    bundle = _bundle(many, _alerts())
    assert sum(each.type == "network-traffic" for each in bundle.objects) == stix.FLOWS
    assert next(each.count for each in bundle.objects if each.type == "sighting") == 30
    monkeypatch.setattr(stix, "MOST_GROUPS", 1)
    assert sum(each.type == "sighting" for each in _bundle(ROWS, _alerts()).objects) == 1
    assert "further hosts" in capfd.readouterr().err


def test_stix_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stix2.v21", None)
    with pytest.raises(ResourceError, match="stix2 is not installed"):
        _written("stix", ROWS, _alerts())


def test_alert_formats_are_for_verdicts(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["capture", "flows", "x.pcap", "-f", "stix"], ["analyze", "x.pcap", "--hosts", "-f", "notice"]):
        assert run(words) == 2
        assert "unknown format" in capfd.readouterr().err
