"""`evaluate generation` from captures and data sets: labels, cuts, validity, identifiers, page."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.cut import Cut
from trafficllm.capture.files.write import write_capture
from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import Action, Facts, FlowMeta, FlowPlan, Record, Silent, Span
from trafficllm.evaluate.fidelity.classes import of_classes
from trafficllm.evaluate.fidelity.identifiers import overlap
from trafficllm.lifecycle.studies.generation import COLUMNS, evaluate, table
from trafficllm.lifecycle.studies.results import EvaluateGeneration
from trafficllm.records.codec import view


def _capture(path: Path, *, seed: int, size: int, flows: int = 40) -> Path:
    rng = random.Random(seed)
    plans = []
    for _ in range(flows):
        steps = [Action("datagram", k % 2, size + rng.randrange(40), gap=rng.randrange(10**6), ttl=64) for k in range(rng.randrange(1, 6))]
        plans.append(FlowPlan(17, 4, 4000, tuple(steps)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_capture(path, [compile_flows(plans, seed=seed, start=10**18, spread=10**12)])
    return path


@pytest.fixture(name="sides")
def _sides(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Real, synthetic and training captures of two labels; "big" is generated at a wrong size."""
    for k, (side, big) in enumerate((("real", 400), ("synthetic", 700), ("train", 400))):
        _capture(tmp_path / side / "small" / "a.pcap", seed=10 + k, size=50)
        _capture(tmp_path / side / "big" / "a.pcap", seed=20 + k, size=big)
    return tmp_path / "real", tmp_path / "synthetic", tmp_path / "train"


def test_two_labels_from_folders(sides: tuple[Path, Path, Path], tmp_path: Path) -> None:
    real, synthetic, train = sides
    page = tmp_path / "report.html"
    result = evaluate(real, synthetic, train=train, html=page, progress=Silent())
    body = EvaluateGeneration.model_validate(result.as_dict()).as_dict()
    assert set(body["labels"]) == {"small", "big"}
    right, wrong = (body["labels"][name]["fields"]["length"] for name in ("small", "big"))
    assert right["jsd"] < 2 * right["floor"] < 0.5 < wrong["jsd"] == 1.0
    assert body["fields"]["length"]["jsd"] == pytest.approx((right["jsd"] + 1.0) / 2)
    assert body["trtr"] > 0.95
    assert body["tstr"] > 0.9  # 700 is still nearer to 400 than to 50
    assert body["valid"].pop("packets") > 100
    assert body["valid"] == {"valid": True, "malformed": 0, "bad_checksums": 0, "bad_lengths": 0, "tcp_violations": 0}
    assert body["cuts"]["small"] == {"snap": 0, "flow": 0}
    assert len(table(result)) == 3
    assert all(len(row) == len(COLUMNS) for row in table(result))
    text = page.read_text()
    assert "big" in text
    assert "<script" not in text


def test_one_capture_with_its_manifest(sides: tuple[Path, Path, Path], tmp_path: Path) -> None:
    real, synthetic, train = sides
    made = shutil.copy(synthetic / "small" / "a.pcap", tmp_path / "x.pcap")
    beside = tmp_path / "x.pcap.json"
    beside.write_text(json.dumps({"parts": [{"task": "T", "label": "small", "flows": 40}]}))
    body = evaluate(real, Path(made), train=train, progress=Silent()).as_dict()
    assert list(body["labels"]) == ["small"]
    assert (body["tstr"], body["trtr"]) == (None, None)
    beside.write_text(json.dumps({"parts": [{"label": "small"}, {"label": "big"}]}))
    with pytest.raises(InputError, match="do not say which"):
        evaluate(real, Path(made), train=train, progress=Silent())
    with pytest.raises(UsageError, match="no part"):
        evaluate(real, synthetic, part="train", progress=Silent())
    with pytest.raises(InputError, match="no captures of huge"):
        evaluate(real, synthetic, labels=["huge", "vast"], progress=Silent())


def test_without_training_flows_half_of_the_real_ones_stand_in(sides: tuple[Path, Path, Path]) -> None:
    body = evaluate(sides[0], sides[1], labels=["small", "none"], progress=Silent()).as_dict()
    assert body["n"] == {"real": 20, "synthetic": 40, "train": 20, "compared": 10}


def test_classes_of_one_side_are_named() -> None:
    flows = [Record(proto=17, ip_version=4, dirs=(0,), sizes=(k,), iats=(0,), flags=(-1,), windows=(-1,), ttls=(64,)) for k in range(20)]
    body = of_classes({"a": flows, "b": flows, "few": flows[:3]}, {"a": flows, "c": flows, "few": flows}, {"a": flows}).as_dict()
    assert body["not_compared"] == ["b", "c", "few"]
    assert body["copies"] == {"synthetic": 1.0, "real": 1.0}
    with pytest.raises(InputError, match="no class"):
        of_classes({"b": flows}, {"c": flows}, {})


def test_identifiers_are_found_anywhere() -> None:
    facts = Facts("http", {}, (Span(0, 4, 15, "http.host"), Span(0, 0, 3, "http.cookie")))
    old = Record(proto=6, payload=(b"GET example.com", b""), facts=facts)
    new = Record(proto=6, payload=(b"", b"see example.com now"))
    met = FlowMeta(orig_h="10.0.0.1", resp_h="10.0.0.2")
    assert overlap([(old, met)], [(new, FlowMeta(orig_h="192.0.2.1", resp_h="10.0.0.2"))]).as_dict() == {"addresses": 1, "names": 1}
    assert overlap([(old, met)], [(old, FlowMeta())]).as_dict() == {"addresses": 0, "names": 1}  # "GET" is too short to count
    assert overlap([], [(new, met)]).as_dict() == {"addresses": 0, "names": 0}


def test_the_view_keeps_headers_and_service_ports() -> None:
    record = Record(
        proto=6,
        ports=(2222, 443),
        dirs=(0, 1),
        sizes=(9, 0),
        iats=(0, 5),
        flags=(24, 16),
        windows=(501, 8192),
        ttls=(64, 120),
        payload=(b"\x16\x03\x01", b""),
        facts=Facts("tls", {}, (Span(0, 0, 3, "tls.random"),)),
    )
    found = view.shown(record)
    assert (found.ports, found.windows, found.ttls) == ((1024, 443), (501, 8192), (64, 120))
    assert found.payload == (b"\0\0\0", b"")
    assert view.shown(Record(proto=17, ports=(50000, 33333), dirs=(0,))).ports == (49152, 1024)
    assert view.shown(Record(proto=17, ports=(53, 51413), dirs=(0,))).ports == (1, 49152)
    assert [view.stands_in(port) for port in (1, 1024, 49152, 443)] == ["w", "r", "e", ""]


def test_cuts_default_to_whole() -> None:
    assert Cut() == Cut(snap=0, flow=0)
