from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluate_samples import part

from trafficllm.core.files import json_text
from trafficllm.core.types import Scores
from trafficllm.evaluate.shift import drift

BEFORE, SAME = part(300, 1).records, part(300, 2).records
TS = list(range(10**18, 10**18 + 300))


def test_the_same_traffic_has_not_drifted() -> None:
    result = drift.drift(BEFORE, SAME, TS).as_dict()
    assert result["fields"] == []
    assert result["since"] is None
    assert result["p"] > 0.01
    assert not result["update_due"]


def test_a_change_is_found_with_its_field_and_moment() -> None:
    live = [dataclasses.replace(r, sizes=tuple(s // 3 for s in r.sizes)) if i >= 150 else r for i, r in enumerate(SAME)]
    result = drift.drift(BEFORE, live, TS).as_dict()
    assert result["update_due"]
    assert {row["field"] for row in result["fields"]} & {"size", "sum.orig_bytes", "sum.resp_bytes"}
    assert abs(result["since"] - TS[150]) <= 30
    json_text(result)


def test_psi_of_known_cases() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=5000)
    assert drift.psi(x, rng.normal(size=5000)) < drift.psi_noise(5000, 5000)
    assert drift.psi(x, x + 1) > 0.8
    assert drift.psi(np.zeros(100), np.zeros(100)) == pytest.approx(0.0, abs=1e-9)


def test_confidence_and_unknown_share_stand_beside() -> None:
    sure, torn = (Scores(("a", "b"), p, np.log(p)) for p in (np.array([[0.9, 0.1]] * 3), np.array([[0.5, 0.5]] * 3)))
    result = drift.drift(BEFORE, SAME, TS, scores=(sure, torn), unknown=([False] * 3, [True, True, False])).as_dict()
    assert result["before"] == {"confidence": pytest.approx(0.9), "unknown": 0.0}
    assert result["now"]["unknown"] == pytest.approx(2 / 3)
