"""Write docs/tokenizers.md from the rows of check.py, sizes.py and bench_tokenizer.py: `page.py docs/results docs/tokenizers.md`."""

from __future__ import annotations

import argparse
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
    "tokenizer",
    "model",
    "entries",
    "native ids moved",
    "lines changed",
    "tokens a flow, plain",
    "extended",
    "fewer by",
    "original's form",
    "records exact",
    "longest match",
    "placements",
    "forged",
    "inverse wrong",
    "64 kB run (s)",
)
_COSTS = (
    "size",
    "learnt in (s)",
    "file (MB)",
    "load (s)",
    "records/s",
    "row parameters",
    "of nano",
    "rare",
    "steps",
    "nats a unit",
    "probe MTD",
    "probe EVD",
)
_CONCLUSION = """**Why 3,072 for `nano`, 4,096 by default.** From 1,024 to 3,072 a flow loses 22 % of its tokens, from there to 4,096
another 3 %; by then 29 % of the learnt rows (14 % at 3,072) are hardly ever trained on a corpus of this size, and at 16,384, for 15 % fewer
tokens than 3,072, three quarters are, in an embedding that is half the model. The short trial puts 2,048 to 4,096 level (losses within
.005; probes differ without an order, one seed) and 8,192, 1,024 and 16,384 behind: for `nano` any of the three would do, 3,072 has the
lowest loss by a hair. 4,096 stays the default, for larger models and corpora, where rows cost little and are trained. The trial says
nothing about full training, nor about larger models."""
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

## How many tokens

{sizes}

{conclusion}

## Memory of learning

{memory}

## What to know

- **Unused ids.** Files of the o200k kind leave ids free below their control tokens, and the library would hand a used id out
  again. `extend` puts an unreachable entry at each (up to 4,096) before it adds its own.
- **Words among the added tokens.** Runs of spaces, line breaks or letters that a file lists as added, not special, tokens are
  vocabulary and stay usable in questions; all other added tokens are control.
- **Cost.** `extend` rewrites the shards that hold embeddings and hard-links all others.

## Untrusted text

The guarantee that captured bytes and people's questions never become control or traffic tokens holds for ids made by
`trafficllm.model.tuning.encode.Encoder`: it renders payload as byte units, keeps `[A-Za-z0-9 .-_/:=]` of captured text and turns the
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


def sizes(body: dict[str, Any]) -> Iterator[str]:
    """What each size of vocabulary buys and costs (sizes.py)."""
    tasks = [name for name in body["units_per_flow"] if name != "mean"]
    kinds = list(body["plain_per_flow"])
    yield (
        f"`recipes/tokenizers/sizes.py`: learnt from the {body['records']:,} training records of the embedded base "
        f"({body['record_units'] / 1e6:.1f} million units, so all of them fit into the sample), counted on {sum(body['flows'].values()):,} "
        "validation flows that nothing was learnt from. Tokens a flow:\n"
    )
    yield "| size | mean | " + " | ".join(tasks) + " | " + " | ".join(f"fewer than {kind}" for kind in kinds) + " |"
    yield "|" + "---|" * (2 + len(tasks) + len(kinds))
    for size, row in by_size(body):
        found = row["per_flow"]
        factors = [f"{body['plain_per_flow'][kind]['mean'] / found['mean']:.2f}x" for kind in kinds]
        yield f"| {int(size):,} | " + " | ".join([f"{found[name]:.1f}" for name in ("mean", *tasks)] + factors) + " |"
    units = body["units_per_flow"]
    yield f"| units alone ({body['units']}) | " + " | ".join(f"{units[name]:.1f}" for name in ("mean", *tasks)) + " |" + " |" * len(kinds)
    yield (
        '\nThe mean weighs tasks alike. "rare" is the share of learnt tokens that occur fewer than '
        f'{body["rare_below"]} times in the training records; "of nano" the rows\' share of all parameters of the embedded base '
        "extended so far; load and speed are `AutoTokenizer`'s, in seconds of one shared core. The last columns are a short trial: the "
        "plain base extended by each vocabulary and trained on traffic for {:g} processor seconds, nats a unit on validation flows, and "
        "the validation macro-F1 of a linear probe on its frozen last layer (MTD, EVD; one seed).\n".format(trial(body, "cpu_s"))
    )
    yield "| " + " | ".join(_COSTS) + " |"
    yield "|" + "---|" * len(_COSTS)
    for size, row in by_size(body):
        yield (
            f"| {int(size):,} | {row['learn_s']:.1f} | {row['file_mb']:.2f} | {row['load_s']:.2f} | {row['records_per_s']:,} "
            f"| {row['row_parameters']:,} | {row['share_of_nano']:.1%} | {row['rare_learnt']:.1%} | {_tried(row)} |"
        )


def by_size(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of sizes.py, smallest first."""
    return sorted(body["sizes"].items(), key=lambda found: int(found[0]))


def _tried(row: dict[str, Any]) -> str:
    """The short trial's cells of a size; dashes where it was not run."""
    found = row.get("training")
    if not found:
        return " | ".join("-" * 4)
    return f"{found['steps']} | {found['nats_a_unit']:.3f} | {found['probe_f1']['MTD']:.2f} | {found['probe_f1']['EVD']:.2f}"


def trial(body: dict[str, Any], key: str) -> float:
    """A setting that the short trial of every size shares."""
    return float(next(row["training"] for row in body["sizes"].values() if "training" in row)[key])


def memory(body: dict[str, Any]) -> Iterator[str]:
    """Peak memory of learning by the corpus' size (bench_tokenizer.py)."""
    yield (
        f"A sample of at most {body['sample_units']:,} units is held (a random one: every record has the same chance), whatever the "
        "size of the corpus. `bench/bench_tokenizer.py --gigabytes 0.01 0.1 1 10 --stored 0.1 1 3`, one process each, 24 bytes of every "
        "record fresh; a corpus' size is that of its unit strings in UTF-8:\n"
    )
    yield "| corpus (GB) | records | from | peak memory (MB) | processor s |"
    yield "|" + "---|" * 5
    for row in body["memory"]:
        yield f"| {row['gigabytes']:g} | {row['records']:,} | {row['from']} | {row['peak_mb']} | {row['cpu_s']:.1f} |"
    run = body["run"]
    times, growth = ", ".join(f"{seconds * 1000:.0f} ms" for seconds in run["seconds"].values()), run["ratio"]
    yield (
        f"\nEncoding a run of 16, 32 and 64 kB of one byte under the shipped base takes {times} of a shared core; each doubling "
        f"{' and '.join(format(ratio['median'], '.1f') for ratio in growth.values())} times as long: near linear, the rest is memory."
    )


def main() -> None:
    """Rows in, page out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="holds tokenizers.json, tokenizer_sizes.json and tokenizer_memory.json")
    parser.add_argument("page", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    results = options.results
    body = read_json(results / "tokenizers.json")
    rest = _REST.replace("{sizes}", "\n".join(sizes(read_json(results / "tokenizer_sizes.json"))))
    rest = rest.replace("{memory}", "\n".join(memory(read_json(results / "tokenizer_memory.json")))).replace("{conclusion}", _CONCLUSION)
    facts = (
        f"{body['flows_checked']} validation flows ({body['units_per_flow']} units each, {body['longest_match_per_flow']} traffic "
        "tokens by an independent longest match), a vocabulary of 4,096 learnt from the training parts of eleven data sets. "
        f"{body['note']}\n\nThe shipped base, every entry of its vocabulary: {body['shipped']['placements']:,} placements, "
        f"{sum(value for key, value in body['shipped'].items() if key.startswith('forged'))} forged, "
        f"{body['shipped']['inverse_wrong']} inverse wrong."
    )
    atomic_write(options.page, _INTRO.replace("{facts}", facts) + "\n".join(table(body)) + "\n" + rest)


if __name__ == "__main__":
    main()
