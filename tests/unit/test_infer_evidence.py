"""Evidence and verdicts, with a scorer whose reasons are known."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest

from trafficllm.core.errors import UsageError
from trafficllm.core.types import FlowMeta, Record, Scores
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.infer.evidence import explain, without, without_packet
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task


class BigPacket:
    """Calls a flow "big" by its largest packet: what it rests on is known."""

    labels = ("big", "small")

    def score(self, records: Sequence[Record]) -> Scores:
        p = np.array([max(r.sizes, default=0) / 2000 for r in records])
        both = np.stack([p, 1 - p], axis=1)
        return Scores(self.labels, both, np.log(np.maximum(both, 1e-12)))


RECORD = Record(
    proto=6,
    dirs=(0, 1, 0),
    sizes=(10, 1400, 30),
    iats=(0, 5, 7),
    flags=(2, 16, 16),
    windows=(-1, -1, -1),
    ttls=(64, 64, 64),
    payload=(b"hello", b""),
)
META = FlowMeta(uid="C1", ts=1_500_000_000, duration=2_000_000_000, proto=6, packets=3, frames=(11, 15, 22))


def test_the_packet_that_decides_is_named_with_its_frame() -> None:
    (found,) = explain(BigPacket(), [RECORD], [0], [META])
    assert found[0].field == "packet"
    assert found[0].frame == 15
    assert found[0].weight == pytest.approx((1400 - 30) / 2000)
    assert len(found) == 1


def test_frames_follow_masks_that_drop_the_handshake() -> None:
    masked = dataclasses.replace(RECORD, masked=frozenset({"handshake"}))
    meta = dataclasses.replace(META, frames=(8, 9, 11, 15, 22))
    assert explain(BigPacket(), [masked], [0], [meta])[0][0].frame == 15


def test_deleting_evidence_lowers_the_verdict_more_than_deleting_another_part() -> None:
    (found,) = explain(BigPacket(), [RECORD], [0], [META])
    named = META.frames.index(found[0].frame)
    scorer = BigPacket()
    left = [scorer.score([without_packet(RECORD, i)]).probabilities[0, 0] for i in range(3)]
    assert left[named] == min(left) < max(left)


def test_a_removed_packet_leaves_its_time() -> None:
    assert without_packet(RECORD, 1).iats == (0, 12)
    assert without_packet(RECORD, 0).iats == (0, 7)
    assert without_packet(RECORD, 2).iats == (0, 5)


def _detector(threshold: float, **options: int) -> Detector:
    calibration = {"unknown": {"method": "max_probability", "threshold": threshold, "params": {}}}
    return Detector([TaskModel("MTD", BigPacket(), calibration, adapter="MTD", version="v0001")], **options)


def test_verdicts_carry_the_contract() -> None:
    (verdict,) = _detector(0.4, evidence=2).judge([(RECORD, META)], "MTD")
    row = verdict.row()
    keys = "uid ts duration community_id orig_h orig_p resp_h resp_p proto packets task label confidence probabilities"
    later = "unknown_score evidence file frames adapter version umbrella umbrella_probability malicious labels_90 source"
    assert set(row) == {*keys.split(), *later.split()}
    assert row["label"] == "big"
    assert row["ts"] == 1.5
    assert row["proto"] == "tcp"
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["evidence"][0] == {"frame": 15, "field": "packet", "weight": pytest.approx(0.685)}


def test_above_the_threshold_a_flow_is_unknown() -> None:
    (verdict,) = _detector(0.1).judge([(RECORD, META)], "MTD")
    assert verdict.label == "unknown"
    assert verdict.confidence == pytest.approx(0.7)
    assert verdict.unknown_score == pytest.approx(0.3)


def test_many_flows_come_back_in_order() -> None:
    records = samples.records(600)
    metas = [dataclasses.replace(META, uid=f"C{k}", frames=(1,) * 32) for k in range(600)]
    verdicts = _detector(2.0).judge(list(zip(records, metas, strict=True)), "MTD")
    assert [v.meta.uid for v in verdicts] == [f"C{k}" for k in range(600)]
    assert _detector(2.0).judge([], "MTD") == []


def test_a_task_that_is_not_loaded_is_named() -> None:
    with pytest.raises(UsageError, match="EAC"):
        _detector(1.0).judge([], "EAC")


def test_deleting_named_evidence_costs_more_than_deleting_as_many_random_parts(tmp_path: Path) -> None:
    """The model's own verdicts: three named parts taken away together against three drawn at random."""
    base = load_base(samples.write_base(tmp_path / "base"), dtype="float32")
    engine = Engine(base)
    engine.add_adapter("MTD", samples.write_adapter(base.path, tmp_path / "a", seed=3))
    scorer = LLMScorer(engine, "MTD", get_task("MTD"), ("Neris", "Zeus", "Gmail"))
    records = [record for record in samples.records(60, seed=2) if len(record.dirs) >= 5]
    metas = [dataclasses.replace(META, frames=tuple(range(100, 100 + len(r.dirs)))) for r in records]
    whole = scorer.score(records).probabilities
    best = whole.argmax(axis=1).tolist()
    named = [[(e.frame, e.field) for e in found] for found in explain(scorer, records, best, metas, top=3)]
    rng = random.Random(0)
    drawn = []
    for parts, record, meta in zip(named, records, metas, strict=True):
        every = [(frame, "packet") for frame in meta.frames[: len(record.dirs)]]
        every += [(0, field) for field in ("payload", "iats", "flags", "proto")]
        drawn.append(rng.sample(every, len(parts)))

    def loss(parts: Sequence[Sequence[tuple[int, str]]]) -> float:
        less = [without(r, meta.frames, some) for r, meta, some in zip(records, metas, parts, strict=True)]
        p = scorer.score(less).probabilities
        return float(np.mean([whole[k, b] - p[k, b] for k, b in enumerate(best)]))

    assert sum(len(parts) for parts in named) > 2 * len(records)
    assert loss(named) > 1.15 * loss(drawn)  # .155 against .121 on a model of random weights, where every part counts
