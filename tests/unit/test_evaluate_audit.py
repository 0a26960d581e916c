from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluate_samples import LABELS, masked, record

from trafficllm.capture.write import write_capture
from trafficllm.core.files import json_text
from trafficllm.core.types import FlowMeta, FrameBatch, Record
from trafficllm.evaluate import audit, leaks, marks
from trafficllm.evaluate.packets import leaky_and_honest

N = 240


def _clean(seed: int = 0) -> leaks.AuditRows:
    """Four captures a class, one of them the test part; nothing but the traffic itself follows the label."""
    rng = np.random.default_rng(seed)
    y = [LABELS[i % 3] for i in range(N)]
    capture = [f"{label}-{(i // 3) % 4}.pcap" for i, label in enumerate(y)]
    part = ["train", "train", "val", "test"]
    raw = [dataclasses.replace(record(rng, i % 3), ttls=(0,) * 0) for i in range(N)]
    raw = [
        dataclasses.replace(r, ttls=(int(rng.integers(60, 64)),) * len(r.dirs), payload=_full(r, rng))
        for r in raw
    ]
    meta = [
        FlowMeta(
            capture=name, origin=name, ts=10**18 + int(rng.integers(10**12)), link=1, proto=6, orig_h=f"10.0.0.{rng.integers(250)}",
            orig_p=int(rng.integers(1024, 60000)), resp_h=f"192.0.2.{rng.integers(250)}", resp_p=443,
        )
        for name in capture
    ]  # fmt: skip
    return leaks.AuditRows(
        y=y, part=[part[(i // 3) % 4] for i in range(N)], raw=raw, masked=[masked(r) for r in raw], meta=meta, groups=capture,
        content=rng.integers(0, 2**60, N).tolist(), umbrella={"alpha": "good", "beta": "bad", "gamma": "bad"}.get,
        marks={name: rng.integers(0, 2**31, N).astype(float) for name in marks.MARKS}, masked_fields=frozenset({"ttl"}),
    )  # fmt: skip


def _full(r: Record, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """Payload as long as the sizes announce: nothing is cut."""
    total = [sum(s for s, d in zip(r.sizes, r.dirs, strict=True) if d == end) for end in (0, 1)]
    return (r.payload[0] + rng.bytes(512))[: total[0]], (r.payload[1] + rng.bytes(512))[: total[1]]


def _metas(rows: leaks.AuditRows, change: Callable[[int, FlowMeta], dict[str, object]]) -> leaks.AuditRows:
    return dataclasses.replace(
        rows, meta=[dataclasses.replace(m, **change(i, m)) for i, m in enumerate(rows.meta)]
    )  # type: ignore[arg-type]


def _raws(rows: leaks.AuditRows, change: Callable[[int, Record], Record]) -> leaks.AuditRows:
    return dataclasses.replace(rows, raw=[change(i, r) for i, r in enumerate(rows.raw)])


def _mark(rows: leaks.AuditRows, name: str) -> leaks.AuditRows:
    return dataclasses.replace(rows, marks={**rows.marks, name: np.array([float(i % 3) for i in range(N)])})


def _same_flow(rows: leaks.AuditRows) -> leaks.AuditRows:
    """A fifth of the test flows are the later half of a training flow, seen from the other side."""
    meta = list(rows.meta)
    pairs = list(zip(rows.rows("train"), rows.rows("test"), strict=False))[:12]
    for a, b in pairs:
        m = meta[a]
        meta[b] = dataclasses.replace(m, orig_h=m.resp_h, orig_p=m.resp_p, resp_h=m.orig_h, resp_p=m.orig_p)
    return dataclasses.replace(rows, meta=meta)


def _same_session(rows: leaks.AuditRows) -> leaks.AuditRows:
    meta = list(rows.meta)
    for a, b in list(zip(rows.rows("train"), rows.rows("test"), strict=False))[:12]:
        meta[b] = dataclasses.replace(meta[a], orig_p=meta[a].orig_p + 1)
    return dataclasses.replace(rows, meta=meta)


def _duplicate(rows: leaks.AuditRows) -> leaks.AuditRows:
    content = list(rows.content)
    for a, b in list(zip(rows.rows("train"), rows.rows("test"), strict=False))[:12]:
        content[b] = content[a]
    return dataclasses.replace(rows, content=content)


PLANTED: dict[str, Callable[[leaks.AuditRows], leaks.AuditRows]] = {
    "same_flow": _same_flow,
    "same_session": _same_session,
    "duplicate": _duplicate,
    "address": lambda rows: _metas(rows, lambda i, m: {"resp_h": f"198.51.100.{i % 3}"}),
    "time": lambda rows: _metas(rows, lambda i, m: {"ts": 10**18 + (i % 3) * 86400 * 10**9 + i}),
    "sequence": lambda rows: _mark(rows, "sequence"),
    "ttl": lambda rows: _raws(
        rows, lambda i, r: dataclasses.replace(r, ttls=(32 if i % 3 else 128,) * len(r.dirs))
    ),
    "link_type": lambda rows: _metas(rows, lambda i, m: {"link": 101 if i % 3 else 1}),
    "padding": lambda rows: _mark(rows, "padding"),
    "truncation": lambda rows: _raws(
        rows,
        lambda i, r: dataclasses.replace(r, payload=(r.payload[0][:20], r.payload[1])) if i % 3 == 0 else r,
    ),
}


def test_clean_data_has_no_finding() -> None:
    assert leaks.find(_clean()) == ([], [])


@pytest.mark.parametrize("kind", leaks.KINDS)
def test_each_planted_leak_is_found(kind: str) -> None:
    found, _ = leaks.find(PLANTED[kind](_clean()))
    kinds = {finding.kind for finding in found}
    assert kind in kinds
    assert kinds <= {kind, "same_session"} if kind == "same_flow" else kinds == {kind}
    finding = next(f for f in found if f.kind == kind)
    assert finding.score > (0.15 if finding.question == "split" else 0.6)
    assert finding.hidden is (kind in {"address", "time", "sequence", "ttl", "link_type", "padding"})


def test_without_captures_the_unseen_marks_are_named() -> None:
    found, unchecked = leaks.find(dataclasses.replace(_clean(), marks={}))
    assert found == []
    assert unchecked == ["sequence", "padding"]


def test_an_unmasked_ttl_is_not_hidden() -> None:
    found, _ = leaks.find(dataclasses.replace(PLANTED["ttl"](_clean()), masked_fields=frozenset()))
    assert not found[0].hidden


def test_audit_report_holds_the_contract_and_speaks_plainly() -> None:
    rows = PLANTED["address"](PLANTED["duplicate"](_clean()))
    report = audit.audit_rows(rows, masked, budget_s=1)
    keys = {
        "findings",
        "duplicates",
        "shared_groups",
        "identifier_probe",
        "artefact_probe",
        "baselines",
        "honest",
        "leaky",
    }
    assert keys | {"forge", "payload", "verdict"} <= set(report)
    assert set(report["duplicates"]) == {"share", "conflicting", "ceiling"}
    assert {"majority", "knn", "lightgbm", "random_forest"} <= set(report["baselines"])
    assert report["leaky"] > 0.9 > report["honest"]
    assert report["identifier_probe"] > 0.9
    assert not report["forge"]["relies_on_identifiers"]
    assert report["shared_groups"] == 0
    assert "Addresses alone tell the answer" in report["verdict"]
    assert "Equal masked contents are on both sides" in report["verdict"]
    assert '"verdict"' in json_text(report)
    assert (report["leaky"], report["honest"]) == leaky_and_honest(rows, LABELS)


def _frame(number: int, seq: int, padding: int) -> bytes:
    """Ethernet, IPv4 without options, TCP SYN with this sequence number, and padding behind it."""
    ip = bytes([0x45, 0, 0, 40, 0, number, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7])
    tcp = (
        (50000).to_bytes(2)
        + (443).to_bytes(2)
        + seq.to_bytes(4)
        + bytes(4)
        + bytes([0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0])
    )
    return bytes(12) + b"\x08\x00" + ip + tcp + bytes(padding)


def test_marks_are_read_from_captures(tmp_path: Path) -> None:
    frames = [_frame(1, 1000, 6), _frame(2, 77, 0), _frame(3, 5, 0)]
    lengths = np.array([len(f) for f in frames], dtype=np.uint32)
    buffer = np.frombuffer(b"".join(frames), dtype=np.uint8)
    batch = FrameBatch(
        buffer, np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64), lengths, lengths + np.array([0, 0, 9], dtype=np.uint32),
        np.arange(3, dtype=np.int64), np.ones(3, dtype=np.uint16), np.zeros(3, dtype=np.uint32), np.arange(1, 4), ("x",),
    )  # fmt: skip
    write_capture(tmp_path / "a.pcap", [batch])
    (tmp_path / "text.pcap").write_text("no capture")
    meta = [FlowMeta(capture="a.pcap", frames=(n,)) for n in (1, 2, 3)] + [
        FlowMeta(capture=c) for c in ("gone.pcap", "text.pcap")
    ]
    found = marks.marks_of(tmp_path, meta)
    assert found["sequence"][:3].tolist() == [1000, 77, 5]
    assert found["padding"][:3].tolist() == [6, 0, 9]
    assert found["truncation"][:3].tolist() == [0, 0, 1]
    assert np.isnan(found["sequence"][3:]).all()
