"""What a task has learnt by kind of flow, and which kinds it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_samples import ethernet, ipv4, pcap, udp
from records_samples import malware

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Facts, FlowMeta, Record
from trafficllm.records.catalog import get_task
from trafficllm.records.codec.flows import CHORES, housekeeping
from trafficllm.records.coverage import CHORE_KINDS, LEAST_FLOWS, LEAST_SOURCES, Coverage, Learnt, background_rows, kind_of
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.records.sources.background import read_background


def _flow(port: int, proto: int = 17, service: str = "") -> Record:
    return Record(proto=proto, ports=(49152, port), facts=Facts(service))


DNS, NTP, TLS, QUIC = _flow(53), _flow(123), _flow(443, 6), _flow(443, service="quic")


@pytest.mark.parametrize(
    ("record", "resp_h", "kind"),
    [
        (DNS, "", "dns"), (_flow(53, 6), "", "dns"), (NTP, "", "ntp"), (_flow(5353), "224.0.0.251", "mdns"), (_flow(3702), "", "wsd"),
        (Record(proto=58, icmp=135 << 8), "", "nd"), (Record(proto=58, icmp=128 << 8), "", "icmp6"),
        (Record(proto=1, icmp=8 << 8), "", "icmp"),
        (Record(proto=2), "224.0.0.22", "igmp"), (TLS, "", "tcp"), (QUIC, "", "quic"), (_flow(9999), "10.0.0.4", "udp"),
        (_flow(9999), "10.0.0.255", "broadcast"), (_flow(9999), "ff02::1", "broadcast"), (_flow(9999), "no address", "udp"),
        (Record(proto=47), "", "ip"), (Record(kind="http", text="GET / HTTP/1.1"), "", ""), (Record(kind="cells"), "", ""),
    ],
)  # fmt: skip
def test_kinds_of_flows(record: Record, resp_h: str, kind: str) -> None:
    assert kind_of(record, resp_h) == kind


def test_what_a_build_calls_housekeeping_is_a_kind_of_the_same_name() -> None:
    samples = [_flow(port) for port in (53, 67, 123, 137, 1900, 5353, 5355)] + [Record(proto=58, icmp=133 << 8), Record(proto=2)]
    assert {housekeeping(record) for record in samples} == {kind_of(record) for record in samples} == CHORE_KINDS == set(CHORES) - {""}


def _rows(kind: str, positives: int, negatives: int, sources: int = 1) -> list[tuple[str, bool | None, str]]:
    return [(kind, True, "lab")] * positives + [(kind, False, f"s{k % sources}") for k in range(negatives)]


@pytest.mark.parametrize(
    ("positives", "negatives", "sources", "covered"),
    [
        (0, 0, 1, False), (1000, 0, 1, False), (1000, LEAST_FLOWS - 1, 1, False), (LEAST_FLOWS, LEAST_FLOWS, 1, True),
        (LEAST_FLOWS - 1, 1000, 1, False), (0, 1000, LEAST_SOURCES - 1, False), (0, LEAST_FLOWS, LEAST_SOURCES, True),
        (0, LEAST_FLOWS - 1, LEAST_SOURCES, False),
    ],
)  # fmt: skip
def test_a_kind_is_answered_if_learnt_from_both_sides_or_harmless_in_two_sources(
    positives: int, negatives: int, sources: int, covered: bool
) -> None:
    coverage = Coverage.of(_rows("dns", positives, negatives, sources))
    assert coverage.covers(DNS) is covered
    assert not coverage.covers(NTP), "nothing of it was learnt"
    assert Coverage.of_manifest({"coverage": coverage.as_dict()}) == coverage


def test_dropped_kinds_are_not_answered_however_much_was_learnt() -> None:
    coverage = Coverage.of([*_rows("dns", 90, 90, 9), *_rows("tcp", 90, 90)], dropped=CHORE_KINDS)
    assert [coverage.covers(record) for record in (DNS, NTP, TLS)] == [False, False, True]
    assert Coverage.of_manifest({"coverage": coverage.as_dict()}) == coverage


def test_a_task_without_umbrella_answers_what_any_label_taught() -> None:
    coverage = Coverage.of([("dns", False, ""), ("tcp", False, "")], sides=False)
    assert [coverage.covers(record) for record in (DNS, NTP, TLS)] == [True, False, True]
    assert Coverage.of([("dns", None, "")]).learnt == {}, "a label outside the umbrella teaches neither side"


def test_an_older_adapter_covers_all_but_what_its_build_dropped() -> None:
    drops = {"task_definition": get_task("AAD").model_dump(), "kept_fields": []}
    assert [Coverage.of_manifest(drops).covers(record) for record in (DNS, NTP, TLS)] == [False, False, True]
    for manifest in ({**drops, "kept_fields": ["housekeeping"]}, {"task_definition": get_task("MTD").model_dump()}, {}):
        assert all(Coverage.of_manifest(manifest).covers(record) for record in (DNS, NTP, TLS))


@pytest.mark.parametrize(
    "stated",
    [{"learnt": 3, "dropped": [], "sides": True}, {"learnt": {}}, {"learnt": {"dns": {"many": 1}}, "dropped": [], "sides": True},
     {"learnt": {"dns": {"negatives": "9"}}, "dropped": [], "sides": True}, {"learnt": {}, "dropped": 3, "sides": True}],
)  # fmt: skip
def test_a_damaged_coverage_is_refused(stated: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="coverage"):
        Coverage.of_manifest({"coverage": stated})


def test_requests_and_cells_are_always_covered_and_broadcast_needs_the_address() -> None:
    coverage = Coverage.of(_rows("udp", 9, 9))
    assert coverage.covers(Record(kind="http", text="GET / HTTP/1.1"))
    assert coverage.covers(_flow(9999), FlowMeta(resp_h="10.0.0.7"))
    assert not coverage.covers(_flow(9999), FlowMeta(resp_h="10.0.0.255"))


def test_an_update_adds_up() -> None:
    one, two = Coverage.of(_rows("dns", 3, 0)), Coverage.of([*_rows("dns", 4, 6, 2), *_rows("tcp", 1, 2)], dropped={"ntp"})
    both = one.merged(two)
    assert both.learnt == {"dns": Learnt(7, 6, 2, 1), "tcp": Learnt(1, 2, 1, 1)}
    assert both.dropped == {"ntp"}
    assert both.covers(DNS)
    assert Coverage(None, frozenset({"dns"})).merged(two) == Coverage(None, frozenset({"dns", "ntp"}))


@pytest.fixture(scope="module", name="data")
def _data(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = malware(captures, tmp_path_factory.mktemp("mtd"), ("Zeus", "Gmail"))
    out = tmp_path_factory.mktemp("out") / "ds"
    build_dataset(root, task=get_task("MTD"), out=out)
    return load(out)


def test_name_service_of_one_side_is_covered_only_with_background(data: Dataset, tmp_path: Path) -> None:
    """In USTC every flow to port 53 is malware: without background an adapter would call all name service malicious."""

    alone = Coverage.of_data(data)
    assert alone.learnt is not None
    assert alone.learnt["tcp"].positives >= LEAST_FLOWS
    assert alone.learnt["dns"].positives >= LEAST_FLOWS
    assert alone.learnt["dns"].negatives == 0
    assert alone.covers(TLS)
    assert not alone.covers(DNS)
    train = data.labels_of(data.indices("train"))
    assert sum(row.positives + row.negatives for row in alone.learnt.values()) == len(train)
    (tmp_path / "home").mkdir()
    frames = [(1e9 + k, ethernet(ipv4(17, udp(40000 + k, 53, bytes(20 + k))))) for k in range(9)]
    (tmp_path / "home" / "dns.pcap").write_bytes(pcap(frames))
    background = read_background([tmp_path / "home"])
    assert background_rows(background) == [("dns", False, "home")] * 9
    assert Coverage.of_data(data, background).covers(DNS)
    assert not Coverage.of_data(data, background).covers(NTP)


def test_a_task_that_drops_housekeeping_does_not_answer_it(captures: Path, tmp_path: Path) -> None:
    root = malware(captures, tmp_path, ("Zeus", "Gmail"))
    task = get_task("MTD").model_copy(update={"housekeeping": False})
    build_dataset(root, task=task, out=tmp_path / "ds")
    build_dataset(root, task=task, out=tmp_path / "kept", options=BuildOptions(keep=("housekeeping",)))
    dropped, kept = (Coverage.of_data(load(tmp_path / name)) for name in ("ds", "kept"))
    assert dropped.dropped == CHORE_KINDS
    assert dropped.learnt is not None
    assert not set(dropped.learnt) & CHORE_KINDS
    assert kept.dropped == frozenset()
    assert kept.learnt is not None
    assert kept.learnt["dns"].positives


def test_a_kind_that_a_task_is_about_may_be_positive_from_one_source() -> None:
    rows = [("dns", "Tunnel_iodine", "lab")] * 9 + [("dns", "Benign_DNS", "zeek")] * 9 + [("mdns", "Tunnel_iodine", "lab")] * 9
    tunnels = Coverage.counted(rows, get_task("MDD"), keeps_chores=True)
    assert (tunnels.may_be_positive("dns"), tunnels.may_be_positive("mdns")) == (True, False)
    assert Coverage.of_manifest({"coverage": tunnels.as_dict()}) == tunnels
    assert tunnels.merged(Coverage.of([])).own == {"dns"}
    malware = Coverage.counted([("dns", "Neris", "lab"), ("dns", "FTP", "zeek")] * 9, get_task("MTD"), keeps_chores=True)
    assert not malware.may_be_positive("dns")
    assert not Coverage.counted([("dns", "Benign_DNS", "zeek")] * 9, get_task("MDD"), keeps_chores=True).may_be_positive("dns")
