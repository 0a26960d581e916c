"""The files beside the SIEM guide fit what the program writes: Sigma rules, dashboard, index template, table, shippers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from sigma.collection import SigmaCollection
from sigma.conditions import ConditionAND, ConditionFieldEqualsValueExpression
from sigma.correlations import SigmaCorrelationRule
from sigma.rule import SigmaRule
from sigma.types import SigmaBool, SigmaCompareExpression, SigmaExists, SigmaString
from sigma.validation import SigmaValidator
from sigma.validators.core import validators
from test_surface_formats import ROW

from trafficllm.capture.foreign.signatures import Signature, Signatures
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts
from trafficllm.lifecycle.analyze.alerts import Alerts
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.surface.formats.columns import VERDICT
from trafficllm.surface.formats.ecs import FIELDS, verdict_document
from trafficllm.surface.formats.eve import EveVerdict, verdict_event
from trafficllm.surface.server.metrics import Metrics

FILES = Path(__file__).resolve().parents[2] / "docs" / "guides" / "siem"
ONLINE = frozenset({"attacktag", "d3_fendtag"})
"""Validators that fetch MITRE's lists; no rule has such a tag."""


class _Fired(Signatures):
    """A signature on every flow."""

    def __init__(self) -> None:
        pass

    def on(self, name: str, ts: float, duration: float) -> list[Signature]:
        return [Signature(2, 1, 2_000_001, "ET A")]


def _alerts(*, fired: bool = False, calibrated: bool = True) -> Alerts:
    analysis = Analysis(("MTD",), None, iter(()), models={"MTD": AdapterFacts("traffic", "ab", ("strict",), calibrated)})
    return Alerts(analysis, signatures=_Fired() if fired else None)


def _rules() -> SigmaCollection:
    collection = SigmaCollection.load_ruleset([FILES / "sigma"])
    assert len(collection.rules) == 4
    assert not collection.errors
    return collection


def test_sigma_rules_pass_the_validators() -> None:
    chosen = {validator for name, validator in validators.items() if name not in ONLINE}
    assert len(chosen) > 25
    assert SigmaValidator(chosen).validate_rules(iter(_rules().rules)) == []


def _values(event: Any, path: str) -> Iterator[Any]:
    """The values under a dotted path; those of every item of a list."""
    if isinstance(event, list):
        for item in event:
            yield from _values(item, path)
        return
    head, _, rest = path.partition(".")
    if isinstance(event, Mapping) and head in event:
        yield from _values(event[head], rest) if rest else iter([event[head]])


def _fires(rule: SigmaRule, event: Mapping[str, Any]) -> bool:
    condition = rule.detection.parsed_condition[0].parse()
    parts = condition.args if isinstance(condition, ConditionAND) else [condition]
    return all(_holds(part, list(_values(event, part.field))) for part in parts)


def _holds(part: ConditionFieldEqualsValueExpression, values: list[Any]) -> bool:
    value = part.value
    if isinstance(value, SigmaExists):
        return bool(values) == value.exists
    if isinstance(value, SigmaCompareExpression):
        assert value.op is SigmaCompareExpression.CompareOperators.GTE
        return any(each is not None and each >= value.number.number for each in values)
    assert isinstance(value, SigmaString | SigmaBool)
    return (value.boolean if isinstance(value, SigmaBool) else str(value)) in values


CASES: list[tuple[dict[str, Any], dict[str, bool], set[str]]] = [
    ({"umbrella_probability": 0.95}, {}, {"trafficllm_malicious_probable"}),
    ({"umbrella_probability": 0.95}, {"calibrated": False}, set()),
    ({}, {"fired": True}, {"trafficllm_malicious_corroborated"}),
    ({"label": "unknown"}, {}, {"trafficllm_malicious_unknown_family"}),
    ({"label": "unknown", "umbrella": "unknown"}, {"fired": True}, set()),
    ({"label": "FTP", "umbrella": "benign", "umbrella_probability": 0.1}, {"fired": True}, set()),
]


@pytest.mark.parametrize("document", [verdict_event, verdict_document])
@pytest.mark.parametrize(("row", "how", "names"), CASES)
def test_sigma_rules_fire_on_the_right_events(document: Any, row: dict[str, Any], how: dict[str, bool], names: set[str]) -> None:
    event = document({**ROW, **row}, _alerts(**how))
    rules = [rule for rule in _rules().rules if isinstance(rule, SigmaRule)]
    assert {Path(str(rule.source.path)).stem for rule in rules if rule.source and _fires(rule, event)} == names


def test_the_correlation_counts_flows_of_a_host() -> None:
    (rule,) = [rule for rule in _rules().rules if isinstance(rule, SigmaCorrelationRule)]
    assert [each.reference for each in rule.rules] == ["trafficllm_malicious_probable"]
    assert all(list(_values(verdict_event(ROW, _alerts()), name)) for name in rule.group_by or ["none"])


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board = json.loads((FILES / "grafana.json").read_text(encoding="utf-8"))
    metrics = Metrics()
    metrics.requests.labels(route="/", status="200").inc()
    metrics.seconds.labels(route="/").observe(1.0)
    metrics.flows.labels(task="MTD").inc()
    metrics.refused.labels(why="x").inc()
    text = metrics.text().decode()
    sold = {re.split(r"[{ ]", line)[0]: set(re.findall(r'(\w+)="', line)) for line in text.splitlines() if not line.startswith("#")}
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(asked) == 11
    for expression in asked:
        for name in re.findall(r"trafficllm_\w+", expression):
            grouped = {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
            assert grouped <= sold[name], expression
    seen = {name for expression in asked for name in re.findall(r"trafficllm_\w+", expression)}
    parts = ("_created", "_sum", "_count", "_bucket")
    assert {name for name in sold if not name.endswith(parts)} <= seen
    places = [(k, x, y) for k, panel in enumerate(board["panels"]) for x, y in _cells(panel["gridPos"])]
    assert len({(x, y) for _, x, y in places}) == len(places), "no panel lies on another"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def _cells(place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def _types(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, spec in properties.items():
        if "properties" in spec:
            yield from _types(spec["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", spec["type"]


def test_the_index_template_has_the_fields_of_ecs_and_ours() -> None:
    template = json.loads((FILES / "opensearch.json").read_text(encoding="utf-8"))
    properties = template["template"]["mappings"]["properties"]
    own = properties.pop("trafficllm")["properties"]
    assert dict(_types(properties)) == {field.name: field.kind for field in FIELDS}
    assert set(own) == set(get_type_hints(EveVerdict))


def test_the_table_has_the_columns_of_a_verdict() -> None:
    sql = (FILES / "clickhouse.sql").read_text(encoding="utf-8")
    columns = re.findall(r"^    (\w+) \S", sql, re.MULTILINE)
    assert columns == [column.name for column in VERDICT]


def test_shippers_are_wired() -> None:
    vector = yaml.safe_load((FILES / "vector.yaml").read_text(encoding="utf-8"))
    known = {*vector["sources"], *vector["transforms"]}
    steps = [*vector["transforms"].values(), *vector["sinks"].values()]
    assert all(set(step["inputs"]) <= known for step in steps)
    assert vector["sinks"]["clickhouse"]["table"] in (FILES / "clickhouse.sql").read_text(encoding="utf-8")
    bit = (FILES / "fluent-bit.conf").read_text(encoding="utf-8")
    assert re.search(r"Tag +(\S+)", bit)[1] == re.search(r"Match +(\S+)", bit)[1]  # type: ignore[index]
    pattern = json.loads((FILES / "opensearch.json").read_text(encoding="utf-8"))["index_patterns"][0].rstrip("*")
    assert re.search(r"Index +(\S+)", bit)[1].startswith(pattern)  # type: ignore[index]
    assert vector["sinks"]["opensearch"]["bulk"]["index"].startswith(pattern)
