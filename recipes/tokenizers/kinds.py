"""The tokenizer pipelines of the known families, trained from scratch: real normalizer, digit rule, pre-tokenizer, decoder, control tokens.

    python recipes/tokenizers/kinds.py --corpus DOCS --out runs/tokenizers [--vocab 32768] [--kinds gpt2 qwen ...]

`DOCS` holds `*.txt.gz` (English documentation). A kind already in `--out` is kept: the command resumes. The tests train the same
pipelines with smaller vocabularies.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

KINDS = ("gpt2", "llama3", "qwen", "llama2", "mistral", "gemma", "t5")
VOCAB = 32768
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CONTROL: dict[str, tuple[str, ...]] = {
    "gpt2": ("<|endoftext|>",),
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
        *(f"<|reserved_special_token_{k}|>" for k in range(16)),
    ),
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    "llama2": ("<unk>", "<s>", "</s>"),
    "mistral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", *(f"<unused{k}>" for k in range(16))),
    "t5": ("<pad>", "</s>", "<unk>", *(f"<extra_id_{k}>" for k in range(16))),
}
"""Special tokens, in id order."""
PLAIN_ADDED: dict[str, tuple[str, ...]] = {
    "qwen": ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>"),
    "gemma": ("\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<table>", "<h1>", "[toxicity=0]"),
}
"""Added tokens that are not special, as the released files have them: split_special_tokens does not touch them."""
ROLES: dict[str, dict[str, str]] = {
    "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "t5": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
}


def _byte_level(kind: str, lines: Sequence[str], vocab: int) -> Any:
    """GPT-2, Llama-3 and Qwen: bytes as letters, a splitting pattern, digits by one or three."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        split = pre_tokenizers.Split(Regex(_QWEN if kind == "qwen" else _LLAMA3), "isolated")
        inner = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, inner])
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(CONTROL[kind]), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer=trainer)
    tokenizer.add_special_tokens(list(CONTROL[kind]))  # after the pieces, as in the released files
    return tokenizer


def _marked(kind: str, lines: Sequence[str], vocab: int) -> Any:
    """Llama-2, Mistral and Gemma: BPE over "▁"-marked text, single digits, bytes for letters it lacks, as SentencePiece's become."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    # SentencePiece never merges across a space and splits digits; the released files need no rule for it, their merges have none.
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)])
    pieces = [*CONTROL[kind], *(f"<0x{b:02X}>" for b in range(256))]
    trained.train_from_iterator(
        lines, trainer=trainers.BpeTrainer(vocab_size=vocab, special_tokens=pieces, limit_alphabet=4000, show_progress=False)
    )
    state = json.loads(trained.to_str())
    state["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    state["added_tokens"] = [entry for entry in state["added_tokens"] if not entry["content"].startswith("<0x")]
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    strip = [decoders.Strip(" ", 1, 0)] if kind != "gemma" else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    if kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def _unigram(kind: str, lines: Sequence[str], vocab: int) -> Any:
    """T5: a Unigram model behind SentencePiece's nmt_nfkc character map."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    folding = charsmap()
    fold = [normalizers.Precompiled(folding)] if folding else [normalizers.Nmt(), normalizers.NFKC()]
    tokenizer.normalizer = normalizers.Sequence([*fold, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    pieces = CONTROL[kind]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=list(pieces[:3]), unk_token="<unk>", show_progress=False, max_piece_length=16
    )
    tokenizer.train_from_iterator(lines, trainer=trainer)
    tokenizer.add_special_tokens(list(pieces[3:]))
    return tokenizer


def charsmap() -> bytes:
    """The nmt_nfkc table that SentencePiece writes into each model, read from a throw-away one; empty without the package."""
    try:
        import sentencepiece
    except ImportError:
        return b""
    import io

    buffer = io.BytesIO()
    words = iter(["one two three four five six seven eight nine ten"] * 50)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=buffer, vocab_size=32, hard_vocab_limit=False, minloglevel=2
    )
    return _field(_field(buffer.getvalue(), 3), 2)


def _field(message: bytes, wanted: int) -> bytes:
    """The first length-delimited field of that number in a protocol buffer message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        number, form = key >> 3, key & 7
        if form == 2:
            size = varint()
            if number == wanted:
                return message[at : at + size]
            at += size
        elif form == 0:
            varint()
        else:
            at += 8 if form == 1 else 4
    return b""


def pipeline(kind: str, lines: Sequence[str], vocab: int = VOCAB) -> Any:
    """A `tokenizers.Tokenizer` of a family trained on `lines`."""
    from tokenizers import AddedToken, processors

    make = _byte_level if kind in {"gpt2", "llama3", "qwen"} else _unigram if kind == "t5" else _marked
    tokenizer = make(kind, lines, vocab)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in PLAIN_ADDED.get(kind, ())])
    start = ROLES[kind].get("bos_token")
    if kind in {"llama3", "llama2", "mistral", "gemma"}:
        pairs = [(start, tokenizer.token_to_id(start))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=pairs)
    if kind == "t5":
        pairs = [("</s>", tokenizer.token_to_id("</s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=pairs)
    return tokenizer


def save(tokenizer: Any, kind: str, folder: Path, *, template: str = "") -> None:
    """The tokenizer as `save_pretrained` writes it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES[kind])
    if template:
        fast.chat_template = template
    fast.save_pretrained(folder)


def corpus_lines(folder: Path) -> Iterator[str]:
    """Lines of every text in the folder, blank ones left out."""
    for path in sorted(folder.glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from (line.rstrip("\n") for line in stream if line.strip())


def main() -> None:
    """Train the asked kinds into one folder each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()
    lines = list(corpus_lines(options.corpus))
    for kind in options.kinds:
        place = options.out / kind / "plain"
        if (place / "tokenizer.json").is_file():
            continue
        begun = time.monotonic()
        tokenizer = pipeline(kind, lines, options.vocab)
        save(tokenizer, kind, place)
        print(f"{kind}: {tokenizer.get_vocab_size()} entries from {len(lines)} lines in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
