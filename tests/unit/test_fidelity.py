"""Fidelity: zero for equals, large for strangers, and the baselines are what they say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record
from trafficllm.evaluate.fidelity import compare
from trafficllm.evaluate.fidelity.compare import copy_share, discriminator_f1, nearest
from trafficllm.evaluate.fidelity.fields import emd, jsd
from trafficllm.evaluate.fidelity.floors import floors
from trafficllm.evaluate.fidelity.samplers import bayes, independent, resample


def _flow(rng: random.Random, base: int) -> Record:
    """A little request and answer protocol: sizes depend on direction and on each other."""
    size = base + rng.randrange(200)
    count = rng.randrange(2, 6)
    dirs = tuple(i % 2 for i in range(count))
    return Record(
        proto=6,
        ip_version=4,
        port_class="ew",
        dirs=dirs,
        sizes=tuple(3 * size if d else size for d in dirs),
        iats=(0, *(rng.randrange(1000, 10**6) for _ in range(count - 1))),
        flags=(24,) * count,
        windows=(65535,) * count,
        ttls=(-1,) * count,
        payload=(bytes((base & 255, rng.randrange(256))), b""),
    )


def _flows(count: int, seed: int, base: int = 50) -> list[Record]:
    rng = random.Random(seed)
    return [_flow(rng, base) for _ in range(count)]


def fidelity(real: list[Record], synthetic: list[Record], **more: Any) -> dict[str, Any]:
    return compare.fidelity(real, synthetic, **more).as_dict()


def test_divergence_and_distance_by_hand() -> None:
    assert jsd({"a": 1, "b": 1}, {"a": 2, "b": 2}) == pytest.approx(0.0, abs=1e-12)
    assert jsd({"a": 1}, {"a": 1, "b": 1}) == pytest.approx(0.311278, abs=1e-6)
    assert jsd({}, {"a": 1}) == 1.0
    assert emd([0, 0], [3]) == 3.0
    assert emd([1, 2, 3], [3, 2, 1]) == 0.0


def test_more_of_the_same_is_at_the_floor_and_a_stranger_is_not() -> None:
    real, train = _flows(120, 1), _flows(120, 2)
    same = fidelity(real, _flows(120, 3), train=train)
    strange = fidelity(real, _flows(120, 4, base=700), train=train)
    assert set(same["fields"]["length"]) == {"jsd", "floor", "independent", "bayes", "resample"}
    assert same["mean_jsd"] <= 1.5 * same["mean_floor"]
    assert strange["fields"]["length"]["jsd"] > 5 * strange["fields"]["length"]["floor"]
    assert same["discriminator_f1"] < 0.65 < 0.95 < strange["discriminator_f1"]
    assert same["emd"]["size"]["emd"] < 0.3 < 1 < strange["emd"]["size"]["emd"]
    assert (same["tstr"], same["trts"], same["trtr"]) == (None, None, None)
    assert set(same) >= {"fields", "tstr", "trts", "trtr", "discriminator_f1", "copies"}
    assert "ttl" not in same["fields"]  # masked everywhere: nothing to compare


def test_independent_fields_lose_what_the_network_keeps() -> None:
    real, train = _flows(150, 1), _flows(150, 2)
    row = fidelity(real, resample(train, 150, 0), train=train)["fields"]["length"]
    assert row["jsd"] < 2 * row["floor"]
    assert row["bayes"] < row["independent"]
    assert row["resample"] < row["independent"]


def test_cross_scores_of_two_classes() -> None:
    labels = ["small"] * 60 + ["big"] * 60
    sets = [[*_flows(60, seed), *_flows(60, seed + 1, base=600)] for seed in (10, 20, 30)]
    good = fidelity(sets[0], sets[1], train=sets[2], real_labels=labels, synthetic_labels=labels, train_labels=labels)
    assert min(good["tstr"], good["trts"], good["trtr"]) > 0.95
    swapped = fidelity(sets[0], sets[1], train=sets[2], real_labels=labels, synthetic_labels=labels[::-1], train_labels=labels)
    assert swapped["tstr"] < 0.1 < 0.95 < swapped["trtr"]


def test_copies_and_neighbours() -> None:
    train = _flows(50, 1)
    assert copy_share(train, train) == 1.0
    assert copy_share(_flows(50, 99, base=900), train) == 0.0
    assert nearest(train, train) == pytest.approx(0.0, abs=1e-6)
    assert nearest(_flows(20, 5, base=900), train) > nearest(_flows(20, 6), train)


def test_copies_are_not_told_apart_by_being_copies() -> None:
    real = _flows(60, 1)
    assert discriminator_f1(real, resample(real, 60, 1)) < 0.7


def test_samplers_are_deterministic_and_of_the_size_asked() -> None:
    train = _flows(30, 1)
    for sampler in (independent, bayes, resample):
        assert len(sampler(train, 17, 5)) == 17
        assert sampler(train, 17, 5) == sampler(train, 17, 5) != sampler(train, 17, 6)
    assert {len(record.dirs) for record in bayes(train, 50, 0)} <= {2, 3, 4, 5}


def test_without_training_flows_half_of_the_real_ones_stand_in() -> None:
    report = fidelity(_flows(80, 1), _flows(40, 2))
    assert report["n"] == {"real": 40, "synthetic": 40, "train": 40, "compared": 20}


def test_too_few_flows_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        fidelity(_flows(3, 1), _flows(40, 2))


def test_both_floors_tell_one_capture_from_two() -> None:
    captures = {"one": _flows(60, 1), "same": _flows(60, 2), "other": _flows(60, 3, base=700)}
    alike = floors({"one": captures["one"]}, {"same": captures["same"]}, _flows(60, 4), most=20)
    apart = floors({"one": captures["one"]}, {"other": captures["other"]}, _flows(60, 4, base=700), most=20)
    assert alike is not None
    assert apart is not None
    assert alike.between is not None
    assert alike.generated is not None
    assert alike.within == pytest.approx(alike.between, rel=0.3) == pytest.approx(alike.generated, rel=0.3)
    assert apart.between is not None
    assert apart.generated is not None
    assert apart.between > 1.5 * apart.within
    assert apart.generated > 1.5 * apart.within, "generated flows are held against held-out captures alone"
    assert (apart.captures, apart.compared) == (2, 20)
    assert floors({"one": captures["one"]}, {"other": captures["other"]}, _flows(60, 4, base=700), most=20) == apart


def test_floors_where_captures_are_few_or_small() -> None:
    alone = floors({"one": _flows(60, 1)}, {}, _flows(5, 2), most=100)
    assert alone is not None
    assert (alone.between, alone.generated, alone.captures, alone.compared) == (None, None, 1, 30)
    small = floors({"one": _flows(9, 1)}, {"two": _flows(60, 2)}, _flows(60, 3), most=100)
    assert small is not None
    assert (small.captures, small.compared) == (2, 4)
    assert floors({"one": _flows(7, 1)}, {}, _flows(60, 2), most=100) is None
