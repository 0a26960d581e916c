"""Ten kinds of leak planted one at a time into captures, built into a data set as a user would, and found; controls stay clean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import audit_captures as ac
import numpy as np
import pytest

from trafficllm.evaluate.audit import leaks
from trafficllm.evaluate.audit.leaks import Finding
from trafficllm.evaluate.audit.rows import rows_of
from trafficllm.lifecycle.datasets import new_task
from trafficllm.records.dataset import marks
from trafficllm.records.dataset.dataset import build_dataset, load

ONE_PAIR = {"client": bytes([10, 0, 0, 1]), "server": bytes([10, 0, 0, 2]), "ttl": (64, 64), "ident": 7, "isn": (1000, 5000)}


def _findings(root: Path, out: Path) -> list[Finding]:
    build_dataset(root, task=new_task("planted"), out=out)
    found, unchecked = leaks.find(rows_of(load(out)))
    assert unchecked == []
    return found


def _moved(flow: ac.Flow) -> ac.Flow:
    """The same contents and times between other hosts at another time."""
    rng = np.random.default_rng(flow.sport)
    other = ac.random_flow(rng, 0)
    return replace(flow, client=other.client, server=other.server, sport=other.sport, start=other.start, isn=other.isn)


def _talk_again(flow: ac.Flow) -> ac.Flow:
    """Another conversation of the same two hosts, a minute later."""
    rng = np.random.default_rng(flow.sport)
    other = ac.random_flow(rng, 0)
    return replace(other, client=flow.client, server=flow.server, start=flow.start + 60)


def _links(world: ac.World) -> ac.World:
    return replace(world, link={"left": 1, "right": 101})


def _snaps(world: ac.World) -> ac.World:
    return replace(world, snap={"left": 96, "right": 262144})


PLANTED: dict[str, Callable[[ac.World], ac.World]] = {
    "same_flow": lambda world: ac.copied(world, lambda flow: flow),
    "same_session": lambda world: ac.copied(world, _talk_again),
    "duplicate": lambda world: ac.copied(world, _moved),
    "address": lambda world: ac.changed(world, lambda flow, k: {"server": bytes([172, 16, 9, 1 + k + 2 * (flow.sport % 3)])}),
    "time": lambda world: ac.changed(world, lambda flow, k: {"start": flow.start + 86_400 * k}),
    "sequence": lambda world: ac.changed(world, lambda flow, k: {"isn": (flow.isn[0] // 2 + 2**31 * k, flow.isn[1])}),
    "ttl": lambda world: ac.changed(world, lambda flow, k: {"ttl": (flow.ttl[0] + 64 * k, flow.ttl[1])}),
    "link_type": _links,
    "padding": lambda world: ac.changed(world, lambda flow, k: {"padding": 6 * k}),
    "truncation": _snaps,
}


@pytest.mark.parametrize("kind", leaks.KINDS)
def test_each_planted_leak_is_the_only_finding(kind: str, tmp_path: Path) -> None:
    root = ac.write(PLANTED[kind](ac.clean()), tmp_path / "captures", second_half=kind == "same_flow")
    found = _findings(root, tmp_path / "data")
    assert [finding.kind for finding in found] == [kind], found
    assert found[0].score > (0.08 if found[0].question == "split" else 0.9)
    if found[0].question == "label":
        assert found[0].hidden is (kind != "truncation")


@pytest.mark.parametrize("kind", ["same_flow", "same_session", "duplicate"])
def test_a_leak_across_parts_that_the_user_named_is_found(kind: str, tmp_path: Path) -> None:
    root = ac.write(PLANTED[kind](ac.clean()), tmp_path / "captures", given=True, second_half=kind == "same_flow")
    found = _findings(root, tmp_path / "data")
    assert [finding.kind for finding in found] == [kind], found
    assert found[0].hidden is (kind == "duplicate")


@pytest.mark.parametrize("kind", ["address", "time", "sequence", "ttl", "link_type", "padding", "truncation"])
def test_one_capture_a_label_is_enough_to_find_a_mark(kind: str, tmp_path: Path) -> None:
    root = ac.write(PLANTED[kind](ac.clean(captures=1, flows=40)), tmp_path / "captures")
    assert kind in {finding.kind for finding in _findings(root, tmp_path / "data")}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("address", lambda flow, k: {"macs": bytes([2, 0, 0, 0, 7, k]) + flow.macs[6:]}),
        ("sequence", lambda flow, k: {"options": b"\x01\x01\x08\x0a" + (10**6 * (1 + 50 * k) + flow.sport).to_bytes(4) + bytes(4)}),
        ("sequence", lambda flow, k: {"ident": 1 if k else flow.ident}),
    ],
)
def test_marks_that_no_record_carries_are_found_too(kind: str, change: Callable[[ac.Flow, int], dict[str, object]], tmp_path: Path) -> None:
    """MAC addresses, TCP timestamps, constant IP identification."""
    found = _findings(ac.write(ac.changed(ac.clean(), change), tmp_path / "captures"), tmp_path / "data")
    assert [finding.kind for finding in found] == [kind], found


@pytest.mark.parametrize("seed", range(3))
def test_clean_captures_have_no_finding(seed: int, tmp_path: Path) -> None:
    assert _findings(ac.write(ac.clean(seed), tmp_path / "captures"), tmp_path / "data") == []


@pytest.mark.parametrize("captures", [1, 6])
def test_two_hosts_that_do_everything_are_no_finding(captures: int, tmp_path: Path) -> None:
    """The plainest control there is: one client, one server, constant marks."""
    world = ac.clean(captures=captures, flows=60 // captures, **ONE_PAIR)
    assert _findings(ac.write(world, tmp_path / "captures"), tmp_path / "data") == []


def test_a_copy_that_the_build_left_out_is_still_named(tmp_path: Path) -> None:
    root = ac.write(PLANTED["duplicate"](ac.clean()), tmp_path / "captures", given=True)
    out = tmp_path / "data"
    build_dataset(root, task=new_task("planted"), out=out)
    rows = rows_of(load(out))
    assert rows.copies > 0
    found, _ = leaks.find(replace(rows, content=range(len(rows.y))))
    assert [finding.kind for finding in found] == ["duplicate"]


def test_a_data_set_without_marks_says_what_was_not_checked(tmp_path: Path) -> None:
    root = ac.write(PLANTED["padding"](ac.clean()), tmp_path / "captures")
    build_dataset(root, task=new_task("planted"), out=tmp_path / "data")
    (tmp_path / "data" / marks.FILE).unlink()
    found, unchecked = leaks.find(rows_of(load(tmp_path / "data")))
    assert (found, unchecked) == ([], ["sequence", "padding"])
    found, unchecked = leaks.find(rows_of(load(tmp_path / "data"), root))
    assert ([f.kind for f in found], unchecked) == (["padding"], [])
