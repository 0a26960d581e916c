from __future__ import annotations

from typing import Any

import pytest

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import json_text
from trafficllm.evaluate import quality as q

LABELS = ["a", "b", "thin"]
TRUTH = ["a"] * 30 + ["b"] * 30 + ["thin"] * 3
GROUPS = [f"g{i % 6}" for i in range(63)]
HASHES = [i // 2 if i < 60 else i for i in range(63)]


def _report(guess: list[str], **more: Any) -> dict[str, Any]:
    options = {"split": "capture", "mask": "strict", "leaky": [], "seen_by_base": "0/63", "seeds": [0], "unique_hashes": HASHES}
    return q.quality(LABELS, TRUTH, guess, GROUPS, **(options | more)).as_dict()


def test_quality_holds_every_key_and_is_json() -> None:
    report = _report(TRUTH)
    assert set(q.REQUIRED) <= set(report)
    assert report["macro_f1"] == report["accuracy"] == 1.0
    assert report["n_test"] == 63
    assert report["n_test_unique"] == 33
    assert '"macro_f1"' in json_text(report)


def test_a_thin_class_is_listed_and_never_dropped() -> None:
    report = _report(["a"] * 30 + ["b"] * 30 + ["a"] * 3)
    assert list(report["not_measurable"]) == ["thin"]
    assert report["per_class"]["thin"]["support"] == 3
    assert not report["per_class"]["thin"]["measurable"]
    assert report["scored_labels"] == ["a", "b", "thin"]
    assert report["macro_f1"] == pytest.approx((60 / 63 + 1) / 3)
    assert report["macro_f1_measurable"] == pytest.approx((60 / 63 + 1) / 2)
    assert report["accuracy"] == pytest.approx(60 / 63)


def test_nothing_measurable_scores_all_labels() -> None:
    report = q.quality(
        LABELS, ["a", "b"], ["a", "a"], [1, 1], unique_hashes=[1, 2], split="flow", mask="strict", leaky=[], seen_by_base="0/2", seeds=[0]
    )
    assert report.scored_labels == ["a", "b"]
    assert report.ci95 == [0.0, 1.0]


def test_seen_by_base_is_leaky() -> None:
    assert q.seen_by_base([1, 2, 3], {2, 9}) == "1/3"
    assert _report(TRUTH, seen_by_base="1/63")["leaky"] == ["seen_by_base"]


def test_seeds_are_averaged() -> None:
    wrong = ["b"] * 63
    report = q.quality_of_seeds(
        LABELS,
        TRUTH,
        [TRUTH, wrong],
        GROUPS,
        unique_hashes=HASHES,
        split="flow",
        mask="strict",
        leaky=["raw"],
        seen_by_base="0/63",
        seeds=[0, 1],
    )
    assert report.per_seed[0] == 1.0
    assert report.macro_f1 == pytest.approx(sum(report.per_seed) / 2)


def test_a_report_without_its_context_does_not_validate() -> None:
    good = {"quality": _report(TRUTH), "baselines": {"majority": {"macro_f1": 0.1}}}
    q.validate(good)
    q.validate(good["quality"] | {"baselines": good["baselines"]})
    for key in ("split", "mask", "ci95", "seen_by_base"):
        broken = {"quality": {k: v for k, v in good["quality"].items() if k != key}, "baselines": good["baselines"]}
        with pytest.raises(ArtifactError, match=key):
            q.validate(broken)
    with pytest.raises(ArtifactError, match="no baselines"):
        q.validate({"quality": good["quality"], "baselines": {}})
    with pytest.raises(ArtifactError, match=r"no split.*no mask.*no baselines"):
        q.validate({"quality": {}})


def test_one_test_group_is_named_but_measurable() -> None:
    groups = ["only" if label == "b" else f"g{i % 6}" for i, label in enumerate(TRUTH)]
    report = q.quality(
        LABELS, TRUTH, ["a"] * 63, groups, unique_hashes=HASHES, split="capture", mask="strict", leaky=[], seen_by_base="0/63", seeds=[0]
    )
    assert report.one_group == ["b"]
    assert list(report.not_measurable) == ["thin"]
    assert report.macro_f1_measurable > report.macro_f1
