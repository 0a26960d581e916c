from __future__ import annotations

import numpy as np
import pytest

from trafficllm.core import metrics
from trafficllm.evaluate import bootstrap

LABELS = ["a", "b", "c"]


def _rows(n: int = 200, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    truth = [LABELS[i] for i in rng.integers(0, 3, n)]
    return truth, [t if rng.random() < 0.7 else LABELS[int(rng.integers(3))] for t in truth]


def test_bootstrap_point_equals_macro_f1() -> None:
    truth, guess = _rows()
    counts = bootstrap.count_groups(LABELS, truth, guess, [i % 11 for i in range(200)])
    assert counts.macro_f1(np.ones((1, 11)))[0] == pytest.approx(metrics.macro_f1(LABELS, truth, guess))


def test_interval_is_seeded_holds_the_point_and_widens_with_fewer_groups() -> None:
    truth, guess = _rows(600)
    many = [bootstrap.count_groups(LABELS, truth, guess, list(range(600)))]
    few = [bootstrap.count_groups(LABELS, truth, guess, sorted(i % 6 for i in range(600)))]
    low, high = bootstrap.interval(many)
    assert bootstrap.interval(many) == (low, high)
    assert low < metrics.macro_f1(LABELS, truth, guess) < high
    assert high - low > 0.02
    assert bootstrap.interval([bootstrap.count_groups(LABELS, truth, guess, [0] * 600)]) == (0.0, 1.0)
    assert len(few[0].true) == 6


def test_grouped_interval_is_wider_when_groups_agree() -> None:
    truth = ["a", "b"] * 300
    group = [i // 60 for i in range(600)]
    guess = [t if g % 2 else "a" for t, g in zip(truth, group, strict=True)]
    wide = bootstrap.interval([bootstrap.count_groups(["a", "b"], truth, guess, group)])
    narrow = bootstrap.interval([bootstrap.count_groups(["a", "b"], truth, guess, list(range(600)))])
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_paired_lower_bound() -> None:
    truth, guess = _rows(600)
    group = [i % 40 for i in range(600)]
    better = bootstrap.paired(LABELS, truth, guess, truth, group)
    assert better.after == 1.0
    assert better.lower > 0.1
    same = bootstrap.paired(LABELS, truth, guess, guess, group)
    assert same.lower == 0.0
    assert bootstrap.paired(LABELS, truth, truth, guess, group).lower < -0.1
    assert bootstrap.paired(LABELS, truth, guess, truth, [0] * 600).lower == -1.0
