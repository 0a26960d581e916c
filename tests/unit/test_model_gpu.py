"""What only a GPU can show: bf16 tuning, attention kernels, and the real sizes of Llama-8B and Qwen-7B with random weights.

`pytest -m gpu` on a machine with a CUDA device. With TRAFFICLLM_GPU_RESULTS set to a file, figures are written there as JSON
lines: device, tokens/s of LoRA steps, flows/s of label scoring, peak memory.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import LABELS, save_tokenizer
from tune_forks import QUICK, make_base, rows

from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.job import tune_task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none here")]

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-8b": (
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
        },
    ),
    "qwen-7b": (
        "Qwen2Config",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
        },
    ),
}


def _note(**figures: Any) -> None:
    target = os.environ.get("TRAFFICLLM_GPU_RESULTS")
    if target:
        where = {"device": torch.cuda.get_device_name(), "date": datetime.now(UTC).date().isoformat()}
        with Path(target).open("a") as stream:
            stream.write(json.dumps({**where, **figures}) + "\n")


def _losses(folder: Path) -> list[float]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in found if "loss" in row]


def test_bf16_on_the_gpu_follows_float32_on_the_cpu(tmp_path: Path) -> None:
    cpu = make_base(tmp_path)
    options = QUICK.model_copy(update={"max_steps": 12, "looks": 2})
    tune_task(cpu, rows(), tmp_path / "cpu", options)
    gpu = load_base(cpu.path, dtype="bfloat16", device="cuda")
    report = tune_task(gpu, rows(), tmp_path / "gpu", options)
    assert report.precision == "bfloat16"
    pairs = zip(_losses(tmp_path / "cpu"), _losses(tmp_path / "gpu"), strict=True)
    assert max(abs(one - two) for one, two in pairs) < 0.1


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "flash_attention_2"])
def test_attention_kernels_agree(tmp_path: Path, kernel: str) -> None:
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="flash_attn is not installed")
    base = make_base(tmp_path)
    ids = torch.randint(3, 1000, (4, 64), device="cuda")
    found = []
    for name in ("sdpa", kernel):
        model = load_base(base.path, dtype="bfloat16", device="cuda").model
        model.set_attn_implementation(name)
        with torch.inference_mode():
            found.append(model(ids).logits.float().softmax(-1))
    assert float((found[0] - found[1]).abs().max()) < 1e-2


def _real_size(name: str, folder: Path) -> Base:
    """A real-size model with random bf16 weights, made on the GPU, behind a small extended tokenizer."""
    import transformers

    small = make_base(folder)
    config, sizes = SIZES[name]
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**sizes), dtype=torch.bfloat16)
    return Base(model.eval(), small.tokenizer, small.path, small.manifest)


@pytest.mark.parametrize("name", SIZES)
def test_real_sizes_are_tuned_and_scored(name: str, tmp_path: Path) -> None:
    from trafficllm.infer.engine.engine import Engine

    base = _real_size(name, tmp_path)
    torch.cuda.reset_peak_memory_stats()
    options = QUICK.model_copy(update={"max_steps": 12, "looks": 0, "batch_tokens": 8192, "learning_rate": 2e-4, "r": 16})
    report = tune_task(base, rows(), tmp_path / "a", options)
    tuning_peak = torch.cuda.max_memory_allocated()
    losses = _losses(tmp_path / "a")
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < losses[0]
    torch.cuda.reset_peak_memory_stats()
    engine = Engine(base, device="cuda")
    engine.add_adapter("a", tmp_path / "a")
    prompts = list(rows().val_prompts)
    engine.score(prompts, LABELS, adapter="a")
    torch.cuda.synchronize()
    start = time.perf_counter()
    scores = engine.score(prompts, LABELS, adapter="a", batch_tokens=16384)
    seconds = time.perf_counter() - start
    assert scores.probabilities.shape == (len(prompts), len(LABELS))
    _note(
        model=name,
        parameters=sum(value.numel() for value in base.model.parameters()),
        tuning_tokens_per_second=report.tokens_per_second,
        tuning_peak_bytes=tuning_peak,
        flows_per_second=len(prompts) / seconds,
        scoring_peak_bytes=torch.cuda.max_memory_allocated(),
    )


def test_gradient_checkpointing_takes_less_memory(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    from model_samples import save_model, traffic_tokens

    save_model(tmp_path / "plain", hidden_size=512, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8)
    make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    peaks = []
    for on in (False, True):
        base = load_base(tmp_path / "traffic", dtype="bfloat16", device="cuda")
        torch.cuda.reset_peak_memory_stats()
        changes = {"max_steps": 2, "looks": 0, "batch_tokens": 16384, "gradient_checkpointing": on}
        tune_task(base, rows(), tmp_path / str(on), QUICK.model_copy(update=changes))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.8 * peaks[0]
