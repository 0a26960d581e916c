"""Operating points chosen on sources: what they keep, what they promise, and that the order of flows does not matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from trafficllm.core.types import F64
from trafficllm.evaluate import openworld


def _sources(rng: np.random.Generator, count: int, *, spread: float = 1.0) -> tuple[F64, list[int], list[int]]:
    """Scores of exchangeable sources: each has its own shift, each of its captures another one, and its own number of flows."""
    scores, sources, captures = [], [], []
    for source in range(count):
        shift = rng.normal(0, spread)
        for capture in range(int(rng.integers(1, 4))):
            many = int(rng.integers(5, 60))
            scores += (shift + rng.normal(0, 0.3) + rng.normal(0, 1, many)).tolist()
            sources += [source] * many
            captures += [capture] * many
    return np.array(scores), sources, captures


def _rate(scores: F64, captures: list[int], threshold: float) -> float:
    """Rate of one source, counted the long way round."""
    names = np.array(captures)
    return float(np.mean([(scores[names == name] > threshold).mean() for name in np.unique(names)]))


def test_sources_and_captures_weigh_alike() -> None:
    weights = openworld.source_weights(["a"] * 4 + ["b"], ["x", "x", "x", "y", "x"])
    assert weights.tolist() == pytest.approx([1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 2])
    assert openworld.source_weights([], []).shape == (0,)


def test_the_threshold_is_the_smallest_that_keeps_the_rate() -> None:
    scores, sources, captures = _sources(np.random.default_rng(3), 12)
    point = openworld.operating_point(scores, sources, captures, rate=0.05)
    owner, names = np.array(sources), np.array(captures)
    rates = [_rate(scores[owner == s], names[owner == s].tolist(), point.threshold) for s in range(12)]
    assert point.rate == pytest.approx(np.mean(rates))
    assert point.rate <= 0.05
    assert point.worst == pytest.approx(max(rates))
    lower = scores[scores < point.threshold].max()
    assert np.mean([_rate(scores[owner == s], names[owner == s].tolist(), lower) for s in range(12)]) > 0.05


def test_one_large_source_does_not_decide() -> None:
    loud = np.concatenate([np.full(10_000, 0.0), np.full(10, 9.0)])
    sources = ["big"] * 10_000 + ["small"] * 10
    point = openworld.operating_point(loud, sources, ["x"] * len(loud), rate=0.1)
    assert point.threshold == 9.0


def test_the_worst_source_can_be_held_too() -> None:
    scores = np.concatenate([np.linspace(0, 1, 200), np.linspace(1, 2, 200)])
    sources = ["low"] * 200 + ["high"] * 200
    plain = openworld.operating_point(scores, sources, ["x"] * 400, rate=0.05)
    strict = openworld.operating_point(scores, sources, ["x"] * 400, rate=0.05, worst_factor=1.0)
    assert plain.worst == pytest.approx(0.1)
    assert strict.worst <= 0.05
    assert strict.threshold > plain.threshold


def test_unknown_flows_are_at_most_a_fifth_and_below_the_threshold() -> None:
    scores, sources, captures = _sources(np.random.default_rng(5), 9)
    point = openworld.operating_point(scores, sources, captures, rate=0.02)
    assert point.clear <= point.threshold
    assert 0.1 < point.unknown <= 0.2
    assert (
        openworld.operating_point(scores, sources, captures, unknown=0.0).clear
        == openworld.operating_point(scores, sources, captures, unknown=0.0).threshold
    )


def test_equal_scores_are_never_positive_nor_unknown() -> None:
    point = openworld.operating_point(np.zeros(50), list(range(50)), ["x"] * 50)
    assert (point.threshold, point.clear, point.rate, point.unknown) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_flows_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, sources, captures = _sources(rng, 7)
    order = rng.permutation(len(scores))
    mixed = openworld.operating_point(scores[order], [f"s{sources[k]}" for k in order], [f"c{captures[k]}" for k in order])
    assert mixed == openworld.operating_point(scores, sources, captures)


def test_a_higher_rate_never_raises_the_threshold() -> None:
    scores, sources, captures = _sources(np.random.default_rng(8), 15)
    rates = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9)
    points = [openworld.operating_point(scores, sources, captures, rate=rate, worst_factor=3.0) for rate in rates]
    assert all(a.threshold >= b.threshold for a, b in pairwise(points))
    assert points[0].threshold == scores.max()
    assert points[0].threshold > points[-1].threshold


def test_a_monotone_change_of_scores_changes_no_verdict() -> None:
    scores, sources, captures = _sources(np.random.default_rng(11), 10)
    plain = openworld.operating_point(scores, sources, captures)
    other = openworld.operating_point(np.exp(scores), sources, captures)
    assert other.threshold == pytest.approx(np.exp(plain.threshold))
    assert (other.rate, other.worst, other.bound, other.unknown) == (plain.rate, plain.worst, plain.bound, plain.unknown)


def test_new_exchangeable_sources_keep_both_bounds() -> None:
    rng = np.random.default_rng(21)
    rates, above, expected = [], [], 0.0
    for _ in range(400):
        scores, sources, captures = _sources(rng, 20)
        owner, names = np.array(sources), np.array(captures)
        point = openworld.operating_point(scores[owner > 0], owner[owner > 0].tolist(), names[owner > 0].tolist(), rate=0.05)
        rates.append(_rate(scores[owner == 0], names[owner == 0].tolist(), point.threshold))
        above.append(rates[-1] > point.bound)
        expected = point.expected
    assert expected == pytest.approx((19 * 0.05 + 1) / 20)
    assert 0.03 < np.mean(rates) <= expected
    assert np.mean(above) <= 0.15
    assert np.mean(above) > 0.02, "a bound that nothing exceeds would be of no use"


def test_few_sources_bound_nothing() -> None:
    scores, sources, captures = _sources(np.random.default_rng(2), 5)
    point = openworld.operating_point(scores, sources, captures)
    assert point.bound == 1.0
    assert "5 sources are too few" in point.guarantee
    assert "9 are needed" in point.guarantee
    assert openworld.operating_point(*_sources(np.random.default_rng(2), 9)).bound < 1.0
    alone = openworld.operating_point(np.arange(10.0), ["a"] * 10, ["x"] * 10)
    assert (alone.sources, alone.bound) == (1, 1.0)


@pytest.mark.parametrize("scores", [np.zeros(0), np.array([0.0, np.nan])])
def test_scores_that_say_nothing_are_refused(scores: F64) -> None:
    with pytest.raises(ValueError, match=r"no negative flows|not a number"):
        openworld.operating_point(scores, ["a"] * len(scores), ["x"] * len(scores))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        openworld.operating_point(np.zeros(3), ["a"] * 3, ["x"] * 3, rate=rate)
