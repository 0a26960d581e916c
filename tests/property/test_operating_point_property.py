"""Operating points for any scores, sources and rates."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficllm.evaluate.openworld import OperatingPoint, operating_point

FLOW = st.tuples(st.sampled_from("abcdefghijkl"), st.integers(0, 2), st.integers(-20, 20))
FLOWS = st.lists(FLOW, min_size=1, max_size=60)
RATE = st.sampled_from((0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9))
FACTOR = st.sampled_from((None, 1.0, 3.0))


def _point(flows: list[tuple[str, int, int]], rate: float, factor: float | None = None) -> OperatingPoint:
    sources, captures, scores = zip(*flows, strict=True)
    return operating_point(np.array(scores, dtype=np.float64), sources, captures, rate=rate, worst_factor=factor)


@given(FLOWS, RATE, FACTOR)
@settings(max_examples=200, deadline=None)
def test_rates_are_kept(flows: list[tuple[str, int, int]], rate: float, factor: float | None) -> None:
    point = _point(flows, rate, factor)
    assert point.rate <= rate + 1e-9
    assert point.rate <= point.worst
    assert factor is None or point.worst <= factor * rate + 1e-9
    assert point.clear <= point.threshold
    assert point.unknown <= 0.2 + 1e-9
    assert rate <= point.expected <= 1
    assert point.sources == len({source for source, _, _ in flows})
    assert point.threshold in {score for _, _, score in flows}


@given(FLOWS, RATE, FACTOR, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_flows_and_the_names_of_sources_say_nothing(
    flows: list[tuple[str, int, int]], rate: float, factor: float | None, chooser: random.Random
) -> None:
    mixed = [(f"lab {source}", capture + 7, score) for source, capture, score in flows]
    chooser.shuffle(mixed)
    assert _point(mixed, rate, factor) == _point(flows, rate, factor)


@given(FLOWS, RATE, st.integers(2, 4))
@settings(max_examples=100, deadline=None)
def test_more_of_the_same_flows_of_a_source_change_nothing(flows: list[tuple[str, int, int]], rate: float, times: int) -> None:
    first = flows[0][0]
    more = [flow for flow in flows for _ in range(times if flow[0] == first else 1)]
    once, often = _point(flows, rate), _point(more, rate)
    assert (once.threshold, once.clear, once.sources) == (often.threshold, often.clear, often.sources)
    assert often.rate == pytest.approx(once.rate)
    assert often.bound == pytest.approx(once.bound)


@given(FLOWS, FACTOR)
@settings(max_examples=100, deadline=None)
def test_a_higher_rate_never_raises_the_threshold(flows: list[tuple[str, int, int]], factor: float | None) -> None:
    thresholds = [_point(flows, rate, factor).threshold for rate in (0.0, 0.01, 0.1, 0.3, 0.9)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == max(score for _, _, score in flows)
