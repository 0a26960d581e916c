"""The cascade: what the first stage may answer, what it answers, and that the rest is the second's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record, Scores
from trafficllm.evaluate import cascade as fitting
from trafficllm.lifecycle.studies.cascade import Cascade, together


class Fixed:
    """Always the same probabilities, by the record's first size."""

    def __init__(self, labels: tuple[str, ...], rows: Sequence[Sequence[float]]) -> None:
        self.labels, self.rows = labels, rows
        self.asked = 0

    def score(self, records: Sequence[Record]) -> Scores:
        self.asked += len(records)
        p = np.array([self.rows[record.sizes[0]] for record in records]).reshape(len(records), len(self.labels))
        return Scores(self.labels, p, np.log(p))


def flow(k: int) -> Record:
    return Record(proto=6, ip_version=4, dirs=(0,), sizes=(k,))


def test_the_second_stage_sees_only_what_the_first_is_unsure_of() -> None:
    first = Fixed(("a", "b"), [[0.99, 0.01], [0.6, 0.4], [0.02, 0.98]])
    second = Fixed(("a", "b"), [[0.1, 0.9]] * 3)
    scores = Cascade(first, second, 0.95).score([flow(0), flow(1), flow(2)])
    assert second.asked == 1
    assert scores.probabilities.argmax(axis=1).tolist() == [0, 1, 1]
    assert scores.probabilities[1].tolist() == [0.1, 0.9]
    assert np.allclose(scores.probabilities.sum(axis=1), 1)


def test_an_infinite_threshold_leaves_all_to_the_second_stage() -> None:
    first, second = Fixed(("a", "b"), [[1.0, 1e-9]]), Fixed(("a", "b"), [[0.2, 0.8]])
    assert Cascade(first, second, float("inf")).score([flow(0)]).probabilities.tolist() == [[0.2, 0.8]]
    assert Cascade(first, second, 0.5).score([]).probabilities.shape == (0, 2)


def test_stages_of_different_labels_are_refused() -> None:
    with pytest.raises(InputError, match="different labels"):
        Cascade(Fixed(("a", "b"), []), Fixed(("b", "a"), []), 0.5)


def test_the_threshold_keeps_the_bound_and_counts_equal_contents_once() -> None:
    confidence = np.linspace(0.999, 0.5, 400)
    right = [k < 250 for k in range(400)]
    found = fitting.fit(confidence, right, range(400))
    assert found.bound <= fitting.ERROR < fitting.upper(5, 255)
    assert found.threshold <= confidence[249]
    assert found.error <= 0.02
    assert 0.62 <= found.share <= 0.65
    # The same rows as one content seen 400 times prove nothing.
    assert fitting.fit(confidence, [True] * 400, [7] * 400).threshold == float("inf")


def test_rows_that_are_equally_sure_stand_or_fall_together() -> None:
    confidence = np.array([0.9] * 200)
    right = [True] * 180 + [False] * 20
    assert fitting.fit(confidence, right, range(200)).threshold == float("inf")
    assert fitting.fit(confidence, [True] * 200, range(200)).threshold == 0.9


def test_speed_of_both_stages_together() -> None:
    assert together(1000.0, 200.0, 0.5) == pytest.approx(1 / (1 / 1000 + 0.5 / 200))
