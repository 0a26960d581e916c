"""Requests for traffic in words and shares, and the timeline that many flows share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trafficllm.capture.compile.plans import CompileCounts
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.core.errors import UsageError
from trafficllm.core.types import Action, FlowPlan
from trafficllm.lifecycle.generate.requests import Part, parts_of, shares_of
from trafficllm.lifecycle.generate.synthesis import parts
from trafficllm.lifecycle.generate.timeline import timeline
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.cli.generate import _moment

LABELS = {"MTG": ("Neris", "Nsis-ay", "Zeus", "World Of Warcraft"), "EAG": ("DNS", "DoH_DoT")}


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("give me 50 flows of Neris", [("Neris", 50)]),
        ("I need some zeus traffic", [("Zeus", 7)]),
        ("Neris, 12 flows please, port 443 is fine", [("Neris", 12)]),
        ("30 flows of neris and 20 of Zeus on one timeline", [("Neris", 30), ("Zeus", 20)]),
        ("2k flows of NSIS ay", [("Nsis-ay", 2000)]),
        ("write 5 WorldOfWarcraft sessions", [("World Of Warcraft", 5)]),
        ("100 DoH DoT lookups, no plain ones", [("DoH_DoT", 100)]),
        ("mix Zeus and DNS", [("Zeus", 7), ("DNS", 7)]),
    ],
)
def test_questions(question: str, parts: list[tuple[str, int]]) -> None:
    assert [(part.label, part.flows) for part in parts_of(question, LABELS, flows=7)] == parts


def test_a_question_without_a_label_says_which_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        parts_of("50 flows of Emotet", LABELS, flows=7)
    assert "Neris" in refused.value.hint
    with pytest.raises(UsageError, match="0 flows of Neris"):
        parts_of("0 flows of Neris", LABELS, flows=7)


def test_a_label_that_is_named_is_written_by_the_generator_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shipped adapters: the router takes the first for botnet traffic, which nothing here writes, and the second for apps."""
    monkeypatch.delenv("TRAFFICLLM_SHIPPED", raising=False)
    workspace = Workspace(registry=str(tmp_path))
    asked = {"give me 50 flows of Neris": ("MTG", "Neris", 50), "write 5 flows of skype": ("MTG", "Skype", 5)}
    for question, wanted in asked.items():
        assert parts(workspace, question=question, flows=10) == (Part(*wanted),)
    with pytest.raises(UsageError, match="asks for"):
        parts(workspace, question="is there any malware in here?", flows=10)


def test_shares_are_whole_flows_that_sum_up() -> None:
    assert shares_of(["Neris=1,Zeus=1", "EAG/DNS=1"], "MTG", flows=100) == [
        Part("MTG", "Neris", 34),
        Part("MTG", "Zeus", 33),
        Part("EAG", "DNS", 33),
    ]
    assert sum(part.flows for part in shares_of(["a=0.1", "b=0.7", "c=0.2"], "T", flows=7)) == 7


@pytest.mark.parametrize("item", ["Neris", "Neris=", "=1", "Neris=0", "Neris=-1", "Neris=nan", "Neris=x"])
def test_bad_shares_are_named(item: str) -> None:
    with pytest.raises(UsageError) as refused:
        shares_of([item], "MTG", flows=10)
    assert refused.value.where == item
    with pytest.raises(UsageError):
        shares_of(["Neris=1"], "", flows=10)


def _plan(gap: int) -> FlowPlan:
    return FlowPlan(17, 4, 4000, tuple(Action("datagram", dir=k % 2, size=20 + k, gap=gap) for k in range(5)))


def test_timeline_is_sorted_bounded_and_the_same_again(tmp_path: Path) -> None:
    """300 flows of which every tenth lasts for most of the capture: frames still leave in order of time."""
    plans = [_plan(20_000_000_000 if k % 10 == 0 else 1_000) for k in range(300)]
    start, duration = 10**18, 300 * 10**9

    def made() -> tuple[np.ndarray, list[int]]:
        counts = CompileCounts()
        batches = list(timeline(plans, 300, seed=1, start=start, duration=duration, counts=counts))
        assert counts.flows == 300
        return np.concatenate([batch.ts for batch in batches]), [len(batch) for batch in batches]

    ts, sizes = made()
    assert len(sizes) > 3
    assert len(ts) == 1500
    assert (np.diff(ts) >= 0).all()
    assert start <= ts[0] < start + 2 * 10**9  # the first flow waits 20 s before its first packet
    assert (made()[0] == ts).all()
    batches = timeline(plans, 300, seed=1, start=start, duration=duration, counts=CompileCounts())
    assert write_capture(tmp_path / "t.pcapng", batches, format="pcapng") == 1500
    read = np.concatenate([batch.ts for batch in read_frames([tmp_path / "t.pcapng"])])
    assert (read == ts).all()


def test_moments() -> None:
    assert _moment("") is None
    assert _moment("1.5") == 1_500_000_000
    assert _moment("1970-01-02") == _moment("1970-01-02T01:00:00+01:00") == 86_400 * 10**9
    for text in ("yesterday", "-1", "nan", "1e12"):
        with pytest.raises(UsageError):
            _moment(text)
