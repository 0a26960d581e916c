from __future__ import annotations

import copy
from typing import Any

import pytest

from trafficllm.core.errors import InputError
from trafficllm.evaluate.comparison import compare as compare_reports
from trafficllm.evaluate.results import JudgedReport

LABELS = ("a", "b", "c")
TRUTH = [LABELS[i % 3] for i in range(120)]


def _report(runs: list[list[str]], **changes: Any) -> dict[str, Any]:
    answers = {"rows": [f"f.pcap C{i // 2}" for i in range(120)], "groups": [str(i % 12) for i in range(120)], "truth": TRUTH, "runs": runs}
    said = {
        "task": "T",
        "adapter": "x",
        "version": "",
        "macro_f1": 0.5,
        "accuracy": 0.5,
        "ci95": [0, 1],
        "split": "capture",
        "mask": "strict",
        "leaky": [],
        "seen_by_base": "0/120",
        "seeds": [0],
        "n_test": 120,
        "answers": answers,
    }
    return said | changes


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return compare_reports(JudgedReport.model_validate(a), JudgedReport.model_validate(b)).as_dict()


def _wrong(every: int, start: int = 0) -> list[str]:
    return ["c" if i % every == start else label for i, label in enumerate(TRUTH)]


def test_a_better_report_is_found_better() -> None:
    worse, better = _report([_wrong(3)]), _report([_wrong(20)])
    found = compare(worse, better)
    assert found["verdict"] == "B is better"
    assert 0 < found["ci95"][0] < found["difference"] < found["ci95"][1]
    assert found["p"] < 0.05
    back = compare(better, worse)
    assert back["verdict"] == "A is better"
    assert back["difference"] == pytest.approx(-found["difference"])
    assert found["per_class"][0]["label"] == "a", "the class that changed most comes first"


def test_equal_runs_differ_by_nothing_and_noise_is_no_difference() -> None:
    same = compare(_report([_wrong(7)]), _report([_wrong(7)]))
    assert (same["difference"], same["p"], same["agreement"]) == (0, 1, 1)
    assert compare(_report([_wrong(30)]), _report([_wrong(30, 7)]))["verdict"].startswith("no difference")


def test_seeds_are_averaged_and_rows_matched_by_name() -> None:
    both = compare(_report([_wrong(3), TRUTH]), _report([TRUTH]))
    alone = compare(_report([_wrong(3)]), _report([TRUTH]))
    assert both["difference"] == pytest.approx(alone["difference"] / 2)
    shuffled = copy.deepcopy(_report([TRUTH]))
    for key in ("rows", "groups", "truth"):
        shuffled["answers"][key] = shuffled["answers"][key][40:]
    shuffled["answers"]["runs"] = [TRUTH[40:]]
    part = compare(_report([TRUTH]), shuffled)
    assert (part["n"], part["only_a"], part["only_b"], part["difference"]) == (80, 40, 0, 0)


def test_what_cannot_be_paired_is_refused() -> None:
    other = _report([TRUTH])
    other["answers"] = {**other["answers"], "rows": [f"g.pcap C{i}" for i in range(120)]}
    with pytest.raises(InputError, match="share 0 flows"):
        compare(_report([TRUTH]), other)
    with pytest.raises(InputError, match="disagree on the truth"):
        compare(_report([TRUTH]), _report([TRUTH], answers={**_report([TRUTH])["answers"], "truth": _wrong(5)}))
