"""Facts answered from a capture: which question is one, which flows it is about, and that the numbers are the capture's."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import trafficllm as tl
from trafficllm.core.errors import UsageError
from trafficllm.core.settings import Config
from trafficllm.lifecycle.facts.asking import answer_fact, understood
from trafficllm.lifecycle.facts.filters import Ends, split_filters
from trafficllm.lifecycle.facts.results import FactAnswer
from trafficllm.lifecycle.facts.wording import asked_as, fact_ids, nearest, wanted_fact

CAPTURE = "MTD/Neris/Neris_00.pcap"
ASKED = {
    "how many packets are there": "packets",
    "How many packets are in lunch.pcap?": "packets",
    "how many pakcets are there": "packets",
    "top talkers": "talkers",
    "who sends the most data": "talkers",
    "which TLS versions": "tls_versions",
    "when did it begin": "begin",
    "when was the last packet": "end",
    "how long does the capture last?": "duration",
    "list all IP addresses": "hosts",
    "protocol breakdown": "protocols",
    "which ports are open": "ports",
    "which domains were visited": "server_names",
    "how many dns queries failed": "dns_errors",
    "what's the bandwidth": "rate",
    "any IPv6 traffic?": "ip_versions",
}


def _asked(path: Path, question: str) -> FactAnswer:
    answer = answer_fact([path], understood(question), Config())
    assert answer is not None, question
    return answer


@pytest.fixture(name="flows", scope="module")
def _flows(captures: Path) -> list[Any]:
    return list(tl.read(captures / CAPTURE))


@pytest.mark.parametrize(("question", "fact"), ASKED.items())
def test_questions_for_facts(question: str, fact: str) -> None:
    wanted = wanted_fact(question)
    assert wanted is not None
    assert wanted.fact == fact
    assert 0.65 <= wanted.probability <= 1


def test_every_fact_is_found_by_its_own_question() -> None:
    names = fact_ids()
    assert len(names) > 30
    assert {name: getattr(wanted_fact(asked_as(name)), "fact", None) for name in names} == {name: name for name in names}


@pytest.mark.parametrize(
    "question",
    [
        "How many packets are malicious?",
        "top talkers by application",
        "what is the weather",
        "which website did 10.0.0.5 visit",
        "what is the TTL of packet 3",
        "how long is this packet <packet>: frame.len: 66",
        "",
    ],
)
def test_other_questions_are_left_to_the_router(question: str) -> None:
    assert understood(question).fact is None


def test_no_held_out_question_for_a_task_is_taken_for_a_fact() -> None:
    text = resources.files("trafficllm").joinpath("data", "instructions", "heldout.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()][::4]
    assert len(rows) > 1000
    taken = [row["text"] for row in rows if row["tasks"] and understood(row["text"]).fact]
    assert taken == []


@pytest.mark.parametrize(
    ("question", "said", "rest"),
    [
        ("top talkers only to 10.0.0.5", "to 10.0.0.5", "top talkers"),
        ("from 10.0.0.0/8 or fe80::1 after 12:03", "from 10.0.0.0/8 or fe80::1, begun at or after 12:03:00 UTC", ""),
        ("how many flows between 12:00 and 12:05:30", "begun at or after 12:00:00 UTC, begun before 12:05:30 UTC", "how many flows"),
        ("flows on port 443 over udp", "port 443, UDP", "flows"),
        ("since 2024-02-28T09:58", "begun at or after 2024-02-28T09:58:00Z", ""),
        ("in the first 2 minutes", "begun in the first 120 s", ""),
        ("version 1.2.3 at 25:70 and port 99999", "", "version 1.2.3 at 25:70 and port 99999"),
    ],
)
def test_filters_are_taken_out_of_a_question(question: str, said: str, rest: str) -> None:
    filters, left = split_filters(question)
    assert (str(filters), left) == (said, rest)


def test_filters_hold_for_the_flows_they_name() -> None:
    second = 1_000_000_000
    day = 86_400 * second
    flow = Ends("10.0.0.5", "192.0.2.1", 40000, 443, 6, 3 * day + 43_400 * second)  # 12:03:20
    passing = {
        "only to 192.0.2.1": True,
        "only to 10.0.0.5": False,
        "of 10.0.0.5": True,
        "port 443": True,
        "port 80": False,
        "over udp": False,
        "after 12:03": True,
        "after 12:04": False,
        "before 12:03:20": False,
        "from 10.0.0.0/24": True,
    }
    assert {question: split_filters(question)[0].passing()(flow) for question in passing} == passing


def test_numbers_are_those_of_the_flows(captures: Path, flows: list[Any]) -> None:
    path = captures / CAPTURE
    sizes: Counter[str] = Counter()
    for row in flows:
        for host in (row["orig_h"], row["resp_h"]):
            sizes[host] += row["orig_ip_bytes"] + row["resp_ip_bytes"]
    talkers = _asked(path, "top talkers")
    assert {row[0]: row[1] for row in talkers.rows} == dict(sizes.most_common(20))
    assert (talkers.value, talkers.total) == (talkers.rows[0][0], len(sizes))
    assert _asked(path, "how many flows are there").value == len(flows)
    ports = _asked(path, "which ports are used").rows
    assert sum(int(row[2] or 0) for row in ports) == sum(row["proto"] in {"tcp", "udp"} for row in flows)
    longest = _asked(path, "which flow lasted longest")
    assert longest.value == pytest.approx(max(row["duration"] for row in flows), abs=1e-3)


def test_only_the_flows_asked_for_are_counted(captures: Path, flows: list[Any]) -> None:
    host = Counter(row["resp_h"] for row in flows).most_common(1)[0][0]
    answer = _asked(captures / CAPTURE, f"how many packets to {host}")
    assert answer.value == sum(row["orig_pkts"] + row["resp_pkts"] for row in flows if row["resp_h"] == host)
    assert answer.filters == f"to {host}"


def test_versions_and_names_of_an_encrypted_capture(captures: Path) -> None:
    path = captures / "EAC" / "QUIC" / "quic.pcap"
    assert _asked(path, "which TLS versions are used").rows[0][:2] == ["TLS 1.3", "in QUIC"]
    assert float(str(_asked(path, "how much is encrypted").value)) > 0.5


@pytest.mark.parametrize("fact", fact_ids())
def test_every_fact_has_an_answer_also_of_nothing(captures: Path, fact: str) -> None:
    for question in (asked_as(fact), f"{asked_as(fact)} only to 203.0.113.250"):
        answer = _asked(captures / "EAC" / "QUIC" / "quic.pcap", question)
        assert answer.fact == fact
        assert answer.sentence.endswith(".")
        assert all(len(row) == len(answer.columns) for row in answer.rows)


def test_the_most_suspicious_hosts() -> None:
    asked = {"who is the most suspicious host?": 1, "top 3 suspicious hosts": 3, "which machine should I look at first": 1}
    assert {question: understood(question).hosts for question in asked} == asked
    assert not understood("which hosts are infected?").hosts


def test_the_nearest_questions_are_said() -> None:
    assert nearest("which hosts failed to connect?", ["Is it malware?"])[0] == "which connections failed?"
    assert len(nearest("what is the weather", ["Is it malware?"])) == 3


def test_a_question_for_malice_without_an_adapter_is_shown_the_one_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shipped adapters, which know malware and no botnets of their own."""
    from trafficllm.lifecycle.analyze.verdicts import choose
    from trafficllm.lifecycle.workspace import Workspace

    monkeypatch.delenv("TRAFFICLLM_SHIPPED", raising=False)
    with pytest.raises(UsageError, match=r"asks for BND .* no adapter here") as refused:
        choose(Workspace(registry=str(tmp_path)), "", "is 10.0.0.5 a C2 server of a botnet?")
    assert "nearest that can be asked: Is it malware?" in refused.value.hint
    assert "adapter register DIR --task BND" in refused.value.hint
