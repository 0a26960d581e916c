from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trafficllm.core import calibration as formulas
from trafficllm.core import metrics
from trafficllm.core.files import json_text
from trafficllm.core.types import Scores
from trafficllm.evaluate import calibrate, unknown

LABELS = [f"c{i}" for i in range(10)]


def _scores(n: int, seed: int, *, sharpness: float = 1.0, strangers: bool = False) -> tuple[Scores, list[str]]:
    """Ten clusters in 24 dimensions; strangers lie between them, with logits as sure as any other's."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(11, 24)) * 3
    y = rng.integers(0, 10, n)
    hidden = (centres[10] if strangers else centres[y]) + rng.normal(size=(n, 24))
    raw = rng.normal(size=(n, 10))
    raw[np.arange(n), y] += 2.5
    logits = formulas.log_softmax(raw * sharpness)
    states = hidden.astype(np.float32)
    readout = (rng.normal(size=(n, 10)) + (0 if strangers else 8) * np.eye(10)[y]).astype(np.float32)
    return Scores(tuple(LABELS), np.exp(logits), logits, states, states, readout), [LABELS[i] for i in y]


def test_temperature_finds_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    true = formulas.log_softmax(rng.normal(size=(4000, 5)) * 2)
    truth = np.array([rng.choice(5, p=np.exp(row)) for row in true])
    assert calibrate.fit_temperature(true, truth) == pytest.approx(1.0, abs=0.08)
    assert calibrate.fit_temperature(formulas.log_softmax(true * 3), truth) == pytest.approx(3.0, abs=0.25)


def test_a_temperature_moves_from_its_start_as_far_as_captures_agree() -> None:
    """Four times too sharp by all captures: it moves near the plain fit. With one capture far off and three as they should be it stays."""
    rng = np.random.default_rng(0)
    true = formulas.log_softmax(rng.normal(size=(160, 5)) * 2)
    truth = np.array([rng.choice(5, p=np.exp(row)) for row in true])
    groups = [str(k % 8) for k in range(160)]
    sharp = formulas.log_softmax(true * 4)
    plain = calibrate.fit_temperature(sharp, truth)
    assert plain * 0.8 < calibrate.temperature_near(1.0, sharp, truth, groups) < plain
    assert calibrate.temperature_near(plain, sharp, truth, groups) == plain
    assert plain < calibrate.temperature_near(20.0, sharp, truth, groups) < plain * 1.2
    odd = np.where((np.arange(160) % 4 == 0)[:, None], sharp, true)
    assert calibrate.fit_temperature(odd, truth) > 1.15
    assert calibrate.temperature_near(1.1, odd, truth, [str(k % 4) for k in range(160)]) == 1.1
    y = [f"c{k}" for k in truth]
    assert calibrate.fit(sharp, y, LABELS[:5], groups=groups, start=1.0).temperature == calibrate.temperature_near(
        1.0, sharp, truth, groups
    )
    assert calibrate.temperature_near(1.3, sharp[:0], truth[:0], []) == 1.3


def test_calibration_lowers_ece_and_keeps_the_answers() -> None:
    scores, y = _scores(600, 1, sharpness=5.0)
    params = calibrate.fit(scores.logits, y, LABELS)
    assert params.temperature > 1.7
    assert params.ece < params.ece_before / 3
    p = formulas.softmax(scores.logits / params.temperature)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-9)
    assert np.array_equal(p.argmax(axis=1), scores.logits.argmax(axis=1))


def test_without_hidden_states_a_probability_score_is_chosen() -> None:
    scores, y = _scores(200, 1)
    assert calibrate.fit(scores.logits, y, LABELS).unknown["method"] in {"max_probability", "energy"}


@pytest.mark.parametrize(
    ("states", "chosen", "found"),
    [(("hidden",), {"knn", "mahalanobis"}, 0.9), (("pooled",), {"nearest"}, 0.8), (("pooled", "readout"), {"nearest_energy"}, 0.9)],
)
def test_hidden_states_win_where_they_know_more_and_strangers_are_found(states: tuple[str, ...], chosen: set[str], found: float) -> None:
    train, val = _scores(600, 1), _scores(300, 2)
    params = calibrate.fit(val[0].logits, val[1], LABELS, train=train, **{name: getattr(val[0], name) for name in states})
    assert params.unknown["method"] in chosen
    assert params.unknown["auroc"] > 0.95
    held = json.loads(json_text(params.as_dict()))["unknown"]
    strangers, known = _scores(200, 3, strangers=True)[0], _scores(400, 4)[0]

    def alarms(s: Scores) -> float:
        values = formulas.unknown_score(held["method"], held["params"], calibrate.rows_of(s), params.temperature)
        return float((values > held["threshold"]).mean())

    assert alarms(strangers) > found
    assert alarms(known) < 0.12


@pytest.mark.parametrize("method", unknown.METHODS)
def test_each_method_scores_strangers_higher(method: str) -> None:
    scores, y = _scores(400, 1)
    rows = calibrate.rows_of(scores, y)
    fitted = unknown.fit(method, rows, val=rows)
    far = _scores(100, 2, strangers=True)[0]
    flat = Scores(tuple(LABELS), far.probabilities, np.full((100, 10), np.log(0.1)), far.hidden, far.pooled, far.readout)
    near = formulas.unknown_score(method, fitted, rows, 1.0)
    strange = formulas.unknown_score(method, fitted, calibrate.rows_of(flat), 1.0)
    assert metrics.auroc(strange, near) > 0.95


def test_fitting_is_deterministic_and_bounded() -> None:
    train, val = _scores(900, 1), _scores(100, 2)
    once = calibrate.fit(val[0].logits, val[1], LABELS, hidden=val[0].hidden, train=train, seed=3)
    again = calibrate.fit(val[0].logits, val[1], LABELS, hidden=val[0].hidden, train=train, seed=3)
    assert json_text(once.as_dict()) == json_text(again.as_dict())
    rows = calibrate.rows_of(*train)
    assert len(unknown.fit("knn", rows)["vectors"]) == unknown.BANK
    assert len(unknown.fit("typical", rows, val=rows)["vectors"]) == unknown.BANK
    assert len(unknown.fit("nearest", rows)["vectors"]) == unknown.BANK


def test_a_core_set_covers_what_a_sample_misses() -> None:
    """One crowd of 500 rows, thirty places with one row each, every row twice: 31 rows cover all but the crowd's own width."""
    rng = np.random.default_rng(0)
    places = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    crowd = places[0] + 0.01 * rng.normal(size=(500, 40))
    z = formulas.unit(np.concatenate([crowd, places[1:31]] * 2))
    taken = unknown.core_set(z, 31)
    assert (1 - (z @ z[taken].T).max(axis=1)).max() < 0.02
    sample = np.sort(rng.choice(len(z), 31, replace=False))
    assert (1 - (z @ z[sample].T).max(axis=1)).max() > 0.5
    assert len(unknown.core_set(z[500:530], 100)) == 30
    assert unknown.core_set(z[:0], 4).tolist() == []


def test_the_threshold_holds_on_captures_not_seen() -> None:
    """Twenty captures, each with a shift of its own and one with most of the flows: the plain quantile over flows knows only that one."""
    rng = np.random.default_rng(0)

    def captures(count: int) -> tuple[np.ndarray, np.ndarray]:
        of = np.repeat(np.arange(count), [400] + [20] * (count - 1))
        return rng.normal(size=count)[of] * np.where(of == 0, 0, 1.5) + rng.normal(size=len(of)), of

    plain, careful = [], []
    for _ in range(30):
        (known, of), (other, others) = captures(20), captures(20)
        for bounds, values in ((unknown.threshold(known, None), plain), (unknown.threshold(known, of), careful)):
            values.append(np.mean([(other[others == k] > bounds).mean() for k in range(1, 20)]))
    assert np.mean(plain) > 0.08
    assert np.mean(careful) < unknown.FALSE_ALARMS + 0.01
    scores, y = _scores(300, 2)
    wide = calibrate.fit(scores.logits, y, LABELS, groups=[str(k // 100) for k in range(300)])
    assert wide.unknown["threshold"] >= calibrate.fit(scores.logits, y, LABELS).unknown["threshold"] - 0.05
    few = [unknown.threshold(known, np.arange(200) % count) for known in (rng.normal(size=200),) for count in (4, 10, 100)]
    assert few[0] > few[1] > few[2]
    assert unknown.threshold(np.zeros(0), np.zeros(0, np.int64)) == float("inf")


def test_edges_few_rows_few_classes_no_train_rows() -> None:
    two = calibrate.fit(np.log([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"], ["a", "b"], hidden=np.eye(2))
    assert two.unknown["method"] == "max_probability"
    none = calibrate.fit(np.zeros((0, 2)), [], ["a", "b"])
    assert none.temperature == 1.0
    json_text(none.as_dict())
    scores, y = _scores(300, 5)
    alone = calibrate.fit(scores.logits, y, LABELS, hidden=scores.hidden)
    assert alone.unknown["method"] in unknown.METHODS
    with pytest.raises(ValueError, match="outside the task"):
        calibrate.fit(scores.logits, ["?"] * 300, LABELS)


def test_outliers_of_other_tasks_take_part_in_the_choice() -> None:
    train, val = _scores(600, 1), _scores(300, 2)
    strangers = _scores(100, 3, strangers=True)[0]
    with_them = calibrate.fit(val[0].logits, val[1], LABELS, hidden=val[0].hidden, train=train, outliers=strangers)
    without = calibrate.fit(val[0].logits, val[1], LABELS, hidden=val[0].hidden, train=train)
    assert with_them.unknown["trials"]["max_probability"] != without.unknown["trials"]["max_probability"]


def _captures(rng: np.random.Generator, count: int) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]:
    """Probabilities of two labels, the first the true one, in captures of one to nine flows that are easy or hard as a whole."""
    sizes = rng.integers(1, 10, count)
    ease = np.repeat(rng.normal(1, 2, count), sizes)
    p = 1 / (1 + np.exp(-(ease + rng.normal(0, 1, len(ease)))))
    return np.stack([p, 1 - p], axis=1), [f"c{k}" for k, size in enumerate(sizes) for _ in range(size)]


def test_sets_of_labels_hold_the_truth_of_a_new_captures_flows() -> None:
    """The mean over many draws of the share of a new capture's flows whose true label is in the set."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(400):
        p, groups = _captures(rng, 40)
        least = calibrate.least_in_set(p, np.zeros(len(p), int), groups)
        new, _ = _captures(rng, 1)
        held.append(float(np.mean(new[:, 0] >= least)))
    assert 0.88 < float(np.mean(held)) < 0.95


def test_captures_weigh_alike_and_too_few_of_them_promise_nothing() -> None:
    p = np.array([[0.9, 0.1]] * 90 + [[0.2, 0.8]] * 20)
    groups = ["easy"] * 90 + [f"hard {k}" for k in range(20)]
    truth = np.zeros(len(p), int)
    assert calibrate.least_in_set(p, truth, groups) == pytest.approx(0.2)
    assert calibrate.least_in_set(p, truth, coverage=0.8) == pytest.approx(0.9), "each flow alone: the easy ones are most"
    assert calibrate.least_in_set(p[:90], truth[:90], ["easy"] * 90) == 0.0
    assert calibrate.least_in_set(p[:0], truth[:0]) == 0.0


def test_training_captures_share_in_the_temperature_as_much_as_any() -> None:
    scores, y = _scores(300, 1, sharpness=4.0)
    groups = [f"v{k % 3}" for k in range(300)]
    cool, truth = _scores(400, 2, sharpness=0.25)
    right = metrics.indices(LABELS, truth)

    def fitted(captures: int, rows: int) -> float:
        more = calibrate.OutOfCapture(cool.logits[:rows], right[:rows], [f"t{k % captures}" for k in range(rows)])
        return calibrate.fit(scores.logits, y, LABELS, groups=groups, more=more).temperature

    alone = calibrate.fit(scores.logits, y, LABELS, groups=groups).temperature
    assert fitted(1, 400) < alone
    assert fitted(8, 400) < fitted(1, 400), "captures count, not rows"
    assert fitted(1, 400) == pytest.approx(fitted(1, 200), rel=0.15), "twice the rows of one capture count the same"


def test_the_readouts_share_moves_only_where_captures_agree() -> None:
    """The trie alone is right on one flow in four that the readout has wrong: taken where forty captures say so, not where one does, and
    not with fewer than 400 flows."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 400)
    right, wrong = np.log([0.9, 0.1]), np.log([0.1, 0.9])
    trie = np.where((truth == 0)[:, None], right, wrong)
    answer = np.where(rng.random(400) < 0.25, 1 - truth, truth)
    readout = np.where((answer == 0)[:, None], right, wrong)
    labels, y = ["a", "b"], ["ab"[k] for k in truth]
    many = [f"capture {k // 10}" for k in range(400)]
    assert calibrate.choose_weight(trie, readout, y, labels, many)[0] < 0.5
    one = ["one"] * 400
    assert calibrate.choose_weight(trie, readout, y, labels, one)[0] == calibrate.WEIGHTS[0]
    few = slice(0, 399)
    chosen, mixed = calibrate.choose_weight(trie[few], readout[few], y[few], labels, many[few])
    assert chosen == calibrate.WEIGHTS[0]
    assert mixed.shape == (399, 2)
