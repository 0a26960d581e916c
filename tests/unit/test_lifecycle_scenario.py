"""Scenarios: the file is read strictly, flows begin when they should, answers name what is in the capture."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from xml.etree import ElementTree

import pytest
import scenario_samples as samples
import yaml

from trafficllm.capture.check.captures import check
from trafficllm.capture.compile.plans import CompileCounts, compile_flows
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.foreign.labels import Labels
from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import FlowPlan
from trafficllm.lifecycle.analyze import verdicts as verdict_module
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.generate.scenario import checking, scoring
from trafficllm.lifecycle.generate.scenario.file import Event, PatternName, Source, load_scenario, shipped
from trafficllm.lifecycle.generate.scenario.network import Network, free_ports
from trafficllm.lifecycle.generate.scenario.output.answers import display_filter
from trafficllm.lifecycle.generate.scenario.scenario import Wish
from trafficllm.lifecycle.generate.scenario.schedule import SECOND, Load, classes, due_flows
from trafficllm.lifecycle.generate.scenario.source import patterns
from trafficllm.lifecycle.generate.scenario.source.open import Opened, package_captures
from trafficllm.lifecycle.generate.scenario.traffic import Compiler, Flow, in_order


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scenario, written once."""
    folder = tmp_path_factory.mktemp("scenario")
    samples.written(folder, wish=Wish(seed=7, blind=True))
    return folder / "out"


def packets_of(path: Path) -> list[tuple[int, bytes]]:
    """Time and bytes of every frame."""
    frames = []
    for batch in read_frames([path]):
        ends = zip(batch.ts.tolist(), batch.offset.tolist(), batch.caplen.tolist(), strict=True)
        frames += [(ts, batch.buffer[at : at + size].tobytes()) for ts, at, size in ends]
    return frames


# The file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("span = 120", "spam = 120", "unknown key 'spam'"),
        ('to = "c2"', 'to = "wep"', "did you mean 'web'"),
        ("every = 10", "every = 10\nflows = 4", "one of flows, every"),
        ('event = "beacon"', 'event = "bacon"', "did you mean 'beacon'"),
        ('pattern = "dns" }', 'pattern = "dns", captures = "x" }', "exactly one of pattern, captures, generator"),
        ("exchanges = [3, 5]", "exchanges = [5, 3]", "least value first"),
        ("; sid:1000001;", ";", "number of its own"),
        ('name = "leak"', 'name = "beacon"', "two of \\[\\[event\\]\\]"),
        ('to = "ns"\nstart = 20', 'to = "pc-3"\nstart = 20', "cannot talk to itself"),
        ("span = 120", "span = 120 120", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in samples.SMALL
    with pytest.raises(UsageError, match=message) as error:
        samples.written(tmp_path, text=samples.SMALL.replace(old, new, 1))
    assert error.value.input.endswith("small.toml")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_names_the_ready_scenarios() -> None:
    with pytest.raises(InputError) as error:
        load_scenario("no-such-scenario")
    assert all(name in error.value.hint for name in shipped())
    assert len(shipped()) == 4


def test_reserved_captures_are_no_templates() -> None:
    names = {path.name for path in package_captures("EAC/AmazonAWS")}
    assert names
    assert "KakaoTalk_talk.pcap" not in names
    with pytest.raises(UsageError, match="no captures of"):
        package_captures("../captures/EAC")


# When flows begin


def test_flows_begin_in_order_and_within_their_times() -> None:
    scenario, _ = load_scenario("shop-web-attack")
    start = 10**18
    due = list(due_flows(scenario, Load(start, repeat=3, seed=4)))
    assert [one.ts for one in due] == sorted(one.ts for one in due)
    for k, kind in enumerate(classes(scenario)):
        for one in (one for one in due if one.kind == k):
            within = (one.ts - start) / SECOND % scenario.span
            assert not isinstance(kind, Event) or kind.start - (kind.every or 0) / 2 <= within <= (kind.stop or scenario.span)
    assert sum(classes(scenario)[one.kind].label == "WebProbes" for one in due) == 3 * 40


def test_a_beacon_keeps_its_period_and_rate_shortens_it() -> None:
    scenario, _ = load_scenario("office-beacon")
    gaps = {}
    for rate in (1.0, 2.0):
        times = [due.ts for due in due_flows(scenario, Load(0, rate=rate), background=False)]
        gaps[rate] = [(later - one) / SECOND for one, later in pairwise(times)]
    assert all(42 <= gap <= 78 for gap in gaps[1.0])
    assert len(set(gaps[1.0])) > 10
    assert all(21 <= gap <= 39 for gap in gaps[2.0])


def test_everyday_traffic_comes_at_its_rate() -> None:
    scenario, _ = load_scenario("office-beacon")
    flows = Counter(classes(scenario)[due.kind].label for due in due_flows(scenario, Load(0, repeat=10)))
    assert abs(flows["DNS"] / 600 - 8) < 0.5
    assert abs(flows["Web"] / 600 - 4) < 0.4


# Hosts


def test_no_port_comes_twice_between_two_hosts() -> None:
    scenario, _ = load_scenario("office-beacon")
    network = Network(scenario, seed=1)
    ports = [network.port("pc-1", "mail") for _ in free_ports()]
    assert len(set(ports)) == len(ports) > 16_000
    with pytest.raises(UsageError, match="flows between pc-1 and mail"):
        network.port("pc-1", "mail")
    network.port("pc-2", "mail")


def test_too_many_hosts_are_refused(tmp_path: Path) -> None:
    many = samples.SMALL.replace("count = 3", "count = 240").replace('name = "ns"', 'name = "ns"\n[[host]]\nname = "more"\ncount = 9')
    with pytest.raises(UsageError, match="hosts inside"):
        samples.written(tmp_path, text=many)


# What is written


def test_the_capture_is_valid_and_in_order(small: Path) -> None:
    report = check([small / "capture.pcapng"])
    assert (report.valid, report.unchecked) == (True, 0)
    times = [ts for ts, _ in packets_of(small / "capture.pcapng")]
    assert times == sorted(times)
    result = json.loads((small / "scenario.json").read_text())
    assert result["addresses_outside_documentation"] == 0
    assert result["packets"] == len(times)
    assert {(look["name"], look["status"]) for look in result["checks"]} >= {("capture check", "passed"), ("answers read back", "passed")}


def test_answers_name_flows_of_the_capture(small: Path) -> None:
    answers = json.loads((small / "answers.json").read_text())
    assert Counter(answer["event"] for answer in answers) == {"beacon": 10, "leak": 3}
    assert {answer["label"] for answer in answers} == {"Quiet-Label", "Tunnel"}
    batch = next(iter(read_flows([small / "capture.pcapng"])))
    starts, frames = batch.pkt_ptr.tolist(), batch.p_frame.tolist()
    rows = {community: k for k, community in enumerate(batch.community_id.tolist())}
    for answer in answers:
        k = rows[answer["community_id"]]
        assert frames[starts[k] : starts[k] + len(answer["frames"])] == answer["frames"]
        assert answer["packets"] == batch.pkts[k].sum()
        assert abs(answer["first"] - batch.ts[k] / 1e9) < 1e-3


def test_a_filter_names_both_ways_of_a_flow() -> None:
    kind = classes(load_scenario("lab-dns-tunnel")[0])[2]
    assert kind.ip_version == 6
    flow = Flow(2, kind, "device-1", "ns", "1:x", 17, (("2001:db8:1::a", 50000), ("2001:db8:2::a", 53)), 0)
    there = "(ipv6.src == 2001:db8:1::a && udp.srcport == 50000 && ipv6.dst == 2001:db8:2::a && udp.dstport == 53)"
    back = "(ipv6.src == 2001:db8:2::a && udp.srcport == 53 && ipv6.dst == 2001:db8:1::a && udp.dstport == 50000)"
    assert display_filter(flow) == f"{there} || {back}"


def test_every_flow_has_its_label(small: Path) -> None:
    with (small / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["label"] for row in rows} == {"DNS", "Web", "Old", "Quiet-Label", "Tunnel"}
    assert len({row["community_id"] for row in rows}) == len(rows)
    labels = Labels([small / "labels.csv"])
    for batch in read_flows([small / "capture.pcapng"]):
        for k, community in enumerate(batch.community_id.tolist()):
            ts, duration = int(batch.ts[k]), int(batch.duration[k])
            assert labels.of(community_id=community, orig_h="", orig_p=0, resp_h="", resp_p=0, proto=0, ts=ts, duration=duration), (
                f"no label for {community}"
            )
    assert labels.joined().unlabelled == 0


def test_only_labelled_packets_have_a_comment(small: Path) -> None:
    data = (small / "capture.pcapng").read_bytes()
    answers = json.loads((small / "answers.json").read_text())
    assert data.count(b"label=Quiet-Label event=beacon community_id=1:") == sum(a["packets"] for a in answers if a["event"] == "beacon")
    assert data.count(b"label=") == sum(answer["packets"] for answer in answers)
    blind = small / "exercise.pcapng"
    assert b"label=" not in blind.read_bytes()
    assert packets_of(blind) == packets_of(small / "capture.pcapng")


def test_the_briefing_tells_no_answer(small: Path) -> None:
    text = (small / "briefing.md").read_text()
    assert "Somebody noticed something." in text
    assert "192.0.2.10" in text
    assert "exercise.pcapng" in text
    assert re.search("beacon|leak|Quiet|Tunnel|c2", text) is None


def test_the_timeline_is_a_picture_with_a_lane_a_class(small: Path) -> None:
    root = ElementTree.fromstring((small / "timeline.svg").read_text())
    words = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"DNS", "Web", "Old", "beacon (Quiet-Label)", "leak (Tunnel)", "10 flows", "10:00:00", "10:02:00"} <= set(words)


def test_the_rule_test_parts_events_from_the_rest(small: Path) -> None:
    places = sorted(path.name for path in (small / "rules").iterdir())
    assert places == ["fires-beacon", "silent"]
    for name in places:
        test = yaml.safe_load((small / "rules" / name / "test.yaml").read_text())
        assert len(test["checks"]) == 1
        assert "sid:1000001" in (small / "rules" / name / "test.rules").read_text()
    answers = json.loads((small / "answers.json").read_text())
    beacons = {answer["community_id"] for answer in answers if answer["event"] == "beacon"}
    captures = [small / "rules" / name / "input.pcapng" for name in places]
    fires, silent = ({community for batch in read_flows([path]) for community in batch.community_id} for path in captures)
    assert fires == beacons
    assert silent
    assert not silent & {answer["community_id"] for answer in answers}


def test_the_same_seed_gives_the_same_bytes_in_any_process(small: Path, tmp_path: Path) -> None:
    """Strings hash differently in another process: nothing may depend on the order of a set."""
    program = "import sys, pathlib, scenario_samples as s; from trafficllm.lifecycle.generate.scenario.scenario import Wish\n"
    program += "s.written(pathlib.Path(sys.argv[1]), wish=Wish(seed=int(sys.argv[2]), blind=True))"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", program, str(tmp_path), "7"], env=environment, check=True, timeout=300)
    files = sorted(path.relative_to(small) for path in small.rglob("*") if path.is_file())
    assert len(files) == 15
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (small / name).read_bytes(), name


def test_another_seed_gives_another_capture(small: Path, tmp_path: Path) -> None:
    result = samples.written(tmp_path, wish=Wish(seed=8))
    assert result.sha256 != json.loads((small / "scenario.json").read_text())["sha256"]
    assert result.exercise is None


def test_repetitions_go_on_until_the_size_is_reached(tmp_path: Path) -> None:
    once = samples.written(tmp_path / "a")
    thrice = samples.written(tmp_path / "b", wish=Wish(repeat=3))
    assert 2 * once.flows < thrice.flows < 4 * once.flows
    assert not thrice.bounded
    bounded = samples.written(tmp_path / "c", wish=Wish(repeat=3, most_bytes=once.bytes))
    assert bounded.bounded
    assert once.bytes <= bounded.bytes < 1.5 * once.bytes
    assert all(look.status != "failed" for look in bounded.checks)


def test_a_folder_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        samples.written(tmp_path)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    # nor what was added to a scenario's folder; a scenario alone is
    samples.written(tmp_path / "again")
    samples.written(tmp_path / "again")
    (tmp_path / "again" / "out" / "notes.txt").write_text("what I found")
    with pytest.raises(UsageError, match="not empty"):
        samples.written(tmp_path / "again")
    assert (tmp_path / "again" / "out" / "notes.txt").read_text() == "what I found"


# Merged into a capture


def test_events_are_laid_into_a_capture(small: Path, tmp_path: Path) -> None:
    """The exercise without labels stands for the user's own capture."""
    real = tmp_path / "real.pcapng"
    write_capture(real, read_frames([small / "rules" / "silent" / "input.pcapng"]), format="pcapng")
    result = samples.written(tmp_path, wish=Wish(merge=real))
    before, after = packets_of(real), packets_of(tmp_path / "out" / "capture.pcapng")
    assert [packet for packet in after if packet in set(before)] == before
    assert len(after) == len(before) + sum(event.packets for event in result.events)
    assert result.background == []
    answers = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert len(answers) == 13
    hosts = {row.tobytes() for batch in read_flows([real]) for row in batch.orig_h[:, :4]}
    laid = {bytes(map(int, word.split("."))) for answer in answers for word in re.findall(r"ip.src == ([0-9.]+)", answer["filter"])}
    assert len(laid & hosts) >= 2
    assert min(answer["first"] for answer in answers) > before[0][0] / 1e9
    assert {(look.name, look.status) for look in result.checks} >= {("answers read back", "passed"), ("capture check", "skipped")}


# Patterns


@pytest.mark.parametrize("name", get_args(PatternName))
def test_flows_of_a_pattern_are_valid_as_they_stand(name: PatternName, tmp_path: Path) -> None:
    counts = CompileCounts()
    place = patterns.Place("shop.example", ["a.example", "b.example"], bytes(4), 4)
    source = Source(pattern=name, types=("CNAME", "MX", "NULL", "TXT"))
    plans: list[FlowPlan] = [patterns.plan(source, place, random.Random(seed)) for seed in range(25)]
    assert plans[3] == patterns.plan(source, place, random.Random(3))
    assert len(set(plans)) == 25
    frames = compile_flows(plans, seed=1, start=10**18, spread=10**9, counts=counts)
    write_capture(tmp_path / "x.pcapng", [frames], format="pcapng")
    assert +counts.repairs == Counter()
    assert check([tmp_path / "x.pcapng"]).valid
    batches = list(read_flows([tmp_path / "x.pcapng"]))
    assert sum(map(len, batches)) == 25
    assert all(state in {"SF"} for batch in batches for state in batch.conn_state)
    services = {"dns": "dns", "dns-tunnel": "dns", "tls": "tls", "wireguard": "wireguard"}
    assert seen_services(tmp_path / "x.pcapng") == {services.get(name, "http")}


def seen_services(path: Path) -> set[str]:
    """Services that our parsers find in a capture."""
    from trafficllm.records.codec.flows import records_of

    return {record.facts.service for batch in read_flows([path]) for record, _ in records_of(batch)}


# Other tools


def test_suricata_is_asked_and_its_alerts_are_read(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that fires the rule on whatever it is given: right for the event's capture, wrong for everyday traffic."""
    tool = tmp_path / "suricata"
    lines = ["#!/bin/sh", "while [ $# -gt 1 ]; do [ $1 = -l ] && logs=$2; shift; done"]
    lines += ["""echo '{"event_type":"alert","alert":{"signature_id":1000001}}' > $logs/eve.json"""]
    tool.write_text("\n".join(lines) + "\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(checking, "_tshark_valid", lambda *_: checking._check("tshark valid", None, ""))
    monkeypatch.setattr(checking, "_tshark_answers", lambda *_: checking._check("tshark answers", None, ""))
    looks = {look.name: look for look in checking.checks(small, rules=["fires-beacon", "silent"], verify=True, merged=False)}
    assert (looks["suricata"].status, looks["suricata"].detail) == ("failed", "1 of 2 captures as expected; not silent")
    assert (looks["zeek"].status, looks["zeek"].detail) == ("skipped", "zeek is not installed")
    looks = {look.name: look for look in checking.checks(small, rules=["fires-beacon"], verify=True, merged=False)}
    assert looks["suricata"].status == "passed"


# Solved by an adapter


def test_a_score_counts_answers_found_and_false_alarms(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts of a stand-in: it knows the label of one event, calls the other notable every second time, and one everyday flow too."""
    answers = json.loads((small / "answers.json").read_text())
    leaks = [answer["community_id"] for answer in answers if answer["event"] == "leak"]
    with (small / "labels.csv").open(newline="") as stream:
        everyday = [row["community_id"] for row in csv.DictReader(stream) if not row["event"]]
    verdicts = {answer["community_id"]: "Quiet-Label" for answer in answers if answer["event"] == "beacon"}
    verdicts |= {leaks[0]: "Bad", leaks[1]: "Good", leaks[2]: "Bad", **dict.fromkeys(everyday, "Good"), everyday[0]: "Bad"}
    rows = [{"community_id": community, "label": label, "umbrella": None, "task": "T"} for community, label in verdicts.items()]
    rows.append({"community_id": "1:elsewhere", "label": "Bad", "umbrella": None, "task": "T"})
    analysis = Analysis(("T",), None, iter([rows]), frozenset({"Quiet-Label", "Good", "Bad"}), notable={"T": frozenset({"Bad"})})
    monkeypatch.setattr(verdict_module, "start", lambda *_args, **_more: analysis)
    workspace = SimpleNamespace(registry=SimpleNamespace(live=lambda task: SimpleNamespace(task=task, version="v1")))
    found = scoring.score(workspace, small, "T")
    assert (found.task, found.version, found.flows) == ("T", "v1", len(verdicts))
    assert found.events == {"beacon": 1.0, "leak": pytest.approx(2 / 3)}
    assert found.correct == pytest.approx(12 / 13)
    assert (found.false_alarms, found.background) == (1, len(everyday))


# Memory

NAMES_ONLY = """
title = "Names"
span = 60
host = [{ name = "pc" }, { name = "ns" }]
background = [{ label = "DNS", from = "pc", to = "ns", per_minute = 60, source = { pattern = "dns" } }]
"""


def test_memory_does_not_grow_with_the_number_of_flows(tmp_path: Path) -> None:
    """Eight times the flows at the same pace: what is held while they are written stays the same."""
    (tmp_path / "x.toml").write_text(NAMES_ONLY, encoding="utf-8")
    scenario, _ = load_scenario(tmp_path / "x.toml")
    peaks = []
    for repeat in (1, 1, 8):  # the first fills what is kept for good, like the list of ports
        load = Load(10**18, repeat=repeat)
        kinds = classes(scenario)
        sources = {k: Opened("", partial(patterns.plan, kind.source)) for k, kind in enumerate(kinds)}
        compiler = Compiler(Network(scenario), kinds, sources, seed=0)
        tracemalloc.start()
        packets = sum(1 for _ in in_order(due_flows(scenario, load), compiler))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert packets > 100 * repeat
    assert peaks[2] < 1.5 * peaks[1] + 50_000
