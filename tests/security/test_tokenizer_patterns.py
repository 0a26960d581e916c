"""Tokenizers whose patterns would hang a question are refused; those of tokenizers in use pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from tune_forks import make_base

from trafficllm.core.errors import ArtifactError
from trafficllm.model.base.load import load_base
from trafficllm.model.tokenizer.extend import load_auto, load_raw
from trafficllm.model.tokenizer.patterns import backtracks

IN_USE = {
    "GPT-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
    "brackets": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "digits from the right": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "punctuation": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    "literal braces": r"a{b}c+",
}
HOSTILE = [
    r"(a+)+$", r"(?:a|aa)+$", r"(?:(a+)+)+c", r"(a|a)*b", r"(a)\1+", r"(?<x>a)\k<x>", r"(?:a?){40}a{40}", r"((?:a*)b?)*c", r"(?i:x*y?)+z",
    r"(\d+,?){1,99}$", r"[a(]*(?:[)\]]+)+x", "a" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("name", IN_USE)
def test_patterns_in_use_pass(name: str) -> None:
    assert backtracks(IN_USE[name]) == ""


@pytest.mark.parametrize("pattern", HOSTILE)
def test_patterns_that_hang_are_told(pattern: str) -> None:
    assert backtracks(pattern)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_base_with_such_a_pattern_is_not_opened(tmp_path: Path, part: str) -> None:
    base = make_base(tmp_path)
    raw = base.tokenizer.backend_tokenizer
    pattern = Regex(r"(\x{61}+)+$")
    if part == "normalizer":
        raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(pattern, "x")])
    else:
        raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel()])
    folder = tmp_path / "other"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    for opened in (load_auto, load_raw, load_base):
        with pytest.raises(ArtifactError, match=f"a pattern of its {part} repeats a part of varying length") as caught:
            opened(folder)
        assert caught.value.code == "artifact.tokenizer"
