"""Splits: nothing crosses, reserved flows are only ever test, equals stay on one side."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import FlowMeta, Record
from trafficllm.records.dataset.duplicates import duplicates, sequence_hash, twins
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.dataset.splits import UNITS, groups_of, split
from trafficllm.records.probe import artefact_probe, artefacts


def _flows(rng: random.Random, captures: int = 4, flows: int = 30) -> tuple[list[FlowMeta], list[str]]:
    """Three labels; some captures serve two of them, hosts and times differ a capture."""
    meta, labels = [], []
    for label in ("a", "b", "c"):
        for k in range(captures):
            shared = k == 0
            name = "shared" if shared else f"{label}{k}"
            for n in range(flows):
                start = 1_000_000 * k + n
                meta.append(
                    FlowMeta(
                        origin=name,
                        capture=f"{label}/{name}.pcap",
                        host=f"h{rng.randrange(9)}{label}",
                        ts=start,
                        community_id=f"{name} {rng.randrange(20)}",
                        orig_h=f"x{n % 7}",
                        resp_h="y",
                    )
                )
                labels.append(label)
    return meta, labels


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_group_crosses_and_every_label_is_everywhere(unit: str, seed: int) -> None:
    meta, labels = _flows(random.Random(seed))
    result = split(meta, labels, seed=seed, unit=unit)
    parts = {part: {result.groups[i] for i in result.indices(part)} for part in ("train", "val", "test")}
    assert not parts["train"] & parts["val"]
    assert not parts["train"] & parts["test"]
    assert not parts["val"] & parts["test"]
    for part in parts:
        assert {labels[i] for i in result.indices(part)} == {"a", "b", "c"}
    assert result.groups == tuple(groups_of(meta, labels, unit))
    assert split(meta, labels, seed=seed, unit=unit) == result


def test_auto_takes_the_strictest_unit_that_leaves_enough() -> None:
    meta, labels = _flows(random.Random(0))
    assert split(meta, labels).unit == "capture"
    one, names = _flows(random.Random(0), captures=1)
    assert split(one, names).unit == "host"


def test_captures_are_tested_last_in_time() -> None:
    meta, labels = _flows(random.Random(0), captures=6)
    result = split(meta, labels, unit="capture")
    for label in ("a", "b", "c"):
        train = max(meta[i].ts for i in result.indices("train") if labels[i] == label)
        assert all(meta[i].ts > train for i in result.indices("test") if labels[i] == label)


@pytest.mark.parametrize("unit", ["auto", *UNITS])
def test_reserved_flows_are_test_or_nothing(unit: str) -> None:
    rng = random.Random(5)
    meta, labels = _flows(rng)
    held = [m.origin.endswith("3") for m in meta]
    hashes = [rng.randrange(60) for _ in meta]
    result = split(meta, labels, unit=unit, reserved=held, hashes=hashes)
    assert {side for side, h in zip(result.assignment, held, strict=True) if h} <= {"test", "dropped"}
    assert not [i for i in result.indices("test") if not held[i]]


def test_equal_contents_stay_on_one_side() -> None:
    rng = random.Random(5)
    meta, labels = _flows(rng)
    hashes = [rng.randrange(80) for _ in meta]
    result = split(meta, labels, hashes=hashes)
    sides: dict[int, set[str]] = {}
    for side, content in zip(result.assignment, hashes, strict=True):
        if side != "dropped":
            sides.setdefault(content, set()).add(side)
    assert all(len(found) == 1 for found in sides.values())
    assert sum(result.dropped.values()) == result.assignment.count("dropped") > 0


def test_a_template_class_is_learnt_and_measured() -> None:
    meta, labels = _flows(random.Random(5))
    held = [m.origin.endswith("3") for m in meta]
    hashes = [n % 4 if label == "a" else 1000 + n for n, label in enumerate(labels)]
    result = split(meta, labels, reserved=held, hashes=hashes)
    assert {labels[i] for i in result.indices("train")} == {"a", "b", "c"}
    assert "a" in {labels[i] for i in result.indices("test")}


def test_folders_that_name_parts_stand() -> None:
    meta, labels = _flows(random.Random(5))
    given = ["test" if m.origin.endswith("2") else "train" for m in meta]
    result = split(meta, labels, given=given)
    assert list(result.assignment) == given
    assert "val lacks a, b, c" in result.notes


def test_refusals() -> None:
    with pytest.raises(UsageError):
        split([FlowMeta()], ["a"], unit="packet")
    with pytest.raises(InputError):
        split([], [])


LIST = """task,label,file,part,why
T,a,T/a/x.pcap,all,why
T,a,T/a/y.pcap,last 20% of flows by start time,why
W,*,W/*.txt.gz,requests whose sha256(canonical request) mod 5 == 0,records
"""


def test_reserved_list(tmp_path: Path) -> None:
    (tmp_path / "reserved.csv").write_text(LIST)
    (tmp_path / "T").mkdir()
    held = Reserved.find(tmp_path / "T")
    assert held is not None
    assert held.mark("T/a/x.pcap", [3, 1, 2]) == [True] * 3
    assert held.mark("deep/T/a/y.pcap", [50, 10, 20, 30, 40]) == [True, False, False, False, False]
    assert held.mark("T/a/z.pcap", [1, 2]) == [False, False]
    assert held.covers_requests("W")
    held.refuse(["T/a/z.pcap"], purpose="tuning")
    with pytest.raises(InputError) as caught:
        held.refuse(["T/a/z.pcap", "/abs/T/a/x.pcap"], purpose="tuning")
    assert caught.value.input == "/abs/T/a/x.pcap"
    (tmp_path / "reserved.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError):
        Reserved.load(tmp_path / "reserved.csv")


def test_duplicates_and_their_ceiling() -> None:
    found = duplicates([1, 1, 1, 2, 3], ["a", "a", "b", "c", "c"])
    assert found == {"share": 0.6, "conflicting": 0.6, "ceiling": 0.8}


def test_twins_join_content_and_long_sequences() -> None:
    long = Record(dirs=(0, 1) * 4, sizes=(10, 20) * 4, iats=(0, *[5000] * 7))
    short = Record(dirs=(0,), sizes=(10,), iats=(0,))
    assert sequence_hash(short) is None
    assert len(set(twins([long, long, short, short], [1, 2, 3, 4]))) == 3
    assert len(set(twins([long, short, long, short], [1, 7, 7, 4]))) == 2


def test_probe_finds_a_planted_field_and_only_that() -> None:
    rng = random.Random(2)
    records, labels = [], []
    for _ in range(400):
        label = rng.choice(("mal-a", "mal-b", "ben-a", "ben-b"))
        ttl = 128 if label.startswith("mal") else 64
        size = rng.randrange(50)
        records.append(Record(proto=6, dirs=(0,), sizes=(size,), iats=(0,), flags=(2,), windows=(100,), ttls=(ttl,)))
        labels.append(label)
    scores = artefact_probe(records, labels, lambda label: label[:3], range(300), range(300, 400))
    assert scores["ttl"].umbrella == 1.0
    assert artefacts(scores, {}, classes=4) == {"ttl": 1.0}
    assert artefacts(scores, {"ttl": "a reason"}, classes=4) == {}
    malicious = [i for i in range(300, 400) if labels[i].startswith("mal")]
    lopsided = artefact_probe(records, labels, lambda label: label[:3], range(300), malicious)
    assert lopsided["flags_first" if "flags_first" in lopsided else "size_first"].umbrella != 1.0
    assert artefact_probe(records, labels, lambda label: None, range(300), range(300, 400))["ttl"].umbrella is None
    without = artefact_probe(records, labels, lambda label: label[:3], range(300), [])
    assert artefacts(without, {}, classes=4) == {"ttl": 1.0}
