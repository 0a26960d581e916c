"""Verdicts in two steps: every way that the umbrella question and the label inside its answer can come out."""

from __future__ import annotations

import numpy as np
import pytest

from trafficllm.core.types import FlowMeta, Record, Scores
from trafficllm.core.umbrella import Cut, Umbrella
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.infer.two_step import Answer, Steps
from trafficllm.records.catalog import get_task
from trafficllm.records.coverage import Coverage

TASK = get_task("MTD")
LABELS = ("Gmail", "Neris", "Zeus")
CLASSES = (*LABELS, "(background)")
STEP = Umbrella("malicious", "benign", CLASSES, (False, True, True, False), 1.0, 0.0, Cut(1.0, -1.0), Cut(1.0, -1.0))
NERIS, GMAIL = [0.3, 0.5, 0.2], [0.6, 0.3, 0.1]
MALICIOUS, HARMLESS, OTHERS, BETWEEN = [0, 0, 9, 0], [9, 0, 0, 0], [0, 0, 0, 9], [0, 0, 0, 0]
"""Logits of the umbrella readout: of a family, of the task's own harmless label, of the background, of neither."""


def _scores(probabilities: list[float], umbrella: list[int] | None) -> Scores:
    p = np.array([probabilities])
    return Scores(LABELS, p, np.log(p), umbrella=None if umbrella is None else np.array([umbrella], dtype=np.float32))


@pytest.mark.parametrize(
    ("probabilities", "logits", "strange", "label", "answer"),
    [
        (NERIS, MALICIOUS, False, "Neris", "malicious"),
        (NERIS, MALICIOUS, True, "unknown", "malicious"),
        (GMAIL, MALICIOUS, False, "Neris", "malicious"),
        (GMAIL, [0, 6, 6, 5], False, "Neris", "malicious"),
        (GMAIL, HARMLESS, False, "Gmail", "benign"),
        (NERIS, HARMLESS, False, "Gmail", "benign"),
        (GMAIL, HARMLESS, True, "benign", "benign"),
        (GMAIL, OTHERS, False, "benign", "benign"),
        (NERIS, OTHERS, True, "benign", "benign"),
        (NERIS, BETWEEN, False, "unknown", "unknown"),
        (GMAIL, BETWEEN, True, "unknown", "unknown"),
    ],
)  # fmt: skip
def test_the_label_is_looked_for_inside_the_answer(
    probabilities: list[float], logits: list[int], strange: bool, label: str, answer: str
) -> None:
    (told,) = Steps(TASK, LABELS, STEP).answers(_scores(probabilities, logits), [strange])
    assert (told.label, told.umbrella) == (label, answer)
    assert told.odds == pytest.approx(float(STEP.odds([logits])[0]))
    assert told.probability == pytest.approx(1 / (1 + np.exp(-told.odds)))


@pytest.mark.parametrize(
    ("logits", "label", "answer"),
    [
        ([0, 2, 1, 0, 9], "unknown", "malicious"),
        ([0, 9, 1, 0, 3], "Neris", "malicious"),
        ([0, 0, 0, 9, 3], "benign", "benign"),
        ([9, 0, 0, 3, 3], "Gmail", "benign"),
    ],
)  # fmt: skip
def test_what_looks_like_malware_of_other_sources_is_malicious_of_no_family(logits: list[int], label: str, answer: str) -> None:
    classes, members = (*CLASSES, "(others)"), (False, True, True, False, True)
    step = Umbrella("malicious", "benign", classes, members, 1.0, 0.0, Cut(1.0, -1.0), Cut(1.0, -1.0))
    (told,) = Steps(TASK, LABELS, step).answers(_scores(NERIS, logits), [False])
    assert (told.label, told.umbrella) == (label, answer)


def test_a_task_of_families_alone_has_no_negative_label_to_give() -> None:
    step = Umbrella("malicious", "benign", ("Neris", "Zeus", "(background)"), (True, True, False), 1.0, 0.0, Cut(1.0, -1.0), None)
    steps = Steps(TASK, ("Neris", "Zeus"), step)
    scores = Scores(("Neris", "Zeus"), np.array([[0.9, 0.1]]), np.zeros((1, 2)), umbrella=np.array([[0, 0, 9]], dtype=np.float32))
    assert steps.answers(scores, [False])[0].label == "benign"


def test_without_a_fitted_step_the_answer_is_read_off_the_label() -> None:
    for steps, umbrella in ((Steps(TASK, LABELS, None), None), (Steps(TASK, LABELS, STEP), None), (Steps(TASK, LABELS, None), MALICIOUS)):
        assert steps.answers(_scores(NERIS, umbrella), [False]) == [Answer("Neris", "malicious", pytest.approx(0.7), None)]
        assert steps.answers(_scores(GMAIL, umbrella), [False]) == [Answer("Gmail", "benign", pytest.approx(0.4), None)]
        assert steps.answers(_scores(GMAIL, umbrella), [True]) == [Answer("unknown", "unknown", pytest.approx(0.4), None)]


def test_a_task_without_the_question_has_labels_alone() -> None:
    steps = Steps(get_task("EAC"), LABELS, None)
    assert steps.answers(_scores(NERIS, None), [False]) == [Answer("Neris", None, None, None)]
    assert steps.answers(_scores(NERIS, None), [True]) == [Answer("unknown", None, None, None)]
    named = TASK.model_copy(update={"positive": "", "negative": ""})
    assert Steps(named, LABELS, None).answers(_scores(NERIS, None), [False]) == [Answer("Neris", "malicious", None, None)]
    assert Steps(named, LABELS, None).answers(_scores(NERIS, None), [True]) == [Answer("unknown", "unknown", None, None)]
    assert steps.answers(Scores(LABELS, np.zeros((0, 3)), np.zeros((0, 3))), []) == []
    assert [Steps(get_task(task), LABELS, None).malice for task in ("MTD", "EVD", "EAC")] == [True, False, False]


class Fixed:
    """A scorer that says the same of every record."""

    labels = LABELS
    task = TASK

    def score(self, records: list[Record]) -> Scores:
        """NERIS, and the umbrella readout of a family."""
        n = len(records)
        return Scores(LABELS, np.array([NERIS] * n), np.log([NERIS] * n), umbrella=np.array([MALICIOUS] * n, dtype=np.float32))


def _detector(*, least: float | None = None, coverage: Coverage | None = None, steps: Steps | None = None) -> Detector:
    calibration = {"unknown": {"method": "max_probability", "threshold": 0.9, "params": {}}}
    if least is not None:
        calibration["set_90"] = least  # type: ignore[assignment]
    own, learnt = steps or Steps(TASK, LABELS, STEP), coverage or Coverage()
    model = TaskModel("MTD", Fixed(), calibration, adapter="MTD", version="v0001", steps=own, coverage=learnt)
    return Detector([model])


TLS = Record(proto=6, ports=(40000, 443), dirs=(0, 1), sizes=(100, 200), iats=(0, 5), flags=(24, 24), payload=(b"", b""))
DNS = Record(proto=17, ports=(40000, 53), dirs=(0, 1), sizes=(40, 90), iats=(0, 5), payload=(b"", b""))
META = FlowMeta(uid="C1", orig_h="10.0.0.1", capture="a.pcap")


def test_rows_show_both_steps() -> None:
    (verdict,) = _detector().judge([(TLS, META)], "MTD")
    row = verdict.row()
    assert (row["label"], row["umbrella"], row["source"]) == ("Neris", "malicious", "registry")
    assert row["umbrella_probability"] == row["malicious"] == pytest.approx(0.9999, abs=1e-3)
    (vpn,) = _detector(steps=Steps(get_task("EVD"), LABELS, None)).judge([(TLS, META)], "MTD")
    assert vpn.row()["malicious"] is None, "the answer of another question is no malice"


def test_the_set_of_labels_is_what_calibration_promises() -> None:
    for least, labels in (
        (0.25, ["Neris", "Gmail"]),
        (0.6, ["Neris"]),
        (0.0, ["Neris", "Gmail", "Zeus"]),
        (None, ["Neris", "Gmail", "Zeus"]),
    ):
        (verdict,) = _detector(least=least).judge([(TLS, META)], "MTD")
        assert verdict.row()["labels_90"] == labels


def test_flows_of_a_kind_that_was_not_learnt_are_not_covered() -> None:
    coverage = Coverage.of([("tcp", True, "lab"), ("tcp", False, "lab")] * 9 + [("dns", True, "lab")] * 9)
    detector = _detector(coverage=coverage)
    dns, tls = detector.judge([(DNS, META), (TLS, META)], "MTD")
    assert (dns.label, dns.umbrella, dns.odds) == ("not covered", "not covered", None)
    assert (tls.label, tls.umbrella) == ("Neris", "malicious")
    assert dict(detector.uncovered) == {"MTD": 1}
    assert detector.questions() == {"MTD": ("malicious", STEP, True)}
    assert _detector(steps=Steps(get_task("EAC"), LABELS, None)).questions() == {}
    bare = _detector(coverage=coverage, steps=Steps(get_task("EAC"), LABELS, None)).judge([(DNS, META)], "MTD")[0]
    assert (bare.label, bare.umbrella) == ("not covered", None)


def test_name_service_of_one_laboratory_is_never_called_malicious() -> None:
    """Both sides were learnt, the positive one from a single laboratory: unknown, and no word on its host."""
    both = [("tcp", True, "lab"), ("tcp", False, "zeek")] * 9 + [("dns", True, "lab"), ("dns", False, "zeek")] * 9
    dns, tls = _detector(coverage=Coverage.of(both)).judge([(DNS, META), (TLS, META)], "MTD")
    assert (dns.label, dns.umbrella, dns.odds) == ("unknown", "unknown", None)
    assert (tls.label, tls.umbrella) == ("Neris", "malicious")
    assert tls.odds is not None
    two = _detector(coverage=Coverage.of([*both, ("dns", True, "other lab")])).judge([(DNS, META)], "MTD")[0]
    assert (two.label, two.umbrella) == ("Neris", "malicious")
