"""`tune plan` against a real run: counts exact, memory within 20 %, time within the stated factor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import LABELS, prompt_of, records, save_model, save_tokenizer, traffic_tokens
from tune_forks import fork

from trafficllm.core.settings import TuneOptions
from trafficllm.model import step_time
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import load_base, precision_for
from trafficllm.model.results import Forecast
from trafficllm.model.tuning import plan as planning
from trafficllm.model.tuning.job import TuneData, peak_bytes, tune_task
from trafficllm.model.tuning.plan import plan_data

TIME_FACTOR = 3.0


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    save_tokenizer("gpt2", place / "plain")
    save_model(place / "plain", hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=6)
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    return place / "traffic"


def _data() -> TuneData:
    made, labels = records()
    return TuneData([prompt_of(row) for row in made[:240]], list(labels[:240]), LABELS)


def _plan_then_run(folder: Path, options: TuneOptions, out: Path) -> None:
    """In a process of its own, whose peak memory is then the run's."""
    found = plan_data(folder, _data(), options)
    report = tune_task(load_base(folder, dtype="float32"), _data(), out, options)
    out.with_suffix(".json").write_text(json.dumps({"plan": found.as_dict(), "report": report.as_dict(), "peak": peak_bytes()}))


def test_the_forecast_holds(folder: Path, tmp_path: Path) -> None:
    options = TuneOptions(max_steps=3, batch_tokens=8192, looks=0)
    child = fork(_plan_then_run, folder, options, tmp_path / "a", log=tmp_path / "log")
    child.join(300)
    assert child.exitcode == 0, (tmp_path / "log").read_text()
    found = json.loads((tmp_path / "a.json").read_text())
    planned, report = found["plan"], found["report"]
    assert (planned["steps"], planned["trainable"]) == (report["steps"], report["trainable"])
    assert planned["tokens"] == pytest.approx(report["tokens"], rel=0.1)
    assert 0.8 < planned["memory"]["total"] / found["peak"] < 1.2, found
    assert 1 / TIME_FACTOR < (planned["seconds"] + planned["readout_seconds"]) / report["seconds"] < TIME_FACTOR, found
    assert 0 < planned["readout_seconds"] < 10 * report["readout"]["seconds"] + 1, found


def test_a_busy_machine_is_told_from_an_idle_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(share: float) -> Forecast:
        monkeypatch.setattr(planning, "measured_speed", lambda _: planning.Speed(1e9, share))
        monkeypatch.setattr(planning, "measured", lambda *_: None)
        return plan_data(folder, _data(), TuneOptions(max_steps=20))

    idle, busy = found(1.0), found(0.25)
    assert idle.seconds == idle.idle_seconds == busy.idle_seconds
    assert busy.seconds == pytest.approx(4 * idle.seconds, rel=0.01)
    assert busy.readout_seconds == pytest.approx(4 * idle.readout_seconds, rel=0.01)
    assert (idle.share, busy.share) == (1.0, 0.25)
    bounded = plan_data(folder, _data(), TuneOptions(max_steps=20, max_seconds=0.5))
    assert bounded.seconds == bounded.idle_seconds == 0.5


def test_the_speed_of_a_process_does_not_count_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wall clock that runs ten times as fast, as beside nine other programs, the speed stays and the share is a tenth or less."""
    clock = planning.time.perf_counter
    alone = planning.measured_speed("float32")
    monkeypatch.setattr(planning.time, "perf_counter", lambda: 10 * clock())
    beside = planning.measured_speed("float32")
    assert beside.idle == pytest.approx(alone.idle, rel=0.7)
    assert 0 < beside.share <= 0.11


def test_a_readout_takes_its_time(folder: Path) -> None:
    def reading(data: TuneData, **changes: object) -> float:
        return plan_data(folder, data, TuneOptions(max_steps=2).model_copy(update=changes)).readout_seconds

    few = _data()
    many = TuneData(few.prompts * 20, few.answers * 20, LABELS)
    assert reading(few, readout=0) == reading(few, method="full") == 0
    assert reading(many) > 4 * reading(few) > 0


def test_methods_precision_and_processes_change_the_forecast(folder: Path) -> None:
    def memory(world: int = 1, precision: str = "float32", **changes: object) -> dict[str, int]:
        options = TuneOptions(batch_tokens=4096, max_steps=2).model_copy(update=changes)
        return dict(plan_data(folder, _data(), options, precision=precision, world=world).as_dict()["memory"])

    plain = memory()
    assert memory(precision="bfloat16")["weights"] == plain["weights"] // 2
    assert memory(method="qlora")["weights"] < plain["weights"] / 2
    assert memory(method="prefix")["states"] < plain["states"]
    assert memory(method="full")["states"] > 8 * plain["states"]
    assert memory(gradient_checkpointing=True)["activations"] < plain["activations"] / 2
    split = memory(world=4, shard=True)
    assert split["weights"] == pytest.approx(plain["weights"] / 4, abs=1)
    assert split["activations"] < plain["activations"] / 2
    config = json.loads((folder / "config.json").read_text())
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"] * config["num_key_value_heads"]
    layer = 2 * width * width + 2 * width * head + 3 * width * inner + 2 * width
    lora = 16 * (2 * 2 * width + 2 * (width + head) + 3 * (width + inner))
    tables = config["vocab_size"] * width * (1 if config["tie_word_embeddings"] else 2) + width
    assert split["gathered"] == 4 * (tables + 2 * (layer + lora))
    assert plain["gathered"] == memory(world=4)["gathered"] == 0
    assert split["total"] == sum(value for name, value in split.items() if name != "total")


def test_another_device_is_planned_by_an_assumed_speed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a configuration alone, without a look at this machine: time goes with the work over speed and devices."""
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for name in ("measured_speed", "measured"):
        monkeypatch.setattr(planning, name, lambda *_: pytest.fail("this machine was measured"))
    lengths = [64] * 200

    def planned(speed: float, world: int = 1) -> Forecast:
        return planning.plan(tmp_path, lengths, TuneOptions(epochs=1, batch_tokens=640), world=world, speed=speed)

    one = planned(1e9)
    body = one.parameters - one.trainable
    table = (
        json.loads((tmp_path / "config.json").read_text())["vocab_size"] * json.loads((tmp_path / "config.json").read_text())["hidden_size"]
    )
    work = (4 * (body - table) + 6 * one.trainable) * sum(lengths)
    assert one.seconds == pytest.approx(work / 1e9 + planning.STEP_SECONDS * one.steps, abs=0.1)
    assert planned(1e8).seconds == pytest.approx(10 * one.seconds, rel=0.02)
    assert planned(1e8, world=4).seconds == pytest.approx(planned(1e8).seconds / 4, rel=0.02)
    monkeypatch.undo()
    assert precision_for(tmp_path) in {"float32", "bfloat16"}
    assert plan_data(tmp_path, _data(), TuneOptions(max_steps=2)).rows == plan_data(folder, _data(), TuneOptions(max_steps=2)).rows


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_measured_step_needs_no_weights_and_draws_nothing_of_the_callers(tmp_path: Path, family: str, precision: str) -> None:
    """A deep model, of which few layers are measured, one of them of a family whose layers are listed by kind."""
    _deep(family).save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    measured = step_time.measured(tmp_path, TuneOptions(r=2, batch_tokens=64), precision, [12, 16, 20])
    assert torch.equal(before, torch.random.get_rng_state())
    assert measured is not None
    assert measured.step > 0 < measured.forward


def _deep(family: str) -> Any:
    from transformers import AutoConfig

    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 5000, "num_hidden_layers": 8}
    return AutoConfig.for_model(family, **sizes, **heads)


def test_a_layer_is_what_a_deeper_model_takes_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _deep("llama").save_pretrained(tmp_path)
    monkeypatch.setattr(step_time, "_seconds", lambda _, layers: np.array([7.0 + 2 * layers, 3.0 + layers]))
    measured = step_time.measured(tmp_path, TuneOptions(batch_tokens=100), "float32", [10] * 9)
    assert measured == step_time.TokenTime((7 + 2 * 8) / 100, (3 + 8) / 100)


def test_nothing_is_measured_where_it_would_take_long_or_be_another_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _deep("llama").save_pretrained(tmp_path)
    assert step_time.measured(tmp_path, TuneOptions(method="full"), "float32", [10]) is None
    assert step_time.measured(tmp_path, TuneOptions(), "float32", []) is None
    monkeypatch.setattr(step_time, "LAYER", 4 * 32 * 32 + 3 * 32 * 64)
    assert step_time.measured(tmp_path, TuneOptions(), "float32", [10]) is None
