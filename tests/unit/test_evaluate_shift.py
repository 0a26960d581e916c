from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from evaluate_samples import LABELS, part

from trafficllm.core.types import Facts, Record, Scores, Span
from trafficllm.evaluate.shift import records as shift
from trafficllm.evaluate.shift import robust
from trafficllm.records import masks
from trafficllm.records.codec.codec import encode

RAW = part(40, 5).raw
EVERY_KIND = [
    Record(),
    Record(kind="http", text="GET /a?b=1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    Record(kind="cells", dirs=(0, 1, 1), iats=(0, 5, 5)),
    Record(kind="packet", proto=17, dirs=(0,), sizes=(40,), iats=(0,), payload=(b"\xff" * 40, b"")),
    masks.apply(RAW[0]),
]


def _total(record: Record) -> int:
    return sum(record.sizes)


def test_every_shift_is_deterministic_and_encodable() -> None:
    for name, change in shift.perturbations(3).items():
        again = shift.perturbations(3)[name]
        for record in [*RAW, *EVERY_KIND]:
            shifted = change(record)
            assert shifted == again(record), name
            encode(masks.apply(shifted))
            lengths = {len(getattr(shifted, c)) for c in ("dirs", "sizes", "iats", "flags", "windows", "ttls")}
            assert len(lengths - {0}) <= 1, name


def test_a_cell_sequence_stays_as_long_as_it_is() -> None:
    many = Record(kind="cells", dirs=(0, 1, 1, 1) * 500, iats=(0, *[1_000_000] * 1999))
    found = {name: change(many) for name, change in shift.perturbations(0).items()}
    assert 1800 < len(found["packet_loss_5"].dirs) < 1980
    assert len(found["field_dropout_15"].dirs) == len(found["reordering_5"].dirs) == 2000
    assert sum(a != b for a, b in zip(found["reordering_5"].dirs, many.dirs, strict=True)) in range(20, 300)
    assert sum(found["reordering_5"].dirs) == sum(many.dirs)
    assert len(found["first_4"].dirs) == 4
    assert found["mtu_1000"] == found["gre"] == many
    assert {record.sizes for record in found.values()} == {()}


def test_a_shift_does_not_depend_on_the_place_in_a_list() -> None:
    change = shift.field_dropout(0.15, 1)
    assert [change(r) for r in RAW] == list(reversed([change(r) for r in reversed(RAW)]))
    assert change(RAW[0]) != shift.field_dropout(0.15, 2)(RAW[0])


def test_forging_changes_identifiers_and_nothing_that_strict_shows() -> None:
    for raw in RAW:
        forged = shift.forge(0)(raw)
        assert forged.ports != raw.ports
        assert forged.ttls != raw.ttls
        assert forged.payload[0][10:20] != raw.payload[0][10:20]
        assert forged.payload[0][:10] == raw.payload[0][:10]
        assert encode(masks.apply(forged)) == encode(masks.apply(raw))
        assert encode(masks.apply(forged, "raw")) != encode(masks.apply(raw, "raw"))


def test_random_payload_touches_encrypted_bytes_only() -> None:
    raw = RAW[0]
    changed = shift.random_payload()(raw)
    assert changed.payload[0] == raw.payload[0]
    assert changed.payload[1][:5] == raw.payload[1][:5]
    assert changed.payload[1][5:30] != raw.payload[1][5:30]
    assert len(changed.payload[1]) == len(raw.payload[1])
    assert shift.random_payload(everything=True)(raw).facts == Facts()


def test_first_packets_keep_their_payload_only() -> None:
    record = Record(
        proto=6,
        ports=(50000, 9999),
        dirs=(0, 1, 0),
        sizes=(4, 3, 2),
        iats=(0, 10, 20),
        flags=(24, 24, 24),
        windows=(9, 9, 9),
        ttls=(64, 64, 64),
        payload=(b"abcdef", b"xyz"),
    )
    one = shift.first_packets(1)(record)
    assert (one.dirs, one.sizes, one.payload) == ((0,), (4,), (b"abcd", b""))
    assert shift.first_packets(8)(record) == record


def test_loss_leaves_holes_and_moves_gaps() -> None:
    record = dataclasses.replace(RAW[0], iats=tuple(range(len(RAW[0].dirs))))
    lossy = shift.packet_loss(0.5, 0)(record)
    assert 0 < len(lossy.dirs) < len(record.dirs)
    assert len(lossy.payload[0]) <= len(record.payload[0])
    assert shift.packet_loss(1.0, 0)(record).dirs == record.dirs[:1]


def test_mtu_keeps_bytes_and_reordering_keeps_packets() -> None:
    record = dataclasses.replace(RAW[0], dirs=RAW[0].dirs[:6], sizes=(0, 2500, 10, 999, 1000, 1001))
    split = shift.mtu(1000)(record)
    assert split.sizes == (0, 1000, 1000, 500, 10, 999, 1000, 1000, 1)
    assert _total(split) == _total(record)
    assert sorted(shift.reordering(0.9, 0)(RAW[0]).sizes) == sorted(RAW[0].sizes)
    assert shift.reordering(0.9, 0)(RAW[0]).iats == RAW[0].iats
    assert len(shift.mtu(10)(RAW[0]).dirs) <= shift.MOST_PACKETS


def test_snap_length_ends_the_payload_at_the_first_packet_that_does_not_fit() -> None:
    record = Record(proto=6, dirs=(0, 0), sizes=(100, 50), iats=(0, 1), payload=(b"a" * 150, b""), ports=(50000, 9999))
    assert len(shift.snap_length(96)(record).payload[0]) == 42
    assert len(shift.snap_length(65535)(record).payload[0]) == 150
    udp = dataclasses.replace(record, proto=17, sizes=(40, 110))
    assert len(shift.snap_length(96)(udp).payload[0]) == 94


def test_dropout_hides_about_its_share() -> None:
    gone = [size < 0 for r in RAW for size in shift.field_dropout(0.15, 0)(r).sizes]
    assert 0.08 < np.mean(gone) < 0.22
    assert shift.field_dropout(0.0, 0)(RAW[0]) == RAW[0]


def test_payload_addresses_stay_hidden_when_payload_is_cut() -> None:
    facts = Facts(spans=(Span(0, 2, 6, "address"),))
    record = Record(
        proto=17, ports=(50000, 9999), dirs=(0, 0), sizes=(10, 10), iats=(0, 1), payload=(b"ab\x0a\0\0\1" + b"c" * 14, b""), facts=facts
    )
    cut = shift.first_packets(1)(record)
    assert len(cut.payload[0]) == 10
    assert any(s.kind == "address" for s in cut.facts.spans)


class _ByPort:
    """A scorer that relies on the responder's exact TTL: what a forge test must catch."""

    labels = LABELS

    def score(self, records: list[Record]) -> Scores:
        p = np.eye(3)[[r.ttls[0] % 3 if r.ttls else 0 for r in records]]
        return Scores(LABELS, p, np.log(p + 1e-9))


@pytest.mark.parametrize(("profile", "relies"), [("raw", True), ("strict", False)])
def test_the_forge_test_catches_a_scorer_that_relies_on_identifiers(profile: str, relies: bool) -> None:
    raw = [dataclasses.replace(r, ttls=(60 + i % 3,) * len(r.dirs)) for i, r in enumerate(RAW)]
    y = [LABELS[i % 3] for i in range(len(raw))]
    bench = robust.Bench(raw, y, LABELS, lambda r: masks.apply(r, profile))
    result = robust.forge_test(bench, _ByPort())  # type: ignore[arg-type]
    assert result.relies_on_identifiers is relies
    assert (result.before == 1.0) is relies


def test_robustness_table_has_every_shift_for_every_scorer() -> None:
    bench = robust.Bench(RAW, [LABELS[i % 3] for i in range(len(RAW))], LABELS, masks.apply)

    def named(records: Sequence[Record]) -> list[str]:
        return [LABELS[k] for k in _ByPort().score(list(records)).probabilities.argmax(axis=1)]

    study = robust.ShiftStudy(bench, [str(i % 4) for i in range(len(RAW))], {"a": named, "b": lambda rows: [LABELS[0]] * len(rows)})
    table = robust.under_shifts(study, robust.variants(RAW), n_boot=20)
    rows = {row.name: row for row in table.perturbations}
    assert list(rows) == ["none", *shift.perturbations(), "random_all_payload"]
    assert rows["vlan"].changed == rows["none"].changed == 0
    assert rows["field_dropout_15"].changed > 0.9
    assert table.mean_loss["b"] == 0
    gone = robust.Variant("gone", "wire", [None] * len(RAW))
    lost = robust.under_shifts(study, [gone], n_boot=20).perturbations[1]
    assert (lost.lost, lost.macro_f1["b"]) == (len(RAW), 0.0), "what the reader loses is wrong"
    assert robust.payload_test(bench, _ByPort()).delta == 0.0  # type: ignore[arg-type]
