"""Whatever a plan says, its packets are valid, and a reader finds its flow again."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trafficllm.capture.check.captures import check
from trafficllm.capture.compile.dns import HEADER, is_message_size, message, synthetic_name
from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.compile.tls import repair
from trafficllm.capture.files.write import write_capture
from trafficllm.core.types import Action, FlowPlan

HELLO = bytes.fromhex("1603010100010000fc0303")
ACTIONS = st.builds(
    Action,
    op=st.sampled_from(("open", "send", "ack", "retransmit", "wait", "close", "reset", "datagram", "icmp", "?")),
    dir=st.integers(0, 1),
    size=st.one_of(st.integers(0, 2000), st.integers(-10, 80_000)),
    payload=st.one_of(st.binary(max_size=60), st.binary(max_size=90).map(lambda tail: HELLO + tail)),
    gap=st.integers(-5, 10**10),
    window=st.integers(-1, 70_000),
    ttl=st.integers(-1, 300),
    flags=st.integers(0, 255),
    icmp=st.integers(-1, 65535),
)
PLANS = st.builds(
    FlowPlan,
    proto=st.sampled_from((6, 6, 17, 1, 58, 255)),
    ip_version=st.sampled_from((4, 6, 0)),
    resp_p=st.one_of(st.sampled_from((53, 80, 443)), st.integers(-1, 70_000)),
    actions=st.lists(ACTIONS, max_size=12).map(tuple),
    orig_p=st.integers(-1, 70_000),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans=st.lists(PLANS, min_size=1, max_size=3), seed=st.integers(0, 1 << 40))
def test_every_plan_compiles_to_a_valid_capture(plans: list[FlowPlan], seed: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pcap"
        packets = write_capture(path, [compile_flows(plans, seed=seed, start=10**15, spread=1000)])
        report = check([path])
    assert report.valid, report
    assert (report.packets, report.tcp_unseen) == (packets, 0)
    assert packets >= len(plans)


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=120), size=st.integers(0, 900), response=st.booleans(), seed=st.randoms(use_true_random=False))
def test_dns_messages_have_the_size_asked_for(payload: bytes, size: int, response: bool, seed: object) -> None:
    made = message(payload, size, response, seed)  # type: ignore[arg-type]
    assert (made is not None) == is_message_size(size)
    assert made is None or len(made) == size
    assert made is None or size == HEADER or made[4:6] == b"\0\1"


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 255), first=st.integers(1, 63), seed=st.randoms(use_true_random=False))
def test_made_up_names_end_where_they_should(length: int, first: int, seed: object) -> None:
    name = synthetic_name(length, first, seed)  # type: ignore[arg-type]
    assert len(name) == (length if length != 2 else 1)
    at = 0
    while name[at]:
        at += 1 + name[at]
    assert at == len(name) - 1


@settings(max_examples=300, deadline=None)
@given(
    stream=st.binary(min_size=6, max_size=400),
    kind=st.sampled_from((20, 21, 22, 23, 24)),
    known=st.integers(6, 200),
    seed=st.randoms(use_true_random=False),
)
def test_tls_records_tile_the_stream(stream: bytes, kind: int, known: int, seed: object) -> None:
    data = bytearray(bytes((kind, 3, 3)) + stream[3:])
    repair(data, min(known, len(data)), [len(data)], seed)  # type: ignore[arg-type]
    at = 0
    while len(data) - at >= 6:
        assert 20 <= data[at] <= 23
        assert data[at + 1] == 3
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
    assert 0 <= len(data) - at < 6
