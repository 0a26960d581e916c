"""What the first step of a verdict is fitted with: weights, groups of sources, a probability, operating points of flows and hosts."""

from __future__ import annotations

import numpy as np
import pytest

from trafficllm.core.umbrella import Cut, Umbrella, host_score
from trafficllm.evaluate.umbrella import CAPTURES, LeftOut, calibrated, chosen, flagged, hosts_of, platt, row_weights, source_groups


def _left(captures: int, flows: int, *, seed: int = 0, sources: int = 5) -> LeftOut:
    """Negative flows of equal captures, spread over sources, with log-odds that are normal around -5."""
    rng = np.random.default_rng(seed)
    names = [f"c{k:03d}" for k in range(captures) for _ in range(flows)]
    return LeftOut(
        rng.normal(-5, 1, captures * flows),
        [f"s{int(name[1:]) % sources}" for name in names],
        names,
        [f"10.0.0.{k % 4}" for k in range(len(names))],
    )


def test_both_sides_weigh_alike_labels_alike_and_sources_by_the_root_of_their_flows() -> None:
    positive = [True] * 12 + [False] * 25
    strata = ["Zeus"] * 10 + ["Neris"] * 2 + ["large"] * 16 + ["small"] * 9
    weights = row_weights(positive, strata)

    def total(name: str) -> float:
        return float(weights[[k for k, value in enumerate(strata) if value == name]].sum())

    assert weights.mean() == pytest.approx(1)
    assert weights[:12].sum() == pytest.approx(weights[12:].sum())
    assert total("Zeus") == pytest.approx(total("Neris"))
    assert total("large") / total("small") == pytest.approx(4 / 3)
    assert row_weights([False, False], ["a", "b"]).tolist() == [1, 1], "a side that is missing takes no weight"


def test_sources_are_left_out_whole_in_groups_of_like_size() -> None:
    sources = [f"s{k}" for k in range(12) for _ in range(5 + 10 * k)]
    groups = source_groups(sources)
    assert {name: len({int(g) for g, of in zip(groups, sources, strict=True) if of == name}) for name in sources} == dict.fromkeys(
        sources, 1
    )
    sizes = np.bincount(groups)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 115, "no more than the largest source apart"
    assert len(set(source_groups(["a", "b", "b"]).tolist())) == 2


def test_the_probability_is_the_one_that_made_the_data() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 4, 40_000)
    positive = rng.random(len(odds)) < 1 / (1 + np.exp(-(0.5 * odds - 1)))
    slope, intercept = platt(odds, positive.tolist(), np.ones(len(odds)))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(-1, abs=0.06))
    assert platt(odds, (~positive).tolist(), np.ones(len(odds)))[0] == 0.01, "the order of flows never turns round"
    assert platt(odds[:9], [True] * 9, np.ones(9)) == (1.0, 0.0)


def test_the_probability_is_at_equal_odds_however_many_flows_a_side_has() -> None:
    left = LeftOut(np.linspace(-3, 1, 900), ["a"] * 900, ["x"] * 900, ["h"] * 900)
    few = np.linspace(-1, 3, 10)
    made = calibrated(left, few, [True] * 10)
    step = Umbrella("malicious", "benign", ("Zeus", "(background)"), (True, False), made["slope"], made["intercept"], Cut(0, 0), None)
    low, middle, high = step.probability(np.array([-2.0, 0.0, 2.0]))
    assert middle == pytest.approx(0.5, abs=0.03)
    assert low < 0.15 < 0.85 < high


def test_a_rate_of_flows_that_would_flag_most_captures_is_lowered() -> None:
    """Of captures of a hundred flows one flow in fifty leaves hardly any without an alarm."""
    left = _left(40, 100)
    told = chosen(left, rate=0.02).as_dict()
    assert told["asked"] == 0.02
    assert told["flow"]["wanted"] < 0.02
    assert told["captures_flagged"] <= CAPTURES
    assert told["captures_flagged"] == pytest.approx(flagged(left, told["flow"]["threshold"]))
    assert told["flow"]["rate"] <= told["flow"]["wanted"]
    at_asked = float(np.quantile(left.odds, 0.98))
    assert (flagged(left, at_asked) or 0) > 0.5, "what the rate alone would have given"


def test_a_rate_that_flags_few_captures_stays_as_asked() -> None:
    told = chosen(_left(200, 3, seed=2), rate=0.02).as_dict()
    assert told["flow"]["wanted"] == 0.02
    assert told["captures_flagged"] <= CAPTURES
    assert told["host"]["wanted"] == 0.05, "hosts have a rate of their own"
    assert chosen(_left(200, 3, seed=2), rate=0.1).as_dict()["host"]["wanted"] == 0.1, "unless more is asked for"


def test_captures_of_one_or_two_flows_do_not_count() -> None:
    left = _left(30, 2)
    assert flagged(left, -100.0) is None
    assert chosen(left, rate=0.02).as_dict()["captures_flagged"] is None


def test_a_host_is_an_address_within_a_capture() -> None:
    odds = np.array([1.0, 2.0, 3.0, 4.0, 9.0, -1.0])
    captures, hosts = ["x", "x", "x", "x", "x", "y"], ["a", "a", "a", "a", "b", "a"]
    scores, sources, names = hosts_of(LeftOut(odds, ["s"] * 5 + ["t"], captures, hosts))
    assert scores.tolist() == [3.0, 9.0, -1.0]
    assert sources == ["s", "s", "t"]
    assert len(set(names)) == 3
    assert host_score(odds[:4]) == 3.0
