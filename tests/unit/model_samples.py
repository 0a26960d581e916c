"""Throw-away tokenizers of the known pipelines, tiny random models, and synthetic records for the model tests."""

from __future__ import annotations

import importlib.util
import random
from functools import cache
from pathlib import Path
from typing import Any

from trafficllm.core.types import Prompt, Record, Segment
from trafficllm.model.tokenizer.learn import learn
from trafficllm.records.codec.codec import encode

LABELS = ("Alpha", "Beta", "Beta-two")
_SYLLABLES = ("net", "work", "pack", "et", "flow", "ser", "ver", "cli", "ent", "tcp", "dns", "byte", "port", "ing", "ed", "the")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Varied English-like lines with digits, punctuation, accents and code."""
    chooser = random.Random(seed)

    def word() -> str:
        return "".join(chooser.choice(_SYLLABLES) for _ in range(chooser.randrange(1, 4)))

    tails = (".", "!", " (see RFC 793).", " = 0x1f;", " naïve café", "\n\tif x:", " 192.0.2.1:443", "…", " 日本")
    return [
        " ".join(word() for _ in range(chooser.randrange(3, 12))).capitalize() + f" {chooser.randrange(10**4)}" + chooser.choice(tails)
        for _ in range(count)
    ]


def record(chooser: random.Random, kind: int = 0) -> Record:
    """A TCP flow whose sizes and payload depend on `kind`, with noise."""
    n = chooser.randrange(4, 9)
    sizes = tuple((0, 517 + kind, 100 * (kind + 1), chooser.randrange(1400))[k % 4] for k in range(n))
    return Record(
        proto=6,
        port_class="ew",
        dirs=tuple(k % 2 for k in range(n)),
        sizes=sizes,
        iats=(0, *(int(10 ** chooser.uniform(3, 8)) for _ in range(n - 1))),
        flags=tuple((2, 18, 16, 24)[min(k, 3)] for k in range(n)),
        payload=(bytes([22, 3, 1 + kind]) + chooser.randbytes(8), bytes([22, 3, 3, kind])),
    )


@cache
def records(count: int = 300) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Records with their labels, the three classes in turn."""
    chooser = random.Random(1)
    return tuple(record(chooser, k % 3) for k in range(count)), tuple(LABELS[k % 3] for k in range(count))


@cache
def traffic_tokens(size: int = 900) -> tuple[str, ...]:
    """A small learnt vocabulary over the sample records."""
    return tuple(learn([encode(r) for r in records()[0]], size))


def prompt_of(value: Record) -> Prompt:
    """The prompt of a sample record."""
    return (Segment("instruction", "MTD\n"), Segment("traffic", encode(value)), Segment("instruction", "\nanswer: "))


def _recipe() -> Any:
    """recipes/tokenizers/kinds.py: the one place that knows the families' pipelines."""
    path = Path(__file__).resolve().parents[2] / "recipes" / "tokenizers" / "kinds.py"
    spec = importlib.util.spec_from_file_location("tokenizer_kinds", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()
KINDS: tuple[str, ...] = recipe.KINDS


@cache
def _trained(kind: str, vocab: int) -> str:
    return str(recipe.pipeline(kind, sentences(800), vocab).to_str())


def pipeline(kind: str, vocab: int = 1500) -> Any:
    """A `tokenizers.Tokenizer` with the normalizer, pre-tokenizer and decoder of a family, trained on sample lines."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(kind, 600 if kind == "t5" else vocab))


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(kind: str, folder: Path, *, chat: bool = False, template: str = "") -> None:
    """A tokenizer folder of a family, as save_pretrained writes it."""
    recipe.save(pipeline(kind), kind, folder, template=template or (CHATML if chat else ""))


def save_model(folder: Path, name: str = "LlamaConfig", *, rows: int | None = None, **extra: Any) -> Any:
    """A tiny random model of an architecture beside the folder's tokenizer; returns it."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    torch.manual_seed(0)
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    settings: dict[str, Any] = {
        "vocab_size": rows or size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
    }
    config = getattr(transformers, name)(**{**settings, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model
