"""Record -> plan -> frames -> record: what a reader sees is what the record said."""

from __future__ import annotations

from pathlib import Path

import pytest
from generation_checks import record_of_plan

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import Action, FlowPlan, Record, Span
from trafficllm.records import masks
from trafficllm.records.codec import codec
from trafficllm.records.codec.flows import records_of
from trafficllm.records.codec.plan import plan_of

MTU_PAYLOAD = 1440


def _seen(tmp_path: Path, plan: FlowPlan) -> Record:
    write_capture(tmp_path / "x.pcap", [compile_flows([plan], seed=1, start=10**18, spread=0)])
    (found,) = [record for batch in read_flows([tmp_path / "x.pcap"]) for record, _ in records_of(batch)]
    return found


def _same_packets(one: Record, other: Record) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("proto", "ip_version", "dirs", "sizes", "iats", "flags"))


def test_real_flows_come_back_packet_by_packet(tmp_path: Path, captures: Path) -> None:
    compared = equal = 0
    for file in sorted(captures.rglob("*.pcap"))[::6]:
        records = [record for batch in read_flows([file]) for record, _ in records_of(batch)][:3]
        for record in records:
            if max(record.sizes) > MTU_PAYLOAD or record.proto not in {6, 17}:
                continue
            told = codec.decode(codec.encode(masks.apply(record)))
            back = codec.canonical(masks.apply(_seen(tmp_path, plan_of(told, label="x"))))
            assert back.port_class == told.port_class, file.name
            equal += _same_packets(told, back)
            compared += 1
    assert compared >= 10
    assert equal >= 0.95 * compared  # a FIN repeated together with older data is repeated alone


def test_hidden_bytes_are_made_up_by_the_seed() -> None:
    payload = bytes.fromhex("1603010200010001fc0303") + bytes(32) + b"\x20" + bytes(32)
    record = Record(
        proto=6,
        ip_version=4,
        dirs=(0,),
        sizes=(517,),
        iats=(0,),
        flags=(24,),
        payload=(payload, b""),
        hidden=(Span(0, 11, 43, "hidden"), Span(0, 44, 76, "hidden")),
    )
    one, again, other = (plan_of(record, label="x", seed=seed).actions[0].payload for seed in (1, 1, 2))
    assert one == again != other
    assert one[:11] == payload[:11]
    assert one[43] == 32
    assert one[11:43] != bytes(32)
    assert one[44:76] != bytes(32)


def test_a_run_known_to_its_bucket_takes_the_length_told_before_it() -> None:
    payload = b"\x00\x13" + bytes(16) + b"\xff"  # 19 bytes of name, written as a run of 16
    record = Record(proto=17, ip_version=4, dirs=(0,), sizes=(40,), iats=(0,), payload=(payload, b""), hidden=(Span(0, 2, 18, "hidden"),))
    shown = plan_of(record, label="x").actions[0].payload
    assert len(shown) == 22
    assert shown[-1] == 255


@pytest.mark.parametrize(
    ("record", "ports"),
    [
        (Record(proto=6, ports=(50000, 8443), dirs=(0,), sizes=(5,), iats=(0,), flags=(16,)), (50000, 8443)),
        (Record(proto=6, port_class="ew", dirs=(0,), sizes=(5,), iats=(0,), flags=(16,)), (-1, 1012)),
        (Record(proto=6, dirs=(), sizes=()), (-1, 8989)),
    ],
)
def test_ports_as_shown_or_neutral(record: Record, ports: tuple[int, int]) -> None:
    plan = plan_of(record, label="x")
    assert (plan.orig_p, plan.resp_p) == ports


def test_unknown_values_fall_to_defaults() -> None:
    plan = plan_of(Record(proto=-1, ip_version=0, dirs=(0, 1), sizes=(-1, 30), iats=(-1, -1), flags=(-1, -1)), label="x")
    assert (plan.proto, plan.ip_version) == (6, 4)
    assert [(action.op, action.dir, action.size) for action in plan.actions] == [("ack", 0, 0), ("send", 1, 30)]


def test_flags_become_operations_and_back() -> None:
    flags = (2, 18, 16, 24, 17, 17, 20)
    record = Record(
        proto=6,
        ip_version=4,
        dirs=(0, 1, 0, 0, 1, 0, 0),
        sizes=(0, 0, 0, 9, 0, 0, 0),
        iats=(0, 5, 5, 5, 5, 5, 5),
        flags=flags,
        windows=(-1,) * 7,
        ttls=(-1,) * 7,
        payload=(b"123456789", b""),
    )
    plan = plan_of(record, label="x")
    assert [action.op for action in plan.actions] == ["open", "open", "ack", "send", "close", "close", "reset"]
    back = record_of_plan(plan)
    assert (back.dirs, back.sizes, back.flags, back.iats, back.payload) == (record.dirs, record.sizes, flags, record.iats, record.payload)


def test_waits_add_to_the_next_gap() -> None:
    plan = FlowPlan(17, 4, 53, (Action("datagram", size=20), Action("wait", gap=7), Action("datagram", 1, 40, gap=3)))
    assert record_of_plan(plan).iats == (0, 10)
