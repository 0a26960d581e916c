"""Shifts on the wire: packets out of real captures, changed, written, read again by the real reader, and valid where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trafficllm.capture.check.captures import check
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import InputError
from trafficllm.core.types import FlowMeta, Record
from trafficllm.evaluate.shift import wire
from trafficllm.evaluate.shift.wire_shifts import WIRE
from trafficllm.records import masks
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.flows import records_of

Rows = list[tuple[Record, FlowMeta]]


@pytest.fixture(scope="module", name="rows")
def _rows(captures: Path) -> Rows:
    folders = ("EAC/HTTP", "EAC/QUIC", "MTD/Neris", "MTD/Virut", "MTD/Skype", "MTD/Gmail")
    paths = [path for folder in folders for path in sorted((captures / folder).iterdir())[:2]]
    found = [[row for batch in read_flows([path]) for row in records_of(batch)] for path in paths]
    return [row for rows in found for row in rows[:30] if row[0].dirs]


@pytest.fixture(scope="module", name="flows")
def _flows(rows: Rows) -> list[wire.Flow]:
    return wire.flows_of("/", [meta for _, meta in rows])


def _again(flows: list[wire.Flow], name: str) -> list[Record | None]:
    return wire.read_again(wire.shifted(flows, *WIRE[name], seed=1))


def test_reading_again_gives_the_same_records(rows: Rows, flows: list[wire.Flow]) -> None:
    again = _again(flows, "read_again")
    assert len(rows) > 100
    same = [new is not None and canonical(new) == canonical(old) for (old, _), new in zip(rows, again, strict=True)]
    assert sum(same) >= len(rows) - 2, [meta for ok, (_, meta) in zip(same, rows, strict=True) if not ok]


def test_every_shift_is_read_and_does_the_same_twice(flows: list[wire.Flow]) -> None:
    few = flows[:40]
    for name in WIRE:
        first = _again(few, name)
        assert first == _again(few, name), name
        assert sum(record is None for record in first) <= 2, name


def test_what_strict_masks_hide_changes_nothing(rows: Rows, flows: list[wire.Flow]) -> None:
    for name in ("forge", "nat", "vlan"):
        pairs = [(masks.apply(old), masks.apply(new)) for (old, _), new in zip(rows, _again(flows, name), strict=True) if new]
        sizes = sum(a.sizes == b.sizes and a.flags == b.flags and a.dirs == b.dirs for a, b in pairs)
        assert sizes >= 0.97 * len(pairs) > 100, name
    forged = [new for new in _again(flows, "forge") if new]
    assert sum(new.ports != old.ports for new, (old, _) in zip(forged, rows, strict=False) if old.ports) > 100


@pytest.mark.parametrize("name", ["vlan", "gre"])
def test_wrapped_flows_have_the_records_of_unwrapped_ones(rows: Rows, flows: list[wire.Flow], name: str) -> None:
    again = [masks.apply(new) if new else None for new in _again(flows, name)]
    same = [new == (masks.apply(old) if old else None) for new, old in zip(again, _again(flows, "read_again"), strict=True)]
    assert all(same), [meta for ok, (_, meta) in zip(same, rows, strict=True) if not ok]
    assert sum(new is not None for new in again) >= len(rows) - 2 > 100


def test_shifts_do_what_they_say(rows: Rows, flows: list[wire.Flow]) -> None:
    def records(name: str) -> list[tuple[Record, Record]]:
        return [(old, new) for (old, _), new in zip(rows, _again(flows, name), strict=True) if new]

    assert {len(new.dirs) for _, new in records("first_2")} <= {1, 2}
    assert all(max(new.sizes) <= 1000 for old, new in records("mtu_1000") if old.proto == 6)
    assert {new.ip_version for old, new in records("ipv6") if old.proto in (6, 17)} == {6}
    assert [new.sizes for _, new in records("snap_96")] == [old.sizes for old, _ in records("snap_96")]
    assert sum(len(new.payload[0]) for _, new in records("snap_96")) < sum(len(old.payload[0]) for old, _ in records("snap_96"))
    assert sum(len(new.dirs) for _, new in records("packet_loss_5")) < sum(len(old.dirs) for old, _ in rows)
    assert any(new.iats != old.iats and new.sizes == old.sizes for old, new in records("delay_jitter"))


@pytest.mark.parametrize("name", ["ipv6", "nat", "mtu_1000", "forge", "vlan", "gre"])
def test_changed_packets_are_valid(flows: list[wire.Flow], name: str, tmp_path: Path) -> None:
    """Where the captured packets were right, the shifted ones are: lengths and checksums."""

    def problems(shift: str) -> tuple[int, int, int]:
        frames = [frame for flow in wire.shifted(flows, *WIRE[shift]) for frame in flow]
        write_capture(tmp_path / f"{shift}.pcapng", [wire.batch_of(frames)], format="pcapng")
        found = check([tmp_path / f"{shift}.pcapng"])
        assert found.packets >= len(frames) > 500
        return found.bad_checksums, found.bad_lengths, sum(found.malformed.values())

    before, after = problems("read_again"), problems(name)
    assert all(b <= a for a, b in zip(before, after, strict=True)), (before, after)


def test_the_captures_must_be_those(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such capture"):
        wire.flows_of(tmp_path, [FlowMeta(capture="gone.pcap", frames=(1,))])
    assert wire.flows_of("/", [FlowMeta()][:0]) == []
    assert wire.read_again([[], []]) == [None, None]
    assert np.array_equal(wire.batch_of([(b"ab", 2, 1, 5)]).caplen, [2])
