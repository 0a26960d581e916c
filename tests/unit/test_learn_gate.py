"""The gate of an update: what is promoted, what is refused, and what the records cannot tell."""

from __future__ import annotations

import pytest

from trafficllm.core.errors import GateError
from trafficllm.lifecycle.adapters.gate import Answers, Side, Wanted, compare, decide, raise_if_refused, wanted
from trafficllm.lifecycle.adapters.results import AdapterUpdate

LABELS = ("a", "b", "c")
BETTER = Side(0.5, 0.9, 0.2, 0.6, 6, 40)
SAME = Side(0.9, 0.9, 0.0, 0.0, 6, 40)


def answers(groups: int, wrong_before: int, wrong_after: int, each: int = 10) -> Answers:
    """Groups of `each` rows; the first rows of every group are answered wrongly."""
    truth = [LABELS[k % 3] for _ in range(groups) for k in range(each)]
    places = [k for _ in range(groups) for k in range(each)]

    def given(wrong: int) -> list[str]:
        return [LABELS[(LABELS.index(label) + 1) % 3] if k < wrong else label for label, k in zip(truth, places, strict=True)]

    owners = [f"g{g}" for g in range(groups) for _ in range(each)]
    return Answers(truth, given(wrong_before), given(wrong_after), owners)


def test_equal_answers_have_tight_bounds() -> None:
    side = compare(LABELS, answers(5, 2, 2))
    assert (side.gain, side.lower, side.upper, side.groups, side.records) == (0.0, 0.0, 0.0, 5, 50)
    assert set(side.row().as_dict()) >= {"before", "after", "lower"}


def test_a_loss_in_every_group_is_a_loss() -> None:
    side = compare(LABELS, answers(6, 0, 2))
    assert side.before == 1.0
    assert side.lower <= side.gain <= side.upper < -0.1
    assert decide(side, BETTER) == ("rejected", decide(side, BETTER)[1])
    assert "forgets" in decide(side, BETTER)[1]


def test_bounds_are_those_of_the_rows_turned_round() -> None:
    there, back = compare(LABELS, answers(6, 1, 3)), compare(LABELS, answers(6, 3, 1))
    assert there.upper == pytest.approx(-back.lower)
    assert there.gain == pytest.approx(-back.gain)


def test_one_group_says_nothing() -> None:
    side = compare(LABELS, answers(1, 0, 0))
    assert (side.lower, side.upper) == (-1.0, 1.0)
    status, why = decide(side, BETTER)
    assert status == "candidate"
    assert "too few old records" in why


def test_no_rows_say_nothing() -> None:
    empty = compare(LABELS, Answers([], [], [], []))
    assert decide(empty, BETTER)[0] == "candidate"
    assert decide(SAME, empty)[0] == "candidate"


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (SAME, BETTER, "live"),
        (Side(0.9, 0.895, -0.0099, 0.0, 9, 90), BETTER, "live"),
        (Side(0.9, 0.895, -0.011, 0.01, 9, 90), BETTER, "candidate"),
        (Side(0.9, 0.95, -0.02, 0.1, 9, 90), BETTER, "candidate"),
        (Side(0.9, 0.85, -0.15, 0.05, 9, 90), BETTER, "rejected"),
        (Side(0.9, 0.85, -0.15, 0.05, 3, 9), BETTER, "candidate"),
        (Side(0.9, 0.5, -0.5, -0.2, 3, 9), BETTER, "rejected"),
        (SAME, SAME, "candidate"),
        (SAME, Side(0.9, 0.8, -0.2, 0.0, 6, 40), "rejected"),
        (SAME, Side(0.0, 1.0, 1.0, 1.0, 2, 9), "candidate"),
    ],
)
def test_decisions(old: Side, new: Side, status: str) -> None:
    found, why = decide(old, new)
    assert found == status
    assert "data" in why


def test_a_refusal_is_an_error_of_its_own() -> None:
    refused = AdapterUpdate.model_construct(status="rejected", parent="v0001", version="v0002", task="EAC", why="it forgets")
    with pytest.raises(GateError, match="v0001 stays live") as caught:
        raise_if_refused(refused)
    assert caught.value.exit_code == 5
    raise_if_refused(refused.model_copy(update={"status": "candidate"}))


def test_a_refusal_names_the_label_that_lost_most() -> None:
    truth = ["a", "b", "c"] * 12
    after = ["c" if label == "b" else label for label in truth]
    side = compare(LABELS, Answers(truth, truth, after, [str(k // 6) for k in range(len(truth))]))
    assert side.worst == "b 1.000 -> 0.000"
    assert "most of all b 1.000 -> 0.000" in decide(side, BETTER)[1]
    assert compare(LABELS, Answers(truth, truth, truth, truth)).worst == ""


@pytest.mark.parametrize(
    ("old", "new", "captures", "want"),
    [
        (SAME, BETTER, {"a": 3, "b": 4}, Wanted(0, 0)),
        (SAME, BETTER, {"a": 1, "b": 4}, Wanted(2, 0)),
        (SAME, Side(0.5, 0.6, -1.0, 1.0, 1, 4), {"a": 3, "b": 2}, Wanted(8, 0)),
        (SAME, Side(0.0, 0.0, -1.0, 1.0, 0, 0), {"a": 3}, Wanted(30, 0)),
        (Side(0.9, 0.9, -0.02, 0.02, 10, 90), BETTER, {"a": 3}, Wanted(0, 30)),
        (Side(0.9, 0.8, -0.2, 0.02, 2, 90), BETTER, {"a": 3}, Wanted(0, 3)),
        (Side(0.9, 0.8, -0.2, -0.02, 9, 90), BETTER, {"a": 3}, Wanted(0, 0)),
    ],
)
def test_captures_that_are_wanted(old: Side, new: Side, captures: dict[str, int], want: Wanted) -> None:
    assert wanted(old, new, captures) == want


def test_wanted_captures_are_a_sentence() -> None:
    assert str(Wanted(8, 0)) == "; wanted: about 8 more new captures"
    assert str(Wanted(2, 3)) == "; wanted: about 2 more new captures and about 3 more old captures"
    assert str(Wanted(0, 0)) == ""
