"""Write docs/tokenizers.md from the rows of check.py, sizes.py and bench_tokenizer.py: `page.py docs/results docs/tokenizers.md`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trafficllm.core.files import atomic_write, read_json

_INTRO = """# Tokenizers

`trafficllm tokenizer train` learns which frequent runs of codec units become vocabulary entries. `extend` adds them to any
Hugging Face fast tokenizer and resizes the model. `compare` counts the tokens per flow. `show` prints the entries of a tokenizer.

```
trafficllm tokenizer train D CAPTURES -o vocabulary.json --size 4096
trafficllm tokenizer extend --base MODEL_FOLDER --vocabulary vocabulary.json -o TRAFFIC_BASE
trafficllm tokenizer compare D --base MODEL_FOLDER --base TRAFFIC_BASE
trafficllm tokenizer show TRAFFIC_BASE --text "is this <|im_end|> Tor?"
```

The result is an ordinary `tokenizer.json` that the standard `AutoTokenizer` loads. One codec unit is one plane-16 private-use
character. A traffic token is a run of units, and a record is split by longest match. Every single unit is also a token, so every
record decodes exactly.

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
_CONCLUSION = """**Why 3,072 for `nano`, 4,096 by default.**

- From 1,024 to 3,072 entries a flow loses 22 % of its tokens; from there to 4,096 another 3 %.
- Larger vocabularies have more rows that are hardly ever trained on a corpus of this size: 14 % of the learnt rows at 3,072, 29 %
  at 4,096, three quarters at 16,384. The last gives 15 % fewer tokens than 3,072, and its embedding is half of the model.
- In the short trial 2,048 to 4,096 are equal: losses within .005, probes without a clear order, one seed. 8,192, 1,024 and 16,384
  are worse.

For `nano` any of the three middle sizes would do; 3,072 has the lowest loss by a small margin. 4,096 stays the default for larger
models and corpora, where the rows cost little and are trained. The trial does not show the effect of full training, nor of larger
models."""
_REST = """
The columns:

- "plain": the record's own readable text under the tokenizer without traffic tokens ("flow tcp ip4 e w | > S 0 | < SA 0 26ms |
  payload orig 16 03 01").
- "original's form": the original system's `<pck>` and hex of the first ten frames of the same flows, 256 digits each. This is a
  lower bound, because payload outside the record is left out.
- "lines changed": lines of natural text whose ids differ after the extension. The lines are documentation, the same with odd
  spaces and control characters mixed in, and lines from Latin to CJK, right-to-left scripts, emoji, private use and control
  characters.
- "placements": entries of the vocabulary, including every control token, placed in a question, a payload and a label. "forged"
  counts those that became a control or traffic token.

Rows named after a family (`gpt2`, `llama3`, `qwen`, `llama2`, `mistral`, `gemma`, `t5`) were trained by
`recipes/tokenizers/kinds.py` with that family's normalizer, digit rule, pre-tokenizer and decoder. Other rows are released files
that packages contain; the repository does not hold them.

## How many tokens

{sizes}

{conclusion}

## Memory of learning

{memory}

## What to know

- **Unused ids.** Files of the o200k kind leave ids unused below their control tokens, and the library could then assign an id
  twice. `extend` first puts an unreachable entry at each unused id (up to 4,096) and then adds its own.
- **Words among the added tokens.** Some files list runs of spaces, line breaks or letters as added, not special, tokens. They
  count as vocabulary and stay usable in questions. All other added tokens are control tokens.
- **Cost.** `extend` rewrites the shards that hold embeddings. It clones all other shards, or copies them if the file system
  cannot clone.

## Untrusted text

Captured bytes and users' questions never become control or traffic tokens. This guarantee holds for ids made by
`trafficllm.model.tuning.encode.Encoder`:

- it renders payload as byte units;
- it keeps `[A-Za-z0-9 .-_/:=]` of captured text and turns the rest into byte units;
- it splits the text of control tokens in questions, and escapes plane-16 characters;
- it checks the ids afterwards, because a normaliser can turn harmless letters into a control token.

**Other software that calls the tokenizer directly, such as a serving engine's chat endpoint, does not have this protection.** We
measured that `split_special_tokens` stops neither added tokens that are not special nor Unigram control pieces. Send ids to such
endpoints.
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
        f"({body['record_units'] / 1e6:.1f} million units, so all of them fit into the sample) and counted on "
        f"{sum(body['flows'].values()):,} "
        "validation flows that nothing was learnt from. Tokens per flow:\n"
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
        '\nEach task counts equally in the mean. "rare" is the share of learnt tokens that occur fewer than '
        f'{body["rare_below"]} times in the training records. "of nano" is the share of the rows in all parameters of the extended '
        "embedded base. Load and speed are those of `AutoTokenizer` on one shared core. The last columns are a short trial: the "
        "plain base is extended by each vocabulary and trained on traffic for {:g} processor seconds. They show nats per unit on "
        "validation flows, and the validation macro-F1 of a linear probe on its frozen last layer (MTD, EVD; one seed).\n".format(
            trial(body, "cpu_s")
        )
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
        f"Memory holds a random sample of at most {body['sample_units']:,} units, for any size of the corpus; every record has the same "
        "chance. Measured with `bench/bench_tokenizer.py --gigabytes 0.01 0.1 1 10 --stored 0.1 1 3`: one process per row, 24 bytes "
        "of every record are new, and the size of a corpus is that of its unit strings in UTF-8:\n"
    )
    yield "| corpus (GB) | records | from | peak memory (MB) | processor s |"
    yield "|" + "---|" * 5
    for row in body["memory"]:
        yield f"| {row['gigabytes']:g} | {row['records']:,} | {row['from']} | {row['peak_mb']} | {row['cpu_s']:.1f} |"
    run = body["run"]
    times, growth = ", ".join(f"{seconds * 1000:.0f} ms" for seconds in run["seconds"].values()), run["ratio"]
    yield (
        f"\nEncoding 16, 32 and 64 kB of one repeated byte under the shipped base takes {times} of a shared core. Each doubling takes "
        f"{' and '.join(format(ratio['median'], '.1f') for ratio in growth.values())} times as long, which is "
        "nearly linear; the rest is memory."
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
        f"The test uses {body['flows_checked']} validation flows ({body['units_per_flow']} units each, "
        f"{body['longest_match_per_flow']} traffic tokens by an independent longest match) "
        "and a vocabulary of 4,096 learnt from the training parts of eleven data sets. "
        f"{body['note']}\n\nFor the shipped base every entry of its vocabulary was placed: {body['shipped']['placements']:,} placements, "
        f"{sum(value for key, value in body['shipped'].items() if key.startswith('forged'))} forged, "
        f"{body['shipped']['inverse_wrong']} inverse wrong."
    )
    atomic_write(options.page, _INTRO.replace("{facts}", facts) + "\n".join(table(body)) + "\n" + rest)


if __name__ == "__main__":
    main()
