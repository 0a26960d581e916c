"""Leaving sources out: nothing of a left-out source is learnt from, weights are alike, figures are what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trafficllm.core import metrics
from trafficllm.core.types import F64, I64, FlowMeta, Record
from trafficllm.evaluate.baselines.learners import Part
from trafficllm.evaluate.by_source import figures, learners
from trafficllm.evaluate.by_source.folds import (
    Judged,
    OpenRows,
    balanced_groups,
    common_scale,
    cross_fitted,
    learning_weights,
    leave_out,
    scoring_of,
)
from trafficllm.evaluate.by_source.results import OpenworldScores

SIDES = {"lab": (1, 0), "zoo": (1,), "den": (1,), "home": (0,), "office": (0,), "school": (0,)}


def study(sides: dict[str, Sequence[int]] | None = None, *, each: int = 12, learnt: Sequence[int] | None = None) -> OpenRows:
    """Flows of named sources: `each` flows in two captures for each side of a source, two hosts a capture."""
    rows = [(source, side, k) for source, own in (sides or SIDES).items() for side in own for k in range(each)]
    positive = np.array([side for _, side, _ in rows])
    captures = [f"{source}-{side}-{k % 2}" for source, side, k in rows]
    hosts = [f"{capture} h{k % 4 // 2}" for capture, (_, _, k) in zip(captures, rows, strict=True)]
    every = np.arange(len(rows))
    part = Part([Record() for _ in rows], [str(side) for side in positive], [], [FlowMeta() for _ in rows])
    return OpenRows(part, positive, [row[0] for row in rows], captures, hosts, every if learnt is None else np.array(learnt), every)


class Spy:
    """A scoring that notes what it was asked, and answers by the side with a shift of its own for each source."""

    def __init__(self, rows: OpenRows) -> None:
        self.rows = rows
        self.asked: list[tuple[I64, I64]] = []

    def __call__(self, train: I64, judged: I64) -> F64:
        self.asked.append((train, judged))
        shift = {name: k / 10 for k, name in enumerate(sorted(set(self.rows.sources)))}
        noise = np.random.default_rng(0).normal(0, 0.5, len(self.rows.positive))
        return np.array([2.0 * self.rows.positive[k] + shift[self.rows.sources[k]] + noise[k] for k in judged.tolist()])


def test_no_model_scores_a_source_that_it_learnt() -> None:
    rows = study()
    spy = Spy(rows)
    judged = leave_out(rows, spy, inner=3)
    assert judged.rows.tolist() == list(range(len(rows.positive)))
    assert len(judged.points) == len(SIDES)
    assert len(spy.asked) == len(SIDES) * 4
    source = np.array(rows.sources)
    for train, scored in spy.asked:
        assert not set(source[train]) & set(source[scored])
        assert set(rows.positive[train].tolist()) == {0, 1}


def test_only_rows_that_may_be_learnt_are_learnt() -> None:
    rows = study(learnt=range(0, 84, 2))
    spy = Spy(rows)
    leave_out(rows, spy, folds=3)
    assert len(spy.asked) > 6
    assert all(not (train % 2).any() for train, _ in spy.asked)
    assert sum(len(scored) for _, scored in spy.asked) > len(rows.judged)


def test_the_operating_point_knows_nothing_of_the_left_out_source() -> None:
    rows = study()
    loud = np.array([name == "home" for name in rows.sources])

    def score(train: I64, judged: I64) -> F64:
        return np.where(loud[judged], 100.0, Spy(rows)(train, judged))

    quiet = {name: leave_out(rows, spy).points[k] for k, name in enumerate(sorted(SIDES)) for spy in (Spy(rows),)}
    shifted = {name: leave_out(rows, score).points[k] for k, name in enumerate(sorted(SIDES))}
    assert shifted["home"] == quiet["home"]
    assert shifted["office"] != quiet["office"]


def test_a_source_without_which_one_side_is_empty_is_skipped() -> None:
    rows = study({"lab": (1,), "home": (0,), "office": (0,)})
    judged = leave_out(rows, Spy(rows))
    assert judged.skipped == {"lab": "no other source has positive flows"}
    assert {rows.sources[k] for k in judged.rows.tolist()} == {"home", "office"}
    scores = figures.scores([figures.Tables.of(rows, judged)], [judged])
    assert scores.mean.recall is None
    assert scores.mean.fpr_flow is not None
    assert scores.curve == []
    nothing = leave_out(study({"lab": (1,), "home": (0,)}), Spy(study({"lab": (1,), "home": (0,)})))
    assert (len(nothing.rows), len(nothing.skipped)) == (0, 2)


def test_one_positive_source_still_gives_a_threshold() -> None:
    rows = study({"lab": (1, 0), "home": (0,), "office": (0,)})
    held, _ = cross_fitted(rows, Spy(rows), rows.learnt, inner=3)
    assert {rows.sources[k] for k in held.tolist()} == {"lab", "home", "office"}
    assert not rows.positive[[k for k in held.tolist() if rows.sources[k] == "lab"]].any()
    alone = study({"lab": (1,), "home": (0,)})
    assert len(cross_fitted(alone, Spy(alone), alone.learnt)[0]) == len(alone.learnt)


def test_seeds_turn_inner_groups_only() -> None:
    rows = study()
    spies = [Spy(rows) for _ in range(4)]
    runs = [leave_out(rows, spy, folds=2, inner=2, seed=seed) for seed, spy in enumerate(spies)]
    assert all(np.array_equal(run.rows, runs[0].rows) for run in runs)
    outer = [[scored.tobytes() for _, scored in (spy.asked[2], spy.asked[5])] for spy in spies]
    assert all(groups == outer[0] for groups in outer)
    assert len({spy.asked[0][0].tobytes() for spy in spies}) > 1


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9])
def test_groups_share_out_both_sides(count: int) -> None:
    rows = study()
    groups = balanced_groups(rows.sources, rows.positive, count)
    assert sorted(name for group in groups for name in group) == sorted(SIDES)
    assert len(groups) == min(count, 6)
    with_positives = [sum(1 in SIDES[name] for name in group) for group in groups]
    assert max(with_positives) - min(with_positives) <= 1


def test_sides_sources_and_captures_weigh_alike() -> None:
    positive = np.array([1, 1, 1, 0, 0, 0])
    weights = learning_weights(positive, ["a", "a", "b", "c", "c", "c"], ["1", "1", "1", "1", "2", "2"])
    assert weights.tolist() == pytest.approx([0.75, 0.75, 1.5, 1.5, 0.75, 0.75])


def test_models_of_other_scales_compare() -> None:
    rows = study(each=60)
    spy = Spy(rows)
    fold = {"now": 0}

    def stretched(train: I64, judged: I64) -> F64:
        return (1.0 + fold["now"]) * spy(train, judged) + 10.0 * fold["now"]

    one = leave_out(rows, spy)
    other = leave_out(rows, stretched, step=lambda done, _: fold.update(now=done))
    assert np.allclose(one.score, other.score)
    assert np.array_equal(one.verdict, other.verdict)


def test_the_common_scale_is_that_of_negatives() -> None:
    scores, weights = np.array([1.0, 2.0, 6.0]), np.array([0.5, 0.25, 0.25])
    mean, spread = common_scale(scores, weights)
    assert mean == 2.5
    assert spread == pytest.approx(np.sqrt(0.5 * 2.25 + 0.25 * 0.25 + 0.25 * 12.25))
    assert common_scale(np.ones(3), weights) == (1.0, 1.0)


def _judged(rows: OpenRows, margin: F64, *, clear: float = -1.0) -> Judged:
    verdict = np.where(margin > 0, 1, np.where(margin <= clear, 0, -1))
    return Judged(np.arange(len(margin)), margin, verdict.astype(np.int64), ())


def _run(seed: int = 0) -> tuple[OpenRows, Judged, OpenworldScores]:
    rows = study(each=40)
    margin = np.random.default_rng(seed).normal(0, 1, len(rows.positive)) + 1.5 * rows.positive - 1.0
    judged = _judged(rows, margin)
    return rows, judged, figures.scores([figures.Tables.of(rows, judged)], [judged], n_boot=200)


def test_rows_of_sources_are_counted_the_long_way_round() -> None:
    rows, judged, scores = _run()
    table = {(row.source, row.side): row for row in scores.sources}
    assert len(table) == 7
    lab = table["lab", "benign"]
    mine = [k for k in range(len(rows.positive)) if rows.sources[k] == "lab" and rows.positive[k] == 0]
    assert (lab.flows, lab.captures, lab.hosts) == (40, 2, 4)
    assert lab.fpr_flow == pytest.approx(np.mean(judged.score[mine] > 0))
    hosts = {rows.hosts[k] for k in mine}
    hit = {rows.hosts[k] for k in mine if judged.score[k] > 0}
    assert lab.fpr_host == pytest.approx(len(hit) / len(hosts))
    assert lab.unknown == pytest.approx(np.mean((judged.score[mine] <= 0) & (judged.score[mine] > -1)))
    others = [name for name in SIDES if 1 in SIDES[name]]
    positive = {name: judged.score[[k for k, s in enumerate(rows.sources) if s == name and rows.positive[k]]] for name in others}
    assert lab.auroc == pytest.approx(np.mean([metrics.auroc(positive[name], judged.score[mine]) for name in others]))
    assert (lab.recall, table["zoo", "malicious"].fpr_flow) == (None, None)


def test_means_count_every_source_once() -> None:
    _, _, scores = _run()
    benign = [row for row in scores.sources if row.side == "benign"]
    malicious = [row for row in scores.sources if row.side == "malicious"]
    mean = scores.mean
    assert mean.fpr_flow == pytest.approx(np.mean([row.fpr_flow for row in benign]))
    assert mean.fpr_host == pytest.approx(np.mean([row.fpr_host for row in benign]))
    assert mean.recall == pytest.approx(np.mean([row.recall for row in malicious]))
    assert mean.auroc == pytest.approx(np.mean([row.auroc for row in malicious]))
    assert mean.recall is not None
    assert mean.fpr_flow is not None
    assert mean.precision_at_1pct == pytest.approx(0.01 * mean.recall / (0.01 * mean.recall + 0.99 * mean.fpr_flow))


def test_recall_at_a_rate_weighs_sources_or_flows() -> None:
    sizes = {"a": 1000, "b": 10}
    margin = np.concatenate([np.linspace(-2, -1, 1000), np.linspace(0, 1, 10), [-1.5, 0.5, 2.0]])
    sources = ["a"] * sizes["a"] + ["b"] * sizes["b"] + ["c"] * 3
    positive = np.array([0] * 1010 + [1] * 3)
    rows = OpenRows(Part([], []), positive, sources, sources, sources, np.arange(1013), np.arange(1013))
    judged = _judged(rows, margin)
    mean = figures.mean_score([figures.Tables.of(rows, judged)])
    assert mean.recall_at_fpr_01 == pytest.approx(1 / 3), "b's flows are half of the benign weight: only its top may pass"
    assert mean.recall_at_fpr_01_flows == pytest.approx(2 / 3), "b's ten flows are 1 % of all: five of them reach .5"


def test_a_perfect_and_a_blind_detector() -> None:
    rows = study()
    perfect = _judged(rows, np.where(rows.positive == 1, 2.0, -2.0))
    scores = figures.scores([figures.Tables.of(rows, perfect)], [perfect], n_boot=50)
    assert (scores.mean.auroc, scores.mean.recall, scores.mean.fpr_flow, scores.mean.recall_at_fpr_001) == (1.0, 1.0, 0.0, 1.0)
    assert scores.ci95["auroc"] == pytest.approx([1.0, 1.0])
    assert [point.recall for point in scores.curve] == [1.0] * len(figures.GRID)
    blind = _judged(rows, np.full(len(rows.positive), -0.5))
    scores = figures.scores([figures.Tables.of(rows, blind)], [blind], n_boot=50)
    assert (scores.mean.auroc, scores.mean.recall_at_fpr_01, scores.mean.unknown_benign) == (0.5, 0.0, 1.0)
    assert scores.mean.precision_at_1pct is None


def test_intervals_resample_sources_and_hold_the_mean() -> None:
    _, _, scores = _run()
    for name in ("fpr_flow", "recall", "auroc", "recall_at_fpr_01"):
        low, high = scores.ci95[name]
        assert low <= getattr(scores.mean, name) <= high
        assert low < high
    assert _run()[2] == scores


def test_the_worst_source_is_named() -> None:
    rows = study(each=120)
    margin = np.where(rows.positive == 1, 1.0, -2.0)
    margin[[k for k, name in enumerate(rows.sources) if name == "office"][:6]] = 1.0
    margin[[k for k, name in enumerate(rows.sources) if name == "den"]] = -3.0
    scores = figures.scores([figures.Tables.of(rows, _judged(rows, margin))], [], n_boot=20)
    worst = scores.worst
    assert (worst.fpr_flow, worst.fpr_flow_source, worst.fpr_flow_100_source) == (0.05, "office", "office")
    assert (worst.recall, worst.recall_source, worst.auroc_source) == (0.0, "den", "den")
    assert figures.worst_score([row for row in scores.sources if row.side == "malicious"]).fpr_flow is None


def test_gains_are_paired() -> None:
    rows, judged, _ = _run()
    ours, same = figures.Tables.of(rows, judged), figures.Tables.of(rows, judged)
    better = figures.Tables.of(rows, _judged(rows, judged.score + 2.0 * rows.positive))
    none = {gain.figure: gain for gain in figures.gains([ours], {"trees": [same]}, n_boot=100)}
    assert set(none) == set(figures.COMPARED)
    assert all(gain.difference == 0 and gain.ci95 == [0.0, 0.0] for gain in none.values())
    more = {gain.figure: gain for gain in figures.gains([better], {"trees": [same]}, n_boot=100)}
    assert more["auroc"].ci95[0] > 0
    assert more["fpr_flow"].difference == 0


def test_nothing_judged_is_refused() -> None:
    rows = study()
    empty = Judged(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), ())
    with pytest.raises(ValueError, match="no source"):
        figures.scores([figures.Tables.of(rows, empty)], [empty])


@pytest.mark.parametrize("learner", [learners.Booster(rounds=20), learners.Forest(trees=20)], ids=["lightgbm", "random_forest"])
def test_trees_learn_with_weights(learner: learners.Booster | learners.Forest) -> None:
    rng = np.random.default_rng(6)
    x = np.stack([rng.normal(0, 1, 300), np.full(300, -1.0)], axis=1)
    y = (x[:, 0] > 0).astype(np.int64)
    score = learner.fit_score(x[:200], y[:200], np.ones(200), x[200:])
    assert metrics.auroc(score[y[200:] == 1], score[y[200:] == 0]) > 0.95
    assert np.array_equal(learner.fit_score(x[:200], y[:200], np.ones(200), x[200:]), score)
    half = x[:, 0] > 1
    turned = learner.fit_score(x, np.where(half, y, 1 - y), np.where(half, 1e-6, 1.0), x)
    assert metrics.auroc(turned[y == 1], turned[y == 0]) < 0.2, "rows of little weight decide nothing"
    assert learner.fit_score(np.zeros((4, 2)), y[:4], np.ones(4), np.zeros((3, 2))).tolist() == [0.0] * 3


def test_a_learner_makes_its_numbers_once() -> None:
    rows = study()

    class Counting:
        name = "counting"
        made = 0

        def features(self, rows: Part) -> F64:
            Counting.made += 1
            return np.arange(len(rows.records), dtype=np.float64)[:, None]

        def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
            assert len(train) == len(positive) == len(weights)
            assert weights[positive == 1].sum() == pytest.approx(weights[positive == 0].sum())
            return judged[:, 0]

    judged = leave_out(rows, scoring_of(Counting(), rows), folds=2)
    assert Counting.made == 1
    assert len(judged.rows) == len(rows.positive)
