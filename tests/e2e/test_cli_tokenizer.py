"""`tokenizer train`, `extend --vocabulary`, `show`: from captures to a model folder that stock transformers load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(name="learnt")
def _learnt(cli: Any, captures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(captures.rglob("*.pcap*"))[:12]:
        shutil.copyfile(path, folder / f"{path.parent.name}-{path.name}")
    body = cli("tokenizer", "train", folder, "-o", tmp_path / "v.json", "--size", "700", "--json").body("tokenizer.train")
    assert body["records"] > 10
    assert body["units"] < body["size"] <= 700
    return tmp_path / "v.json"


def test_train_extend_show(cli: Any, learnt: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "base"
    body = cli("tokenizer", "extend", "--base", "plain", "--vocabulary", learnt, "-o", out, "--json").body("tokenizer.extend")
    known = json.loads(learnt.read_text())
    assert body["tokens_added"] == known["size"]
    assert body["tokens_per_flow"] is None
    stock = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert AutoModelForCausalLM.from_pretrained(out, local_files_only=True).get_input_embeddings().weight.shape[0] >= len(stock)
    shown = cli("tokenizer", "show", out, "--text", "is <s> this Tor?", "--json").body("tokenizer.show")
    assert shown["traffic_tokens"] == known["size"]
    assert shown["text"]["ids"]
    names = cli("tokenizer", "show", learnt, "--limit", "3", "--json").body("tokenizer.show")["most_useful"]
    assert names == known["tokens"][names_from(known) : names_from(known) + 3]


def names_from(known: dict[str, Any]) -> int:
    """Place of the first learnt token: the single units come before."""
    return next(k for k, words in enumerate(known["tokens"]) if " " in words)


def test_files_that_are_no_vocabulary_are_refused(cli: Any, learnt: Path, tmp_path: Path) -> None:
    extend = ("tokenizer", "extend", "--base", "plain", "-o", tmp_path / "x", "--vocabulary")
    (tmp_path / "other.json").write_text("{}")
    cli(*extend, tmp_path / "other.json").refused(4, "no traffic vocabulary")
    known = json.loads(learnt.read_text())
    broken = (({"codec_hash": "0"}, "another codec"), ({"tokens": ["dir:orig"]}, "every single unit"), ({"tokens": ["zz"]}, "unknown unit"))
    for change, word in broken:
        learnt.write_text(json.dumps({**known, **change}))
        cli(*extend, learnt).refused(4, word)
    cli("tokenizer", "extend", "--base", "plain", "-o", tmp_path / "x").refused(2, "nothing to learn from")
    (tmp_path / "empty").mkdir()
    cli("tokenizer", "train", tmp_path / "empty", "-o", tmp_path / "y.json").refused(3, "empty")
    assert not (tmp_path / "x").exists()
