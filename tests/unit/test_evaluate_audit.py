from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_samples import LABELS, masked, record

from trafficllm.capture.files.write import write_capture
from trafficllm.core.files import json_text
from trafficllm.core.types import FlowMeta, FrameBatch, Record
from trafficllm.evaluate import quality
from trafficllm.evaluate.audit import leaks
from trafficllm.evaluate.audit import report as audit
from trafficllm.evaluate.baselines import probes
from trafficllm.records.dataset import marks

N = 240


def _clean(seed: int = 0) -> leaks.AuditRows:
    """Four captures a class, one of them the test part; nothing but the traffic itself follows the label."""
    rng = np.random.default_rng(seed)
    y = [LABELS[i % 3] for i in range(N)]
    capture = [f"{label}-{(i // 3) % 4}.pcap" for i, label in enumerate(y)]
    part = ["train", "train", "val", "test"]
    raw = [dataclasses.replace(record(rng, i % 3), ttls=(0,) * 0) for i in range(N)]
    raw = [dataclasses.replace(r, ttls=(int(rng.integers(60, 64)),) * len(r.dirs), payload=_full(r, rng)) for r in raw]
    meta = [
        FlowMeta(
            capture=name,
            origin=name,
            ts=10**18 + int(rng.integers(10**12)),
            link=1,
            proto=6,
            orig_h=f"10.0.0.{rng.integers(250)}",
            orig_p=int(rng.integers(1024, 60000)),
            resp_h=f"192.0.2.{rng.integers(250)}",
            resp_p=443,
        )
        for name in capture
    ]
    return leaks.AuditRows(
        y=y,
        part=[part[(i // 3) % 4] for i in range(N)],
        raw=raw,
        masked=[masked(r) for r in raw],
        meta=meta,
        groups=capture,
        content=rng.integers(0, 2**60, N).tolist(),
        umbrella={"alpha": "good", "beta": "bad", "gamma": "bad"}.get,
        marks={name: rng.integers(0, 2**31, N).astype(float) for name in marks.MARKS},
        masked_fields=frozenset({"ttl"}),
    )


def _full(r: Record, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """Payload as long as the sizes announce: nothing is cut."""
    total = [sum(s for s, d in zip(r.sizes, r.dirs, strict=True) if d == end) for end in (0, 1)]
    return (r.payload[0] + rng.bytes(512))[: total[0]], (r.payload[1] + rng.bytes(512))[: total[1]]


REPORT = {
    "findings",
    "duplicates",
    "shared_groups",
    "identifier_probe",
    "artefact_probe",
    "baselines",
    "honest",
    "leaky",
    "forge",
    "payload",
    "verdict",
}


@pytest.fixture(scope="module", name="report")
def _report() -> dict[str, Any]:
    rows = _clean()
    content = list(rows.content)
    for a, b in list(zip(rows.rows("train"), rows.rows("test"), strict=False))[:12]:
        content[b] = content[a]
    meta = [dataclasses.replace(m, resp_h=f"198.51.100.{i % 3}") for i, m in enumerate(rows.meta)]
    planted = dataclasses.replace(rows, content=content, meta=meta)
    return audit.audit_rows(planted, masked, audit.Options(budget_s=1, split="capture")).as_dict()


def test_audit_report_holds_the_contract_and_speaks_plainly(report: dict[str, Any]) -> None:
    assert set(report) >= REPORT
    assert set(report["duplicates"]) == {"share", "conflicting", "ceiling"}
    assert report["leaky"] > 0.9 > report["honest"]
    assert report["identifier_probe"] > 0.9
    assert not report["forge"]["relies_on_identifiers"]
    assert report["shared_groups"] == 0
    assert "Addresses alone tell the answer" in report["verdict"]
    assert "Equal masked contents lie in several groups" in report["verdict"]
    assert "and on both sides of the split" in report["verdict"]
    assert '"verdict"' in json_text(report)


def test_every_score_stands_with_split_masks_and_interval(report: dict[str, Any]) -> None:
    wanted = {"majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest"}
    assert wanted | {"lightgbm_sizes_times", "lightgbm_headers_payload"} <= set(report["baselines"])
    scores = [*report["baselines"].values(), *report["per_packet"].values()]
    assert len(scores) == 13
    for row in scores:
        assert set(quality.REQUIRED) <= set(row)
        assert row["split"]
        assert row["mask"]
        assert 0 <= row["ci95"][0] <= row["ci95"][1] <= 1
    ways = {name: (row["split"], row["mask"]) for name, row in report["per_packet"].items()}
    assert ways["leaky"] == ("packet at random", "raw")
    assert ways["honest"] == ("capture", "strict")
    assert report["honest"] == report["per_packet"]["honest"]["macro_f1"]
    assert report["baselines"]["identifier_probe"]["mask"] == "only what strict hides"


def test_single_fields_are_ranked_and_hidden_ones_marked(report: dict[str, Any]) -> None:
    best = report["fields"][0]
    assert best["field"].startswith("address: resp_h")
    assert best["umbrella"] > 0.95
    assert best["hidden"]
    assert {row["field"]: row["hidden"] for row in report["fields"]}["truncation: payload"] is False


def test_many_rows_are_capped_a_class_and_the_cap_is_told() -> None:
    report = audit.audit_rows(_clean(), masked, audit.Options(budget_s=1, most=60)).as_dict()
    assert report["cap"] == {"train_per_class": 20, "train": 60, "val": 30, "judged": 30}
    assert report["baselines"]["majority"]["n_test"] == 30


def test_a_field_that_reads_the_label_by_accident_is_no_finding() -> None:
    rng = np.random.default_rng(1)
    question = probes.Question.of("label", [LABELS[i % 3] for i in range(9)], [str(i) for i in range(9)])
    column = np.arange(9) % 3 + rng.normal(0, 0.01, 9)
    score, sure, _ = question.ask(column)
    assert score > 0.5
    assert sure < leaks.CHANCE_LIMIT * 1.3
    few = np.where(np.arange(240) < 40, np.arange(240) % 3, np.nan)
    whole = probes.Question.of("label", [LABELS[i % 3] for i in range(240)], [str(i) for i in range(240)])
    assert whole.ask(few) == (0.0, 0.0, 0.0)
    assert whole.ask(np.where(np.isnan(few), rng.normal(size=240), few))[1] < leaks.CHANCE_LIMIT


def test_binomial_tail() -> None:
    assert probes.by_accident(7, 7, 0.5) == pytest.approx(0.5**7)
    assert probes.by_accident(0, 7, 0.5) == pytest.approx(1.0)
    assert probes.by_accident(2, 3, 0.25) == pytest.approx(3 * 0.25**2 * 0.75 + 0.25**3)


def _frame(number: int, seq: int, padding: int) -> bytes:
    """Ethernet, IPv4 without options, TCP SYN with this sequence number, and padding behind it."""
    ip = bytes([0x45, 0, 0, 40, 0, number, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7])
    tcp = (50000).to_bytes(2) + (443).to_bytes(2) + seq.to_bytes(4) + bytes(4) + bytes([0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0])
    return bytes(12) + b"\x08\x00" + ip + tcp + bytes(padding)


def test_marks_are_read_from_captures(tmp_path: Path) -> None:
    frames = [_frame(1, 1000, 6), _frame(2, 77, 0), _frame(3, 5, 0)]
    lengths = np.array([len(f) for f in frames], dtype=np.uint32)
    buffer = np.frombuffer(b"".join(frames), dtype=np.uint8)
    batch = FrameBatch(
        buffer,
        np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64),
        lengths,
        lengths + np.array([0, 0, 9], dtype=np.uint32),
        np.arange(3, dtype=np.int64),
        np.ones(3, dtype=np.uint16),
        np.zeros(3, dtype=np.uint32),
        np.arange(1, 4),
        ("x",),
    )
    write_capture(tmp_path / "a.pcap", [batch])
    (tmp_path / "text.pcap").write_text("no capture")
    meta = [FlowMeta(capture="a.pcap", frames=(n,)) for n in (1, 2, 3)] + [FlowMeta(capture=c) for c in ("gone.pcap", "text.pcap")]
    found = marks.marks_of(tmp_path, meta)
    assert found["seq"][:3].tolist() == [1000, 77, 5]
    assert found["padding"][:3].tolist() == [6, 0, 9]
    assert found["cut_at"][:3].tolist() == [0, 0, 54]
    assert found["mac_src"][:3].tolist() == [0, 0, 0]
    assert np.isnan(found["seq"][3:]).all()
