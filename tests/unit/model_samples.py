"""Throw-away tokenizers of the known pipelines, tiny random models, and synthetic records for the model tests."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

from trafficllm.core.types import Prompt, Record, Segment
from trafficllm.model.learn_tokens import learn
from trafficllm.records.codec import encode

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


def _bpe(lines: list[str], vocab: int, special: list[str], pre: Any, decoder: Any, normalizer: Any = None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer=trainer)
    return tokenizer


def _sentencepiece_bpe(lines: list[str], vocab: int, special: list[str], *, normalizer: Any, pre: Any, decoder: Any) -> Any:
    """BPE over "▁"-marked text with byte fallback, as SentencePiece models become when converted."""
    from tokenizers import Tokenizer, models, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    if pre is not None:
        trained.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[*special, *(f"<0x{b:02X}>" for b in range(256))], show_progress=False)
    trained.train_from_iterator(lines, trainer=trainer)
    import json

    state = json.loads(trained.to_str())
    state["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    state["added_tokens"] = [entry for entry in state["added_tokens"] if not entry["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoder
    return tokenizer


def pipeline(kind: str, vocab: int = 1500) -> Any:
    """A `tokenizers.Tokenizer` with the normalizer, pre-tokenizer and decoder of a family, trained on sample lines."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    lines = sentences(800)
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    if kind == "gpt2":
        return _bpe(lines, vocab, ["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    if kind in {"llama3", "qwen"}:
        pattern = llama3 if kind == "llama3" else llama3.replace(r"\p{N}{1,3}", r"\p{N}")
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        pre = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        norm = normalizers.NFC() if kind == "qwen" else None
        special = ["<|begin_of_text|>", "<|eot_id|>"] if kind == "llama3" else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer = _bpe(lines, vocab, special, pre, decoders.ByteLevel(), norm)
        if kind == "qwen":
            tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<think>", normalized=False)])
        else:
            first = tokenizer.token_to_id("<|begin_of_text|>")
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", first)]
            )
        return tokenizer
    fallback = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if kind == "llama2":
        norm = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        return _sentencepiece_bpe(lines, vocab, ["<unk>", "<s>", "</s>"], normalizer=norm, pre=None, decoder=fallback)
    if kind == "mistral":
        pre = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        return _sentencepiece_bpe(
            lines, vocab, ["<unk>", "<s>", "</s>"], normalizer=normalizers.Sequence([]), pre=pre, decoder=fallback
        )
    if kind == "gemma":
        norm, pre = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
        special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
        return _sentencepiece_bpe(lines, vocab, special, normalizer=norm, pre=pre, decoder=fallback)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer=trainer)
    return tokenizer


KINDS = ("gpt2", "llama3", "qwen", "llama2", "mistral", "gemma", "t5")
_ROLES: dict[str, dict[str, str]] = {
    "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "t5": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(kind: str, folder: Path, *, chat: bool = False) -> None:
    """A tokenizer folder of a family, as save_pretrained writes it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=pipeline(kind), **_ROLES[kind])
    if chat:
        fast.chat_template = CHATML
    fast.save_pretrained(folder)


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
