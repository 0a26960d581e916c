"""Write docs/tokenizers.md from the rows of check.py: `page.py docs/results/tokenizers.json docs/tokenizers.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trafficllm.core.files import atomic_write, read_json

_INTRO = """# Tokenizers

`trafficllm tokenizer train` learns which runs of codec units deserve an entry of their own, `extend` adds them to any Hugging Face fast
tokenizer and resizes the model, `compare` counts what a flow costs, `show` prints what a tokenizer holds.

```
trafficllm tokenizer train D CAPTURES -o vocabulary.json --size 4096
trafficllm tokenizer extend --base MODEL_FOLDER --vocabulary vocabulary.json -o TRAFFIC_BASE
trafficllm tokenizer compare D --base MODEL_FOLDER --base TRAFFIC_BASE
trafficllm tokenizer show TRAFFIC_BASE --text "is this <|im_end|> Tor?"
```

The result is an ordinary `tokenizer.json`: stock `AutoTokenizer` loads it. One codec unit is one plane-16 private-use character, a
traffic token a run of units, a record is cut by longest match. Every single unit is a token too, so a record comes back exactly.

## What was measured

{facts}

"""
_HEAD = (
    "tokenizer", "model", "entries", "native ids moved", "lines changed", "tokens a flow, plain", "extended", "fewer by", "original's form",
    "records exact", "longest match", "placements", "forged", "inverse wrong", "64 kB run (s)",
)  # fmt: skip
_REST = """
"plain" is the record's own readable text under the tokenizer without traffic tokens ("flow tcp ip4 e w | > S 0 | < SA 0 26ms |
payload orig 16 03 01"); "original's form" is the original system's `<pck>` and hex of the first ten frames, 256 digits each, of
the same flows (a lower bound: payload that the record does not hold is left out). "lines changed" are lines of natural text
whose ids differ after the extension: documentation, the same with odd spaces and control characters mixed in, and lines drawn
from Latin to CJK, right-to-left scripts, emoji, private use and control characters. "placements" puts entries of the
vocabulary, every control token among them, in a question, a payload and a label.

Rows whose name is a family (`gpt2`, `llama3`, `qwen`, `llama2`, `mistral`, `gemma`, `t5`) were trained by
`recipes/tokenizers/kinds.py` with that family's normalizer, digit rule, pre-tokenizer and decoder; other rows are
released files that packages carry, which the repository does not hold.

## What to know

- **Unused ids.** Files of the o200k kind leave ids free below their control tokens, and the library would hand a used id out
  again. `extend` puts an unreachable entry at each (up to 4,096) before it adds its own.
- **Words among the added tokens.** Runs of spaces, line breaks or letters that a file lists as added, not special, tokens are
  vocabulary and stay usable in questions; all other added tokens are control.
- **Memory of `train`.** A sample of at most 4,000,000 units is held (a random one: every record has the same chance), whatever
  the size of the corpus; `bench/bench_tokenizer.py --gigabytes 0.1 1 10` measures the curve on corpora made on the fly.
- **Cost.** `extend` rewrites the shards that hold embeddings and hard-links all others.

## Untrusted text

The guarantee that captured bytes and people's questions never become control or traffic tokens holds for ids made by
`trafficllm.model.encode.Encoder`: it renders payload as byte units, keeps `[A-Za-z0-9 .-_/:=]` of captured text and turns the
rest into byte units, breaks control surfaces in questions up, escapes plane-16 characters, and looks at the ids afterwards,
because a normaliser can make control of harmless letters. **A bare call of the tokenizer by other software, a serving engine's
chat endpoint among them, has none of it**: `split_special_tokens` was measured to stop neither added tokens that are not
special nor Unigram control pieces. There, send ids.
"""


def table(body: dict[str, Any]) -> Iterator[str]:
    """A heading, then one line a tokenizer."""
    yield "| " + " | ".join(_HEAD) + " |"
    yield "|" + "---|" * len(_HEAD)
    for name, row in sorted(body["rows"].items()):
        if "refused" in row:
            yield f"| {name} | refused: {row['refused']} |" + " |" * 13
            continue
        flow, forging = row["flow"], row["forging"]
        forged = sum(value for key, value in forging.items() if key.startswith("forged"))
        text = row["text"]
        yield (
            f"| {name} | {row['model']} | {row['vocabulary']:,} | {row['native_ids_moved']} | {text['changed']} of {text['lines']:,} "
            f"| {flow['plain']:.0f} | {flow['extended']:.1f} | {flow['ratio']:.2f}x | {flow['original_form']:.0f} "
            f"| {'yes' if flow['exact'] else 'no'} | {'yes' if row['longest_match'] else 'no'} "
            f"| {forging['placements']:,} | {forged} | {forging['inverse_wrong']} | {row['seconds_cpu']['64k']:.3f} |"
        )


def main() -> None:
    """Rows in, page out."""
    body = read_json(sys.argv[1])
    facts = (
        f"{body['flows_checked']} validation flows ({body['units_per_flow']} units each, {body['longest_match_per_flow']} traffic "
        "tokens by an independent longest match), a vocabulary of 4,096 learnt from the training parts of eleven data sets. "
        f"{body['note']}"
    )
    atomic_write(Path(sys.argv[2]), _INTRO.replace("{facts}", facts) + "\n".join(table(body)) + "\n" + _REST)


if __name__ == "__main__":
    main()
