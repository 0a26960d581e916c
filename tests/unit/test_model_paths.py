"""Prompts as paths of one tree: the states are those of each prompt alone, by code made for this processor or without it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest
import torch

import trafficllm
from trafficllm.core.settings import Config
from trafficllm.infer.engine import engine as engine_module
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base import llama as llama_module
from trafficllm.model.base.llama import Llama, LlamaSizes
from trafficllm.model.base.paths import Paths, functions, hidden_states, parts
from trafficllm.model.base.served import load_served
from trafficllm.model.kernels import native as native_module
from trafficllm.model.kernels.native import Native, fits, native
from trafficllm.records.catalog import get_task

PROMPTS = [(1, 2, 3), (1, 2, 3, 4, 9), (1, 2, 7, 7), (1, 5), (8,), (8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)]


def small(groups: int, head: int = 32, seed: int = 0) -> Llama:
    """A model of random weights with four heads."""
    config = {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": groups,
        "head_dim": head,
        "max_position_embeddings": 64,
        "rope_theta": 500.0,
    }
    sizes = LlamaSizes.of(config)
    assert sizes is not None
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 1)
        for name, shape in sizes.tensors().items()
    }
    return Llama(sizes, weights)


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_states_along_paths_are_those_of_each_prompt_alone(groups: int) -> None:
    model = small(groups)
    using = functions(model)
    assert using is not None
    behind = [(20, 1), (21, 2), (22, 1)]  # 20 and 22 follow the prompt, 21 follows 20
    paths = Paths.of(PROMPTS, behind, first=2)
    assert len(paths.tokens) == 3 + 2 + 2 + 1 + 1 + 18 + 3 * len(PROMPTS)  # beginnings in common once
    layers = list(hidden_states(model, paths, using))
    for row, ids in enumerate(PROMPTS):
        for asked, path in ((0, ids), (1, (*ids, 20)), (2, (*ids, 20, 21)), (3, (*ids, 22))):
            alone = model(torch.tensor([path]), output_hidden_states=True).hidden_states
            for ours, theirs in zip(layers, alone, strict=True):
                assert torch.allclose(ours[paths.asked[row, asked]], theirs[0, -1], atol=2e-5)
        alone = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, min(2, len(ids) - 1) :]
        pooled = torch.empty(len(PROMPTS), 96)
        using.pool(layers[1], paths.path, paths.ends, pooled)
        assert torch.allclose(pooled[row], torch.cat([alone.mean(0), alone.amax(0)]), atol=2e-5)


def test_batches_hold_every_prompt_once_and_no_more_nodes_than_asked() -> None:
    generator = np.random.default_rng(0)
    prompts = list({tuple(generator.integers(0, 3, generator.integers(1, 12)).tolist()) for _ in range(300)})
    batches = list(parts(prompts, 2, 64))
    assert sorted(i for batch in batches for i in batch) == list(range(len(prompts)))
    sizes = [len(Paths.of([prompts[i] for i in batch], [(0, 1), (1, 1)]).tokens) for batch in batches]
    assert max(sizes) <= 64
    assert min(sizes[:-1]) > 40
    assert list(parts([(1, 2, 3)], 0, 2)) == [[0]]  # one prompt is never cut
    order = [prompts[i] for batch in batches for i in batch]
    assert all(a < b for a, b in pairwise(order))


def test_gate_and_norm_are_torchs_also_far_out() -> None:
    using = native(32)
    assert using is not None
    both = torch.randn(7, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.0, 1e-3, 1, 10, 60, 300, 1e4])[:, None]
    gate, up = both.chunk(2, 1)
    assert torch.allclose(using.gate(both), torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-6)
    factors = torch.linspace(-1, 2, 64)
    assert torch.allclose(using.norm(both, factors, 1e-6), torch.nn.functional.rms_norm(both, (64,), factors, 1e-6), rtol=1e-5)


def test_attention_where_one_key_outweighs_all_others() -> None:
    using = native(32)
    assert using is not None
    qkv = torch.zeros(40, 96)
    qkv[:, :32], qkv[:, 64:] = 100.0, torch.arange(40.0)[:, None]
    qkv[17, 32:64] = 100.0  # no angle: cosines 1, sines 0
    turns = torch.ones(40, 32), torch.zeros(40, 32)
    seen = using.attend(qkv, torch.arange(40, dtype=torch.int32), torch.arange(40, dtype=torch.int32), turns, heads=1, groups=1)
    assert torch.equal(seen[17:], torch.full((23, 32), 17.0))
    assert torch.allclose(seen[16], torch.full((32,), 8.0))  # all alike: the mean of 0 to 16
    with pytest.raises(IndexError, match="position 40 of 40"):
        using.attend(qkv, torch.zeros(1, dtype=torch.int32), torch.full((1,), 40, dtype=torch.int32), turns, heads=1, groups=1)


def test_models_of_other_sizes_are_left_to_torch() -> None:
    assert functions(small(4, head=16)) is None
    assert not fits(32, (190,))
    assert not fits(0, ())
    assert functions(object()) is None


def test_verdicts_without_machine_code_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, labels = Engine(load_served()), get_task("MTD").labels
    folder = Path(trafficllm.__file__).parent / "data" / "adapters" / "MTD" / "v0001"
    engine.add_adapter("MTD", folder)
    scorers = [LLMScorer(engine, adapter, get_task("MTD"), labels) for adapter in ("MTD", "")]
    ours = [scorer.score(samples.records(12), features=True) for scorer in scorers]
    monkeypatch.setattr(engine_module, "functions", lambda _: None)
    theirs = [scorer.score(samples.records(12), features=True) for scorer in scorers]
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.probabilities - other.probabilities).max() < 1e-5
        for name in ("hidden", "pooled", "readout", "umbrella", "features"):
            left, right = getattr(one, name), getattr(other, name)
            assert (left is None) == (right is None), name
            assert left is None or (left.shape == right.shape and np.allclose(left, right, atol=1e-4)), name
    assert ours[0].umbrella is not None  # three members with both readouts
    assert not np.array_equal(ours[1].hidden, theirs[1].hidden)  # type: ignore[arg-type] # the other way was taken


def shipped_scorer(products: str) -> LLMScorer:
    """The malware adapter of the package."""
    engine = Engine(load_served(), products=products)
    engine.add_adapter("MTD", Path(trafficllm.__file__).parent / "data" / "adapters" / "MTD" / "v0001")
    return LLMScorer(engine, "MTD", get_task("MTD"), get_task("MTD").labels)


def test_products_of_bfloat16_change_little_and_only_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    records = samples.records(40)
    exact = shipped_scorer("float32").score(records).probabilities
    if llama_module.has_short_products():
        short = shipped_scorer("bfloat16").score(records).probabilities
        assert 1e-6 < np.abs(short - exact).max() < 0.05
        assert np.array_equal(shipped_scorer("bfloat16").score(records).probabilities, short)
    monkeypatch.setattr(llama_module, "has_short_products", lambda: False)
    assert np.array_equal(shipped_scorer("bfloat16").score(records).probabilities, exact)


def test_the_engine_multiplies_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_module, "has_short_products", lambda: True)
    for products, short in (("bfloat16", True), ("float32", False)):
        engine = Workspace(config=Config(products=products)).engine
        engine.add_adapter("MTD", Path(trafficllm.__file__).parent / "data" / "adapters" / "MTD" / "v0001")
        for member in engine.members("MTD"):
            with engine.using(member) as model:
                assert isinstance(model, Llama)
                assert {block.qkv.short for block in model.layers} == {short}


@pytest.fixture(name="own_cache")
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_damaged_code_on_disk_is_made_anew(own_cache: Path) -> None:
    assert isinstance(native_module._native(64), Native)
    (file,) = own_cache.glob("forward-*.o")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    assert isinstance(native_module._native(64), Native)
    assert file.read_bytes() == whole  # the same bytes: LLVM's work is reproducible


def test_without_llvm_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> Native:
        raise ImportError("no llvmlite here")

    monkeypatch.setattr(native_module, "_native", missing)
    assert native_module._made.__wrapped__(32) is None
