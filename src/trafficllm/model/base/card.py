"""The card beside a traffic base's weights: what it is, how it was made, what it has read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [network-traffic, trafficllm]
base_model: {source}
---
# {source}, extended for network traffic

An ordinary checkpoint folder: `AutoModelForCausalLM` and `AutoTokenizer` load it as it is. The tokenizer holds {added:,} traffic tokens
after the {native:,} native entries, ids {first}..{last}; natural-language text gives the same ids as before. The
embedding has {rows:,} rows.

| what | value |
|---|---|
| weights | sha256 `{weights}` |
| made from | `{source}`, sha256 `{source_hash}` |
| tokenizer | sha256 `{tokenizer}` |
| codec | version {codec}, sha256 `{codec_hash}` |
| new rows begin as | {init} |
| traffic records read | {seen:,} (64-bit hashes in `seen.bin`) |
| trained on them | {trained} |

**Untrusted text.** Captured bytes and people's questions are safe only when `trafficllm` renders them before the tokenizer. A bare call of
this tokenizer on such text has no guarantee: control tokens and traffic tokens spelt in it become what they say.

**Licence.** The licence of `{source}` goes on holding for these weights.
"""
_INIT = {
    "delta": "the trained rows of the extension that TrafficLLM ships, with its low-rank changes added to the other weights",
    "description": "the mean of the native pieces of an English description of each unit, and some noise",
    "mean": "the mean of the native pieces of each token's meaning, and some noise",
    "global": "the mean of all native rows, and some noise",
    "random": "noise of the native rows' spread",
}


def base_card(manifest: Mapping[str, Any]) -> str:
    """Markdown of a traffic base's card from its manifest (trafficllm.json)."""
    tokenizer, source = manifest.get("tokenizer", {}), manifest.get("source", {})
    training = manifest.get("training") or {}
    native, added = int(tokenizer.get("base_vocab", 0)), int(tokenizer.get("tokens_added", 0))
    trained = "no: the new rows are as they began"
    if "held_out_loss" in training:
        before = training.get("held_out_loss_before")
        change = f" (before {before:.3f})" if before is not None else ""
        trained = f"yes, {int(training.get('tokens', 0)):,} tokens; held-out loss {training['held_out_loss']:.3f} nats a token{change}"
    return _CARD.format(
        source=source.get("name", "a base"),
        source_hash=source.get("sha256", "unknown"),
        added=added,
        native=native,
        first=native,
        last=native + added - 1,
        rows=int(manifest.get("rows", native + added)),
        weights=manifest["base_sha256"],
        tokenizer=manifest["tokenizer_sha256"],
        codec=manifest["codec_version"],
        codec_hash=manifest["codec_hash"],
        init=_INIT.get(str(manifest.get("init")), "not recorded"),
        seen=int(manifest.get("seen", 0)),
        trained=trained,
    )
