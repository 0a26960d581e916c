"""Adapters whose false alarms on other networks nothing bounds: marked, and silent unless named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trafficllm.core.errors import UsageError
from trafficllm.lifecycle.analyze import verdicts
from trafficllm.registry.card import model_card
from trafficllm.registry.versions import ELSEWHERE, Version, laboratory_only


def _manifest(rate: float | None) -> dict[str, Any]:
    flow = {"rate": rate, "worst": 0.02, "unknown": 0.1, "guarantee": "chosen on 11 left-out sources"}
    step = {} if rate is None else {"umbrella": {"positive": "malicious", "flow": flow}}
    return {"task_definition": {"positive": "malicious"}, "calibration": step}


@pytest.mark.parametrize(("rate", "only"), [(None, True), (ELSEWHERE + 0.001, True), (ELSEWHERE, False), (0.0, False)])
def test_an_adapter_is_for_more_than_its_laboratory_where_its_rate_elsewhere_is_bounded(rate: float | None, only: bool) -> None:
    manifest = _manifest(rate)
    assert laboratory_only(manifest) is only
    card = model_card(manifest)
    assert ("Laboratory only" in card) is only
    assert ("chosen on 11 left-out sources" in card) is (rate is not None)


def test_a_task_without_an_umbrella_question_promises_nothing_to_bound() -> None:
    assert not laboratory_only({"task_definition": {"positive": ""}})
    assert not laboratory_only({})


@pytest.mark.parametrize("bad", [{"umbrella": 3}, {"umbrella": {"flow": 1}}, {"umbrella": {"flow": {"rate": "low"}}}])
def test_damaged_figures_bound_nothing(bad: dict[str, Any]) -> None:
    assert laboratory_only({"task_definition": {"positive": "x"}, "calibration": bad})


def _workspace(monkeypatch: pytest.MonkeyPatch, rates: dict[str, float | None]) -> Any:
    versions = {name: Version(name, "v0001", "live", Path(), _manifest(rate)) for name, rate in rates.items()}
    monkeypatch.setattr(verdicts, "detection_versions", lambda _: versions)
    return SimpleNamespace(registry_root=Path())


def test_laboratory_adapters_answer_only_where_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts.choose(_workspace(monkeypatch, {"MTD": None, "WAD": 0.0}), "", "")[0] == ("WAD",)
    with pytest.raises(UsageError, match="MTD: laboratory only") as error:
        verdicts.choose(_workspace(monkeypatch, {"MTD": None}), "", "")
    assert "--task MTD" in error.value.hint
