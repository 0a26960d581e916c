"""Hosts judged by their flows together: the score, the order, the words, and how many are kept."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from trafficllm.core.types import FlowMeta
from trafficllm.core.umbrella import Cut, Umbrella
from trafficllm.infer.detector import Verdict
from trafficllm.lifecycle.analyze import hosts as module
from trafficllm.lifecycle.analyze.hosts import HostRow, Hosts

STEP = Umbrella("malicious", "benign", ("Zeus", "(background)"), (True, False), 1.0, 0.0, Cut(3.0, 0.0), Cut(2.0, 0.0))


def _verdict(
    host: str, odds: float | None, *, label: str = "Zeus", answer: str | None = "malicious", at: int = 1, file: str = "a"
) -> Verdict:
    meta = FlowMeta(orig_h=host, ts=at * 10**9, duration=10**9, capture=file, frames=(at,))
    return Verdict(meta, "MTD", label, 0.9, {}, 0.0, umbrella=answer, umbrella_probability=0.8, odds=odds, malice=True)


def _hosts(*verdicts: Verdict, step: Umbrella | None = STEP) -> Hosts:
    hosts = Hosts({"MTD": ("malicious", step, True)})
    for verdict in verdicts:
        hosts.add(verdict)
    return hosts


def test_a_score_is_the_mean_of_the_three_most_positive_flows() -> None:
    odds = [-8.0, 5.0, 1.0, -2.0, 3.0]
    (row,) = _hosts(*(_verdict("10.0.0.1", value, at=k + 1) for k, value in enumerate(odds))).rows()
    assert set(row) == set(get_type_hints(HostRow))
    assert (row["score"], row["umbrella"], row["flows"]) == (3.0, "malicious", 5)
    assert row["umbrella_probability"] == row["malicious"] == pytest.approx(0.9526, abs=1e-4)
    assert (row["first"], row["last"], row["frames"]) == (1.0, 6.0, [2]), "the frame of the most positive flow"
    assert row["labels"] == {"Zeus": 5}


def test_one_false_alarm_among_many_flows_names_no_host() -> None:
    flows = [_verdict("10.0.0.1", 5.0), *(_verdict("10.0.0.1", -6.0, label="benign", answer="benign") for _ in range(20))]
    (row,) = _hosts(*flows).rows()
    assert (row["umbrella"], row["score"]) == ("benign", pytest.approx(-7 / 3))


def test_positive_hosts_come_first_then_unknown_ones_then_by_score() -> None:
    odds = {"10.0.0.1": -5.0, "10.0.0.2": 1.0, "10.0.0.3": 4.0, "10.0.0.4": 9.0, "10.0.0.5": -1.0}
    made = _hosts(*(_verdict(host, value) for host, value in odds.items()), _verdict("10.0.0.4", 0.0, file="b"))
    assert [(row["file"], row["host"]) for row in made.rows()] == [
        ("a", "10.0.0.4"), ("a", "10.0.0.3"), ("a", "10.0.0.2"), ("b", "10.0.0.4"), ("a", "10.0.0.5"), ("a", "10.0.0.1"),
    ]  # fmt: skip
    assert made.counts() == {"MTD": {"benign": 3, "malicious": 2, "unknown": 1}}


def test_flows_that_are_not_covered_say_nothing_of_a_host() -> None:
    (row,) = _hosts(*(_verdict("10.0.0.1", None, label="not covered", answer="not covered") for _ in range(4))).rows()
    assert (row["umbrella"], row["score"], row["malicious"], row["frames"]) == ("unknown", None, None, [])
    assert row["labels"] == {"not covered": 4}
    (mixed,) = _hosts(_verdict("10.0.0.1", None, label="not covered", answer="not covered"), _verdict("10.0.0.1", 7.0)).rows()
    assert (mixed["umbrella"], mixed["score"], mixed["flows"]) == ("malicious", 7.0, 2)


def test_without_a_fitted_step_as_many_flows_must_be_positive_as_a_score_looks_at() -> None:
    good = {"label": "Gmail", "answer": "benign"}
    two, three = [_verdict("10.0.0.1", None)] * 2, [_verdict("10.0.0.2", None)] * 3
    rest = [_verdict(host, None, **good) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    unclear = [_verdict("10.0.0.4", None, label="unknown", answer="unknown"), _verdict("10.0.0.5", None)]
    answers = {row["host"]: row["umbrella"] for row in _hosts(*two, *three, *rest, *unclear, step=None).rows()}
    assert answers == {
        "10.0.0.1": "unknown",
        "10.0.0.2": "malicious",
        "10.0.0.3": "not malicious",
        "10.0.0.4": "unknown",
        "10.0.0.5": "malicious",
    }


def test_hosts_beyond_the_bound_are_counted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    made = _hosts(*(_verdict(f"10.0.0.{k % 4}", 1.0) for k in range(12)))
    assert {row["host"]: row["flows"] for row in made.rows()} == {"10.0.0.0": 3, "10.0.0.1": 3}
    assert made.beyond == 6


def test_tasks_without_the_question_have_no_hosts() -> None:
    made = Hosts({})
    made.add(_verdict("10.0.0.1", 1.0))
    assert made.rows() == []
    assert _hosts(_verdict("10.0.0.1", None, answer=None)).rows() == []
