"""The task catalogue: which answer of the umbrella question is the positive one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from trafficllm.core.errors import InputError
from trafficllm.records.catalog import Task, load_tasks, read_task

PAIRS = {
    "AAD": ("attack", "normal"),
    "BND": ("botnet", "normal"),
    "EVD": ("vpn", "direct"),
    "MDD": ("malicious", "benign"),
    "MTD": ("malicious", "benign"),
    "TBD": ("tor", "direct"),
    "WAD": ("malicious", "benign"),
}


def test_every_umbrella_question_has_a_positive_and_a_negative_answer() -> None:
    tasks = load_tasks()
    assert {name: (task.positive, task.negative) for name, task in tasks.items() if task.positive} == PAIRS
    assert {name for name, task in tasks.items() if task.umbrella_question} == set(PAIRS)


def test_vpn_and_tor_are_not_malice() -> None:
    assert {name for name, task in load_tasks().items() if task.asks_malice} == {"AAD", "BND", "MDD", "MTD", "WAD"}


@pytest.mark.parametrize(
    ("task", "label", "answer"),
    [("MTD", "Zeus", True), ("MTD", "Gmail", False), ("MTD", "Discord", None), ("BND", "Emotet", True), ("BND", "Benign", False),
     ("EVD", "Vpn_Chat", True), ("EAC", "DNS", None), ("MDD", "Tunnel_iodine", True)],
)  # fmt: skip
def test_labels_are_reduced_to_the_question(task: str, label: str, answer: bool | None) -> None:
    assert load_tasks()[task].is_positive(label) is answer


def _task(**answers: str) -> Task:
    umbrella = {"a*": "bad", "b*": "good", "c": "other"}
    return Task(id="MINE", title="mine", kind="detection", instruction="label", umbrella=umbrella, **answers)


def test_a_third_answer_is_neither_positive_nor_negative() -> None:
    mine = _task(positive="bad", negative="good")
    assert [mine.is_positive(label) for label in ("a1", "b1", "c", "d")] == [True, False, None, None]
    assert not mine.asks_malice
    assert mine.model_copy(update={"notable": ("bad",)}).asks_malice


def test_a_task_without_umbrella_asks_nothing() -> None:
    own = Task(id="MINE", title="mine", kind="detection", instruction="label")
    assert (own.positive, own.asks_malice, own.is_positive("malware")) == ("", False, None)


@pytest.mark.parametrize("answers", [{"positive": "bad"}, {"positive": "bad", "negative": "bad"}, {"positive": "evil", "negative": "good"}])
def test_answers_that_are_none_of_the_umbrella_are_refused(answers: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="bad, good, other"):
        _task(**answers)


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('id = "MINE"\ntitle = "mine"\nkind = "detection"\ninstruction = "label"\npositive = "bad"\nnegative = "good"\n')
    with pytest.raises(InputError, match="umbrella") as caught:
        read_task(path)
    assert caught.value.input == str(path)


def test_vpn_protocols_are_inside_a_vpn() -> None:
    evd = load_tasks()["EVD"]
    assert {evd.umbrella_of(label) for label in ("OpenVPN", "WireGuard", "IPSec", "PPTP", "CommercialVPN", "Vpn_Chat")} == {"vpn"}
    assert {evd.umbrella_of(label) for label in ("Chat", "NonVPN", "Streaming")} == {"direct"}
