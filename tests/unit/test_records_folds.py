"""Folds: groups whole, classes spread, time respected; caps nested."""

from __future__ import annotations

import random

import pytest

from trafficllm.core.errors import UsageError
from trafficllm.records.dataset.split_files import Shots, folds, shots

NONE = {"unknown": [], "few_shot": [], "cap": None}


def _groups(seed: int = 0, labels: int = 3, groups: int = 12) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    names, keys = [], []
    for label in range(labels):
        for group in range(groups):
            for _ in range(rng.randrange(1, 9)):
                names.append(f"l{label}")
                keys.append(f"l{label} {group:02d}")
    return names, keys


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_free_flow_is_tested_once_and_groups_stay_whole(seed: int) -> None:
    labels, groups = _groups(seed)
    held = [key.endswith("11") for key in groups]
    made = list(folds(labels, 4, unit="capture", groups=groups, seed=seed, reserved=held, hashes=range(len(labels))))
    assert made == list(folds(labels, 4, unit="capture", groups=groups, seed=seed, reserved=held, hashes=range(len(labels))))
    times = [sum(sides[i] == "test" for sides in made) for i in range(len(labels))]
    assert all(n == (0 if h else 1) for n, h in zip(times, held, strict=True))
    for sides in made:
        assert all(side == "dropped" for side, h in zip(sides, held, strict=True) if h)
        for key in set(groups):
            assert len({side for side, g in zip(sides, groups, strict=True) if g == key}) == 1
        for label in set(labels):
            mine = [side for side, name in zip(sides, labels, strict=True) if name == label]
            assert 0.1 < mine.count("test") / len(mine) < 0.4
            assert {"train", "val", "test"} <= set(mine)


def test_folds_in_time_learn_from_the_past_alone() -> None:
    labels, groups = _groups()
    made = list(folds(labels, 3, unit="time", groups=groups, seed=0, reserved=[False] * len(labels), hashes=range(len(labels))))
    for sides in made:
        for label in set(labels):
            learnt = [g for g, side in zip(groups, sides, strict=True) if side in ("train", "val") and g.startswith(label)]
            tested = [g for g, side in zip(groups, sides, strict=True) if side == "test" and g.startswith(label)]
            assert max(learnt) < min(tested)


def test_copies_leave_the_parts_that_are_learnt_from() -> None:
    labels, groups = _groups()
    hashes = [i % 40 for i in range(len(labels))]
    for sides in folds(labels, 3, unit="capture", groups=groups, seed=0, reserved=[False] * len(labels), hashes=hashes):
        seen: dict[int, set[str]] = {}
        for side, content in zip(sides, hashes, strict=True):
            if side != "dropped":
                seen.setdefault(content, set()).add(side)
        assert all(len(parts) == 1 for parts in seen.values())


def test_more_folds_than_groups_are_refused() -> None:
    for count in (1, 40):
        with pytest.raises(UsageError):
            list(folds(*_groups(), unit="capture") if count == 0 else _of(count))


def _of(count: int) -> list[list[str]]:
    labels, groups = _groups()
    return list(folds(labels, count, unit="capture", groups=groups, seed=0, reserved=[False] * len(labels), hashes=range(len(labels))))


def test_shots_are_nested_and_bound_validation_too() -> None:
    labels = ["a"] * 60 + ["b"] * 4
    rows = Shots(labels, [7 * i for i in range(64)], seed=3)
    sides = (["train"] * 20 + ["val"] * 20 + ["test"] * 20) + ["train", "train", "val", "test"]
    picked = {}
    for size in (1, 5, 10):
        kept, left = shots(sides, rows, {**NONE, "few_shot": [size]})
        picked[size] = {i for i, side in enumerate(kept) if side == "train"}
        assert sum(kept[i] == "val" for i in range(60)) == size
        assert kept.count("test") == 21
        assert left["few shots"] == kept.count("dropped")
    assert picked[1] < picked[5] < picked[10]
    other, _ = shots(sides, Shots(labels, rows.content, seed=4), {**NONE, "few_shot": [5]})
    assert {i for i, side in enumerate(other) if side == "train"} != picked[5]
    capped, left = shots(sides, rows, {**NONE, "cap": 5, "unknown": ["b"]})
    assert {i for i, side in enumerate(capped) if side == "train"} == picked[5] - {60, 61}
    assert left == {"cap": 15, "unknown class": 3}
